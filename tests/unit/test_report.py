"""The document of `run --json`."""

from __future__ import annotations

import json

import pytest

from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport, latency_us
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks, Missed

NO_LATENCY = {"p50": None, "p95": None, "p99": None, "max": None}


def histogram(*values: int) -> Histogram:
    found = Histogram()
    found.extend(values)
    return found


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((0,), {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}),
        ((1234,), {"p50": 1.2, "p95": 1.2, "p99": 1.2, "max": 1.2}),
        ((1_000,) * 98 + (5_000_000,) * 2, {"p50": 1.0, "p95": 1.0, "p99": 5000.0, "max": 5000.0}),
    ],
)
def test_latencies_are_in_microseconds(values: tuple[int, ...], wanted: dict[str, float]) -> None:
    found = latency_us(histogram(*values))
    assert list(found) == list(wanted)
    assert found == pytest.approx(wanted, rel=0.033)


def test_a_run_is_one_document_of_plain_values() -> None:
    books = EdgeBooks(sent=9, delivered=3, expired=2, refused=1, in_flight=1, missed=Missed(1, 2, 3, 4))
    books.gaps, books.redelivered, books.repeated = 1, 2, 3
    books.drop("latest", 2)
    books.latency.record(2_000)
    report = RunReport("flights", "sha256:1", "failed", 1.23456789, errors=["f.yaml:1:2: node b: no"])
    report.nodes["b"] = NodeReport("b", histogram(1_000), "failed", 5, 1, 2, 3, "f.yaml:1:2: node b: no", "decode")
    report.edges["a/out->b/in"] = EdgeReport("a/out->b/in", "inproc", books)
    report.paths.append(PathReport(("a", "b"), 500, histogram(3_000), 4, 1))
    found = report.to_json()
    assert json.loads(json.dumps(found)) == {
        "flow": "flights",
        "digest": "sha256:1",
        "status": "failed",
        "duration_s": 1.234568,
        "errors": ["f.yaml:1:2: node b: no"],
        "nodes": {
            "b": {
                "state": "failed",
                "processed": 5,
                "errors": 1,
                "restarts": 2,
                "missed": 3,
                "error": "f.yaml:1:2: node b: no",
                "process": "decode",
                "latency_us": {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0},
            }
        },
        "edges": {
            "a/out->b/in": {
                "tier": "inproc",
                "sent": 9,
                "delivered": 3,
                "dropped": {"latest": 2},
                "expired": 2,
                "refused": 1,
                "in_flight": 1,
                "missed": {"late": 1, "transport": 2, "queued": 3, "executing": 4},
                "gaps": 1,
                "redelivered": 2,
                "repeated": 3,
                "latency_us": {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0},
            }
        },
        "paths": [
            {
                "nodes": ["a", "b"],
                "deadline_ns": 500,
                "delivered": 4,
                "missed": 1,
                "latency_us": {"p50": 3.0, "p95": 3.0, "p99": 3.0, "max": 3.0},
            }
        ],
    }


def test_a_report_that_was_handed_out_does_not_change_any_more() -> None:
    books = EdgeBooks()
    report = RunReport("f", "d", "running", 0.0, edges={"e": EdgeReport("e", "inproc", books)})
    before = json.dumps(report.to_json())
    found = report.to_json()
    books.drop("latest")
    report.errors.append("x")
    assert json.dumps(found) == before


def test_a_node_that_has_done_nothing_yet_has_no_latency() -> None:
    found = NodeReport("a", Histogram()).to_json()
    assert (found["state"], found["processed"], found["error"]) == ("starting", 0, None)
    assert found["latency_us"] == NO_LATENCY
