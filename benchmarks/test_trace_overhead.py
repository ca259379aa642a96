"""What tracing costs one message: `start` at the source and one `hop`, by the share of messages that are traced.

The spans go to a `BatchSpanProcessor` whose exporter throws them away, so the network is left out; the queue is emptied
inside the measurement. With a share of 0
a run has no instrument at all; the row is here to show what the calls alone cost.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowbridge.envelope import Envelope
from flowbridge.telemetry.otel_trace import OtelInstrument, SystemTime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from pytest_benchmark.fixture import BenchmarkFixture

MESSAGES = 10_000
"""Messages per round; divide by it to get the cost of one."""


class Discard(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Discard(), max_queue_size=2 * MESSAGES, max_export_batch_size=512))
    yield provider
    provider.shutdown()


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_start_and_one_hop(benchmark: BenchmarkFixture, provider: TracerProvider, ratio: float) -> None:
    draw = random.Random(7).random
    instrument = OtelInstrument(provider.get_tracer("benchmark"), "flow", ratio, SystemTime(), draw=draw)
    envelope = Envelope(b"")

    def messages() -> int:
        traced = 0
        for _ in range(MESSAGES):
            envelope.trace = instrument.start("source")
            if envelope.trace is not None:
                instrument.hop("sink", "source/out->sink/in", envelope, 1_000, 2_000, None)
                traced += 1
        provider.force_flush()
        return traced

    traced = cast("int", benchmark(messages))
    assert (ratio == 0 and traced == 0) or 0 < traced <= MESSAGES
