"""How flows end: by themselves, drained, aborted, or not in time."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import MS, Kept, S, WorkClock, balanced, compiled, flow_text, numbers, paced, run, to_end, values

from flowbridge.emit import Emit
from flowbridge.host import Host
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import Outputs
    from flowbridge.runtime.flow import RunningFlow


def endless(clock: WorkClock, pause_ns: int = MS) -> Any:
    """A source that never ends by itself."""

    async def produce() -> Any:
        n = 0
        while True:
            yield n
            n += 1
            await clock.pause(pause_ns)

    return produce


def drained_after(clock: WorkClock, duration_ns: int) -> Any:
    """Drain a flow after some time."""

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(duration_ns)
        flow.drain()

    return drive


def test_the_end_comes_in_band_through_fan_out_and_fan_in() -> None:
    kept = Kept()
    text = flow_text(
        "id: a, operator: host:source",
        "id: b, operator: host:same, inputs: {in: {from: a/out, queue: {size: 1}}}",
        "id: c, operator: host:same, inputs: {in: {from: a/out, queue: {size: 7}}}",
        "id: d, operator: host:same, inputs: {in: [b/out, c/out, a/out]}",
        "id: k, operator: host:keep, inputs: {in: d/out}",
    )
    report = run(text, {"source": numbers(500), "same": lambda value: value, "keep": kept})
    assert sorted(kept.values) == sorted([*range(500)] * 3)
    assert report.status == "done"
    assert {node.state for node in report.nodes.values()} == {"done"}


def test_what_finish_sends_arrives_before_the_end() -> None:
    kept = Kept()

    class Total:
        def __init__(self) -> None:
            self.total = 0

        def process(self, value: int) -> None:
            self.total += value

        async def finish(self, out: Outputs) -> None:
            out.emit(self.total)
            await out.send("sent")
            out.emit("emitted")

    text = flow_text(
        "id: a, operator: host:source",
        "id: t, operator: host:total, inputs: {in: a/out}",
        "id: u, operator: host:total2, inputs: {in: t/out}",
        "id: k, operator: host:keep, inputs: {in: u/out}",
    )
    report = run(text, {"source": numbers(100), "total": Total, "total2": lambda value: value, "keep": kept})
    assert kept.values == [4950, "sent", "emitted"]
    assert report.status == "done"


def test_a_feedback_loop_ends_when_its_source_does() -> None:
    kept = Kept()

    def count_down(value: int, out: Outputs) -> None:
        if value > 0:
            out.emit(value - 1, "again")
        out.emit(value)

    text = flow_text(
        "id: a, operator: host:source",
        "id: b, operator: host:work, inputs: {in: a/out, back: "
        "{from: b/again, feedback: true, queue: {policy: drop_oldest, size: 64}}}, outputs: [out, again]",
        "id: k, operator: host:keep, inputs: {in: b/out}",
    )
    report = run(text, {"source": values(3, 5), "work": count_down, "keep": kept})
    assert report.status == "done"
    assert sorted(kept.values) == sorted([3, 2, 1, 0, 5, 4, 3, 2, 1, 0])
    assert not any(len(path.nodes) > 3 for path in report.paths), "going round again makes no new path"


def test_a_loop_whose_feedback_waits_for_credit_ends_although_its_head_has_ended() -> None:
    clock = WorkClock()

    async def slow(value: int, out: Outputs) -> None:
        await clock.pause(MS)
        for _ in range(5):
            out.emit(value, "again")

    text = flow_text(
        "id: a, operator: host:source",
        "id: h, operator: host:head, inputs: {in: a/out, back: {from: s/again, feedback: true, queue: {size: 1}}}",
        "id: s, operator: host:slow, outputs: [again], "
        "inputs: {in: {from: h/out, queue: {policy: drop_oldest, size: 50}}}",
    )

    def head(value: int, port: str) -> int | None:
        return value if port == "in" else None

    report = run(text, {"source": numbers(20), "head": head, "slow": slow}, clock=clock)
    assert report.status == "done"


def test_a_drain_lets_everything_through_and_an_abort_counts_what_is_left() -> None:
    text = flow_text(
        "id: a, operator: host:source",
        "id: b, operator: host:slow, inputs: {in: a/out}",
        "id: k, operator: host:keep, inputs: {in: b/out}",
    )
    for drains in (True, False):
        clock, kept = WorkClock(), Kept()

        async def slow(value: int, clock: WorkClock = clock) -> int:
            await clock.pause(3 * MS)
            return value

        async def drive(flow: RunningFlow, clock: WorkClock = clock, drains: bool = drains) -> None:
            await clock.advance(20 * MS)
            balanced(flow.report(), in_flight=None)
            assert flow.report().status == "running"
            if drains:
                flow.drain()
            else:
                flow.abort()

        report = run(text, {"source": endless(clock), "slow": slow, "keep": kept}, clock=clock, drive=drive)
        assert report.status == "interrupted"
        books = report.edges["a/out->b/in"].books
        if drains:
            assert kept.values == list(range(21))
            assert books.delivered == books.sent == 21
            assert {node.state for node in report.nodes.values()} == {"done"}
        else:
            assert kept.values == list(range(6))
            assert books.dropped["abort"] > 0
            assert "aborted" in {node.state for node in report.nodes.values()}


def test_a_drain_that_takes_too_long_becomes_an_abort_and_says_who_was_busy() -> None:
    clock = WorkClock()

    async def stuck(value: int) -> None:
        await clock.pause(3600 * S)

    text = flow_text("id: a, operator: host:source", "id: st, operator: host:stuck, inputs: {in: a/out}")
    start_ns = clock.now_ns()
    report = run(
        text,
        {"source": endless(clock), "stuck": stuck},
        clock=clock,
        drive=drained_after(clock, 5 * MS),
        drain_ns=50 * MS,
    )
    assert report.status == "failed"
    assert report.errors == ["the drain took longer than 0.05 s, so it was aborted; still busy: st"]
    assert clock.now_ns() == start_ns + 55 * MS
    assert report.edges["a/out->st/in"].books.dropped["abort"] == 5


def test_a_second_drain_changes_nothing_and_an_abort_after_a_drain_ends_at_once() -> None:
    clock = WorkClock()

    async def stuck(value: int) -> None:
        await clock.pause(3600 * S)

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(5 * MS)
        flow.drain("done")
        await clock.advance(20 * MS)
        flow.drain("other")
        assert flow.is_running
        flow.abort()
        await quiet()
        assert not flow.is_running

    text = flow_text("id: a, operator: host:source", "id: st, operator: host:stuck, inputs: {in: a/out}")
    report = run(text, {"source": endless(clock), "stuck": stuck}, clock=clock, drive=drive, drain_ns=50 * MS)
    assert report.status == "interrupted", "an aborted flow is not done, whatever the drain was for"
    assert report.errors == []


def test_stopping_a_flow_that_has_ended_changes_nothing() -> None:
    clock = WorkClock()

    async def main() -> None:
        async with Host(operators={"source": numbers(3), "keep": Kept()}, clock=clock) as host:
            text = flow_text("id: a, operator: host:source", "id: k, operator: host:keep, inputs: {in: a/out}")
            flow = await host.start(compiled(text))
            assert (await to_end(flow, clock)).status == "done"
            flow.drain()
            flow.abort()
            await clock.advance(3600 * S)
            report = flow.report()
            assert (report.status, report.errors) == ("done", [])
            assert clock.pending() == ()

    asyncio.run(main())


def test_a_source_that_is_drained_at_once_gives_at_most_what_it_had_begun() -> None:
    clock, kept = WorkClock(), Kept()

    async def drive(flow: RunningFlow) -> None:
        flow.drain()

    text = flow_text("id: a, operator: host:source", "id: k, operator: host:keep, inputs: {in: a/out}")
    report = run(text, {"source": numbers(10**9), "keep": kept}, clock=clock, drive=drive)
    assert len(kept.values) <= 1
    assert report.status == "interrupted"


# --- timers and the bus ---------------------------------------------------------------------------------------------


def test_timers_end_when_they_are_drained() -> None:
    clock, kept = WorkClock(), Kept()
    text = flow_text(
        "id: t, operator: host:same, inputs: {tick: timer/10ms}",
        "id: k, operator: host:keep, inputs: {in: t/out}",
    )
    report = run(text, {"same": lambda value: value, "keep": kept}, clock=clock, drive=drained_after(clock, 45 * MS))
    assert kept.values == [0, 1, 2, 3]
    assert report.status == "interrupted"


def test_a_timer_beside_a_stream_ends_with_the_stream() -> None:
    clock, kept = WorkClock(), Kept()
    text = flow_text(
        "id: a, operator: host:source",
        "id: k, operator: host:keep, inputs: {in: a/out, tick: timer/10ms}",
    )
    report = run(text, {"source": paced(clock, "abc", 25 * MS), "keep": kept}, clock=clock)
    assert [v for v in kept.values if isinstance(v, str)] == ["a", "b", "c"]
    assert report.status == "done"


def test_a_node_after_a_bus_node_does_not_keep_the_flow_from_ending() -> None:
    kept = Kept()
    text = flow_text(
        "id: a, operator: host:source, outputs: {out: {topic: t.a}}",
        "id: b, operator: host:same, inputs: {in: bus/t.*}",
        "id: c, operator: host:same, inputs: {in: b/out}",
        "id: k, operator: host:keep, inputs: {in: c/out}",
    )
    report = run(text, {"source": numbers(200), "same": lambda value: value, "keep": kept})
    assert report.status == "done"
    assert kept.values == list(range(200))


def test_bus_nodes_in_a_row_are_drained_one_after_another_and_nothing_is_lost() -> None:
    clock, kept = WorkClock(), Kept()

    async def slow(value: int) -> int:
        await clock.pause(3 * MS)
        return value

    text = flow_text(
        "id: k, operator: host:keep, inputs: {in: bus/t.c}",
        "id: c, operator: host:slow, inputs: {in: bus/t.b}, outputs: {out: {topic: t.c}}",
        "id: b, operator: host:slow, inputs: {in: bus/t.a}, outputs: {out: {topic: t.b}}",
        "id: a, operator: host:source, outputs: {out: {topic: t.a}}",
    )
    report = run(text, {"source": numbers(20), "slow": slow, "keep": kept}, clock=clock)
    assert report.status == "done"
    assert kept.values == list(range(20))


def test_bus_nodes_that_publish_to_each_other_end_all_the_same() -> None:
    seen: list[int] = []

    def step(value: int) -> int | None:
        seen.append(value)
        return value - 1 if value > 0 else None

    text = flow_text(
        "id: a, operator: host:source, outputs: {out: {topic: ping}}",
        "id: p, operator: host:step, inputs: {in: bus/ping}, outputs: {out: {topic: pong}}",
        "id: q, operator: host:step, inputs: {in: bus/pong}, outputs: {out: {topic: ping}}",
    )
    report = run(text, {"source": values(6), "step": step})
    assert report.status == "done"
    assert seen[:2] == [6, 5]


@pytest.mark.parametrize("drains", [True, False])
def test_a_flow_fed_by_the_bus_alone_runs_until_it_is_stopped(drains: bool) -> None:
    from flowbridge.envelope import Envelope

    clock, kept = WorkClock(), Kept()
    text = flow_text(
        "id: b, operator: host:same, inputs: {in: bus/t.a}",
        "id: k, operator: host:keep, inputs: {in: b/out}",
    )

    async def main() -> None:
        async with Host(operators={"same": lambda value: value, "keep": kept}, clock=clock) as host:
            flow = await host.start(compiled(text))
            await clock.advance(S)
            assert flow.is_running
            for n in range(100):
                await host.bus.publish("t.a", Envelope(n))
            if drains:
                flow.drain()
            else:
                flow.abort()
            report = await to_end(flow, clock)
            balanced(report)
            assert report.status == "interrupted"
            if drains:
                assert kept.values == list(range(100))
            assert await host.bus.publish("t.a", Envelope(1)) == 0, "nobody subscribes any more"

    asyncio.run(main())


def test_a_publisher_does_not_wait_for_a_node_that_has_ended() -> None:
    clock = WorkClock()
    text = flow_text(
        "id: a, operator: host:short",
        "id: b, operator: host:keep, inputs: {in: a/out, cmd: {from: bus/cmd, queue: {size: 1}}}",
        "id: p, operator: host:long, outputs: {out: {topic: cmd}}",
    )
    operators = {"short": values(1), "keep": Kept(), "long": paced(clock, range(20), MS)}
    assert run(text, operators, clock=clock).status == "done"


# --- nothing is left behind -----------------------------------------------------------------------------------------


def test_closing_a_host_leaves_no_task_no_descriptor_and_no_warning() -> None:
    text = flow_text(
        "id: a, operator: host:source, outputs: {out: {topic: t}}",
        "id: b, operator: host:stuck, inputs: {in: a/out, cmd: bus/>, tick: timer/1ms}",
        "id: c, operator: host:same, inputs: {in: b/out}",
        "id: d, operator: host:ask, inputs: {in: a/out}",
        "id: e, operator: host:stuck, inputs: {q: {from: bus/question, reply: true}}",
    )

    def source() -> Any:
        n = 0
        while True:
            yield n
            n += 1

    async def stuck(value: Any) -> None:
        await asyncio.get_running_loop().create_future()

    class Ask:
        def open(self, context: Any) -> None:
            self.bus = context.bus

        async def process(self, value: int) -> None:
            from flowbridge.envelope import Envelope

            await self.bus.request("question", Envelope(value), timeout_ns=3600 * S)

    operators = {"source": source, "stuck": stuck, "same": lambda value: value, "ask": Ask}

    async def main() -> None:
        host = Host(operators=operators)
        async with host:
            flows = [await host.start(compiled(text)) for _ in range(2)]
            for _ in range(50):
                await asyncio.sleep(0)
            assert all(flow.is_running for flow in flows)
        for flow in flows:
            assert not flow.is_running
            balanced(flow.report())
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await host.aclose()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
        before = descriptors()
        with asyncio.Runner(debug=True) as runner:
            runner.run(main())
        gc.collect()
        assert descriptors() == before


def test_a_cancelled_run_leaves_nothing_running() -> None:
    clock = WorkClock()

    async def main() -> None:
        text = flow_text("id: a, operator: host:source", "id: k, operator: host:keep, inputs: {in: a/out}")
        async with Host(operators={"source": endless(clock), "keep": Kept()}, clock=clock) as host:
            task = asyncio.create_task(host.run(compiled(text)))
            await clock.advance(5 * MS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await quiet()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert clock.pending() == ()

    asyncio.run(main())


def test_a_run_for_some_time_is_done() -> None:
    clock, kept = WorkClock(), Kept()

    async def main() -> None:
        text = flow_text("id: a, operator: host:source", "id: k, operator: host:keep, inputs: {in: a/out}")
        async with Host(operators={"source": endless(clock), "keep": kept}, clock=clock) as host:
            task = asyncio.create_task(host.run(compiled(text), for_ns=10 * MS))
            await clock.advance(11 * MS)
            assert (await task).status == "done"
            assert kept.values == list(range(11))
            assert clock.pending() == ()

    asyncio.run(main())


def test_a_scattered_stream_is_gathered_again() -> None:
    clock, kept = WorkClock(), Kept()

    async def slow(value: int) -> int:
        await clock.pause((value % 4) * MS)
        return value

    for how in ("round_robin", "least_full"):
        kept.values.clear()
        text = flow_text(
            f"id: a, operator: host:source, outputs: {{out: {{scatter: {how}}}}}",
            "id: x, operator: host:slow, inputs: {in: a/out}",
            "id: y, operator: host:slow, inputs: {in: {from: a/out, queue: {size: 3}}}",
            "id: k, operator: host:keep, inputs: {in: [x/out, y/out]}",
        )
        report = run(text, {"source": numbers(60), "slow": slow, "keep": kept}, clock=clock)
        assert report.status == "done"
        assert sorted(kept.values) == list(range(60))
        shares = [report.edges[f"a/out->{node}/in"].books.delivered for node in "xy"]
        assert sum(shares) == 60
        if how == "round_robin":
            assert shares == [30, 30]


def test_emit_with_a_port_goes_there_only() -> None:
    odd, even = Kept(), Kept()

    def sort(value: int) -> Emit:
        return Emit(value, "odd" if value % 2 else "even")

    text = flow_text(
        "id: a, operator: host:source",
        "id: s, operator: host:sort, inputs: {in: a/out}, outputs: [odd, even]",
        "id: o, operator: host:odds, inputs: {in: s/odd}",
        "id: e, operator: host:evens, inputs: {in: s/even}",
    )
    run(text, {"source": numbers(10), "sort": sort, "odds": odd, "evens": even})
    assert (odd.values, even.values) == ([1, 3, 5, 7, 9], [0, 2, 4, 6, 8])
