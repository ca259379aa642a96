"""The spans of calls that failed: a sampled message that reached an operator has one, which says how that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import MS, Kept, WorkClock, flow_text, numbers, run, values
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from flowbridge.telemetry.far_spans import FarInstrument
from flowbridge.telemetry.otel_trace import OtelInstrument

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from flowbridge.report import RunReport

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


def chain(more: str, source: str = "") -> str:
    return flow_text(
        f"id: a, operator: host:source{source}",
        f"id: w, operator: host:work, inputs: {{in: a/out}}, {more}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )


def traced(text: str, clock: WorkClock, source: Any, work: Any) -> tuple[RunReport, list[ReadableSpan]]:
    """What became of a flow of three nodes, and the spans of the one in the middle."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument = OtelInstrument(provider.get_tracer("test"), "test", 1, clock)
    report = run(text, {"source": source, "work": work, "keep": Kept()}, clock=clock, instruments=[instrument])
    return report, [span for span in exporter.get_finished_spans() if span.name == "process w"]


def failure_of(span: ReadableSpan) -> tuple[Any, str | None, list[Any]]:
    """The class, the description and the recorded exceptions of a span; none of one that went well."""
    errors = [(event.attributes or {})["exception.type"] for event in span.events if event.name == "exception"]
    failed = span.status.status_code is StatusCode.ERROR
    assert failed is bool(errors) is ("error.type" in (span.attributes or {}))
    return (span.attributes or {}).get("error.type"), span.status.description, errors


def raising(form: str, bad: int) -> Any:
    def work(value: int) -> int:
        if value == bad:
            raise ValueError(f"not {value}")
        return value

    async def later(value: int) -> int:
        return work(value)

    return later if form == "async" else work


@FORMS
def test_the_span_of_a_message_that_is_left_out_is_an_error(form: str) -> None:
    report, spans = traced(chain("on_error: skip"), WorkClock(), numbers(4), raising(form, 2))
    assert report.nodes["w"].errors == 1
    well: tuple[Any, str | None, list[Any]] = (None, None, [])
    assert [failure_of(span) for span in spans] == [well, well, ("ValueError", "not 2", ["ValueError"]), well]
    assert len({span.context.trace_id for span in spans if span.context}) == 4


@FORMS
def test_the_call_that_fails_a_node_has_a_span(form: str) -> None:
    report, spans = traced(chain("budget: 1ms"), WorkClock(), numbers(4), raising(form, 1))
    assert report.status == "failed"
    assert failure_of(spans[-1]) == ("ValueError", "not 1", ["ValueError"])
    assert len(spans) == 2


@pytest.mark.parametrize("is_retried", [False, True])
def test_a_call_that_is_cut_off_at_its_deadline_is_an_error(*, is_retried: bool) -> None:
    clock, calls = WorkClock(), 0

    async def work(value: int) -> None:
        nonlocal calls
        calls += 1
        if is_retried and calls == 1:
            raise ValueError("again")
        await clock.pause(100 * MS)

    more = "retry: {max: 3, delay: 1ms}" if is_retried else "on_error: skip"
    report, (span,) = traced(chain(more, source=", deadline: 10ms"), clock, values(1), work)
    assert report.status == "done"
    assert report.nodes["w"].errors == int(is_retried)
    kind, _, errors = failure_of(span)
    assert kind == errors[0] == "flowbridge.errors.DeadlineExceeded"
    assert span.start_time is not None
    assert span.end_time == span.start_time + 10 * MS
    assert calls == 1 + int(is_retried)


def test_a_call_that_goes_well_in_the_end_has_one_span_that_is_no_error() -> None:
    calls = 0

    def work(value: int) -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError("again")
        return value

    report, (span,) = traced(chain("retry: {max: 3, delay: 1ms}"), WorkClock(), values(1), work)
    assert (report.status, report.nodes["w"].errors) == ("done", 2)
    assert failure_of(span) == (None, None, [])
    assert span.start_time is not None
    assert span.end_time == span.start_time + 3 * MS


def test_a_call_that_never_goes_well_has_one_span_with_its_last_error() -> None:
    calls = 0

    def work(value: int) -> int:
        nonlocal calls
        calls += 1
        raise (ValueError if calls < 3 else KeyError)(calls)

    report, (span,) = traced(chain("retry: {max: 2, delay: 1ms}, on_error: skip"), WorkClock(), values(1), work)
    assert (report.status, report.nodes["w"].errors) == ("done", 3)
    assert failure_of(span) == ("KeyError", "3", ["KeyError"])


def test_a_message_that_came_too_late_for_a_call_has_no_span() -> None:
    clock = WorkClock()

    def work(value: int) -> None:
        clock.work(30 * MS)

    report, spans = traced(chain("on_error: skip", source=", deadline: 10ms"), clock, numbers(3), work)
    books = report.edges["a/out->w/in"].books
    assert (books.delivered, books.expired) == (len(spans), 3 - len(spans))
    assert books.expired
    assert [failure_of(span)[0] for span in spans] == [None] * len(spans)


def test_a_process_that_exports_nothing_itself_keeps_the_error() -> None:
    clock = WorkClock()
    instrument = FarInstrument(1, clock)
    operators = {"source": numbers(3), "work": raising("sync", 1), "keep": Kept()}
    run(chain("on_error: skip"), operators, clock=clock, instruments=[instrument])
    kept = [span[-2:] for span in instrument.taken() if span[0] == "w" and span[1] is not None]
    assert kept == [[None, None], ["ValueError", "not 1"], [None, None]]
