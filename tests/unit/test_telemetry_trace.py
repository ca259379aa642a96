"""Spans of sampled messages, read back from the SDK's in-memory exporter."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.telemetry.otel_trace import OtelInstrument
from flowbridge.telemetry.tracecontext import parse_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from flowbridge.contracts import Instrument

UNIX_NS, MONOTONIC_NS = 1_700_000_000_000_000_000, 5_000_000_000
REMOTE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"


class FixedClock:
    def __init__(self) -> None:
        self.monotonic_ns = MONOTONIC_NS
        self.unix = UNIX_NS

    def now_ns(self) -> int:
        return self.monotonic_ns

    def unix_ns(self) -> int:
        return self.unix


def instrument_of(ratio: float = 1.0, clock: FixedClock | None = None) -> tuple[OtelInstrument, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    return OtelInstrument(tracer, "flights", ratio, clock or FixedClock()), exporter


def hop(instrument: Instrument, trace: TraceContext | None, error: BaseException | None = None) -> TraceContext | None:
    envelope = Envelope(b"", Priority.HIGH, 6_000_000_000, 0, 5_000_000_000, 7, 3, trace=trace)
    return instrument.hop("enrich", "a/out->enrich/in", envelope, 5_500_000_000, 6_250_000_000, error)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_every_hop_is_the_child_of_the_one_before() -> None:
    instrument, exporter = instrument_of()
    trace = instrument.start("source")
    for _ in range(3):
        trace = hop(instrument, trace)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["start source", *["process enrich"] * 3]
    assert [span.kind for span in spans] == [SpanKind.PRODUCER, *[SpanKind.CONSUMER] * 3]
    assert spans[0].parent is None
    for parent, child in pairwise(spans):
        assert child.parent is not None
        assert child.parent.span_id == id_of(parent)
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    assert trace is not None
    last = parse_traceparent(trace.traceparent)
    assert last is not None
    assert last.sampled
    assert last.parent_id == id_of(spans[-1])


def test_times_are_unix_times_by_the_offset_of_the_start() -> None:
    clock = FixedClock()
    instrument, exporter = instrument_of(clock=clock)
    clock.unix += 3600 * 10**9  # somebody sets the wall clock
    clock.monotonic_ns += 1_000
    trace = instrument.start("source")
    hop(instrument, trace)
    start, process = exporter.get_finished_spans()
    assert start.start_time == start.end_time == UNIX_NS + 1_000
    assert process.start_time == UNIX_NS + 500_000_000
    assert process.end_time == UNIX_NS + 1_250_000_000


def test_a_hop_says_what_happened_to_the_message() -> None:
    instrument, exporter = instrument_of()
    hop(instrument, instrument.start("source"))
    assert dict(exporter.get_finished_spans()[1].attributes or {}) == {
        "flowbridge.flow": "flights",
        "flowbridge.node": "enrich",
        "flowbridge.edge": "a/out->enrich/in",
        "flowbridge.priority": "high",
        "flowbridge.message.seq": 3,
        "flowbridge.message.size": 7,
        "flowbridge.queue.time": 0.5,
        "flowbridge.deadline.remaining": -0.25,
    }


def test_a_message_without_a_deadline_has_none_remaining() -> None:
    instrument, exporter = instrument_of()
    envelope = Envelope(b"", deadline_ns=NO_DEADLINE, trace=instrument.start("source"))
    instrument.hop("n", "e", envelope, 1, 2, None)
    assert "flowbridge.deadline.remaining" not in (exporter.get_finished_spans()[1].attributes or {})


def test_an_exception_makes_the_span_an_error() -> None:
    instrument, exporter = instrument_of()
    child = hop(instrument, instrument.start("source"), ValueError("bad row"))
    span = exporter.get_finished_spans()[1]
    assert child is not None
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "bad row"
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert [event.name for event in span.events] == ["exception"]
    assert span.events[0].timestamp == span.end_time


def test_an_exception_that_cannot_be_printed_is_recorded_all_the_same() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    instrument, exporter = instrument_of()
    assert hop(instrument, instrument.start("source"), Unprintable()) is not None
    span = exporter.get_finished_spans()[1]
    assert span.status.status_code is StatusCode.ERROR
    assert "Unprintable" in (span.status.description or "")


def test_a_message_that_is_not_traced_is_not_recorded() -> None:
    instrument, exporter = instrument_of()
    assert hop(instrument, None) is None
    assert exporter.get_finished_spans() == ()


def test_an_unsampled_parent_is_carried_on_and_not_recorded() -> None:
    instrument, exporter = instrument_of()
    trace = TraceContext(REMOTE + "00", "rojo=1")
    assert hop(instrument, trace) is trace
    assert exporter.get_finished_spans() == ()


def test_a_sampled_parent_from_elsewhere_is_continued_with_its_state() -> None:
    instrument, exporter = instrument_of(ratio=0.0)
    child = hop(instrument, TraceContext(REMOTE + "01", "rojo=1,congo=2"))
    assert child is not None
    assert child.traceparent.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert child.traceparent.endswith("-01")
    assert child.tracestate == "rojo=1,congo=2"
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert span.parent.span_id == 0x00F067AA0BA902B7


@pytest.mark.parametrize("text", ["", "nonsense", REMOTE + "0", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"])
def test_a_context_that_is_not_valid_ends_there(text: str) -> None:
    instrument, exporter = instrument_of()
    assert hop(instrument, TraceContext(text)) is None
    assert exporter.get_finished_spans() == ()


def test_a_state_that_is_not_valid_is_dropped_and_the_trace_goes_on() -> None:
    instrument, _ = instrument_of()
    child = hop(instrument, TraceContext(REMOTE + "01", "Not Valid"))
    assert child is not None
    assert child.tracestate == ""


def test_the_ratio_decides_once_per_message() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    draw = random.Random(1).random
    instrument = OtelInstrument(provider.get_tracer("t"), "f", 0.25, FixedClock(), draw=draw)
    traces = [instrument.start("source") for _ in range(4000)]
    sampled = sum(trace is not None for trace in traces)
    assert 900 < sampled < 1100
    assert len(exporter.get_finished_spans()) == sampled


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 200)])
def test_none_and_all_are_exact(ratio: float, expected: int) -> None:
    instrument, _ = instrument_of(ratio)
    assert sum(instrument.start("source") is not None for _ in range(200)) == expected


def test_a_tracer_that_records_nothing_gives_no_context() -> None:
    instrument = OtelInstrument(NoOpTracer(), "f", 1.0, FixedClock())
    assert instrument.start("source") is None
