"""LaneQueue and LaneTurns against the simplest model that could be right: plain lists, everything counted by hand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import BlockReason
from flowbridge.limits import LANES, STARVATION_TURNS_MAX
from flowbridge.machines.lane import LaneTurns, lanes_in
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Policy, Qos
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENT: Final = (Policy.BLOCK, Policy.ERROR)
"""Policies under which what is lent uses credit too."""

LANE = st.sampled_from(Priority)
PASSED_MAX: Final = STARVATION_TURNS_MAX + LANES - 2
"""A starving lane waits for its own turn and for those of the others that starve: at most all but the chosen one."""


def qos_of(draw: st.DrawFn) -> Qos:
    """Small capacities, so that every limit is met soon."""
    capacity = draw(st.integers(1, 6))
    high = draw(st.integers(1, capacity))
    return Qos(
        policy=draw(st.sampled_from(Policy)),
        capacity_items=capacity,
        capacity_bytes=draw(st.sampled_from([10, 25, 1_000])),
        high_items=high,
        low_items=draw(st.integers(0, high)),
    )


QOS = st.composite(qos_of)()
# (lane, size in bytes, time to the deadline): few lanes at once and few late messages, so that queues do fill.
MESSAGE = st.tuples(LANE, st.integers(0, 12), st.sampled_from([NO_DEADLINE, NO_DEADLINE, 5, 2, 0]))


class Model:
    """What a queue must be, in lists: each lane has what is queued and what is lent, in order."""

    def __init__(self, qos: Qos) -> None:
        self.qos = qos
        self.queued: dict[int, list[Envelope]] = {lane: [] for lane in range(LANES)}
        self.lent: dict[int, list[Envelope]] = {lane: [] for lane in range(LANES)}
        self.stopped: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def held(self, lane: int) -> list[Envelope]:
        """What uses the credit of a lane."""
        return self.queued[lane] + (self.lent[lane] if self.qos.policy in PATIENT else [])

    @property
    def places(self) -> int:
        """How many messages a lane holds."""
        return 1 if self.qos.policy is Policy.LATEST else self.qos.capacity_items

    def lacking(self, envelope: Envelope) -> BlockReason | None:
        """Why a message does not fit; nothing is changed."""
        held = self.held(envelope.priority)
        if not held:
            return None
        if len(held) >= self.places:
            return BlockReason.CREDIT_ITEMS
        above = envelope.priority in self.stopped or len(held) >= self.qos.high_items
        if self.qos.policy is Policy.BLOCK and above:
            return BlockReason.ABOVE_WATERMARK
        too_large = sum(one.size_bytes for one in held) + envelope.size_bytes > self.qos.capacity_bytes
        return BlockReason.CREDIT_BYTES if too_large else None

    def offer(self, envelope: Envelope, now_ns: int) -> BlockReason | None:
        """What `LaneQueue.offer` promises, said plainly."""
        lane = envelope.priority
        if envelope.deadline_ns <= now_ns:
            self.counts.update(("sent", "late"))
            return None
        reason = self.lacking(envelope)
        policy = self.qos.policy
        if reason is not None and policy is Policy.BLOCK:
            if len(self.held(lane)) >= self.qos.high_items:
                self.stopped.add(lane)
            return reason
        self.counts["sent"] += 1
        if reason is not None and policy is Policy.ERROR:
            self.counts["refused"] += 1
            return reason
        if reason is not None and policy is Policy.DROP_NEWEST:
            self.dropped[policy.value] += 1
            return None
        while self.lacking(envelope) is not None:
            self.queued[lane].pop(0)
            self.dropped[policy.value] += 1
        if not self.held(lane):
            self.stopped.discard(lane)
        self.queued[lane].append(envelope)
        return None

    def came_down(self, lane: int) -> None:
        """Look whether a lane is down at its low watermark."""
        if len(self.held(lane)) <= self.qos.low_items:
            self.stopped.discard(lane)

    def credit(self, lane: int) -> int:
        """How many messages of no size fit."""
        if lane in self.stopped:
            return 0
        limit = min(self.places, self.qos.high_items) if self.qos.policy is Policy.BLOCK else self.places
        return max(0, limit - len(self.held(lane)))


class QueueMachine(RuleBasedStateMachine):
    """Any interleaving of what both ends may do."""

    @initialize(qos=QOS)
    def start(self, qos: Qos) -> None:
        """A new queue and its model."""
        self.books = EdgeBooks()
        self.queue = LaneQueue(qos, self.books)
        self.model = Model(qos)
        self.now_ns = 100
        self.seq = 0
        self.passed = [0] * LANES

    def message(self, lane: int, size_bytes: int, lasts_ns: int) -> Envelope:
        """The next message; its number tells the order in which messages were offered."""
        deadline_ns = NO_DEADLINE if lasts_ns == NO_DEADLINE else self.now_ns + lasts_ns
        self.seq += 1
        return Envelope(b"", lane, deadline_ns, 0, self.now_ns, size_bytes, self.seq)

    @rule(message=MESSAGE)
    def offer(self, message: tuple[int, int, int]) -> None:
        """One message."""
        envelope = self.message(*message)
        assert self.queue.offer(envelope, self.now_ns) is self.model.offer(envelope, self.now_ns)

    @rule(messages=st.lists(MESSAGE, min_size=1, max_size=9), one_lane=st.booleans())
    def offer_many(self, messages: list[tuple[int, int, int]], *, one_lane: bool) -> None:
        """Many at once: as one by one, up to the first that must wait."""
        envelopes = [self.message(messages[0][0] if one_lane else lane, size, ns) for lane, size, ns in messages]
        wanted = len(envelopes)
        for count, envelope in enumerate(envelopes):
            if self.model.offer(envelope, self.now_ns) is not None and self.model.qos.policy is Policy.BLOCK:
                wanted = count
                break
        assert self.queue.offer_many(envelopes, self.now_ns) == wanted

    @rule(message=MESSAGE)
    def offer_waited(self, message: tuple[int, int, int]) -> None:
        """One whose sender waited: when it is late, the wait is to blame."""
        envelope = self.message(*message)
        reason = self.queue.offer_waited(envelope, self.now_ns)
        if envelope.deadline_ns <= self.now_ns:
            assert reason is None
            self.model.counts.update(("sent", "transport"))
        else:
            assert reason is self.model.offer(envelope, self.now_ns)

    @rule(limit=st.integers(1, 5))
    def take(self, limit: int) -> None:
        """From the lane whose turn it is."""
        taken = self.queue.take(limit)
        waiting = [lane for lane, queued in self.model.queued.items() if queued]
        if not waiting:
            assert taken == []
            return
        lane = taken[0].priority
        assert lane in waiting
        assert lane == waiting[0] or self.passed[lane] >= STARVATION_TURNS_MAX
        for other in waiting:
            self.passed[other] += 1
            assert other == lane or self.passed[other] <= PASSED_MAX
        self.passed[lane] = 0
        self.lend(taken, lane, limit)

    @rule(limit=st.integers(1, 5), lane=LANE)
    def take_from(self, limit: int, lane: int) -> None:
        """From the lane asked for."""
        self.lend(self.queue.take(limit, lane), lane, limit)

    def lend(self, taken: Sequence[Envelope], lane: int, limit: int) -> None:
        """The head of the lane, in order."""
        queued = self.model.queued[lane]
        assert list(taken) == queued[:limit]
        self.model.lent[lane] += queued[:limit]
        del queued[:limit]

    @rule(lane=LANE, count=st.integers(1, 5), expired=st.integers(0, 5))
    def settle(self, lane: int, count: int, expired: int) -> None:
        """Return the first messages that were lent, some of them too late."""
        lent = self.model.lent[lane]
        taken = lent[:count]
        del lent[:count]
        expired = min(expired, len(taken))
        if taken:
            self.model.came_down(lane)
        assert self.queue.settle(taken, expired) == (bool(taken) and lane not in self.model.stopped)
        self.model.counts.update(delivered=len(taken) - expired, queued=expired)

    @rule(lane=LANE, count=st.integers(1, 5))
    def give_back(self, lane: int, count: int) -> None:
        """Undo the last takes of a lane."""
        lent = self.model.lent[lane]
        taken = lent[-count:]
        del lent[-count:]
        self.model.queued[lane][:0] = taken
        self.queue.give_back(taken)

    @precondition(lambda self: any(self.model.queued.values()))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Take back a message that is queued: as if it had never been offered."""
        lane = data.draw(st.sampled_from([lane for lane, queued in self.model.queued.items() if queued]))
        envelope = data.draw(st.sampled_from(self.model.queued[lane]))
        self.model.queued[lane].remove(envelope)
        self.model.counts["sent"] -= 1
        self.model.came_down(lane)
        assert self.queue.withdraw(envelope)

    @rule(message=MESSAGE)
    def withdraw_what_is_not_there(self, message: tuple[int, int, int]) -> None:
        """A message that is not queued, or not any more, cannot be withdrawn."""
        assert not self.queue.withdraw(self.message(*message))
        for lent in self.model.lent.values():
            assert not any(self.queue.withdraw(envelope) for envelope in lent)

    @rule()
    def abort(self) -> None:
        """Drop all that is queued."""
        count = sum(len(queued) for queued in self.model.queued.values())
        for lane, queued in self.model.queued.items():
            queued.clear()
            self.model.came_down(lane)
        self.model.dropped.update({"abort": count} if count else {})
        assert self.queue.abort() == count

    @rule()
    def finish(self) -> None:
        """The end of the stream, as a port sets it; it does not change what is queued."""
        self.queue.finished = True

    @rule(step_ns=st.integers(1, 3))
    def wait(self, step_ns: int) -> None:
        """Time passes; what is queued may become late, which is not the queue's business."""
        self.now_ns += step_ns

    @invariant()
    def the_books_balance(self) -> None:
        """And every column is what the model counted."""
        books, counts = self.books, self.model.counts
        assert books.balances
        held = sum(map(len, self.model.queued.values())) + sum(map(len, self.model.lent.values()))
        assert books.in_flight == held
        assert (books.sent, books.delivered) == (counts["sent"], counts["delivered"])
        assert (books.refused, books.dropped) == (counts["refused"], dict(self.model.dropped))
        missed = (books.missed.late, books.missed.transport, books.missed.queued, books.missed.executing)
        assert missed == (counts["late"], counts["transport"], counts["queued"], 0)
        assert books.expired == books.missed.total

    @invariant()
    def each_lane_is_that_of_the_model(self) -> None:
        """Content, order, credit and watermark; and credit is never used twice nor lost."""
        for number, lane in enumerate(self.queue.lanes):
            queued, lent = self.model.queued[number], self.model.lent[number]
            assert list(lane.queue) == queued
            assert (lane.items, lane.bytes) == (
                len(queued) + len(lent),
                sum(envelope.size_bytes for envelope in queued + lent),
            )
            numbers = [envelope.seq for envelope in lent + queued]
            assert numbers == sorted(numbers)
            assert lane.stopped == (number in self.model.stopped)
            assert self.queue.credit_items(number) == self.model.credit(number)
        assert self.queue.stopped == bool(self.model.stopped)
        assert lanes_in(self.queue.waiting) == tuple(lane for lane, queued in self.model.queued.items() if queued)
        assert self.queue.ended == (self.queue.finished and not any(self.model.queued.values()))

    @invariant()
    def no_lane_holds_too_much(self) -> None:
        """Neither items nor bytes go beyond the capacity, but for one message alone; give_back may exceed a policy."""
        qos = self.model.qos
        if qos.policy not in PATIENT:
            return
        for lane in self.queue.lanes:
            assert 0 <= lane.items <= qos.capacity_items
            assert 0 <= lane.bytes <= qos.capacity_bytes or lane.items == 1


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# --- one property at a time ---------------------------------------------------------------------------------------


def build(messages: Sequence[tuple[int, int, int]], now_ns: int) -> list[Envelope]:
    """Envelopes, numbered."""
    return [
        Envelope(b"", lane, NO_DEADLINE if lasts_ns == NO_DEADLINE else now_ns + lasts_ns, 0, now_ns, size, number)
        for number, (lane, size, lasts_ns) in enumerate(messages)
    ]


@settings(deadline=None)
@given(QOS, st.lists(st.lists(MESSAGE, min_size=1, max_size=8), max_size=5), st.booleans())
def test_offering_many_equals_offering_one_by_one(
    qos: Qos,
    batches: list[list[tuple[int, int, int]]],
    one_lane: bool,
) -> None:
    at_once, one_by_one = LaneQueue(qos, EdgeBooks()), LaneQueue(qos, EdgeBooks())
    for batch in batches:
        envelopes = build([(2 if one_lane else lane, size, lasts_ns) for lane, size, lasts_ns in batch], 10)
        count = at_once.offer_many(envelopes, 10)
        for number, envelope in enumerate(envelopes):
            waits = one_by_one.offer(envelope, 10) is not None and qos.policy is Policy.BLOCK
            assert waits == (number == count)
            if waits:
                break
        assert [list(lane.queue) for lane in at_once.lanes] == [list(lane.queue) for lane in one_by_one.lanes]
        assert [lane.stopped for lane in at_once.lanes] == [lane.stopped for lane in one_by_one.lanes]
        for left, right in zip(
            (at_once.take(2), at_once.take(3, 2)), (one_by_one.take(2), one_by_one.take(3, 2)), strict=True
        ):
            assert left == right
            at_once.settle(left)
            one_by_one.settle(right)
        assert counts_of(at_once.books) == counts_of(one_by_one.books)


def counts_of(books: EdgeBooks) -> tuple[object, ...]:
    """The counts; a histogram does not compare."""
    return books.sent, books.delivered, books.expired, books.refused, books.in_flight, books.dropped, books.missed


@settings(deadline=None)
@given(st.lists(st.integers(1, (1 << LANES) - 1), max_size=400))
def test_no_lane_with_work_is_passed_over_for_ever(masks: list[int]) -> None:
    turns = LaneTurns()
    passed = [0] * LANES
    for mask in masks:
        waiting = lanes_in(mask)
        chosen = turns.choose(mask)
        assert chosen in waiting
        assert chosen == waiting[0] or passed[chosen] >= STARVATION_TURNS_MAX
        for lane in waiting:
            passed[lane] += 1
        passed[chosen] = 0
        assert max(passed) <= PASSED_MAX


@given(st.integers(1, (1 << LANES) - 1), st.integers(STARVATION_TURNS_MAX * 2, 200))
def test_every_lane_that_always_has_work_is_served(mask: int, count: int) -> None:
    turns = LaneTurns()
    served = Counter(turns.choose(mask) for _ in range(count))
    assert set(served) == set(lanes_in(mask))
    assert served[lanes_in(mask)[0]] >= count * (STARVATION_TURNS_MAX - LANES) // STARVATION_TURNS_MAX
