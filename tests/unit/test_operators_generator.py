"""sequence and timer_source, on a clock that tests move."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from flowbridge.operators.fault import ConfigError
from flowbridge.operators.generator import Sequence, TimerSource


class StepClock:
    """Sleeping moves it on; so does the test, to be late."""

    def __init__(self, now_ns: int = 1_000_003) -> None:
        self.start_ns = self.time_ns = now_ns

    def now_ns(self) -> int:
        return self.time_ns

    async def sleep_until(self, deadline_ns: int) -> None:
        self.time_ns = max(self.time_ns, deadline_ns)


def opened(source: Any, clock: StepClock | None = None) -> Any:
    source.open(SimpleNamespace(node="n", clock=clock or StepClock()))
    return source


def ticks(clock: StepClock, source: TimerSource, work_ns: list[int]) -> list[tuple[int, int]]:
    """(tick, when) for each value, with so much time used up after each."""

    async def drive() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        async for tick in opened(source, clock).produce():
            seen.append((tick, clock.time_ns - clock.start_ns))
            clock.time_ns += work_ns[len(seen) - 1] if len(seen) <= len(work_ns) else 0
        return seen

    return asyncio.run(drive())


def test_a_timer_ticks_at_once_and_then_every_period() -> None:
    assert ticks(StepClock(), TimerSource(every=100, count=4), []) == [(0, 0), (1, 100), (2, 200), (3, 300)]


def test_a_timer_does_not_drift_when_its_consumer_takes_time() -> None:
    seen = ticks(StepClock(), TimerSource(every=100, count=4), [30, 99, 50])
    assert seen == [(0, 0), (1, 100), (2, 200), (3, 300)]


def test_a_timer_skips_what_was_missed_and_says_so_by_the_number() -> None:
    seen = ticks(StepClock(), TimerSource(every=100, count=4), [0, 250, 0])
    assert seen == [(0, 0), (1, 100), (3, 350), (4, 400)]


def test_a_timer_of_no_ticks_ends_at_once() -> None:
    assert ticks(StepClock(), TimerSource(every=100, count=0), []) == []


def test_a_sequence_counts_in_ints() -> None:
    assert list(opened(Sequence(count=4, start=10, step=-3)).produce()) == [10, 7, 4, 1]


def test_a_sequence_without_a_count_goes_on() -> None:
    numbers = opened(Sequence()).produce()
    assert [next(numbers) for _ in range(1000)] == list(range(1000))


def test_a_sequence_goes_on_behind_what_it_had_sent() -> None:
    for settings in ({}, {"batch_rows": 2}):
        uncut = [str(value) for value in opened(Sequence(count=7, start=5, step=2, **settings)).produce()]
        first, second = (opened(Sequence(count=7, start=5, step=2, **settings)) for _ in "ab")
        values = first.produce()
        sent = [str(next(values)) for _ in range(3)]
        second.restore(first.snapshot())
        assert sent + [str(value) for value in second.produce()] == uncut


def test_a_sequence_fills_batches() -> None:
    batches = list(opened(Sequence(count=7, start=5, step=2, batch_rows=3)).produce())
    assert [batch.to_pydict() for batch in batches] == [
        {"value": [5, 7, 9]},
        {"value": [11, 13, 15]},
        {"value": [17]},
    ]


def test_a_paced_sequence_leaves_nothing_out_when_it_is_late() -> None:
    clock = StepClock()

    async def drive() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        produced: Any = opened(Sequence(count=5, every=100), clock).produce()
        async for number in produced:
            seen.append((number, clock.time_ns - clock.start_ns))
            clock.time_ns += 250 if number == 1 else 0
        return seen

    assert asyncio.run(drive()) == [(0, 0), (1, 100), (2, 350), (3, 350), (4, 400)]


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (TimerSource, {"every": 0}),
        (TimerSource, {"every": 5, "count": -1}),
        (Sequence, {"count": -1}),
        (Sequence, {"batch_rows": 0}),
        (Sequence, {"every": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, config: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(config))):
        make(**config)
