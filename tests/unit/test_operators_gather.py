"""gather: the order in which results were given out."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowbridge.envelope import Envelope, Priority
from flowbridge.operators.fault import ConfigError
from flowbridge.operators.gather import Gather


class Recorder:
    """Records what is emitted."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.limits: list[tuple[int | None, int | None]] = []

    def emit(
        self, value: Any, port: str = "out", *, deadline_ns: int | None = None, priority: int | None = None
    ) -> None:
        assert port == "out"
        self.values.append(value)
        self.limits.append((deadline_ns, priority))


class Bench:
    """A gather in hand."""

    def __init__(self, **config: Any) -> None:
        self.context = SimpleNamespace(node="n", envelope=None)
        self.out = Recorder()
        self.gather = Gather(**config)
        self.gather.open(cast("Any", self.context))

    def give(self, number: int | None, value: Any = None, **envelope: Any) -> None:
        headers = None if number is None else {"correlation": number}
        value = number if value is None else value
        self.context.envelope = Envelope(value, headers=headers, **envelope)
        result = self.gather.process("in", value, cast("Any", self.out))
        if result is not None:
            self.out.emit(result)

    def finish(self) -> list[Any]:
        self.context.envelope = None
        self.gather.finish(cast("Any", self.out))
        return self.out.values


def test_results_come_in_the_order_of_their_numbers() -> None:
    bench = Bench()
    for number in (2, 0, 1, 5, 4, 3, 6):
        bench.give(number)
    assert bench.out.values == list(range(7))


def test_a_message_without_a_number_passes() -> None:
    bench = Bench()
    bench.give(1)
    bench.give(None, "free")
    assert bench.out.values == ["free"]


def test_a_gap_is_given_up_when_enough_wait_for_it() -> None:
    bench = Bench(max_pending=3)
    for number in (1, 2):
        bench.give(number)
    assert bench.out.values == []
    bench.give(3)
    assert bench.out.values == [1, 2, 3]
    assert bench.gather.skipped == 1


def test_a_result_that_comes_after_it_was_given_up_is_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(max_pending=2)
    for number in (1, 2, 0, 3):
        bench.give(number)
    assert bench.finish() == [1, 2, 3]
    assert bench.gather.late_messages == 1
    assert "1 came too late" in caplog.text


def test_a_result_that_comes_twice_is_sent_once() -> None:
    bench = Bench()
    for number in (1, 1, 0, 0):
        bench.give(number)
    assert bench.out.values == [0, 1]
    assert bench.gather.late_messages == 2


def test_what_waits_at_the_end_is_sent_in_order() -> None:
    bench = Bench()
    for number in (7, 3, 5):
        bench.give(number)
    assert bench.finish() == [3, 5, 7]


def test_a_result_that_waited_keeps_its_own_deadline_and_priority() -> None:
    bench = Bench()
    bench.give(1, deadline_ns=500, priority=Priority.HIGH)
    bench.give(2, priority=Priority.BEST_EFFORT)
    bench.give(0, deadline_ns=900, priority=Priority.NORMAL)
    assert bench.out.values == [0, 1, 2]
    assert bench.out.limits == [(900, Priority.NORMAL), (500, Priority.HIGH), (None, Priority.BEST_EFFORT)]


def test_a_snapshot_continues_where_it_was_taken() -> None:
    first = Bench()
    for number in (0, 2, 3):
        first.give(number)
    second = Bench()
    second.gather.restore(pickle.loads(pickle.dumps(first.gather.snapshot())))
    second.give(1)
    assert first.out.values + second.out.values == [0, 1, 2, 3]


def test_max_pending_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_pending is 0"):
        Gather(max_pending=0)
