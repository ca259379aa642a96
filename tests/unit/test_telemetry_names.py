"""The table of names, its page, and that every metric in it can be read."""

from __future__ import annotations

import re
from pathlib import Path

from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport
from flowbridge.telemetry import names
from flowbridge.telemetry.names import ATTRIBUTES, METRICS, PREFIX, SPANS
from flowbridge.telemetry.names_page import page
from flowbridge.telemetry.readings import histograms, scalars
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks

ROOT = Path(__file__).parents[2]


def test_the_reference_page_is_what_the_table_says() -> None:
    assert (ROOT / "docs/reference/metrics.md").read_text() == page()


def test_no_name_comes_twice() -> None:
    for table in (METRICS, ATTRIBUTES, SPANS):
        found = [entry.name for entry in table]
        assert len(set(found)) == len(found)
    assert len({metric.prometheus for metric in METRICS}) == len(METRICS)


def test_every_label_and_every_attribute_of_a_span_is_described() -> None:
    described = {attribute.name for attribute in ATTRIBUTES}
    for metric in METRICS:
        assert {PREFIX + label for label in metric.labels} <= described
        assert {PREFIX + label for label in metric.quantile.labels} <= described
    for span in SPANS:
        assert set(span.attributes) <= described


def test_prometheus_names_follow_its_conventions() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"flowbridge_[a-z_]+", metric.prometheus)
        assert metric.prometheus.endswith("_total") == (metric.kind == "counter")
        assert metric.prometheus.endswith("_seconds") == (metric.unit == "s")
        assert metric.text.endswith(".")


def test_every_metric_is_read_from_its_field() -> None:
    books = EdgeBooks(sent=1, delivered=2, expired=3, refused=4, in_flight=5, dropped={"latest": 6})
    books.missed.late, books.missed.transport, books.missed.queued, books.missed.executing = 7, 8, 9, 10
    books.late_wakes, books.without_ring = 17, 18
    report = RunReport("f", "d", "running", 11.5)
    report.nodes["n"] = NodeReport("n", Histogram(), "draining", 12, 13, 14)
    report.edges["a/out->n/in"] = EdgeReport("a/out->n/in", "inproc", books)
    report.paths.append(PathReport(("a", "n"), None, Histogram(), 15, 16))
    found = {(m.name, *labels[1:]): v for m in METRICS if m.kind != "histogram" for labels, v in scalars(m, report)}
    edge = ("a/out->n/in", "inproc")
    assert found == {
        (names.RUN_STATUS.name, "running"): 1,
        (names.RUN_DURATION.name,): 11.5,
        (names.EDGE_SENT.name, *edge): 1,
        (names.EDGE_DELIVERED.name, *edge): 2,
        (names.EDGE_EXPIRED.name, *edge): 3,
        (names.EDGE_REFUSED.name, *edge): 4,
        (names.EDGE_IN_FLIGHT.name, *edge): 5,
        (names.EDGE_DROPPED.name, *edge, "latest"): 6,
        (names.EDGE_MISSED.name, *edge, "late"): 7,
        (names.EDGE_MISSED.name, *edge, "transport"): 8,
        (names.EDGE_MISSED.name, *edge, "queued"): 9,
        (names.EDGE_MISSED.name, *edge, "executing"): 10,
        (names.EDGE_LATE_WAKES.name, *edge): 17,
        (names.EDGE_WITHOUT_RING.name, *edge): 18,
        (names.NODE_STATE.name, "n", "draining"): 1,
        (names.NODE_PROCESSED.name, "n"): 12,
        (names.NODE_ERRORS.name, "n"): 13,
        (names.NODE_RESTARTS.name, "n"): 14,
        (names.PATH_DELIVERED.name, "a->n"): 15,
        (names.PATH_MISSED.name, "a->n"): 16,
    }
    read = {m.name: list(histograms(m, report)) for m in METRICS if m.kind == "histogram"}
    assert read == {
        names.EDGE_LATENCY.name: [(("f", *edge), books.latency)],
        names.NODE_LATENCY.name: [(("f", "n"), report.nodes["n"].latency)],
        names.PATH_LATENCY.name: [(("f", "a->n"), report.paths[0].latency)],
    }


def test_every_reading_has_as_many_labels_as_the_metric_names() -> None:
    report = RunReport("f", "d", "done", 1.0, {"n": NodeReport("n", Histogram())})
    report.edges["e"] = EdgeReport("e", "inproc", EdgeBooks(dropped={"abort": 1}))
    report.paths.append(PathReport(("n",), None, Histogram()))
    for metric in METRICS:
        rows = histograms(metric, report) if metric.kind == "histogram" else scalars(metric, report)
        counts = [len(labels) for labels, _ in rows]
        assert counts
        assert set(counts) == {len(metric.labels)}
