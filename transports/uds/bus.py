"""The event bus of another process of this machine, over a connected Unix socket (unix(7))."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.bus_client import BusClient
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.framed import connector
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from flowbridge.contracts import Clock
    from flowbridge.transports.bus_peer import BusPeer


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


@dataclass(frozen=True, slots=True)
class BusPair:
    """A bus and a client of it, joined by a socket."""

    client: UdsEventBus
    server: BusServer
    bus: LocalEventBus

    async def aclose(self) -> None:
        """Close client, server and bus."""
        await self.client.aclose()
        await self.server.aclose()
        await self.bus.aclose()


async def connected_bus(clock: Clock) -> BusPair:
    """A bus of this process and a client that reaches it as another process would."""
    bus = LocalEventBus(clock)
    server = BusServer(bus, clock)
    near, far = socket.socketpair()
    serve_client(server, far)
    return BusPair(await UdsEventBus.connect(near, clock), server, bus)
