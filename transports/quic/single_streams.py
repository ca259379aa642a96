"""QUIC streams of one message each: opened, written, ended, and given up when the message is not wanted any more.

A message waits for the packets that carry it and for no others. It is small, or it would rather go with its route.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code
from flowbridge.codec.session_frames import first_frame, read_front, whole
from flowbridge.codec.session_words import SINGLE, Single
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import RESETS_PER_SECOND_MAX, SINGLE_BYTES_MAX, SINGLES_MAX
from flowbridge.machines.rate import Rate
from flowbridge.transports.quic.refusing import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.machines.admission import Rank
    from flowbridge.transports.quic.engine import Engine

_FRONT_BYTES: Final = 16  # of the frame that says which session stream it is beside, at most
_HELD_BYTES_MAX: Final = SINGLES_MAX * (SINGLE_BYTES_MAX + _FRONT_BYTES)
_RESETS_PER_SECOND: Final = RESETS_PER_SECOND_MAX / 2  # well below what the peer puts up with


class SingleStreams:
    """Those of one connection, both ways. All calls are made on the loop."""

    def __init__(self, engine: Engine, touched: Callable[[], None]) -> None:
        """Use an engine; `touched` is called when there is something to be sent."""
        self._engine = engine
        self._touched = touched
        self._loop = asyncio.get_running_loop()
        self._open: set[int] = set()
        self._resets = Rate(_RESETS_PER_SECOND)
        self._held: dict[int, bytearray] = {}
        self._held_bytes = 0

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, number: int, data: bytes, rank: Rank) -> int | None:
        """Send a message beside session stream `number`; the QUIC stream, or None when none is left for it."""
        engine = self._engine
        urgency, deadline_ns = rank
        if len(self._open) >= SINGLES_MAX:
            return None
        quic = engine.open(unidirectional=True, urgency=urgency)
        if quic is None:
            return None
        self._open.add(quic)
        if deadline_ns < NO_DEADLINE:
            engine.prioritize(quic, urgency, deadline_ns / 1e9)
        engine.write(quic, whole(Single(number)) + data, True)
        self._touched()
        return quic

    def backlog(self, quic: int) -> int:
        """What is unsent of it."""
        return self._engine.backlog(quic)

    def done(self, quic: int) -> None:
        """The peer has it, or knows that it will not come."""
        self._open.discard(quic)

    def give_up(self, quic: int) -> None:
        """Its time is over. That saves the rest of its bytes; not so often that the peer takes it for an attack."""
        if self._resets.take(self._loop.time()):
            self._engine.reset(quic, Code.EXPIRED_IN_FLIGHT)
            self._touched()

    # --- in ---------------------------------------------------------------------------------------------------------

    def arrived(self, quic: int, data: bytes, fin: bool) -> tuple[int, bytes] | None:
        """Bytes of such a stream: the session stream and the message once it is whole. Raises: RemoteProtocolError."""
        held = self._held.get(quic)
        if held is None:
            held = self._held[quic] = bytearray()
        held += data
        self._held_bytes += len(data)
        self._engine.consume(quic, len(data))
        self._touched()
        if held and held[0] != SINGLE:
            raise refused(Code.UNEXPECTED, f"stream {quic} is unidirectional and begins with {held[0]:#x}")
        if len(held) > SINGLE_BYTES_MAX + _FRONT_BYTES:
            raise refused(Code.LIMIT, f"a message on a stream of its own exceeds {SINGLE_BYTES_MAX} bytes")
        if self._held_bytes > _HELD_BYTES_MAX:
            raise refused(Code.LIMIT, f"more than {_HELD_BYTES_MAX} bytes of messages are not whole")
        if not fin:
            return None
        self.drop(quic)
        try:
            found = first_frame().feed(bytes(held))
        except RemoteProtocolError as error:
            raise refused(error.code or Code.FRAME, f"stream {quic}: {error}") from error
        if found is None:
            raise refused(Code.FRAME, f"stream {quic} ended within its first frame")
        kind, header, body, rest = found
        return read_front(kind, header, body).number, rest

    def drop(self, quic: int) -> None:
        """The peer gave it up, or all of it is here."""
        self._held_bytes -= len(self._held.pop(quic, b""))

    def clear(self) -> None:
        """The connection is over."""
        self._held.clear()
        self._open.clear()
        self._held_bytes = 0

    def __repr__(self) -> str:
        return f"<SingleStreams {len(self._open)} out, {len(self._held)} in>"
