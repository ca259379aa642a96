"""A wire and an engine of one connection that only write down what they are told: no packets, no peer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbridge.codec.session_frames import control_reader, read_control
from flowbridge.transports.quic.engine import Closed, Connected, Identity, StreamData

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.engine import EngineEvent

EDGE = Identity("test", "edge", (), "00", 0.0)


class RecordingEngine:
    """See `engine.Engine`; what the peer takes is up to the test."""

    peer_address = ("10.0.0.9", 1)

    def __init__(self, *, is_client: bool) -> None:
        self.is_client = is_client
        self.written: dict[int, bytearray] = {}
        self.ended: list[int] = []
        self.resets: list[tuple[int, int]] = []
        self.stops: list[tuple[int, int]] = []
        self.consumed: dict[int, int] = {}
        self.closed: tuple[int, str] | None = None
        self.unsent = 0
        self.on_left: Callable[[int], None] | None = None
        self.streams_left = 1 << 30
        self._next = 0 if is_client else 1

    def open(self, *, unidirectional: bool = False, urgency: int = 2) -> int | None:
        if not self.streams_left:
            return None
        self.streams_left -= 1
        number, self._next = self._next, self._next + 4
        return number

    def prioritize(self, stream: int, urgency: int, deadline: float | None = None) -> None:
        """Nothing is sent."""

    def write(self, stream: int, data: BytesLike, fin: bool = False) -> int:
        self.written.setdefault(stream, bytearray()).extend(data)
        if fin:
            self.ended.append(stream)
        return self.unsent

    def backlog(self, stream: int) -> int:
        return self.unsent

    def reset(self, stream: int, code: int) -> None:
        self.resets.append((stream, code))

    def stop(self, stream: int, code: int) -> None:
        self.stops.append((stream, code))

    def consume(self, stream: int, size_bytes: int) -> None:
        self.consumed[stream] = self.consumed.get(stream, 0) + size_bytes

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.closed is None:
            self.closed = int(code), reason


class RecordingWire:
    """See `wire.Wire`."""

    is_refused = False
    trouble = ""

    def __init__(self, *, is_client: bool = False) -> None:
        self.engine: Any = RecordingEngine(is_client=is_client)
        self.heard_at = asyncio.get_running_loop().time()
        self.on_event: Callable[[EngineEvent], None] = lambda _: None

    def touched(self) -> None:
        """Nothing is sent."""

    def abandon(self) -> None:
        """Nothing is driven."""

    # --- what the peer does -----------------------------------------------------------------------------------------

    def connected(self) -> None:
        self.on_event(Connected(EDGE))

    def brings(self, stream: int, data: bytes, fin: bool = False) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self.on_event(StreamData(stream, data, fin))

    def ends(self, code: int = 0, *, by_application: bool = True) -> None:
        self.on_event(Closed(code, "", by_application, True))

    def frames(self) -> list[Any]:
        """What was said on the control stream, in order."""
        return [read_control(*found) for found in control_reader().feed(bytes(self.engine.written.get(0, b"")))]
