"""What a node runs next and when it looks again, by example."""

from __future__ import annotations

import pytest

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.limits import SLICE_ITEMS_MAX, STARVATION_TURNS_MAX, VIRTUAL_DEADLINE_NS
from flowbridge.time.manager import Deadline, Run, Tick, TimeManager, urgency

NORMAL = Priority.NORMAL


def work(number: int, deadline_ns: int = NO_DEADLINE, *, lane: int = NORMAL, sent_ns: int = 0) -> Envelope:
    return Envelope(None, lane, deadline_ns, sent_ns=sent_ns, seq=number)


def popped(manager: TimeManager[Envelope], now_ns: int = 0, limit: int = 1) -> list[int]:
    run = manager.pop(now_ns=now_ns, limit=limit)
    return [] if run is None else [envelope.seq for envelope in run.items]


def test_urgency_is_the_deadline_or_a_virtual_one() -> None:
    assert urgency(work(0, 17)) == 17
    assert urgency(work(0, sent_ns=5)) == 5 + VIRTUAL_DEADLINE_NS


def test_an_urgent_message_pulls_those_in_front_of_it_past_another_stream() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    manager.admit([work(1, 50)], stream=1, now_ns=0)
    manager.admit([work(2, 90), work(3, 80), work(4, 10), work(5, 70)], stream=2, now_ns=0)
    assert popped(manager, limit=8) == [2, 3, 4]
    assert popped(manager, limit=8) == [1]
    assert popped(manager, limit=8) == [5]


def test_a_message_that_became_late_lends_nothing_any_more() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    manager.admit([work(1, 100), work(2, 5)], stream=1, now_ns=0)
    manager.admit([work(3, 20)], stream=2, now_ns=0)
    assert popped(manager, now_ns=10) == [3]
    assert popped(manager, now_ns=10) == [1]


def test_a_lane_keeps_its_turn_when_all_it_had_first_was_late() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    late = [work(number, 5, lane=Priority.BEST_EFFORT) for number in range(3)]
    manager.admit([*late, work(3, lane=Priority.BEST_EFFORT)], stream=1, now_ns=0)
    for turn in range(STARVATION_TURNS_MAX):
        manager.admit([work(100 + turn, lane=Priority.HIGH)], now_ns=0)
        assert popped(manager) == [100 + turn]
    manager.admit([work(200, lane=Priority.HIGH)], now_ns=0)
    assert popped(manager, now_ns=5) == [3]
    assert manager.has_expired
    assert [event.item for event in manager.expire(now_ns=5)] == late


def test_late_work_is_refused_on_arrival_and_given_up_in_the_queue() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    first, second, third = work(0, 10), work(1, 20), work(2, 30)
    admission = manager.admit([first, second, third], stream=4, now_ns=10)
    assert (admission.admitted, admission.late, admission.full) == (2, [first], ())
    assert manager.pop(now_ns=20, limit=2) == Run(4, [third])
    assert manager.has_expired
    assert manager.expire(now_ns=20) == [Deadline(4, second)]
    assert manager.expire(now_ns=20) == []


def test_room_is_per_stream_and_lane() -> None:
    manager: TimeManager[Envelope] = TimeManager(capacity_items=2)
    items = [work(number) for number in range(4)]
    admission = manager.admit(items, stream=1, now_ns=0)
    assert (admission.admitted, admission.full) == (2, items[2:])
    assert [manager.room(1, NORMAL), manager.room(1, Priority.HIGH), manager.room(2, NORMAL)] == [0, 2, 2]
    assert manager.admit(items[2:], stream=1, now_ns=0).admitted == 0
    assert manager.admit(items[2:], stream=2, now_ns=0).admitted == 2
    assert len(manager) == 4
    assert repr(manager) == "<TimeManager 0/0/4/0 waiting, 0 timers>"


def test_a_manager_holds_a_slice_of_each_stream_and_may_hold_nothing_at_all() -> None:
    assert TimeManager[Envelope]().room(0, NORMAL) == SLICE_ITEMS_MAX
    closed: TimeManager[Envelope] = TimeManager(capacity_items=0)
    assert len(closed.admit([work(0)], now_ns=0).full) == 1
    assert closed.waiting == 0
    assert closed.admit([], now_ns=0).admitted == 0


def test_the_next_wakeup_is_the_sooner_of_timer_and_deadline() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    assert manager.next_wakeup_ns() is None
    manager.admit([work(0)], now_ns=0)
    assert manager.next_wakeup_ns() is None, "work without a deadline never becomes late"
    manager.add_timer(1, period_ns=10, start_ns=70)
    manager.admit([work(1, 90), work(2, 60)], stream=3, now_ns=0)
    assert manager.next_wakeup_ns() == 60
    manager.expire(now_ns=60)
    assert manager.next_wakeup_ns() == 70


def test_missed_ticks_are_skipped_counted_and_move_no_later_tick() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    manager.add_timer(5, period_ns=10, start_ns=100)
    assert manager.poll(now_ns=99) == []
    assert manager.poll(now_ns=100) == [Tick(5, 0, 100, skipped=0)]
    assert manager.poll(now_ns=137) == [Tick(5, 3, 130, skipped=2)]
    assert manager.poll(now_ns=139) == []
    assert manager.next_wakeup_ns() == 140
    assert manager.poll(now_ns=140) == [Tick(5, 4, 140, skipped=0)]


def test_a_timer_that_is_started_again_starts_over_and_ticks_once() -> None:
    manager: TimeManager[Envelope] = TimeManager()
    manager.add_timer(5, period_ns=10, start_ns=10)
    assert manager.poll(now_ns=10) == [Tick(5, 0, 10, skipped=0)]
    manager.add_timer(5, period_ns=10, start_ns=33)
    assert manager.poll(now_ns=32) == []
    assert manager.next_wakeup_ns() == 33
    assert manager.poll(now_ns=43) == [Tick(5, 1, 43, skipped=1)]
    assert manager.next_wakeup_ns() == 53


def test_a_timer_without_a_period_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="timer 3: period_ns must be above 0, not 0"):
        TimeManager[Envelope]().add_timer(3, period_ns=0, start_ns=0)
