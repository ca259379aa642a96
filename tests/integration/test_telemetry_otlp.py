"""Metrics and spans over real OTLP: a small receiver decodes what the SDK's exporters send."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from flowbridge.envelope import Envelope, TraceContext
from flowbridge.errors import LocalProtocolError, MissingExtraError
from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport
from flowbridge.telemetry.otel import Telemetry, open_telemetry
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

EDGE: Final = "a/out->b/in"


class Receiver:
    """An OTLP endpoint over HTTP that keeps what it is sent."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        if path.endswith("/v1/traces"):
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif path.endswith("/v1/metrics"):
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def values(self) -> dict[str, dict[tuple[str, ...], float]]:
        """The last export: values by metric and by the values of its attributes but the flow."""
        found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for resource in self.metrics[-1].resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points
                    for point in points:
                        labels = tuple(a.value.string_value for a in point.attributes if a.key != "flowbridge.flow")
                        value = point.as_int if point.HasField("as_int") else point.as_double
                        found[metric.name][labels] = value
        return found

    @property
    def resource(self) -> dict[str, str]:
        attributes = self.metrics[-1].resource_metrics[0].resource.attributes
        return {attribute.key: attribute.value.string_value for attribute in attributes}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    receiver = Receiver()
    yield receiver
    receiver.close()


def report_of() -> RunReport:
    books = EdgeBooks(sent=9, delivered=5, in_flight=1, dropped={"latest": 3})
    books.missed.queued = 2
    books.latency.extend([1_000_000] * 99)
    report = RunReport("flights", "d", "running", 2.5, {"b": NodeReport("b", Histogram(), "running", 5)})
    report.edges[EDGE] = EdgeReport(EDGE, "inproc", books)
    report.paths.append(PathReport(("a", "b"), None, Histogram(), 5, 1))
    return report


def send_through(telemetry: Telemetry, hops: int) -> None:
    (instrument,) = telemetry.instruments
    trace: TraceContext | None = instrument.start("a")
    for number in range(hops):
        envelope = Envelope(b"", trace=trace, sent_ns=10 * number)
        trace = instrument.hop(f"n{number}", f"e{number}", envelope, 10 * number + 5, 10 * number + 9, None)


def test_the_spans_of_one_message_arrive_as_one_chain(receiver: Receiver) -> None:
    telemetry = open_telemetry("flights", report_of, trace_ratio=1.0, otlp=True, endpoint=receiver.url)
    send_through(telemetry, 3)
    send_through(telemetry, 3)
    telemetry.close()
    chains: dict[bytes, list[Span]] = defaultdict(list)
    for span in receiver.spans:
        chains[span.trace_id].append(span)
    assert len(chains) == 2
    for spans in chains.values():
        by_name = {span.name: span for span in spans}
        chain = [by_name[name] for name in ("start a", "process n0", "process n1", "process n2")]
        assert len(spans) == 4
        assert chain[0].parent_span_id == b""
        for number in (1, 2, 3):
            assert chain[number].parent_span_id == chain[number - 1].span_id
            assert chain[number].end_time_unix_nano - chain[number].start_time_unix_nano == 4


def test_the_values_of_the_report_arrive(receiver: Receiver) -> None:
    telemetry = open_telemetry("flights", report_of, trace_ratio=0, otlp=True, endpoint=receiver.url)
    assert telemetry.instruments == ()
    telemetry.close()
    values = receiver.values
    assert values["flowbridge.edge.sent"] == {(EDGE, "inproc"): 9}
    assert values["flowbridge.edge.dropped"] == {(EDGE, "inproc", "latest"): 3}
    assert values["flowbridge.edge.missed"][EDGE, "inproc", "queued"] == 2
    assert values["flowbridge.edge.in_flight"] == {(EDGE, "inproc"): 1}
    assert values["flowbridge.node.state"] == {("b", "running"): 1}
    assert values["flowbridge.path.missed"] == {("a->b",): 1}
    latency = values["flowbridge.edge.latency.quantile"]
    assert set(latency) == {(EDGE, "inproc", quantile) for quantile in ("0.5", "0.95", "0.99")}
    assert latency[EDGE, "inproc", "0.5"] == pytest.approx(0.001, rel=0.032)
    assert "flowbridge.node.latency.quantile" not in values  # nothing was recorded
    assert receiver.traces == []


def test_counters_are_cumulative_and_monotonic(receiver: Receiver) -> None:
    open_telemetry("flights", report_of, trace_ratio=0, otlp=True, endpoint=receiver.url).close()
    (resource,) = receiver.metrics[-1].resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "flowbridge"
    (sent,) = (metric for metric in scope.metrics if metric.name == "flowbridge.edge.sent")
    assert sent.unit == "{message}"
    assert sent.sum.is_monotonic
    assert sent.sum.aggregation_temporality == 2


def test_the_last_values_are_those_of_the_moment_of_close(receiver: Receiver) -> None:
    report = report_of()

    async def run() -> None:
        telemetry = open_telemetry("flights", lambda: report, trace_ratio=0, otlp=True, endpoint=receiver.url)
        report.edges[EDGE].books.sent = 41
        telemetry.close()  # on the loop's own thread: nobody could answer the exporter's thread
        report.edges[EDGE].books.sent = 42

    asyncio.run(run())
    assert receiver.values["flowbridge.edge.sent"] == {(EDGE, "inproc"): 41}


def test_a_collection_reads_the_report_on_the_loop(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    threads: set[int] = set()
    read = threading.Event()

    def report() -> RunReport:
        threads.add(threading.get_ident())
        read.set()
        return report_of()

    async def run() -> None:
        telemetry = open_telemetry("flights", report, trace_ratio=0, otlp=True, endpoint=receiver.url)
        await asyncio.to_thread(read.wait)  # the exporter's own thread collects while the loop runs
        await asyncio.to_thread(telemetry.close)

    asyncio.run(run())
    assert threads == {threading.get_ident()}
    assert receiver.values["flowbridge.edge.sent"] == {(EDGE, "inproc"): 9}


def test_the_environment_names_endpoint_service_and_resource(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{receiver.url}/base")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "airport")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    telemetry = open_telemetry("flights", report_of, trace_ratio=1, otlp=True)
    send_through(telemetry, 1)
    telemetry.close()
    assert set(receiver.paths) == {"/base/v1/traces", "/base/v1/metrics"}
    assert receiver.resource["service.name"] == "airport"
    assert receiver.resource["deployment.environment.name"] == "test"


def test_without_a_name_in_the_environment_the_service_is_the_flow(receiver: Receiver) -> None:
    open_telemetry("flights", report_of, trace_ratio=0, otlp=True, endpoint=receiver.url + "/").close()
    assert receiver.resource["service.name"] == "flights"


def test_the_sampler_of_the_environment_does_not_overrule_the_ratio(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    telemetry = open_telemetry("flights", report_of, trace_ratio=1, otlp=True, endpoint=receiver.url)
    send_through(telemetry, 1)
    telemetry.close()
    assert len(receiver.spans) == 2


def test_close_gives_up_on_an_endpoint_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    arrived, leave = threading.Event(), threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.set()
            leave.wait()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        telemetry = open_telemetry("flights", report_of, trace_ratio=1, otlp=True, endpoint=url)
        send_through(telemetry, 1)
        telemetry.close(timeout_ns=1_000_000)
        telemetry.close()  # idempotent
        assert any("not everything was exported within 0.001 s" in r.getMessage() for r in caplog.records)
    finally:
        leave.set()
        for worker in threading.enumerate():
            if worker.name.startswith(("flowbridge-otel", "Otel")):
                worker.join()
        server.shutdown()
        thread.join()
        server.server_close()


def test_without_otlp_and_without_an_application_nothing_is_traced() -> None:
    telemetry = open_telemetry("flights", report_of, trace_ratio=1, otlp=False)
    (instrument,) = telemetry.instruments
    assert instrument.start("a") is None
    telemetry.close()


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(LocalProtocolError, match="not between 0 and 1"):
        open_telemetry("flights", report_of, trace_ratio=ratio, otlp=False)


def test_an_endpoint_that_is_no_address_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="'localhost:4318' does not begin with http://"):
        open_telemetry("flights", report_of, trace_ratio=0, otlp=True, endpoint="localhost:4318")


def test_without_the_exporter_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trace_exporter", "metric_exporter"):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.http.{name}", None)
    with pytest.raises(MissingExtraError, match=r"flowbridge\[otel\]"):
        open_telemetry("flights", report_of, trace_ratio=0, otlp=True)


_IN_AN_APPLICATION: Final = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

from flowbridge.report import RunReport
from flowbridge.telemetry.otel import open_telemetry

telemetry = open_telemetry("f", lambda: RunReport("f", "d", "running", 1.5), trace_ratio=1, otlp=False)
with provider.get_tracer("application").start_as_current_span("request"):
    assert telemetry.instruments[0].start("a") is not None
start, request = spans.get_finished_spans()
assert start.name == "start a" and start.parent is None, start
names = {m.name for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics}
assert names == {"flowbridge.run.status", "flowbridge.run.duration"}, names
telemetry.close()
after = reader.get_metrics_data()
assert after is None or not after.resource_metrics, after
with provider.get_tracer("application").start_as_current_span("later"):
    pass
assert len(spans.get_finished_spans()) == 3  # the application's provider was left open
"""


def test_without_otlp_the_providers_of_the_application_are_used() -> None:
    done = subprocess.run([sys.executable, "-c", _IN_AN_APPLICATION], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
