"""What the consumer's end of a link tells the producer's end: how many messages ended, and how.

Sixteen absolute counts that only ever rise, so that a lost or repeated report does no harm. They stand in the consumer
page of a ring, or travel in a COUNTS frame.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import LANES, REPORT_SHARE
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
CLOSED: Final = _DROPPED + len(_CAUSES)
"""Where the counts say that the consumer takes no more: 1, and 0 before."""
_FINISHED: Final = CLOSED + 1
NOTHING: Final = (0,) * COUNTS


class Arrivals:
    """The consumer's end: counts what arrived, so that what ended can be told."""

    __slots__ = ("_before", "_bytes", "_items", "_queue", "_told", "_untold", "_untold_bytes", "is_closed")

    def __init__(self, queue: LaneQueue) -> None:
        self._queue = queue
        qos = queue.qos
        # So much credit may stay untold: when all is settled, a producer that stopped at its high watermark goes on.
        self._untold = min(qos.high_items // REPORT_SHARE - 1, qos.low_items)
        self._untold_bytes = qos.capacity_bytes // REPORT_SHARE - 1
        if qos.policy is not Policy.BLOCK:
            self._untold = -1  # without credit the producer does not wait: it drops or fails
        self._told: tuple[int, ...] = NOTHING  # the last counts that were asked for
        self._items = [0] * LANES
        self._bytes = [0] * LANES
        self._before: tuple[int, ...] = (0,) * (CLOSED - _DELIVERED)  # how messages of earlier links ended
        self.is_closed = False

    def rebase(self) -> None:
        """Start from zero, for a new link. Nothing of the old one may be held any more."""
        self._before = self._ended()
        self._told = NOTHING
        self._items = [0] * LANES
        self._bytes = [0] * LANES

    def _ended(self) -> tuple[int, ...]:
        books = self._queue.books
        if not books.dropped:
            return (books.delivered, books.expired, 0, 0, 0, 0)
        return (books.delivered, books.expired, *[books.dropped.get(cause, 0) for cause in _CAUSES])

    def arrived(self, priority: int, size_bytes: int, items: int = 1) -> None:
        """Count messages that were queued."""
        self._items[priority] += items
        self._bytes[priority] += size_bytes
        room_bytes = self._queue.qos.capacity_bytes - size_bytes
        if room_bytes < self._untold_bytes:
            self._untold_bytes = room_bytes  # another one like this must have room beside what is untold

    def owes_much(self, priority: int) -> bool:
        """Whether the producer may need the credit of what ended in a lane since the last counts."""
        lane, told = self._queue.lanes[priority], self._told
        return (
            self._items[priority] - lane.items - told[priority] > self._untold
            or self._bytes[priority] - lane.bytes - told[LANES + priority] > self._untold_bytes
        )

    def counts(self) -> tuple[int, ...]:
        """The sixteen counts of now."""
        # Written out: it is made for every turn of the loop in which something ended.
        one, two, three, four = self._queue.lanes
        items, sizes = self._items, self._bytes
        self._told = (
            items[0] - one.items,
            items[1] - two.items,
            items[2] - three.items,
            items[3] - four.items,
            sizes[0] - one.bytes,
            sizes[1] - two.bytes,
            sizes[2] - three.bytes,
            sizes[3] - four.bytes,
            *map(operator.sub, self._ended(), self._before),
            int(self.is_closed),
            int(self._queue.finished),
        )
        return self._told


class Outcomes:
    """The producer's end: turns reports into returned credit and into the books."""

    __slots__ = ("_counts", "_queue", "has_ended", "is_closed", "is_finished", "unsettled")

    def __init__(self, queue: LaneQueue) -> None:
        self._queue = queue
        self._counts: tuple[int, ...] = NOTHING
        self.unsettled = [[0, 0] for _ in range(LANES)]
        """Messages and bytes of each lane that were pushed over the link and whose end is not known."""
        self.has_ended = False  # the end of the stream went over the link
        self.is_closed = False  # the consumer takes no more
        self.is_finished = False  # the consumer has seen the end of the stream

    def pushed(self, priority: int, size_bytes: int, items: int = 1) -> None:
        """Count messages that went over the link."""
        lane = self.unsettled[priority]
        lane[0] += items
        lane[1] += size_bytes

    def apply(self, counts: Sequence[int]) -> int:
        """Take in a report; returns the lanes that accept again, as bits. Raises: RemoteProtocolError."""
        last, now = self._counts, tuple(counts)
        if now == last:
            return 0
        if len(now) == COUNTS and now[_EXPIRED:] == last[_EXPIRED:]:
            accepting = self._delivered(now, last)
            if accepting >= 0:
                return accepting
        if len(now) != COUNTS or any(new < old for new, old in zip(now, last, strict=True)):
            raise RemoteProtocolError(f"a report of what ended is no continuation of the last: {now} after {last}")
        items = [now[n] - last[n] for n in range(_ITEMS, _BYTES)]
        sizes = [now[n] - last[n] for n in range(_BYTES, _DELIVERED)]
        if sum(items) != sum(now[_DELIVERED:CLOSED]) - sum(last[_DELIVERED:CLOSED]):
            raise RemoteProtocolError(f"a report of what ended does not add up: {now} after {last}")
        for count, size, lane in zip(items, sizes, self.unsettled, strict=True):
            if count > lane[0] or size > lane[1] or (size and not count) or (count == lane[0] and size != lane[1]):
                raise RemoteProtocolError(f"a report of what ended is not of what was sent: {now} after {last}")
        self._must_be_possible(now)
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
        self.is_closed = bool(now[CLOSED])
        self.is_finished = bool(now[_FINISHED])
        return accepting

    def _delivered(self, now: tuple[int, ...], last: tuple[int, ...]) -> int:
        """A report by which messages of one lane were delivered and nothing else happened; -1 for any other."""
        ended = now[_DELIVERED] - last[_DELIVERED]
        for number in range(LANES):
            if now[number] != last[number]:
                break
        else:
            return -1
        items, size = now[number] - last[number], now[number + LANES] - last[number + LANES]
        lane = self.unsettled[number]
        if (
            items != ended
            or not 0 < items <= lane[0]
            or not 0 <= size <= lane[1]
            or (items == lane[0] and size != lane[1])
        ):
            return -1
        rest = number + 1
        if now[rest:_BYTES] != last[rest:_BYTES] or now[_BYTES : _BYTES + number] != last[_BYTES : _BYTES + number]:
            return -1
        if now[_BYTES + rest : _DELIVERED] != last[_BYTES + rest : _DELIVERED]:
            return -1
        self._counts = now
        lane[0] -= items
        lane[1] -= size
        books = self._queue.books
        books.in_flight -= items
        books.delivered += items
        return 1 << number if self._queue.release(number, items, size) else 0

    def _must_be_possible(self, now: Sequence[int]) -> None:
        """What a consumer cannot have done with a route of this policy, or before it was told to."""
        if now[CLOSED] > 1 or now[_FINISHED] > int(self.has_ended):
            raise RemoteProtocolError(f"a report tells of an end that was not sent: {tuple(now[CLOSED:])}")
        for index, cause in enumerate(_CAUSES, _DROPPED):
            if now[index] and not (now[CLOSED] if cause == "abort" else cause == self._queue.qos.policy.value):
                raise RemoteProtocolError(f"a report tells of {now[index]} messages dropped by {cause}: that cannot be")

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

    def start_over(self) -> None:
        """Another consumer is to come: nothing was pushed to it, and it has reported nothing."""
        for lane in self.unsettled:
            lane[0] = lane[1] = 0
        self._counts = NOTHING
        self.has_ended = self.is_finished = False

    @property
    def has_heard(self) -> bool:
        """Whether the consumer at the other end reported anything."""
        return self._counts is not NOTHING

    def lose(self) -> int:
        """The other end vanished: what it had not reported is counted as dropped by `lost`; returns how many."""
        books = self._queue.books
        lost = 0
        for number, lane in enumerate(self.unsettled):
            if lane[0]:
                self._queue.release(number, lane[0], lane[1])
                lost += lane[0]
        self.start_over()
        if lost:
            books.in_flight -= lost
            books.drop("lost", lost)
        return lost
