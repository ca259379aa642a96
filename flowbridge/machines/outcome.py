"""What the consumer's end of a link tells the producer's end: how many messages ended, and how.

Sixteen absolute counts that only ever rise, so that a lost or repeated report does no harm. They stand in the consumer
page of a ring, or travel in a CREDIT frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import LANES
from flowbridge.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.machines.queue import LaneQueue

COUNTS: Final = 16
_ITEMS: Final = 0  # credit returned per lane, in messages
_BYTES: Final = LANES  # ... and in bytes
_DELIVERED: Final = 2 * LANES
_EXPIRED: Final = _DELIVERED + 1
_DROPPED: Final = _EXPIRED + 1
_CAUSES: Final = (Policy.DROP_OLDEST.value, Policy.DROP_NEWEST.value, Policy.LATEST.value, "abort")
_CLOSED: Final = _DROPPED + len(_CAUSES)
_FINISHED: Final = _CLOSED + 1
NOTHING: Final = (0,) * COUNTS


class Arrivals:
    """The consumer's end: counts what arrived, so that what ended can be told."""

    __slots__ = ("_base", "_bytes", "_items", "_queue", "is_closed")

    def __init__(self, queue: LaneQueue) -> None:
        self._queue = queue
        self._items = [0] * LANES
        self._bytes = [0] * LANES
        self._base: tuple[int, ...] = NOTHING
        self.is_closed = False

    def rebase(self) -> None:
        """Count from here, for another producer's end; nothing may be held."""
        self._base = (*self._totals(), 0, 0)

    def arrived(self, priority: int, size_bytes: int) -> None:
        """Count one message before it is queued."""
        self._items[priority] += 1
        self._bytes[priority] += size_bytes

    def counts(self) -> tuple[int, ...]:
        """The sixteen counts of now."""
        since = [now - base for now, base in zip(self._totals(), self._base, strict=False)]
        return (*since, int(self.is_closed), int(self._queue.finished))

    def _totals(self) -> tuple[int, ...]:
        lanes = self._queue.lanes
        books = self._queue.books
        return (
            *[items - lane.items for items, lane in zip(self._items, lanes, strict=True)],
            *[size - lane.bytes for size, lane in zip(self._bytes, lanes, strict=True)],
            books.delivered,
            books.expired,
            *[books.dropped.get(cause, 0) for cause in _CAUSES],
        )


class Outcomes:
    """The producer's end: turns reports into returned credit and into the books."""

    __slots__ = ("_counts", "_queue", "is_closed", "is_finished", "unsettled")

    def __init__(self, queue: LaneQueue) -> None:
        self._queue = queue
        self._counts: tuple[int, ...] = NOTHING
        self.unsettled = [[0, 0] for _ in range(LANES)]
        """Messages and bytes of each lane that were pushed over the link and whose end is not known."""
        self.is_closed = False  # the consumer takes no more
        self.is_finished = False  # the consumer has seen the end of the stream

    def pushed(self, priority: int, size_bytes: int) -> None:
        """Count one message that went over the link."""
        lane = self.unsettled[priority]
        lane[0] += 1
        lane[1] += size_bytes

    def apply(self, counts: Sequence[int]) -> int:
        """Take in a report; returns the lanes that accept again, as bits. Raises: RemoteProtocolError."""
        last, now = self._counts, tuple(counts)
        if now == last:
            return 0
        if len(now) != COUNTS or any(new < old for new, old in zip(now, last, strict=True)):
            raise RemoteProtocolError(f"a report of what ended is no continuation of the last: {now} after {last}")
        items = [now[n] - last[n] for n in range(_ITEMS, _BYTES)]
        sizes = [now[n] - last[n] for n in range(_BYTES, _DELIVERED)]
        if sum(items) != sum(now[_DELIVERED:_CLOSED]) - sum(last[_DELIVERED:_CLOSED]) or any(
            count > lane[0] or size > lane[1] for count, size, lane in zip(items, sizes, self.unsettled, strict=True)
        ):
            raise RemoteProtocolError(f"a report of what ended says more than was sent: {now} after {last}")
        self._counts = now
        self._book(now, last, sum(items))
        accepting = 0
        for number in range(LANES):
            if items[number]:
                lane = self.unsettled[number]
                lane[0] -= items[number]
                lane[1] -= sizes[number]
                if self._queue.release(number, items[number], sizes[number]):
                    accepting |= 1 << number
        self.is_closed = bool(now[_CLOSED])
        self.is_finished = bool(now[_FINISHED])
        return accepting

    def _book(self, now: tuple[int, ...], last: tuple[int, ...], ended: int) -> None:
        books = self._queue.books
        books.in_flight -= ended
        books.delivered += now[_DELIVERED] - last[_DELIVERED]
        expired = now[_EXPIRED] - last[_EXPIRED]
        books.expired += expired
        books.missed.queued += expired
        for index, cause in enumerate(_CAUSES, _DROPPED):
            if now[index] != last[index]:
                books.drop(cause, now[index] - last[index])

    def lose(self) -> int:
        """The other end vanished: what it had not reported is counted as dropped by `lost`; returns how many."""
        books = self._queue.books
        lost = 0
        for number, lane in enumerate(self.unsettled):
            if lane[0]:
                self._queue.release(number, lane[0], lane[1])
                lost += lane[0]
                lane[0] = lane[1] = 0
        self._counts = NOTHING
        if lost:
            books.in_flight -= lost
            books.drop("lost", lost)
        return lost
