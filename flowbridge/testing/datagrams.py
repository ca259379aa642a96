"""The socket of a simulated host, as asyncio shows it to a protocol."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

if TYPE_CHECKING:
    from contextvars import Context

    from flowbridge.testing.network import SimulatedHost

Address: TypeAlias = "tuple[str, int]"

RECEIVE_BYTES: Final = 4 * 1024 * 1024
"""What a socket keeps for a process that does not read: more is lost."""
DATAGRAM_BYTES_MAX: Final = 65_507
"""Of one datagram over IPv4; sending more is EMSGSIZE."""


class SimulatedEndpoint(asyncio.DatagramTransport):
    """A bound socket of a simulated host. Its protocol is called as on a real loop, from the host's process."""

    def __init__(
        self,
        host: SimulatedHost,
        address: Address,
        remote: Address | None,
        protocol: asyncio.BaseProtocol,
        context: Context,
    ) -> None:
        super().__init__({"sockname": address, "peername": remote})
        self.host: Final = host
        self.address: Final = address
        self.receive_bytes_max = RECEIVE_BYTES
        """Like SO_RCVBUF."""
        self._remote = remote
        self._protocol = cast("asyncio.DatagramProtocol", protocol)
        self._context = context
        self._waiting: deque[tuple[bytes, Address]] = deque()  # received, not read yet
        self._waiting_bytes = 0
        self._is_reading = False  # `_read` is due
        self._is_closing = False
        host.loop.call_soon(self._protocol.connection_made, self, context=context)

    # --- what the process does --------------------------------------------------------------------------------------

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; after `close` it goes nowhere. Raises: ValueError as asyncio does."""
        if self._remote is not None and addr not in {None, self._remote}:
            raise ValueError(f"Invalid address: must be None or {self._remote}")
        destination = self._remote or addr
        if destination is None:
            raise ValueError("an unconnected socket needs an address to send to")
        if self._is_closing:
            return
        if len(data) > DATAGRAM_BYTES_MAX:
            self._call(self._tell, OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))
            return
        self.host.send(self, bytes(data), (destination[0], destination[1]))

    def close(self) -> None:
        """Close the socket; `connection_lost` comes in the next turn. Idempotent."""
        if not self._is_closing:
            self._is_closing = True
            self.host.forget(self)
            self._call(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits to be sent."""
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is called."""
        return self._protocol

    # --- what the network does --------------------------------------------------------------------------------------

    def deliver(self, data: bytes, source: Address) -> str | None:
        """A datagram arrived; returns why it is lost all the same, or None."""
        if self._remote is not None and source != self._remote:
            return "not of peer"
        if self._waiting_bytes + len(data) > self.receive_bytes_max:
            return "buffer full"
        self._waiting.append((data, source))
        self._waiting_bytes += len(data)
        if not self._is_reading:
            self._is_reading = True
            self._call(self._read)
        return None

    def refuse(self) -> None:
        """The network said that nobody listens where this sent to; only connected sockets are told (udp(7))."""
        if self._remote is not None and not self._is_closing:
            self._call(self._tell, ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))

    def vanish(self) -> None:
        """Its process is gone: nobody is told."""
        self._is_closing = True
        self._waiting.clear()

    def _read(self) -> None:
        self._is_reading = False
        for _ in range(len(self._waiting)):
            if self._is_closing:
                return
            data, source = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._protocol.datagram_received(data, source)

    def _tell(self, error: OSError) -> None:
        if not self._is_closing:
            self._protocol.error_received(error)

    def _call(self, callback: Any, *args: Any) -> None:
        self.host.loop.call_soon(callback, *args, context=self._context)

    def __repr__(self) -> str:
        to = f" to {self._remote[0]}:{self._remote[1]}" if self._remote else ""
        return f"<SimulatedEndpoint {self.address[0]}:{self.address[1]}{to} of {self.host.name}>"
