"""The queue of a route, by example; the property tests try every interleaving."""

from __future__ import annotations

import pytest

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import BlockReason
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Policy, Qos
from flowbridge.time.ledger import EdgeBooks

NORMAL = Priority.NORMAL


def queue_of(
    policy: Policy = Policy.BLOCK, *, items: int = 4, size: int = 100, high: int = 4, low: int = 2
) -> LaneQueue:
    qos = Qos(policy=policy, capacity_items=items, capacity_bytes=size, high_items=high, low_items=low)
    return LaneQueue(qos, EdgeBooks())


def message(number: int, *, size: int = 1, lane: int = NORMAL, deadline_ns: int = NO_DEADLINE) -> Envelope:
    return Envelope(None, lane, deadline_ns, size_bytes=size, seq=number)


def offer(queue: LaneQueue, *numbers: int, size: int = 1) -> list[BlockReason | None]:
    return [queue.offer(message(number, size=size), 0) for number in numbers]


def queued(queue: LaneQueue, lane: int = NORMAL) -> list[int]:
    return [envelope.seq for envelope in queue.lanes[lane].queue]


def test_a_lane_stopped_at_its_high_watermark_goes_on_at_its_low_one() -> None:
    queue = queue_of(items=8, high=4, low=1)
    assert offer(queue, 0, 1, 2, 3, 4) == [None] * 4 + [BlockReason.ABOVE_WATERMARK]
    for settled in range(3):
        assert queue.stopped
        assert queue.credit_items(NORMAL) == 0
        assert offer(queue, 9) == [BlockReason.ABOVE_WATERMARK]
        assert queue.settle(queue.take(1)) == (settled == 2)
    assert not queue.stopped
    assert queue.credit_items(NORMAL) == 3


def test_a_lane_that_reached_its_high_watermark_without_turning_anything_away_goes_on_below_it() -> None:
    queue = queue_of(items=8, high=4, low=1)
    offer(queue, 0, 1, 2, 3)
    queue.settle(queue.take(1))
    assert offer(queue, 4) == [None]


def test_withdrawing_down_to_the_low_watermark_lets_the_lane_go_on() -> None:
    queue = queue_of(items=2, high=2, low=1)
    first, second = message(0), message(1)
    assert [queue.offer(one, 0) for one in (first, second, message(2))] == [None, None, BlockReason.CREDIT_ITEMS]
    assert queue.stopped
    assert queue.withdraw(second)
    assert not queue.stopped
    assert (queue.books.sent, queue.books.in_flight) == (1, 1)


def test_what_is_lent_uses_credit_under_block_and_error_only() -> None:
    for policy in Policy:
        queue = queue_of(policy, items=2, high=2, low=1)
        offer(queue, 0, 1)
        lent = queue.take(2)
        offer(queue, 2)
        uses = policy in (Policy.BLOCK, Policy.ERROR)
        assert queued(queue) == ([] if uses else [2]), policy
        queue.settle(lent)
        assert queue.books.balances


@pytest.mark.parametrize("policy", list(Policy))
def test_an_empty_lane_accepts_one_message_of_any_size(policy: Policy) -> None:
    queue = queue_of(policy, size=10)
    assert offer(queue, 0, size=10**9) == [None]
    assert queued(queue) == [0]
    queue.settle(queue.take(1))
    assert offer(queue, 1, size=10) == [None]
    assert queued(queue) == [1]


def test_an_oversized_message_empties_a_drop_oldest_lane_and_is_dropped_from_a_drop_newest_one() -> None:
    oldest, newest = queue_of(Policy.DROP_OLDEST, size=10), queue_of(Policy.DROP_NEWEST, size=10)
    for queue in (oldest, newest):
        offer(queue, 0, 1)
        offer(queue, 2, size=11)
    assert (queued(oldest), oldest.books.dropped) == ([2], {"drop_oldest": 2})
    assert (queued(newest), newest.books.dropped) == ([0, 1], {"drop_newest": 1})


def test_bytes_that_are_lent_do_not_make_a_dropping_queue_drop() -> None:
    queue = queue_of(Policy.DROP_OLDEST, size=10)
    offer(queue, 0, 1, size=5)
    lent = queue.take(2)
    offer(queue, 2, 3, size=5)
    assert queued(queue) == [2, 3]
    queue.settle(lent)
    assert queue.books.dropped == {}


def test_latest_keeps_one_per_lane_whatever_the_capacity() -> None:
    queue = queue_of(Policy.LATEST, items=4)
    offer(queue, 0, 1, 2)
    queue.offer(message(3, lane=Priority.HIGH), 0)
    assert (queued(queue), queued(queue, Priority.HIGH)) == ([2], [3])
    assert queue.books.dropped == {"latest": 2}
    assert [queue.credit_items(lane) for lane in Priority] == [1, 0, 0, 1]


def test_what_is_late_is_counted_and_not_queued() -> None:
    queue = queue_of(items=1, high=1)
    assert queue.offer(message(0, deadline_ns=5), 5) is None
    assert queue.offer_waited(message(1, deadline_ns=5), 6) is None
    assert queue.offer(message(2, deadline_ns=7), 6) is None
    assert queued(queue) == [2]
    assert queue.offer(message(3, deadline_ns=6), 6) is None, "a late message needs no credit"
    missed = queue.books.missed
    assert (missed.late, missed.transport, queue.books.expired, queue.books.sent) == (2, 1, 3, 4)


def test_settling_nothing_gives_no_credit() -> None:
    assert not queue_of().settle([])


def test_a_queue_says_how_full_it_is() -> None:
    queue = queue_of()
    offer(queue, 0, 1)
    queue.finished = True
    assert repr(queue) == "<LaneQueue block 0/0/2/0 of 4 each finished>"
    assert not queue.ended
    assert queue.abort() == 2
    assert queue.ended
