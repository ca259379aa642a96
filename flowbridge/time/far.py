"""The times of a message that goes to another process, whose clock may be another one.

Between machines an envelope carries, in the positions of its times:

    deadline_ns   what is left of it; 0 without one, and 1 for one that has passed
    origin_ns     how long ago its first ancestor entered the flow; 0 when unknown, and at least 1 when known
    sent_ns       the writer's clock when it was written

The reader knows from `ClockOffset` what that clock shows, so it takes off what the message was under way, even for as
long as a connection was away. If it does not know that well enough for so short a deadline, it takes off the least that
is certain, or half a round trip if that is more. So a deadline is off by less than a quarter of what was left of it, or
comes later by what cannot be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.errors import DeadlineExceeded

if TYPE_CHECKING:
    from flowbridge.contracts import Clock
    from flowbridge.time.offset import ClockOffset

_PART_OF_DEADLINE: Final = 4  # an uncertainty of a quarter of what is left is too much


class Times(Protocol):
    """Turns times of this process into those of a link, and back."""

    @property
    def is_shared(self) -> bool:
        """Whether both ends have one clock, so that there is nothing to do."""
        ...

    def leaving(self, envelope: Envelope, deadline_ns: int | None = None) -> Envelope:
        """An envelope with the times to be written; `deadline_ns` replaces its own."""
        ...

    def leaving_stamped(self, envelope: Envelope) -> Envelope:
        """As `leaving`, with the `sent_ns` that the envelope has."""
        ...

    def arrived(self, envelope: Envelope) -> None:
        """Put the times of this process into an envelope that was read just now and that nobody else has."""
        ...

    def leaving_error(self, error: Exception) -> Exception:
        """An error with the times to be written."""
        ...

    def arrived_error(self, error: Exception) -> None:
        """Put the times of this process into an error that was read just now."""
        ...


class SharedTimes:
    """Both processes have one clock: every time means the same on both sides."""

    @property
    def is_shared(self) -> bool:
        """They have."""
        return True

    def leaving(self, envelope: Envelope, deadline_ns: int | None = None) -> Envelope:
        """The envelope itself."""
        return envelope if deadline_ns is None else _copy(envelope, deadline_ns, envelope.origin_ns, envelope.sent_ns)

    def leaving_stamped(self, envelope: Envelope) -> Envelope:
        """The envelope itself."""
        return envelope

    def arrived(self, envelope: Envelope) -> None:
        """Nothing is to be done."""

    def leaving_error(self, error: Exception) -> Exception:
        """The error itself."""
        return error

    def arrived_error(self, error: Exception) -> None:
        """Nothing is to be done."""

    def __repr__(self) -> str:
        return "<SharedTimes>"


SHARED: Final = SharedTimes()


class FarTimes:
    """The peer has a clock of its own; `offset` is what is known of it."""

    def __init__(self, clock: Clock, offset: ClockOffset) -> None:
        self._clock = clock
        self._offset = offset

    @property
    def is_shared(self) -> bool:
        """It has not."""
        return False

    def leaving(self, envelope: Envelope, deadline_ns: int | None = None) -> Envelope:
        """A copy with the times to be written, as of now."""
        return self._as_of(self._clock.now_ns(), envelope, deadline_ns)

    def leaving_stamped(self, envelope: Envelope) -> Envelope:
        """As `leaving`, but as of the moment that its `sent_ns` names: what it waited since counts as under way."""
        now_ns = self._clock.now_ns()
        return self._as_of(envelope.sent_ns if 0 < envelope.sent_ns <= now_ns else now_ns, envelope)

    @staticmethod
    def _as_of(sent_ns: int, envelope: Envelope, deadline_ns: int | None = None) -> Envelope:
        if deadline_ns is None:
            deadline_ns = envelope.deadline_ns
        return _copy(
            envelope,
            0 if deadline_ns >= NO_DEADLINE else max(1, deadline_ns - sent_ns),
            max(1, sent_ns - envelope.origin_ns) if envelope.origin_ns else 0,
            sent_ns,
        )

    def arrived(self, envelope: Envelope) -> None:
        """Put the times of this process into an envelope. None of them is in the future but the deadline."""
        now_ns = self._clock.now_ns()
        left_ns = 0 if envelope.deadline_ns >= NO_DEADLINE else envelope.deadline_ns
        under_way_ns = self._under_way_ns(now_ns, envelope.sent_ns, left_ns)
        sent_ns = max(0, now_ns - under_way_ns)
        if left_ns > 1:
            envelope.deadline_ns = min(now_ns + left_ns - under_way_ns, NO_DEADLINE - 1)
        else:
            envelope.deadline_ns = now_ns if left_ns else NO_DEADLINE
        envelope.origin_ns = max(1, sent_ns - envelope.origin_ns) if envelope.origin_ns else 0
        envelope.sent_ns = sent_ns

    def _under_way_ns(self, now_ns: int, sent_ns: int, left_ns: int) -> int:
        """How long a message was under way; never longer than its deadline left it."""
        offset = self._offset
        sample = offset.best()
        if sample is None:
            under_way_ns = offset.srtt_ns // 2
        else:
            under_way_ns = now_ns - (sent_ns - sample.theta_ns)
            error_ns = sample.error_ns(now_ns)
            if left_ns and error_ns >= left_ns // _PART_OF_DEADLINE:
                under_way_ns = max(under_way_ns - error_ns, offset.srtt_ns // 2)
        under_way_ns = max(0, under_way_ns)
        return min(under_way_ns, left_ns) if left_ns else under_way_ns

    def leaving_error(self, error: Exception) -> Exception:
        """A deadline that was missed leaves as by how much."""
        if not isinstance(error, DeadlineExceeded):
            return error
        return DeadlineExceeded(error.where, 0, max(0, error.now_ns - error.deadline_ns), error.effect)

    def arrived_error(self, error: Exception) -> None:
        """A deadline that was missed was missed by so much, now."""
        if isinstance(error, DeadlineExceeded):
            now_ns = self._clock.now_ns()
            vars(error).update(deadline_ns=now_ns - (error.now_ns - error.deadline_ns), now_ns=now_ns)

    def __repr__(self) -> str:
        return f"<FarTimes {self._offset!r}>"


def _copy(envelope: Envelope, deadline_ns: int, origin_ns: int, sent_ns: int) -> Envelope:
    return Envelope(
        envelope.payload,
        envelope.priority,
        deadline_ns,
        origin_ns,
        sent_ns,
        envelope.size_bytes,
        envelope.seq,
        envelope.trail,
        envelope.trace,
        envelope.headers,
    )
