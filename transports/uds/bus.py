"""The event bus of another process of this machine, over a connected Unix socket (unix(7))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.transports.bus_client import BusClient
from flowbridge.transports.framed import connector
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    import socket

    from flowbridge.contracts import Clock
    from flowbridge.transports.bus_peer import BusPeer
    from flowbridge.transports.bus_server import BusServer


class UdsEventBus(BusClient):
    """The bus of the process at the other end of a socket; see `BusClient`."""

    @classmethod
    async def connect(cls, sock: socket.socket, clock: Clock, *, peer: str = "bus") -> UdsEventBus:
        """Meet the server at the other end; owns the socket. Raises: BrokenError, also when that is no bus server."""
        bus = cls(connector(UdsStream, sock, peer=peer), clock)
        try:
            await bus.greet()
        except BaseException:
            await bus.aclose()
            raise
        return bus


def serve_client(server: BusServer, sock: socket.socket, *, peer: str = "worker") -> BusPeer:
    """Serve the client at the other end of a connected socket; owns the socket. Raises: ClosedError."""
    return server.attach(connector(UdsStream, sock, peer=peer))
