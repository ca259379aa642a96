"""The Prometheus collector, read back with Prometheus's own parser."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowbridge.errors import MissingExtraError
from flowbridge.report import EdgeReport, NodeReport, RunReport
from flowbridge.telemetry.names import METRICS
from flowbridge.telemetry.prometheus import registry_of
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks

EDGE = 'a"b\\/out->c/in'


def sample_report() -> RunReport:
    books = EdgeBooks(sent=10, delivered=6, expired=1, in_flight=2, dropped={"latest": 1})
    books.latency.extend([900, 3_000_000, 3_000_000, 2 * 10**9, 90 * 10**9])
    report = RunReport("flights", "d", "running", 1.5, {"c": NodeReport("c", Histogram(), "running", 6)})
    report.edges[EDGE] = EdgeReport(EDGE, "inproc", books)
    return report


def scrape(report: RunReport) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry_of(lambda: report)).decode()
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return samples


def test_counts_arrive_under_their_labels() -> None:
    samples = scrape(sample_report())
    edge = {("flow", "flights"), ("edge", EDGE), ("tier", "inproc")}
    assert samples["flowbridge_edge_sent_total", frozenset(edge)] == 10
    assert samples["flowbridge_edge_dropped_total", frozenset(edge | {("policy", "latest")})] == 1
    assert samples["flowbridge_edge_missed_total", frozenset(edge | {("stage", "queued")})] == 0
    assert samples["flowbridge_edge_in_flight", frozenset(edge)] == 2
    assert samples["flowbridge_node_processed_total", frozenset({("flow", "flights"), ("node", "c")})] == 6
    state = frozenset({("flow", "flights"), ("node", "c"), ("state", "running")})
    assert samples["flowbridge_node_state", state] == 1


def test_a_histogram_is_cumulative_and_complete() -> None:
    samples = scrape(sample_report())
    edge = {("flow", "flights"), ("edge", EDGE), ("tier", "inproc")}
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in samples.items()
        if name.endswith("edge_latency_seconds_bucket")
    }
    assert buckets["1e-06"] == 1
    assert buckets["0.0025"] == 1
    assert buckets["0.005"] == 3
    assert buckets["2.5"] == 4
    assert buckets["60.0"] == 4
    assert buckets["+Inf"] == 5
    assert len(buckets) == 25
    assert samples["flowbridge_edge_latency_seconds_count", frozenset(edge)] == 5
    assert samples["flowbridge_edge_latency_seconds_sum", frozenset(edge)] == pytest.approx(92.0060009)


def test_every_family_is_announced_even_when_it_has_no_values() -> None:
    text = generate_latest(registry_of(lambda: RunReport("f", "d", "running", 0.0))).decode()
    for metric in METRICS:
        assert f"# TYPE {metric.prometheus} {metric.kind}" in text


def test_making_a_registry_reads_no_report() -> None:
    def report() -> RunReport:
        raise AssertionError("read too early")

    registry_of(report)


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "flowbridge.telemetry.prometheus")
    with pytest.raises(MissingExtraError, match=r"flowbridge\[otel\]"):
        importlib.import_module("flowbridge.telemetry.prometheus")


def test_the_names_and_the_package_load_no_library() -> None:
    code = (
        "import sys, flowbridge.telemetry, flowbridge.telemetry.names, flowbridge.telemetry.log,"
        " flowbridge.telemetry.tracecontext, flowbridge.telemetry.snapshot;"
        "sys.exit(any(name.split('.')[0] in ('opentelemetry', 'prometheus_client') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
