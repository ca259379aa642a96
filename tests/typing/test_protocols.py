"""Every implementation is assigned to its Protocol: mypy and basedpyright check the lines, the run checks the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.envelope import NO_DEADLINE
from flowbridge.runtime.clock import SystemAlarm, SystemClock
from flowbridge.testing.clock import ManualAlarm, ManualClock
from flowbridge.testing.operator_bench import BenchContext, Collected, OperatorBench

if TYPE_CHECKING:
    from flowbridge.contracts import (
        Alarm,
        Clock,
        DataPort,
        DataSink,
        DataSource,
        EventBus,
        OperatorContext,
        Outputs,
        Subscription,
    )
    from flowbridge.testing.faults import CloggedBus, CloggedPort, CloggedSink, CloggedSource, CloggedSubscription


def clocks() -> tuple[Clock, ...]:
    return SystemClock(), ManualClock()


def alarms(manual: ManualAlarm, system: SystemAlarm) -> tuple[Alarm, ...]:
    return manual, system


def ports(port: CloggedPort, sink: CloggedSink, source: CloggedSource) -> tuple[DataPort, DataSink, DataSource]:
    return port, sink, source


def buses(bus: CloggedBus, subscription: CloggedSubscription) -> tuple[EventBus, Subscription]:
    return bus, subscription


def outputs(collected: Collected) -> Outputs:
    return collected


def contexts(context: BenchContext) -> OperatorContext:
    return context


def test_the_clocks_are_clocks() -> None:
    for clock in clocks():
        assert clock.now_ns() < NO_DEADLINE
        assert clock.unix_ns() < NO_DEADLINE


def test_the_bench_has_outputs_and_a_context() -> None:
    bench = OperatorBench(object())
    outputs(bench.out).emit(1)
    assert bench.sent == (("out", 1),)
    assert contexts(bench.context).remaining_ns() == NO_DEADLINE
