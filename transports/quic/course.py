"""What a route's messages meet on their way out: other routes on the same path, which is served by urgency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.codec.payload import MESSAGE, STREAM
from flowbridge.envelope import NO_DEADLINE, Priority
from flowbridge.machines.admission import admit
from flowbridge.transports.quic.engine import URGENCIES

if TYPE_CHECKING:
    from flowbridge.codec.payload import Prepared
    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.machines.admission import Rank
    from flowbridge.transports.quic.stream import Before

_OF_PRIORITY: Final = (1, 1, 2, 3)
_BULK: Final = URGENCIES - 1
_BULK_CODECS: Final = frozenset({MESSAGE, STREAM})
_FRAME_BYTES: Final = 64  # what a message costs besides its payload, about


class RankedStream(Protocol):
    """A stream that has its place among others; see `stream.SessionStream`."""

    def before(self, rank: Rank) -> Before | None:
        """What lies before bytes of this rank that are written now."""
        ...

    def press(self, rank: Rank) -> None:
        """What was written last is so pressing."""
        ...


def urgency_of(envelope: Envelope) -> int:
    """The urgency of a prepared message on the path, from its priority; Arrow data is bulk unless that is high."""
    prepared: Prepared = envelope.payload
    if prepared.codec in _BULK_CODECS and envelope.priority > Priority.HIGH:
        return _BULK
    return _OF_PRIORITY[envelope.priority]


class RouteCourse:
    """The course of one route, which is one session stream; see `stream_link.Course`."""

    def __init__(self, stream: RankedStream, clock: Clock) -> None:
        self._stream = stream
        self._now_ns = clock.now_ns

    def admits(self, envelope: Envelope) -> bool:
        """Whether a message that is sent now can be in time. Without a connection nobody can tell."""
        if envelope.deadline_ns >= NO_DEADLINE:
            return True
        before = self._stream.before((urgency_of(envelope), envelope.deadline_ns))
        if before is None:
            return True
        remaining_ns = envelope.deadline_ns - self._now_ns()
        prepared: Prepared = envelope.payload
        size_bytes = prepared.nbytes + _FRAME_BYTES
        if not before.queued_bytes or before.queued_bytes + size_bytes <= before.free_bytes:
            return remaining_ns > 0  # it takes nobody's place, and how long the way is is known best after it went
        remaining_ns -= before.way_ns
        return admit(size_bytes, remaining_ns, before.queued_bytes, before.window_bytes, before.srtt_ns)

    def wrote(self, envelope: Envelope) -> None:
        """Let the stream take its place among the others."""
        self._stream.press((urgency_of(envelope), envelope.deadline_ns))
