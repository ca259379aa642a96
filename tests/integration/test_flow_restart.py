"""Restarts: when, how often, with which state, and that nothing is lost on the way."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import MS, Kept, S, WorkClock, compiled, flow_text, numbers, paced, run, to_end, told, values

from flowbridge.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow


def chain(more: str) -> str:
    """A source, an operator with more keys, a sink."""
    return flow_text(
        "id: a, operator: host:source",
        f"id: w, operator: host:work, inputs: {{in: a/out}}, {more}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )


def failing_at(*bad: int) -> Any:
    """An operator that fails for some values, every time."""

    def work(value: int) -> int:
        if value in bad:
            raise ValueError(value)
        return value

    return work


def test_a_node_that_never_restarts_fails_at_once() -> None:
    kept = Kept()
    report = run(chain("restart: never"), {"source": numbers(9), "work": failing_at(2), "keep": kept})
    assert (report.status, report.nodes["w"].restarts) == ("failed", 0)


def test_a_restart_leaves_out_the_poison_only() -> None:
    kept = Kept()
    report = run(chain("restart: on-failure"), {"source": numbers(200), "work": failing_at(0, 70, 199), "keep": kept})
    assert report.status == "done"
    assert kept.values == [n for n in range(200) if n not in (0, 70, 199)]
    assert report.nodes["w"].restarts == 3
    assert report.nodes["w"].errors == 3
    assert report.edges["a/out->w/in"].books.delivered == 200


def test_at_most_so_many_restarts_within_the_window() -> None:
    clock, kept = WorkClock(), Kept()
    more = "restart: {when: on-failure, max: 2, window: 1s, delay: 10ms, max_delay: 1s}"
    report = run(chain(more), {"source": numbers(9), "work": failing_at(1, 2, 3), "keep": kept}, clock=clock)
    assert report.status == "failed"
    assert report.nodes["w"].restarts == 2
    assert kept.values in ([], [0])
    assert told(report)[0].endswith("node w, port in, message 3: ValueError: 3")


def test_restarts_further_apart_than_the_window_go_on_for_ever() -> None:
    clock, kept = WorkClock(), Kept()
    more = "restart: {when: on-failure, max: 1, window: 1s, delay: 10ms}"
    operators = {"source": paced(clock, range(12), 600 * MS), "work": failing_at(*range(0, 12, 2)), "keep": kept}
    report = run(chain(more), operators, clock=clock)
    assert report.status == "done"
    assert report.nodes["w"].restarts == 6
    assert kept.values == [1, 3, 5, 7, 9, 11]


def test_the_delay_doubles_up_to_its_limit() -> None:
    clock = WorkClock()
    opened: list[int] = []

    class Work:
        def open(self) -> None:
            opened.append(clock.now_ns())

        def process(self, value: int) -> None:
            raise ValueError(value)

    more = "restart: {when: on-failure, max: 5, window: 1h, delay: 10ms, max_delay: 50ms}"
    report = run(chain(more), {"source": numbers(9), "work": Work, "keep": Kept()}, clock=clock)
    waits = [after - before for before, after in itertools.pairwise(opened)]
    assert waits == [10 * MS, 20 * MS, 40 * MS, 50 * MS, 50 * MS]
    assert report.status == "failed"


def test_an_operator_class_is_built_anew_and_closed_each_time() -> None:
    life: list[str] = []

    class Work:
        def __init__(self, name: str) -> None:
            life.append(f"init {name}")

        def open(self) -> None:
            life.append("open")

        def process(self, value: int) -> None:
            if value == 1:
                raise ValueError

        def close(self) -> None:
            life.append("close")

    run(chain("restart: on-failure, with: {name: x}"), {"source": numbers(3), "work": Work, "keep": Kept()})
    assert life == ["init x", "open", "close", "init x", "open", "close"]


# --- sources that always start again --------------------------------------------------------------------------------


def always(more: str = "") -> str:
    """A source that is always started again, and a sink."""
    return flow_text(
        f"id: a, operator: host:source, restart: {{when: always, delay: 10ms{more}}}",
        "id: k, operator: host:keep, inputs: {in: a/out}",
    )


def test_a_source_that_always_restarts_ends_when_its_restarts_are_used_up() -> None:
    clock, kept = WorkClock(), Kept()
    report = run(always(", max: 2, window: 1h"), {"source": values(1, 2), "keep": kept}, clock=clock)
    assert report.status == "done"
    assert kept.values == [1, 2] * 3
    assert report.nodes["a"].restarts == 2


def test_a_source_that_always_restarts_ends_when_it_is_drained_while_it_rests() -> None:
    clock, kept = WorkClock(), Kept()

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(5 * MS)
        assert flow.report().nodes["a"].state == "restarting"
        flow.drain()

    start_ns = clock.now_ns()
    report = run(always(", max: 9, window: 1h"), {"source": values(1, 2), "keep": kept}, clock=clock, drive=drive)
    assert report.status == "interrupted"
    assert report.errors == []
    assert kept.values == [1, 2]
    assert clock.now_ns() == start_ns + 5 * MS, "it is not waited for"


def test_a_source_that_always_restarts_ends_when_it_is_drained_while_it_runs() -> None:
    clock, kept = WorkClock(), Kept()

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(25 * MS)
        assert flow.report().nodes["a"].state == "running"
        flow.drain()

    operators = {"source": paced(clock, range(100), 10 * MS), "keep": kept}
    report = run(always(), operators, clock=clock, drive=drive)
    assert (report.status, report.errors) == ("interrupted", [])
    assert kept.values == [0, 1]
    assert {node.state for node in report.nodes.values()} == {"done"}


def test_a_failing_source_that_is_drained_while_it_rests_is_not_started_again() -> None:
    clock, kept = WorkClock(), Kept()

    def source() -> Any:
        yield 1
        raise ValueError("once")

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(5 * MS)
        flow.drain()

    text = flow_text(
        "id: a, operator: host:source, restart: {when: on-failure, delay: 10ms}",
        "id: k, operator: host:keep, inputs: {in: a/out}",
    )
    report = run(text, {"source": source, "keep": kept}, clock=clock, drive=drive)
    assert (report.status, kept.values, report.nodes["a"].errors) == ("interrupted", [1], 1)


# --- state ----------------------------------------------------------------------------------------------------------


class Total:
    """Adds up; fails once when told to."""

    failures: int = 0

    def __init__(self) -> None:
        self.total = 0

    def process(self, value: int) -> int:
        if value < 0 and Total.failures > 0:
            Total.failures -= 1
            raise ValueError("fails once")
        self.total += abs(value)
        return self.total

    def snapshot(self) -> dict[str, int]:
        return {"total": self.total}

    def restore(self, state: dict[str, int]) -> None:
        self.total = state["total"]


def test_a_restarted_node_goes_on_from_its_last_snapshot() -> None:
    clock, kept = WorkClock(), Kept()
    Total.failures = 1
    text = chain("restart: on-failure, snapshot: 1ms")
    report = run(text, {"source": paced(clock, [1, 2, 3, -1, 4], 5 * MS), "work": Total, "keep": kept}, clock=clock)
    assert report.nodes["w"].restarts == 1
    assert kept.values == [1, 3, 6, 10]


class Counting:
    """A source that fails once, behind its third value."""

    failures: int = 0
    clock: WorkClock

    def __init__(self) -> None:
        self.sent = 0

    def produce(self) -> Iterator[int]:
        while self.sent < 6:
            if self.sent == 3 and Counting.failures > 0:
                Counting.failures -= 1
                raise ValueError("fails once")
            self.clock.work(5 * MS)
            self.sent += 1
            yield self.sent

    def snapshot(self) -> int:
        return self.sent

    def restore(self, state: int) -> None:
        self.sent = state


@pytest.mark.parametrize(("period", "wanted"), [("1ms", [1, 2, 3, 4, 5, 6]), ("12ms", [1, 2, 3, 2, 3, 4, 5, 6])])
def test_a_restarted_source_goes_on_from_its_last_snapshot(period: str, wanted: list[int]) -> None:
    Counting.clock, Counting.failures, kept = WorkClock(), 1, Kept()
    source = f"id: a, operator: host:source, restart: on-failure, snapshot: {period}"
    text = flow_text(source, "id: k, operator: host:keep, inputs: {in: a/out}")
    report = run(text, {"source": Counting, "keep": kept}, clock=Counting.clock)
    assert report.nodes["a"].restarts == 1
    assert kept.values == wanted


def test_without_a_snapshot_a_restarted_node_begins_again() -> None:
    clock, kept = WorkClock(), Kept()
    Total.failures = 1
    text = chain("restart: on-failure")
    run(text, {"source": paced(clock, [1, 2, 3, -1, 4], 5 * MS), "work": Total, "keep": kept}, clock=clock)
    assert kept.values == [1, 3, 6, 4]


def test_an_old_snapshot_is_what_a_restart_goes_on_from() -> None:
    clock, kept = WorkClock(), Kept()
    Total.failures = 1
    text = chain("restart: on-failure, snapshot: 1s")
    run(text, {"source": paced(clock, [1, 2, 3, -1, 4], 5 * MS), "work": Total, "keep": kept}, clock=clock)
    assert kept.values == [1, 3, 6, 5], "the snapshot is from after the first message"


def test_a_flow_goes_on_from_the_snapshot_of_another() -> None:
    clock = WorkClock()

    async def once(given: list[int], state: dict[str, Any] | None) -> tuple[RunReport, list[Any], dict[str, Any]]:
        kept = Kept()
        operators = {"source": values(*given), "work": Total, "keep": kept}
        async with Host(operators=operators, clock=clock) as host:
            flow = await host.start(compiled(chain("snapshot: 1s")), state=state)
            early = await flow.snapshot()
            assert early == (state or {}), "before it runs, a flow is where it was told to go on from"
            report = await to_end(flow, clock)
            return report, kept.values, await flow.snapshot()

    async def main() -> None:
        _, first, state = await once([1, 2, 3], None)
        assert (first, state) == ([1, 3, 6], {"w": {"total": 6}})
        _, second, state = await once([4], state)
        assert (second, state) == ([10], {"w": {"total": 10}})

    asyncio.run(main())


def test_the_snapshot_of_a_node_that_rests_is_what_it_goes_on_from() -> None:
    clock = WorkClock()
    found: list[dict[str, Any]] = []
    Total.failures = 1

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(12 * MS)
        assert flow.report().nodes["w"].state == "restarting"
        found.append(await flow.snapshot())

    text = chain("restart: {when: on-failure, delay: 1s}, snapshot: 1ms")
    operators = {"source": paced(clock, [7, -1, 2], 5 * MS), "work": Total, "keep": Kept()}
    run(text, operators, clock=clock, drive=drive)
    assert found == [{"w": {"total": 7}}]


def test_a_state_that_is_refused_fails_the_node_by_name() -> None:
    report = run(
        chain("budget: 1ms"),
        {"source": values(1), "work": Total, "keep": Kept()},
        state={"w": {"sum": 1}},
    )
    assert told(report) == ["flow.yaml:5:23: node w: restore: KeyError: 'total'"]


def test_a_drain_waits_for_a_node_that_is_to_start_again() -> None:
    clock, kept = WorkClock(), Kept()

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(MS)
        assert flow.report().nodes["w"].state == "restarting"
        flow.drain()

    text = chain("restart: {when: on-failure, delay: 1s}")
    operators = {"source": numbers(20), "work": failing_at(3), "keep": kept}
    report = run(text, operators, clock=clock, drive=drive, drain_ns=5 * S)
    assert kept.values == [n for n in range(20) if n != 3]
    assert report.status == "interrupted"
