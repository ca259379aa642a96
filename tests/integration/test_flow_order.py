"""Order along an edge, whatever interrupts a node: slices that end early, rivals, failures, restarts."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flow_scene import MS, Kept, WorkClock, balanced, compiled, flow_text, numbers, run, to_end

from flowbridge.host import Host

CHAIN = flow_text(
    "id: a, operator: host:source",
    "id: b, operator: host:work, inputs: {in: a/out}",
    "id: c, operator: host:keep, inputs: {in: b/out}",
)


@pytest.mark.parametrize("count", [42, 47, 55, 63, 64, 65, 300])
def test_an_operator_that_becomes_slow_in_the_middle_keeps_the_order_and_ends(count: int) -> None:
    clock, kept = WorkClock(), Kept()

    def work(value: int) -> int:
        if value >= 40:
            clock.work(3 * MS)
        return value

    report = run(CHAIN, {"source": numbers(count), "work": work, "keep": kept}, clock=clock)
    assert kept.values == list(range(count))
    assert report.status == "done"


def test_two_inputs_keep_their_order_when_slices_end_early() -> None:
    clock, kept = WorkClock(), Kept()
    text = flow_text(
        "id: a, operator: host:first",
        "id: b, operator: host:second",
        "id: w, operator: host:work, inputs: {in: [a/out, b/out]}",
        "id: c, operator: host:keep, inputs: {in: w/out}",
    )

    def work(value: tuple[str, int]) -> tuple[str, int]:
        if value[1] > 20 and value[1] % 3 == 0:
            clock.work(2 * MS)
        return value

    def source(name: str, step_ns: int) -> Any:
        def produce() -> Any:
            for n in range(200):
                clock.work(step_ns)
                yield name, n

        return produce

    operators = {"first": source("a", 900), "second": source("b", 1300), "work": work, "keep": kept}
    report = run(text, operators, clock=clock)
    for name in "ab":
        assert [n for source_, n in kept.values if source_ == name] == list(range(200))
    assert report.status == "done"


@pytest.mark.parametrize("poison", [0, 1, 7, 63, 64, 199])
def test_a_restart_keeps_the_order_of_every_input_and_loses_only_the_poison(poison: int) -> None:
    clock, kept = WorkClock(), Kept()
    text = flow_text(
        "id: a, operator: host:first",
        "id: b, operator: host:second",
        "id: w, operator: host:work, inputs: {in: [a/out, b/out]}, restart: {when: on-failure, delay: 5ms}",
        "id: c, operator: host:keep, inputs: {in: w/out}",
    )

    def work(value: tuple[str, int]) -> tuple[str, int]:
        if value == ("a", poison):
            raise ValueError("poison")
        return value

    def source(name: str, step_ns: int) -> Any:
        def produce() -> Any:
            for n in range(200):
                clock.work(step_ns)
                yield name, n

        return produce

    operators = {"first": source("a", 700), "second": source("b", 1100), "work": work, "keep": kept}
    report = run(text, operators, clock=clock)
    assert report.status == "done"
    assert report.nodes["w"].restarts == 1
    assert [n for name, n in kept.values if name == "a"] == [n for n in range(200) if n != poison]
    assert [n for name, n in kept.values if name == "b"] == list(range(200))
    for edge in report.edges.values():
        assert edge.books.dropped_total == 0, f"{edge.edge}: {edge.books}"


def test_what_was_handled_before_the_last_message_failed_is_sent_all_the_same() -> None:
    kept = Kept()

    def work(value: int) -> int:
        if value == 9:
            raise ValueError("last")
        return value

    text = CHAIN.replace("inputs: {in: a/out}", "inputs: {in: a/out}, restart: on-failure")
    report = run(text, {"source": numbers(10), "work": work, "keep": kept})
    assert kept.values == list(range(9))
    assert report.edges["b/out->c/in"].books.delivered == 9
    assert report.status == "done"


def test_nothing_is_lost_uncounted_when_a_node_is_aborted_while_it_waits_for_credit() -> None:
    clock = WorkClock()

    async def stuck(value: int) -> None:
        await clock.pause(10**15)

    text = flow_text(
        "id: a, operator: host:source",
        "id: b, operator: host:work, inputs: {in: a/out}",
        "id: c, operator: host:stuck, inputs: {in: {from: b/out, queue: {size: 3}}}",
    )

    async def main() -> None:
        async with Host(operators={"source": numbers(1000), "work": abs, "stuck": stuck}, clock=clock) as host:
            flow = await host.start(compiled(text))
            await clock.advance(MS)
            balanced(flow.report(), in_flight=None)
            handled = flow.report().nodes["b"].processed
            flow.abort()
            report = await to_end(flow, clock)
            balanced(report)
            books = report.edges["b/out->c/in"].books
            assert report.nodes["b"].processed >= handled > 0
            assert books.sent == report.nodes["b"].processed
            assert books.dropped["abort"] == books.sent - books.delivered

    asyncio.run(main())
