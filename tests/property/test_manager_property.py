"""TimeManager against what its rules say: nothing lost, nothing late, nothing out of order, no timer that drifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowbridge.envelope import NO_DEADLINE
from flowbridge.limits import LANES, STARVATION_TURNS_MAX, VIRTUAL_DEADLINE_NS
from flowbridge.machines.lane import lanes_in
from flowbridge.time.manager import Tick, TimeManager, urgency

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAMS: Final = 3
PASSED_MAX: Final = STARVATION_TURNS_MAX + LANES - 2
LASTING = st.sampled_from([NO_DEADLINE, 0, 1, 3, 6, 10, 40])
"""How long work lasts from when it was sent; some of it is late at once."""


@dataclass(eq=False)
class Work:
    """A piece of work, told apart by identity."""

    priority: int
    deadline_ns: int
    sent_ns: int
    number: int = 0


@dataclass
class Timer:
    """What a timer must do: tick `index` is due at start + index * period."""

    start_ns: int
    period_ns: int
    index: int = 0

    @property
    def due_ns(self) -> int:
        """When the next tick is due."""
        return self.start_ns + self.index * self.period_ns


class ManagerMachine(RuleBasedStateMachine):
    """Any interleaving of what a runner may ask for."""

    @initialize(capacity=st.integers(1, 6), start_ns=st.integers(0, 10**6))
    def start(self, capacity: int, start_ns: int) -> None:
        """A new manager."""
        self.capacity = capacity
        self.manager: TimeManager[Work] = TimeManager(capacity_items=capacity)
        self.now_ns = start_ns
        self.number = 0
        self.inside: dict[tuple[int, int], list[Work]] = {}  # by lane and stream: admitted, and not yet out again
        self.passed = [0] * LANES
        self.timers: dict[int, Timer] = {}

    def live(self, key: tuple[int, int]) -> list[Work]:
        """Work of a lane and stream that is not late."""
        return [work for work in self.inside.get(key, []) if work.deadline_ns > self.now_ns]

    def live_lanes(self) -> list[int]:
        """Lanes with work that is not late."""
        return sorted({key[0] for key in self.inside if self.live(key)})

    @rule(lane=st.integers(0, LANES - 1), stream=st.integers(0, STREAMS - 1), lasting=st.lists(LASTING, max_size=7))
    def admit(self, lane: int, stream: int, lasting: list[int]) -> None:
        """Consecutive work of one stream and lane, sent a little while ago."""
        items: list[Work] = []
        for lasts_ns in lasting:
            self.number += 1
            deadline_ns = NO_DEADLINE if lasts_ns == NO_DEADLINE else self.now_ns + lasts_ns
            items.append(Work(lane, deadline_ns, self.now_ns - 2 + self.number % 3, self.number))
        room = self.manager.room(stream, lane)
        held = self.inside.setdefault((lane, stream), [])
        assert self.capacity - len(held) <= room <= self.capacity - len(self.live((lane, stream)))
        admission = self.manager.admit(items, stream=stream, now_ns=self.now_ns)
        in_time = [work for work in items if work.deadline_ns > self.now_ns]
        assert list(admission.late) == [work for work in items if work not in in_time]
        assert list(admission.full) == in_time[room:]
        assert admission.admitted == len(in_time[:room])
        held += in_time[:room]

    @rule(limit=st.integers(1, 5))
    def pop(self, limit: int) -> None:
        """The next run: live work only, in the order of its stream, no other stream being worth more."""
        lanes = self.live_lanes()
        run = self.manager.pop(now_ns=self.now_ns, limit=limit)
        if run is None:
            assert lanes == []
            return
        assert 1 <= len(run.items) <= limit
        lane = run.items[0].priority
        for other in lanes:
            self.passed[other] += 1
        self.passed[lane] = 0
        assert max(self.passed) <= PASSED_MAX
        key = (lane, run.stream)
        rivals = [min(map(urgency, self.live(other))) for other in self.inside if other[0] == lane and self.live(other)]
        rivals.remove(min(map(urgency, self.live(key))))
        for item in run.items:
            live = self.live(key)
            assert item is live[0]
            assert not rivals or min(map(urgency, live)) <= min(rivals)
            self.inside[key].remove(item)

    @rule()
    def expire(self) -> None:
        """Everything that is late, each item once, whether `pop` came upon it or not."""
        gone = self.manager.expire(now_ns=self.now_ns)
        late = [
            (stream, work.number)
            for (_, stream), held in self.inside.items()
            for work in held
            if work.deadline_ns <= self.now_ns
        ]
        assert sorted((event.stream, event.item.number) for event in gone) == sorted(late)
        assert not self.manager.has_expired
        for key in self.inside:
            self.inside[key] = self.live(key)
            assert self.manager.room(key[1], key[0]) == self.capacity - len(self.inside[key])
        assert len(self.manager) == sum(map(len, self.inside.values()))
        moments = [work.deadline_ns for held in self.inside.values() for work in held]
        moments += [timer.due_ns for timer in self.timers.values()]
        soonest_ns = min(moments, default=NO_DEADLINE)
        assert self.manager.next_wakeup_ns() == (None if soonest_ns == NO_DEADLINE else soonest_ns)

    @rule()
    def clear(self) -> None:
        """All work comes back in the order of its stream; what was found late before is still to be handed out."""
        self.expire()
        runs = {(run.items[0].priority, run.stream): run.items for run in self.manager.clear()}
        assert runs == {key: held for key, held in self.inside.items() if held}
        self.inside.clear()
        assert self.manager.pop(now_ns=self.now_ns) is None
        assert self.manager.expire(now_ns=self.now_ns) == []

    @rule(timer=st.integers(0, 2), period_ns=st.integers(1, 9), delay_ns=st.integers(0, 9))
    def add_timer(self, timer: int, period_ns: int, delay_ns: int) -> None:
        """A timer starts, or starts over."""
        self.timers[timer] = Timer(self.now_ns + delay_ns, period_ns)
        self.manager.add_timer(timer, period_ns=period_ns, start_ns=self.now_ns + delay_ns)

    @rule()
    def poll(self) -> None:
        """Each timer that is due ticks once, for its last due moment, and counts those it skipped."""
        wanted: list[tuple[int, Tick]] = []
        for name, timer in self.timers.items():
            first_ns, first = timer.due_ns, timer.index
            while timer.due_ns <= self.now_ns:
                timer.index += 1
            if timer.index > first:
                index = timer.index - 1
                at_ns = timer.start_ns + index * timer.period_ns
                wanted.append((first_ns, Tick(name, index, at_ns, skipped=index - first)))
        ticks = self.manager.poll(now_ns=self.now_ns)
        assert ticks == [tick for _, tick in sorted(wanted, key=lambda pair: (pair[0], pair[1].timer))]
        assert self.manager.poll(now_ns=self.now_ns) == []

    @rule(step_ns=st.integers(1, 9))
    def wait(self, step_ns: int) -> None:
        """Time passes."""
        self.now_ns += step_ns

    @invariant()
    def every_lane_with_live_work_is_waiting(self) -> None:
        """`waiting` may name a lane with late work too, never leave one out."""
        held = {key[0] for key, works in self.inside.items() if works}
        assert {*self.live_lanes()} <= {*lanes_in(self.manager.waiting)} <= held


TestManager = ManagerMachine.TestCase
TestManager.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# --- the order of work --------------------------------------------------------------------------------------------

TIMES = st.lists(st.tuples(st.integers(0, 50), st.one_of(st.just(NO_DEADLINE), st.integers(60, 90))), max_size=20)


def fill(works: Sequence[tuple[int, Work]]) -> TimeManager[Work]:
    """A manager that holds all of this, by stream."""
    manager: TimeManager[Work] = TimeManager()
    for stream, work in works:
        assert manager.admit([work], stream=stream, now_ns=0).admitted == 1
    return manager


def drain(manager: TimeManager[Work], limit: int) -> list[Work]:
    """Everything, in the order it is popped."""
    found: list[Work] = []
    while (run := manager.pop(now_ns=0, limit=limit)) is not None:
        found += run.items
    return found


@given(TIMES, st.integers(1, 4))
def test_with_one_item_per_stream_the_order_is_by_deadline_then_by_sending(
    times: list[tuple[int, int]], limit: int
) -> None:
    works = [Work(1, deadline_ns, sent_ns) for sent_ns, deadline_ns in times]
    order = drain(fill(list(enumerate(works))), limit)
    wanted = sorted(works, key=lambda work: (urgency(work), work.sent_ns))
    assert [(urgency(work), work.sent_ns) for work in order] == [(urgency(work), work.sent_ns) for work in wanted]


def precedence_adjusted(streams: dict[int, list[Work]]) -> list[Work]:
    """One by one: the head of the stream that holds the least deadline; equal ones in the order of the heads."""
    order: list[Work] = []
    while streams:
        first = min(streams, key=lambda stream: (min(map(urgency, streams[stream])), streams[stream][0].sent_ns))
        order.append(streams[first].pop(0))
        if not streams[first]:
            del streams[first]
    return order


@given(st.lists(st.tuples(st.integers(0, STREAMS - 1), st.one_of(st.just(NO_DEADLINE), st.integers(1, 9)))))
def test_an_urgent_message_lends_its_deadline_to_those_in_front_of_it(items: list[tuple[int, int]]) -> None:
    works = [(stream, Work(2, deadline_ns, number)) for number, (stream, deadline_ns) in enumerate(items)]
    for limit in (1, 2, 64):
        streams: dict[int, list[Work]] = {}
        for stream, work in works[:60]:
            streams.setdefault(stream, []).append(work)
        assert drain(fill(works[:60]), limit) == precedence_adjusted(streams)


@given(st.integers(1, VIRTUAL_DEADLINE_NS // 10), st.integers(1, 2 * VIRTUAL_DEADLINE_NS), st.integers(1, 8))
def test_work_without_a_deadline_is_not_put_off_for_ever(step_ns: int, lasts_ns: int, limit: int) -> None:
    manager: TimeManager[Work] = TimeManager()
    patient = Work(2, NO_DEADLINE, 0)
    assert manager.admit([patient], stream=1, now_ns=0).admitted == 1
    now_ns = max(0, VIRTUAL_DEADLINE_NS - 40 * step_ns)
    while True:
        # More urgent work keeps coming, more of it than is done.
        manager.admit([Work(2, now_ns + lasts_ns, now_ns) for _ in range(limit + 1)], stream=0, now_ns=now_ns)
        run = manager.pop(now_ns=now_ns, limit=limit)
        assert run is not None
        if patient in run.items:
            return
        assert now_ns < VIRTUAL_DEADLINE_NS, "put off beyond its virtual deadline"
        now_ns += step_ns


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 10**15))
def test_a_timer_never_drifts_whatever_the_poll_times(steps_ns: list[int], period_ns: int, start_ns: int) -> None:
    manager: TimeManager[Work] = TimeManager()
    manager.add_timer(7, period_ns=period_ns, start_ns=start_ns)
    now_ns, counted = start_ns - 1, 0
    for step_ns in steps_ns:
        now_ns += step_ns
        for tick in manager.poll(now_ns=now_ns):
            counted += 1 + tick.skipped
            assert (tick.index, tick.at_ns) == (counted - 1, start_ns + (counted - 1) * period_ns)
            assert now_ns - period_ns < tick.at_ns <= now_ns
        assert manager.next_wakeup_ns() == start_ns + counted * period_ns
    assert counted == max(0, (now_ns - start_ns) // period_ns + 1)
