"""Spans of operators in worker processes: exported by the host, joined with those before and behind them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NoOpTracer, SpanContext, SpanKind, StatusCode
from process_scene import Sink, run_placed

from flowbridge.envelope import Envelope
from flowbridge.limits import SPANS_KEPT_MAX
from flowbridge.telemetry.far_spans import FarInstrument
from flowbridge.telemetry.otel_far import FarSpans
from flowbridge.telemetry.otel_trace import OtelInstrument, SystemTime

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

JSON = "outputs: {out: {type: json}}"
KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"


def source(count: int, place: str = "") -> str:
    return f'id: a, operator: "python:./ops.py:Numbers", {JSON}, with: {{count: {count}}}{place}'


def work(operator: str, *more: str) -> str:
    middle = f'id: b, operator: "python:./ops.py:{operator}", inputs: {{in: a/out}}, {JSON}, place: {{process: w}}'
    return ", ".join([middle, *more])


def recording(ratio: float = 1) -> tuple[OtelInstrument, InMemorySpanExporter]:
    """An instrument of a host over the real SDK, and what it exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "flow"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("flowbridge", "1")
    far = FarSpans(tracer, "flow", InstrumentationScope("flowbridge", "1"))
    return OtelInstrument(tracer, "flow", ratio, SystemTime(), far=far), exporter


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def by_id(spans: tuple[ReadableSpan, ...], name: str) -> dict[int, ReadableSpan]:
    """The spans of a name, by their ids."""
    return {context_of(span).span_id: span for span in spans if span.name == name}


@pytest.mark.parametrize("place", ["", ", place: {process: first}"])
def test_the_span_of_a_worker_is_a_link_of_the_chain(tmp_path: Path, place: str) -> None:
    instrument, exporter = recording()
    began_ns = time.time_ns()
    nodes = source(50, place), work("double"), KEEP
    report = run_placed(tmp_path, *nodes, operators={"keep": Sink()}, instruments=[instrument])
    assert (report.status, report.errors) == ("done", [])
    spans = exporter.get_finished_spans()
    starts, middles, ends = (by_id(spans, name) for name in ("start a", "process b", "process k"))
    assert len(starts) == len(middles) == len(ends) == 50
    for end in ends.values():
        assert end.parent is not None
        middle = middles[end.parent.span_id]
        assert middle.parent is not None
        start = starts[middle.parent.span_id]
        assert start.parent is None
        assert context_of(end).trace_id == context_of(middle).trace_id == context_of(start).trace_id
        assert began_ns <= start.end_time <= middle.end_time <= time.time_ns()  # type: ignore[operator]
        assert middle.start_time <= middle.end_time  # type: ignore[operator]
    assert {context_of(span).trace_id for span in middles.values()} == {
        context_of(span).trace_id for span in starts.values()
    }
    middle = next(iter(middles.values()))
    assert middle.kind is SpanKind.CONSUMER
    assert middle.resource.attributes["service.name"] == "flow"
    attributes = dict(middle.attributes or {})
    assert attributes["flowbridge.node"] == "b"
    assert attributes["flowbridge.edge"] == "a/out->b/in"
    here, there = dict(next(iter(ends.values())).attributes or {}), attributes
    assert here.keys() == there.keys()


def test_an_error_elsewhere_is_one_in_its_span() -> None:
    instrument, exporter = recording()
    far = FarInstrument(1, SystemTime())
    far.hop("b", "a/out->b/in", Envelope(b"", trace=far.start("a"), deadline_ns=30), 10, 20, ValueError("seven"))
    instrument.take_in(far.taken())
    (failed,) = [span for span in exporter.get_finished_spans() if span.status.status_code is StatusCode.ERROR]
    assert (failed.name, failed.status.description) == ("process b", "seven")
    attributes = dict(failed.attributes or {})
    assert attributes["error.type"] == "ValueError"
    assert attributes["flowbridge.deadline.remaining"] == 1e-8


def test_nothing_is_recorded_where_nothing_is_sampled(tmp_path: Path) -> None:
    instrument, exporter = recording(0)
    nodes = source(20, ", place: {process: first}"), work("double"), KEEP
    run_placed(tmp_path, *nodes, operators={"keep": Sink()}, instruments=[instrument])
    assert exporter.get_finished_spans() == ()


def test_what_a_part_keeps_is_bounded_and_what_is_beyond_is_counted() -> None:
    instrument = FarInstrument(1, SystemTime())
    trace = instrument.start("a")
    for number in range(SPANS_KEPT_MAX + 9):
        assert instrument.hop("b", "a/out->b/in", Envelope(b"", trace=trace), number, number + 1, None) is not None
    assert instrument.lost == 10
    assert len(instrument.taken()) == SPANS_KEPT_MAX
    assert instrument.taken() == []


def test_what_is_no_span_is_refused_and_another_tracer_takes_none() -> None:
    instrument, exporter = recording()
    far = FarInstrument(1, SystemTime())
    far.start("a")
    (good,) = far.taken()
    for place, bad in ((2, b"short"), (3, bytes(8)), (7, 2**64), (5, "x"), (6, None)):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            instrument.take_in([[*good[:place], bad, *good[place + 1 :]]])
    with pytest.raises((ValueError, TypeError)):
        instrument.take_in([good[:-1]])
    assert exporter.get_finished_spans() == ()
    instrument.take_in([good])
    assert [span.name for span in exporter.get_finished_spans()] == ["start a"]
    other = FarSpans(NoOpTracer(), "flow", InstrumentationScope("flowbridge", "1"))
    assert not other.can_export
    other.take_in([good])
