"""Every form an operator may have, in a flow."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from flow_scene import MS, Kept, WorkClock, balanced, compiled, flow_text, numbers, run, told, values

from flowbridge.emit import Emit
from flowbridge.host import Host

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorContext, Outputs
    from flowbridge.report import RunReport


def function(value: int) -> int:
    return value + 1


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


def generator(value: int) -> Any:
    yield value + 1


def configured(value: int, *, by: int = 5) -> int:
    return value + by


class Method:
    def process(self, value: int) -> int:
        return value + 1


class AsyncMethod:
    async def process(self, port: str, value: int, out: Outputs) -> None:
        assert port == "in"
        await out.send(value + 1)


class Outbox:
    def process(self, value: int, out: Outputs) -> None:
        out.emit(value + 1)


class Context:
    def open(self, context: OperatorContext) -> None:
        self.context = context

    def process(self, value: int, context: OperatorContext) -> Emit:
        assert context is self.context
        assert context.node == "w"
        assert context.remaining_ns() > 10**12
        return Emit(value + 1)


class Callable:
    def __call__(self, value: int) -> int:
        return value + 1


class AsyncCallable:
    async def __call__(self, value: int) -> int:
        await asyncio.sleep(0)
        return value + 1


class GeneratorCallable:
    def __call__(self, value: int) -> Any:
        yield value + 1


FORMS: dict[str, Any] = {
    "function": function,
    "async function": later,
    "generator": generator,
    "lambda": lambda value: value + 1,
    "partial": functools.partial(configured, by=1),
    "async partial": functools.partial(later),
    "builtin": (1).__add__,
    "class": Method,
    "object": Method(),
    "async class": AsyncMethod,
    "class with an outbox": Outbox,
    "class with a context": Context,
    "callable": Callable(),
    "async callable": AsyncCallable(),
    "generator callable": GeneratorCallable(),
    "bound method": Method().process,
}

TEXT = flow_text(
    "id: a, operator: host:source",
    "id: w, operator: host:work, inputs: {in: a/out}",
    "id: k, operator: host:keep, inputs: {in: w/out}",
)


@pytest.mark.parametrize("form", FORMS)
def test_an_operator_may_have_this_form(form: str) -> None:
    kept = Kept()
    report = run(TEXT, {"source": numbers(50), "work": FORMS[form], "keep": kept})
    assert kept.values == list(range(1, 51))
    assert report.status == "done"
    assert report.nodes["w"].processed == 50


class Source:
    def __init__(self, count: int = 5) -> None:
        self.count = count

    def produce(self) -> Any:
        yield from range(self.count)


class AsyncSource:
    async def produce(self) -> Any:
        for n in range(5):
            await asyncio.sleep(0)
            yield n


async def awaited_source() -> Any:
    await asyncio.sleep(0)
    return range(5)


SOURCES: dict[str, Any] = {
    "generator": numbers(5),
    "class": Source,
    "async class": AsyncSource,
    "list": lambda: [0, 1, 2, 3, 4],
    "awaited": awaited_source,
    "emits": lambda: (Emit(n) for n in range(5)),
}


@pytest.mark.parametrize("form", SOURCES)
def test_a_source_may_have_this_form(form: str) -> None:
    kept = Kept()
    text = flow_text("id: a, operator: host:source", "id: k, operator: host:keep, inputs: {in: a/out}")
    report = run(text, {"source": SOURCES[form], "keep": kept})
    assert kept.values == list(range(5))
    assert report.nodes["a"].processed == 5


def test_configuration_reaches_functions_and_classes() -> None:
    kept = Kept()
    text = flow_text(
        "id: a, operator: host:source, with: {count: 3}",
        "id: w, operator: host:work, inputs: {in: a/out}, with: {by: 100}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    run(text, {"source": Source, "work": configured, "keep": kept})
    assert kept.values == [100, 101, 102]


# --- threads --------------------------------------------------------------------------------------------------------


def really(text: str, operators: dict[str, Any]) -> RunReport:
    """Run with the system's clock: threads do not heed a manual one."""

    async def main() -> RunReport:
        async with Host(operators=operators) as host:
            flow = await host.start(compiled(text))
            report = await flow.wait()
            balanced(report)
            return report

    return asyncio.run(main())


@pytest.mark.parametrize("form", ["function", "generator"])
def test_an_operator_that_blocks_in_a_thread_does_not_stop_the_others(form: str) -> None:
    release = threading.Event()
    threads: set[str] = set()
    kept = Kept()

    def blocks(value: int) -> int:
        threads.add(threading.current_thread().name)
        time.sleep(0.001)
        assert release.wait(60), "the other branch never ran"
        return value

    def blocks_too(value: int) -> Any:
        yield blocks(value)

    def other(value: int) -> None:
        if value == 9:
            release.set()  # only possible while `blocks` is waiting

    text = flow_text(
        "id: a, operator: host:source",
        "id: w, operator: host:work, inputs: {in: a/out}, thread: true",
        "id: o, operator: host:other, inputs: {in: a/out}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    work: Any = blocks if form == "function" else blocks_too
    report = really(text, {"source": numbers(10), "work": work, "other": other, "keep": kept})
    assert report.status == "done"
    assert kept.values == list(range(10))
    assert threading.main_thread().name not in threads


def test_a_threaded_operator_is_retried_and_its_errors_are_named() -> None:
    kept = Kept()
    failures = [2]

    def work(value: int) -> int:
        if value == 1 and failures[0] > 0:
            failures[0] -= 1
            raise TimeoutError("slow disk")
        if value == 3:
            raise ValueError("three")
        return value

    text = TEXT.replace(
        "inputs: {in: a/out}", "inputs: {in: a/out}, thread: true, retry: {max: 3, delay: 1ms, on: [OSError]}"
    )
    report = really(text, {"source": numbers(5), "work": work, "keep": kept})
    assert report.nodes["w"].errors == 3
    (error,) = told(report)
    assert error.endswith("node w, port in, message 3: ValueError: three")
    assert kept.values[:3] == [0, 1, 2][: len(kept.values)]


def test_an_operator_that_ends_an_iteration_by_mistake_is_an_error_not_a_hang() -> None:
    def work(value: int) -> int:
        return next(iter(()))

    for thread in ("false", "true"):
        text = TEXT.replace("inputs: {in: a/out}", f"inputs: {{in: a/out}}, thread: {thread}")
        report = really(text, {"source": values(1), "work": work, "keep": Kept()})
        assert report.status == "failed"
        assert "node w, port in, message 0" in report.errors[0]
        assert "StopIteration" in report.errors[0]


# --- records --------------------------------------------------------------------------------------------------------

BATCHES = [pa.record_batch({"x": [n, n + 1, n + 2]}) for n in (0, 3, 6)]


def records(more: str, head: str = "") -> str:
    """A source of batches and an operator that sees rows."""
    return flow_text(
        "id: a, operator: host:source, outputs: {out: {type: arrow}}",
        f"id: w, operator: host:work, inputs: {{in: a/out}}, per: record, {more}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
        head=head,
    )


def rows(kept: Kept) -> list[Any]:
    """All rows of all batches."""
    return [row for batch in kept.values for row in batch.to_pylist()]


@pytest.mark.parametrize("form", ["sync", "async", "generator"])
def test_per_record_sees_rows_and_leaves_out_those_without_a_result(form: str) -> None:
    kept = Kept()

    def sync(row: dict[str, int]) -> dict[str, int] | None:
        return {"y": row["x"] * 2} if row["x"] not in (1, 3, 4, 5) else None

    async def later_(row: dict[str, int]) -> dict[str, int] | None:
        return sync(row)

    def generator_(row: dict[str, int]) -> Any:
        result = sync(row)
        if result is not None:
            yield result

    forms: dict[str, Any] = {"sync": sync, "async": later_, "generator": generator_}
    report = run(
        records("outputs: {out: {type: arrow}}"), {"source": values(*BATCHES), "work": forms[form], "keep": kept}
    )
    assert report.status == "done", report.errors
    assert rows(kept) == [{"y": y} for y in (0, 4, 12, 14, 16)]
    assert [batch.num_rows for batch in kept.values] == [2, 3], "a batch without rows is not sent"


def test_per_record_gives_batches_of_the_declared_schema() -> None:
    kept = Kept()
    head = "schemas: {s: {version: 1, fields: {y: int32, note: string}}}"
    text = records("outputs: {out: {type: arrow, schema: s}}", head)
    report = run(text, {"source": values(*BATCHES), "work": lambda row: {"y": row["x"], "note": None}, "keep": kept})
    assert report.status == "done", report.errors
    expected = pa.record_batch({"y": pa.array([], pa.int32()), "note": pa.array([], pa.string())}).schema
    assert {batch.schema for batch in kept.values} == {expected}


@pytest.mark.parametrize(
    ("row", "says"),
    [({"y": "text", "note": "n"}, "int32"), ({"y": 1, "other": 2}, "other"), ([1], "list"), ({"y": 2**40}, "the rows")],
)
def test_per_record_names_the_node_of_rows_that_do_not_fit(row: Any, says: str) -> None:
    head = "schemas: {s: {version: 1, fields: {y: int32, note: string}}}"
    text = records("outputs: {out: {type: arrow, schema: s}}", head)
    report = run(text, {"source": values(*BATCHES), "work": lambda _: row, "keep": Kept()})
    (error,) = told(report)
    assert "node w, port out" in error
    assert says in error


def test_per_record_with_a_value_that_is_no_batch_hands_it_on() -> None:
    kept = Kept()
    text = TEXT.replace("inputs: {in: a/out}", "inputs: {in: a/out}, per: record")
    run(text, {"source": values({"x": 1}), "work": lambda row: row["x"], "keep": kept})
    assert kept.values == [1]


def test_the_deadline_of_a_batch_holds_for_all_its_rows() -> None:
    clock, kept = WorkClock(), Kept()

    async def work(row: dict[str, int]) -> dict[str, int]:
        await clock.pause(4 * MS)
        return row

    text = records("outputs: {out: {type: arrow}}").replace("{type: arrow}}}", "{type: arrow}}, deadline: 10ms}", 1)
    report = run(text, {"source": values(BATCHES[0]), "work": work, "keep": kept}, clock=clock)
    assert kept.values == []
    assert report.edges["a/out->w/in"].books.missed.executing == 1
