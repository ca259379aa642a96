"""qh3 as it comes, for `quic_bare.py`: one stream of a connection."""

# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.quic.events import StreamDataReceived
from quic_pair import no_packets

from flowbridge.transports.quic.engine import WRITE_BYTES_HIGH

if TYPE_CHECKING:
    from collections.abc import Callable


class Qh3Protocol(QuicConnectionProtocol):
    """As `quic_bare._Quic`; how many packets it has sent, qh3 does not say."""

    on_bytes: Callable[[bytes], None]
    on_room: Callable[[], None]
    packets = staticmethod(no_packets)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_bytes = lambda data: None
        self.on_room = lambda: None
        self.stream = 0
        self._flushes = False

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, StreamDataReceived):
            self.on_bytes(event.data)

    def write(self, data: bytes) -> None:
        """Queue bytes; `transmit` sends them."""
        self._quic.send_stream_data(self.stream, data)

    def flush(self) -> None:
        """Send what is queued, once in this turn of the loop."""
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        self.transmit()

    @property
    def is_full(self) -> bool:
        """Whether to stop writing until `on_room`."""
        connection: Any = self._quic
        return bool(connection.get_send_buffer_size(self.stream) > WRITE_BYTES_HIGH)

    def datagram_received(self, data: Any, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.on_room()

    def datagrams_received(self, data: Any, addr: Any) -> None:
        super().datagrams_received(data, addr)
        self.on_room()
