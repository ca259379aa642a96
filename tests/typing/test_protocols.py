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
    from flowbridge.placing import CrossingSink, CrossingSource, PartLink, PlacingTransport, Worker
    from flowbridge.runtime.flow import Elsewhere, Supervised
    from flowbridge.runtime.gate import HostGate, PartGate
    from flowbridge.runtime.guarded_bus import GuardedBus
    from flowbridge.runtime.part_told import Whole
    from flowbridge.runtime.remote import RemoteParts
    from flowbridge.runtime.remote_node import RemoteNode
    from flowbridge.runtime.supervisor import Supervisor
    from flowbridge.testing.faults import CloggedBus, CloggedPort, CloggedSink, CloggedSource, CloggedSubscription
    from flowbridge.transports.link_port import LinkSink, LinkSource
    from flowbridge.transports.uds import UdsTransport
    from flowbridge.transports.uds.workers import LocalWorker, SocketPartLink


def clocks() -> tuple[Clock, ...]:
    return SystemClock(), ManualClock()


def alarms(manual: ManualAlarm, system: SystemAlarm) -> tuple[Alarm, ...]:
    return manual, system


def ports(port: CloggedPort, sink: CloggedSink, source: CloggedSource) -> tuple[DataPort, DataSink, DataSource]:
    return port, sink, source


def buses(bus: CloggedBus, subscription: CloggedSubscription) -> tuple[EventBus, Subscription]:
    return bus, subscription


def placing(transport: UdsTransport) -> PlacingTransport:
    return transport


def crossing(sink: LinkSink, source: LinkSource) -> tuple[CrossingSink, CrossingSource]:
    return sink, source


def processes(worker: LocalWorker, link: SocketPartLink) -> tuple[Worker, PartLink]:
    return worker, link


def gates(gate: HostGate, bus: GuardedBus) -> tuple[PartGate, EventBus]:
    return gate, bus


def supervised(near: Supervisor, far: RemoteNode) -> tuple[Supervised, Supervised]:
    return near, far


def elsewhere(parts: RemoteParts) -> tuple[Elsewhere, Whole]:
    return parts, parts


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
