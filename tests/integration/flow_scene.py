"""Whole flows on a clock that stands still: compiled from YAML, run step by step, never by waiting."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbridge import registry
from flowbridge.host import Host
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from flowbridge.contracts import Instrument
    from flowbridge.plan import Plan
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow

MS = 1_000_000
S = 1_000_000_000
STEPS_MAX = 20_000


class WorkClock(ManualClock):
    """A manual clock on which synchronous work can take time."""

    def work(self, duration_ns: int) -> None:
        """Let time pass inside a call, as work does; what falls due meanwhile comes afterwards."""
        self._now_ns: int = self.now_ns() + duration_ns
        asyncio.get_running_loop().call_soon(self._ring)

    def _ring(self) -> None:
        while self._alarms and self._alarms[0].deadline_ns <= self.now_ns():
            alarm = self._alarms.pop(0)
            self._alarms.sort()
            alarm.come()

    async def pause(self, duration_ns: int) -> None:
        """Sleep on this clock."""
        await self.sleep_until(self.now_ns() + duration_ns)


@dataclass
class Text:
    """A flow source."""

    text: str
    name: str = "flow.yaml"
    base_dir: str = "."


def compiled(text: str, base_dir: str = ".") -> Plan:
    """The plan of a text."""
    return registry.adapter().compile(Text(text, base_dir=base_dir))


def flow_text(*nodes: str, head: str = "") -> str:
    """A flow of nodes, each in YAML's flow style."""
    lines = ["flowbridge: 1", "name: test", *([head.strip("\n")] if head else []), "nodes:"]
    return "\n".join([*lines, *(f"  - {{{node}}}" for node in nodes)]) + "\n"


def state_of(flow: RunningFlow) -> str:
    """What every node and edge is at, for the message of a failed assertion."""
    report = flow.report()
    nodes = ", ".join(f"{name} {node.state}" for name, node in report.nodes.items())
    edges = ", ".join(f"{name} {edge.books.in_flight} in flight" for name, edge in report.edges.items())
    return f"{nodes}; {edges}"


async def to_end(
    flow: RunningFlow, clock: ManualClock, *, each: Callable[[], object] | None = None, until_ns: int | None = None
) -> RunReport:
    """Step from instant to instant until the flow has ended; a flow that waits for nothing at all fails the test."""
    waiter = asyncio.ensure_future(flow.wait())
    try:
        for _ in range(STEPS_MAX):
            await quiet()
            if each is not None:
                each()
            if waiter.done():
                return waiter.result()
            pending = clock.pending()
            assert pending, f"the flow hangs: {state_of(flow)}"
            assert until_ns is None or pending[0] <= until_ns, f"the flow has not ended: {state_of(flow)}"
            await clock.set(max(pending[0], clock.now_ns()))
        raise AssertionError(f"the flow goes round in circles: {state_of(flow)}")
    finally:
        if not waiter.done():
            flow.abort()
            for _ in range(STEPS_MAX):
                await quiet()
                if waiter.done() or not clock.pending():
                    break
                await clock.set(max(clock.pending()[0], clock.now_ns()))
            waiter.cancel()


def run(
    text: str,
    operators: Mapping[str, Any],
    *,
    clock: ManualClock | None = None,
    state: Mapping[str, Any] | None = None,
    drive: Callable[[RunningFlow], Coroutine[Any, Any, object]] | None = None,
    base_dir: str = ".",
    drain_ns: int = 10 * S,
    instruments: Sequence[Instrument] = (),
) -> RunReport:
    """Run a flow to its end on a manual clock; `drive` is awaited first, with the flow started."""
    clock = clock if clock is not None else WorkClock()

    async def main() -> RunReport:
        async with Host(operators=dict(operators), clock=clock, drain_ns=drain_ns, instruments=instruments) as host:
            flow = await host.start(compiled(text, base_dir), state=state)
            if drive is not None:
                await drive(flow)
            report = await to_end(flow, clock)
            balanced(report)
            return report

    return asyncio.run(main())


def told(report: RunReport) -> list[str]:
    """The errors of a report, without the line of code that they came from."""
    return [re.sub(r" \(at \S+\.py:\d+ in \w+\)$", "", error) for error in report.errors]


def balanced(report: RunReport, *, in_flight: int | None = 0) -> None:
    """Every edge's books balance, and nothing is under way."""
    for name, edge in report.edges.items():
        assert edge.books.balances, f"{name}: {edge.books}"
        if in_flight is not None:
            assert edge.books.in_flight == in_flight, f"{name}: {edge.books}"


class Kept:
    """A sink that keeps what it gets, in order."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def process(self, value: Any) -> None:
        self.values.append(value)


def numbers(count: int) -> Callable[[], Iterator[int]]:
    """A source of 0, 1, 2, ..."""

    def produce() -> Iterator[int]:
        yield from range(count)

    return produce


def values(*given: Any) -> Callable[[], Iterator[Any]]:
    """A source of these values."""

    def produce() -> Iterator[Any]:
        yield from given

    return produce


def paced(clock: WorkClock, given: Iterable[Any], pause_ns: int) -> Callable[[], Any]:
    """A source of these values, with a pause before each."""

    async def produce() -> Any:
        for value in given:
            await clock.pause(pause_ns)
            yield value

    return produce
