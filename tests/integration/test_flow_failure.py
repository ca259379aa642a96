"""Operators that fail: retries, skipping, the error that is reported, and what becomes of the message."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from flow_scene import MS, Kept, S, WorkClock, balanced, compiled, flow_text, numbers, paced, run, to_end, told, values

from flowbridge.emit import Emit
from flowbridge.errors import OperatorError
from flowbridge.host import Host
from flowbridge.limits import OUTBOX_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import Outputs
    from flowbridge.runtime.flow import RunningFlow


class Flaky:
    """Fails the first `times` calls for one value, and notes when it was called."""

    def __init__(self, clock: WorkClock, bad: int, times: int, error: type[Exception]) -> None:
        self.clock, self.bad, self.times, self.error = clock, bad, times, error
        self.calls_ns: list[int] = []

    def __call__(self, value: int) -> int:
        if value == self.bad:
            self.calls_ns.append(self.clock.now_ns())
            if self.times > 0:
                self.times -= 1
                raise self.error("not now")
        return value

    async def later(self, value: int) -> int:
        await self.clock.pause(MS)
        return self(value)


def chain(more: str, source: str = "", sink: str = "") -> str:
    """A source, an operator with more keys, a sink."""
    return flow_text(
        f"id: a, operator: host:source{source}",
        f"id: w, operator: host:work, inputs: {{in: a/out}}, {more}",
        f"id: k, operator: host:keep, inputs: {{in: w/out}}{sink}",
    )


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("named", ["TimeoutError", "OSError", "Exception"])
def test_a_retry_goes_by_the_class_or_a_base_of_it_and_its_delay_doubles(form: str, named: str) -> None:
    clock, kept = WorkClock(), Kept()
    flaky = Flaky(clock, 3, 3, TimeoutError)
    work: Callable[[int], Any] = flaky.later if form == "async" else flaky.__call__
    text = chain(f"retry: {{max: 3, delay: 10ms, on: [{named}]}}")
    report = run(text, {"source": numbers(6), "work": work, "keep": kept}, clock=clock)
    assert report.status == "done"
    assert kept.values == list(range(6))
    work_ns = MS if form == "async" else 0
    waits = [after - before - work_ns for before, after in zip(flaky.calls_ns, flaky.calls_ns[1:], strict=False)]
    assert waits == [10 * MS, 20 * MS, 40 * MS]
    assert report.nodes["w"].errors == 3
    assert report.edges["a/out->w/in"].books.delivered == 6


def test_another_class_is_not_retried_and_the_error_says_where() -> None:
    clock, kept = WorkClock(), Kept()
    flaky = Flaky(clock, 3, 1, KeyError)
    text = chain("retry: {max: 3, delay: 10ms, on: [TimeoutError]}")
    report = run(text, {"source": numbers(6), "work": flaky.__call__, "keep": kept}, clock=clock)
    assert len(flaky.calls_ns) == 1
    assert report.status == "failed"
    (error,) = told(report)
    assert error == "flow.yaml:5:23: node w, port in, message 3: KeyError: 'not now'"
    assert str(report.nodes["w"].error).startswith(error)
    assert report.nodes["w"].state == "failed"
    assert {report.nodes[n].state for n in "ak"} <= {"done", "aborted"}


def test_a_failed_node_settles_the_poisoned_message_and_counts_the_rest_as_dropped() -> None:
    kept = Kept()

    def work(value: int) -> int:
        if value == 3:
            raise ValueError("three")
        return value

    report = run(chain("budget: 1ms"), {"source": numbers(50), "work": work, "keep": kept})
    books = report.edges["a/out->w/in"].books
    assert books.delivered == 4
    assert books.dropped == {"abort": books.sent - 4}
    after = report.edges["w/out->k/in"].books
    assert after.sent == 3, "what was handled before is sent or counted"


def test_a_retry_does_not_pass_the_deadline() -> None:
    clock, kept = WorkClock(), Kept()
    start_ns = clock.now_ns()
    flaky = Flaky(clock, 0, 99, TimeoutError)
    text = chain("retry: {max: 9, delay: 10ms}, on_error: skip", source=", deadline: 65ms")
    report = run(text, {"source": values(0), "work": flaky.__call__, "keep": kept}, clock=clock)
    assert [at - start_ns for at in flaky.calls_ns] == [0, 10 * MS, 30 * MS]  # the next would be at 70 ms
    assert report.status == "done"


def test_what_was_handled_before_a_retry_is_not_held_up_by_it() -> None:
    clock = WorkClock()
    arrived: list[tuple[int, int]] = []
    start_ns = clock.now_ns()

    def keep(value: int) -> None:
        arrived.append((value, clock.now_ns() - start_ns))

    flaky = Flaky(clock, 5, 1, TimeoutError)
    run(chain("retry: {max: 1, delay: 1s}"), {"source": numbers(8), "work": flaky.__call__, "keep": keep}, clock=clock)
    assert [at for value, at in arrived if value < 5] == [0] * 5
    assert [value for value, _ in arrived] == list(range(8))


@pytest.mark.parametrize("form", ["sync", "async", "generator"])
def test_skip_leaves_the_message_out_and_goes_on(form: str) -> None:
    kept = Kept()

    def sync(value: int) -> int:
        if value % 3 == 1:
            raise ValueError(value)
        return value

    async def later(value: int) -> int:
        return sync(value)

    def generator(value: int) -> Any:
        yield sync(value)

    forms: dict[str, Any] = {"sync": sync, "async": later, "generator": generator}
    report = run(chain("on_error: skip"), {"source": numbers(10), "work": forms[form], "keep": kept})
    assert kept.values == [0, 2, 3, 5, 6, 8, 9]
    assert report.status == "done"
    assert report.nodes["w"].errors == 3
    assert report.edges["a/out->w/in"].books.delivered == 10


def test_a_call_that_fails_sends_nothing_of_what_it_emitted() -> None:
    kept = Kept()
    tries: list[int] = []

    def work(value: int, out: Outputs) -> None:
        out.emit(("first", value))
        tries.append(value)
        if value == 1 and tries.count(1) < 3:
            raise ValueError("half way")
        out.emit(("second", value))

    report = run(chain("retry: {max: 5, delay: 1ms}"), {"source": numbers(3), "work": work, "keep": kept})
    assert kept.values == [(word, n) for n in range(3) for word in ("first", "second")]
    assert report.nodes["w"].errors == 2


def test_an_operator_whose_own_wait_is_cancelled_fails_instead_of_hanging_the_flow() -> None:
    async def work(value: int) -> int:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        await task
        return value

    for more in ("budget: 1ms", "restart: on-failure", "on_error: skip"):
        kept = Kept()
        report = run(chain(more), {"source": values(1), "work": work, "keep": kept})
        if more == "on_error: skip":
            assert report.status == "done"
            assert report.nodes["w"].errors == 1
        elif more == "budget: 1ms":
            assert told(report) == [
                "flow.yaml:5:23: node w, port in, message 0: RuntimeError: what it waited for was cancelled"
            ]
        else:
            assert report.status == "done", "the message is settled, so the second start finds none"


def test_an_operator_that_keeps_its_cancellation_to_itself_does_not_survive_an_abort() -> None:
    clock, handled = WorkClock(), list[int]()

    async def work(value: int) -> None:
        handled.append(value)
        with contextlib.suppress(asyncio.CancelledError):
            await clock.pause(3600 * S)

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(5 * MS)
        flow.abort()

    text = flow_text("id: a, operator: host:source", "id: w, operator: host:work, inputs: {in: a/out}")
    report = run(text, {"source": numbers(50), "work": work}, clock=clock, drive=drive)
    assert handled == [0]
    assert report.status == "interrupted"


def test_an_operator_that_calls_exit_fails_its_node_only() -> None:
    def work(value: int) -> int:
        raise SystemExit(3)

    report = run(chain("budget: 1ms"), {"source": values(1), "work": work, "keep": Kept()})
    assert report.status == "failed"
    assert told(report) == ["flow.yaml:5:23: node w: SystemExit: 3"]


# --- what an operator gives -----------------------------------------------------------------------------------------

BATCH = pa.record_batch({"x": [1, 2]})
SCHEMA = "schemas: {s: {version: 1, fields: {x: int64}}}"


@pytest.mark.parametrize(
    ("port", "given", "says"),
    [
        ("{type: arrow}", {"x": 1}, "carries application/vnd.apache.arrow.stream, but was given a dict"),
        ("{type: json}", BATCH, "carries application/json, but was given a RecordBatch"),
        ("{type: bytes}", "text", "carries application/octet-stream, but was given a str"),
        (
            "{type: arrow, schema: s}",
            pa.record_batch({"x": ["a"]}),
            "declared as {x: int64}, but was given {x: string}",
        ),
        ("{type: arrow, schema: s}", pa.record_batch({"y": [1]}), "but was given {y: int64}"),
    ],
)
@pytest.mark.parametrize("form", ["sync", "async", "emit", "generator", "produce", "Emit"])
def test_a_value_that_does_not_fit_its_port_is_a_schema_mismatch(port: str, given: Any, says: str, form: str) -> None:
    async def later(value: int) -> Any:
        return given

    def emits(value: int, out: Outputs) -> None:
        out.emit(given)

    def generator(value: int) -> Any:
        yield given

    forms: dict[str, Any] = {
        "sync": lambda value: given,
        "async": later,
        "emit": emits,
        "generator": generator,
        "Emit": lambda value: Emit(given),
    }
    if form == "produce":
        text = flow_text(
            f"id: w, operator: host:work, outputs: {{out: {port}}}",
            "id: k, operator: host:keep, inputs: {in: w/out}",
            head=SCHEMA,
        )
        report = run(text, {"work": values(given), "keep": Kept()})
    else:
        text = flow_text(
            "id: a, operator: host:source",
            f"id: w, operator: host:work, inputs: {{in: a/out}}, outputs: {{out: {port}}}",
            "id: k, operator: host:keep, inputs: {in: w/out}",
            head=SCHEMA,
        )
        report = run(text, {"source": values(1), "work": forms[form], "keep": Kept()})
    assert report.status == "failed"
    (error,) = told(report)
    assert "node w, port out" in error
    assert error.startswith("flow.yaml:")
    assert says in error
    assert report.edges["w/out->k/in"].books.sent == 0


def test_a_generator_operator_may_have_a_typed_port() -> None:
    kept = Kept()

    def twice(value: int) -> Any:
        yield {"n": value}
        yield {"n": -value}

    text = chain("outputs: {out: {type: json}}")
    report = run(text, {"source": numbers(3), "work": twice, "keep": kept})
    assert report.status == "done"
    assert [v["n"] for v in kept.values] == [0, 0, 1, -1, 2, -2]


def test_a_source_leaves_out_what_does_not_fit_when_it_skips_and_else_sends_what_came_before() -> None:
    given = values({"n": 0}, {"n": 1}, object(), {"n": 3})
    for skips in (True, False):
        kept = Kept()
        more = ", on_error: skip" if skips else ""
        text = flow_text(
            f"id: a, operator: host:source, outputs: {{out: {{type: json}}}}{more}",
            "id: k, operator: host:keep, inputs: {in: a/out}",
        )
        report = run(text, {"source": given, "keep": kept})
        books = report.edges["a/out->k/in"].books
        if skips:
            assert [v["n"] for v in kept.values] == [0, 1, 3]
            assert report.nodes["a"].errors == 1
        else:
            assert report.status == "failed"
            assert books.sent == 2


def test_an_unknown_output_port_is_named_with_those_there_are() -> None:
    report = run(chain("outputs: [out, late]"), {"source": values(1), "work": lambda v: Emit(v, "lat"), "keep": Kept()})
    (error,) = told(report)
    assert "node w: has no output port 'lat'; it has out, late" in error


@pytest.mark.parametrize("form", ["emit", "generator"])
def test_too_many_emits_in_one_call_are_an_error(form: str) -> None:
    def emits(value: int, out: Outputs) -> None:
        for n in range(OUTBOX_ITEMS_MAX + 1):
            out.emit(n)

    def generator(value: int) -> Any:
        yield from range(OUTBOX_ITEMS_MAX + 1)

    kept = Kept()
    work: Any = emits if form == "emit" else generator
    report = run(chain("budget: 1ms"), {"source": values(1), "work": work, "keep": kept})
    (error,) = told(report)
    assert f"more than {OUTBOX_ITEMS_MAX}" in error
    assert "node w" in error
    assert kept.values == []


def test_a_route_that_refuses_fails_the_message_and_takes_nothing_from_the_others() -> None:
    clock, kept = WorkClock(), Kept()

    async def slow(value: int) -> None:
        await clock.pause(10 * MS)

    text = flow_text(
        "id: a, operator: host:source",
        "id: w, operator: host:work, inputs: {in: a/out}, on_error: skip",
        "id: s, operator: host:slow, inputs: {in: {from: w/out, queue: {policy: error, size: 2}}}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    operators = {"source": numbers(20), "work": lambda value: value, "slow": slow, "keep": kept}
    report = run(text, operators, clock=clock)
    assert report.status == "done"
    assert kept.values == list(range(20))
    books = report.edges["w/out->s/in"].books
    assert books.sent == 20
    assert books.refused == report.nodes["w"].errors > 0
    assert report.edges["w/out->k/in"].books.dropped == {}


# --- the other parts of an operator ---------------------------------------------------------------------------------


class Parts:
    """An operator of which one part fails."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.closed = 0

    def open(self) -> None:
        self._maybe("open")

    def process(self, value: int) -> int:
        self._maybe("process")
        return value

    def finish(self, out: Outputs) -> None:
        self._maybe("finish")

    async def close(self) -> None:
        self.closed += 1
        self._maybe("close")

    def _maybe(self, part: str) -> None:
        if part in self.bad.split():
            raise ValueError(f"bad {part}")


@pytest.mark.parametrize("bad", ["open", "finish", "close"])
def test_a_failure_in_any_part_names_node_and_part(bad: str) -> None:
    parts, kept = Parts(bad), Kept()
    report = run(chain("budget: 1ms"), {"source": numbers(3), "work": parts, "keep": kept})
    assert told(report) == [f"flow.yaml:5:23: node w: {bad}: ValueError: bad {bad}"]
    assert parts.closed == 1
    if bad == "close":
        assert report.nodes["w"].processed == 3


def test_the_first_failure_counts_not_that_of_closing_after_it() -> None:
    parts = Parts("process close")
    report = run(chain("budget: 1ms"), {"source": numbers(3), "work": parts, "keep": Kept()})
    assert told(report) == ["flow.yaml:5:23: node w, port in, message 0: ValueError: bad process"]
    assert parts.closed == 1


def test_a_failing_close_does_not_bring_an_aborted_node_back() -> None:
    clock = WorkClock()
    closed: list[int] = []

    class Stuck:
        async def process(self, value: int) -> None:
            await clock.pause(3600 * S)

        def close(self) -> None:
            closed.append(1)
            raise ValueError("bad close")

    async def drive(flow: RunningFlow) -> None:
        await clock.advance(MS)
        flow.abort()

    text = flow_text(
        "id: a, operator: host:source", "id: w, operator: host:stuck, inputs: {in: a/out}, restart: on-failure"
    )
    report = run(text, {"source": numbers(5), "stuck": Stuck}, clock=clock, drive=drive)
    assert (report.status, told(report), closed) == ("interrupted", [], [1])
    assert report.nodes["w"].restarts == 0


def test_a_failing_close_after_the_work_is_done_does_not_start_it_again() -> None:
    parts, kept = Parts("close"), Kept()
    report = run(chain("restart: on-failure"), {"source": numbers(3), "work": parts, "keep": kept})
    assert report.status == "failed"
    assert report.nodes["w"].restarts == 0
    assert parts.closed == 1


@pytest.mark.parametrize("form", ["generator", "async", "call", "class"])
def test_a_source_that_fails_is_named_and_what_it_gave_before_arrives(form: str) -> None:
    kept = Kept()

    def generator() -> Any:
        yield from range(5)
        raise OSError("pulled out")

    async def later() -> Any:
        for n in range(5):
            yield n
        raise OSError("pulled out")

    def call() -> Any:
        raise OSError("pulled out")

    class Source:
        def produce(self) -> Any:
            return generator()

    forms: dict[str, Any] = {"generator": generator, "async": later, "call": call, "class": Source}
    text = flow_text(
        "id: a, operator: host:source, restart: {when: on-failure, max: 1}",
        "id: k, operator: host:keep, inputs: {in: a/out}",
    )
    report = run(text, {"source": forms[form], "keep": kept})
    assert report.status == "failed"
    assert told(report) == ["flow.yaml:4:23: node a: OSError: pulled out"]
    assert report.nodes["a"].restarts == 1
    if form != "call":
        assert kept.values[:5] == [0, 1, 2, 3, 4]
        assert report.edges["a/out->k/in"].books.sent == 10


def test_a_failure_aborts_every_other_node_and_wait_returns() -> None:
    clock = WorkClock()

    async def main() -> None:
        async def stuck(value: int) -> None:
            await clock.pause(3600 * S)

        text = flow_text(
            "id: a, operator: host:source",
            "id: s, operator: host:stuck, inputs: {in: a/out}",
            "id: w, operator: host:work, inputs: {tick: timer/10ms}",
        )

        def work(value: int) -> None:
            if value == 2:
                raise OperatorError("w", "says it itself")

        operators = {"source": paced(clock, range(100), MS), "stuck": stuck, "work": work}
        async with Host(operators=operators, clock=clock) as host:
            flow = await host.start(compiled(text))
            report = await to_end(flow, clock)
            balanced(report)
            assert told(report) == ["flow.yaml:6:23: node w: says it itself"]
            assert report.nodes["s"].state == report.nodes["a"].state == "aborted"
            assert clock.pending() == ()

    asyncio.run(main())
