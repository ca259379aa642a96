"""What a run has to say for itself: the document of `run --json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowbridge.time.histogram import Histogram
    from flowbridge.time.ledger import EdgeBooks


def latency_us(histogram: Histogram) -> dict[str, float | None]:
    """p50, p95, p99 and max in microseconds; None without values."""
    values = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    result: dict[str, float | None] = {}
    for name, fraction in values.items():
        value = histogram.percentile(fraction)
        result[name] = None if value is None else round(value / 1000, 1)
    result["max"] = round(histogram.max / 1000, 1) if result["p50"] is not None else None
    return result


@dataclass(slots=True)
class NodeReport:
    """One node: `latency` is the time of one call of the operator, in nanoseconds."""

    node: str
    latency: Histogram
    state: str = "starting"
    processed: int = 0
    errors: int = 0
    restarts: int = 0
    missed: int = 0  # deadlines, on every input and at every stage
    error: str | None = None
    process: str | None = None  # the name of the process it is placed in; None is the host's own

    def to_json(self) -> dict[str, Any]:
        """The value of ``nodes.<id>``."""
        return {
            "state": self.state,
            "processed": self.processed,
            "errors": self.errors,
            "restarts": self.restarts,
            "missed": self.missed,
            "error": self.error,
            "process": self.process,
            "latency_us": latency_us(self.latency),
        }


@dataclass(slots=True)
class EdgeReport:
    """One edge, by route id."""

    edge: str
    tier: str
    books: EdgeBooks

    def to_json(self) -> dict[str, Any]:
        """The value of ``edges."a/out->b/in"``."""
        books = self.books
        seldom = {"late_wakes": books.late_wakes, "without_ring": books.without_ring}
        return {
            "tier": self.tier,
            "sent": books.sent,
            "delivered": books.delivered,
            "dropped": dict(books.dropped),
            "expired": books.expired,
            "refused": books.refused,
            "in_flight": books.in_flight,
            "missed": {
                "queued": books.missed.queued,
                "transport": books.missed.transport,
                "executing": books.missed.executing,
                "late": books.missed.late,
            },
            "gaps": books.gaps,
            "redelivered": books.redelivered,
            "repeated": books.repeated,
            "latency_us": latency_us(books.latency),
            **{name: count for name, count in seldom.items() if count},
        }


@dataclass(slots=True)
class PathReport:
    """One way from a source to the last node: `latency` is first send to last return, in nanoseconds.

    `missed` counts messages that ended on this path late, wherever on it they were given up.
    """

    nodes: tuple[str, ...]
    deadline_ns: int | None
    latency: Histogram
    delivered: int = 0
    missed: int = 0

    def to_json(self) -> dict[str, Any]:
        """One element of ``paths``."""
        return {
            "nodes": list(self.nodes),
            "deadline_ns": self.deadline_ns,
            "delivered": self.delivered,
            "missed": self.missed,
            "latency_us": latency_us(self.latency),
        }


@dataclass(slots=True)
class RunReport:
    """A whole run. `status` is ``done``, ``failed``, ``interrupted`` or, while it lasts, ``running``."""

    flow: str
    digest: str
    status: str
    duration_s: float
    nodes: dict[str, NodeReport] = field(default_factory=dict[str, NodeReport])
    edges: dict[str, EdgeReport] = field(default_factory=dict[str, EdgeReport])
    paths: list[PathReport] = field(default_factory=list[PathReport])
    errors: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """The document of `run --json`."""
        return {
            "flow": self.flow,
            "digest": self.digest,
            "status": self.status,
            "duration_s": round(self.duration_s, 6),
            "errors": list(self.errors),
            "nodes": {name: node.to_json() for name, node in self.nodes.items()},
            "edges": {name: edge.to_json() for name, edge in self.edges.items()},
            "paths": [path.to_json() for path in self.paths],
        }
