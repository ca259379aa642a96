"""Every name that flowbridge shows to the outside, once.

The messaging conventions of OpenTelemetry are still in Development, so spans and metrics keep names of their own under
``flowbridge.``; of the foreign attributes only stable ones are used. A Prometheus name follows from the OpenTelemetry
name by the rules both projects share, so a collector between them changes nothing. The page
``docs/reference/metrics.md`` is written from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "flowbridge."
_UNIT_WORD: Final = {"s": "_seconds", "By": "_bytes"}

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `labels` are label names in Prometheus and, with ``flowbridge.`` before them, attributes."""

    name: str
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    text: str

    @property
    def prometheus(self) -> str:
        """The name in Prometheus: ``flowbridge_edge_sent_total`` for ``flowbridge.edge.sent``."""
        name = self.name.replace(".", "_") + _UNIT_WORD.get(self.unit, "")
        return name + "_total" if self.kind == "counter" else name

    @property
    def quantile(self) -> Metric:
        """What OpenTelemetry gets in place of a histogram: it has no observable one."""
        labels = (*self.labels, "quantile")
        return Metric(
            f"{self.name}.quantile", "gauge", self.unit, labels, f"{self.text} (p50, p95, p99 since the start)"
        )


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of spans, of metrics or of the resource."""

    name: str
    type: str
    unit: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span; `name` shows in angle brackets what is filled in."""

    name: str
    kind: str
    attributes: tuple[str, ...]
    text: str


_EDGE: Final = ("flow", "edge", "tier")
_NODE: Final = ("flow", "node")
_PATH: Final = ("flow", "path")

RUN_STATUS: Final = Metric(
    "flowbridge.run.status", "gauge", "", ("flow", "status"), "1 for the status the run has now."
)
RUN_DURATION: Final = Metric("flowbridge.run.duration", "gauge", "s", ("flow",), "Time since the run began.")

EDGE_SENT: Final = Metric("flowbridge.edge.sent", "counter", "{message}", _EDGE, "Messages offered to the edge.")
EDGE_DELIVERED: Final = Metric(
    "flowbridge.edge.delivered", "counter", "{message}", _EDGE, "Messages handed to the consumer."
)
EDGE_DROPPED: Final = Metric(
    "flowbridge.edge.dropped",
    "counter",
    "{message}",
    (*_EDGE, "policy"),
    "Messages dropped, by the policy that dropped them; no series before the first drop.",
)
EDGE_EXPIRED: Final = Metric(
    "flowbridge.edge.expired", "counter", "{message}", _EDGE, "Messages given up because their deadline had passed."
)
EDGE_REFUSED: Final = Metric(
    "flowbridge.edge.refused", "counter", "{message}", _EDGE, "Messages the edge did not accept (policy error)."
)
EDGE_MISSED: Final = Metric(
    "flowbridge.edge.missed",
    "counter",
    "{message}",
    (*_EDGE, "stage"),
    "Deadlines missed, by where the time went; also counts messages that were delivered and finished late.",
)
EDGE_LATE_WAKES: Final = Metric(
    "flowbridge.edge.late_wakes",
    "counter",
    "{wake}",
    _EDGE,
    "Wake-ups of an end of a ring that never came, so that it found what was there by itself, a little later.",
)
EDGE_WITHOUT_RING: Final = Metric(
    "flowbridge.edge.without_ring",
    "counter",
    "{connection}",
    _EDGE,
    "Connections of the tier ipc made over a socket alone, for want of shared memory or the native module.",
)
EDGE_IN_FLIGHT: Final = Metric(
    "flowbridge.edge.in_flight", "gauge", "{message}", _EDGE, "Messages accepted and not yet ended."
)
EDGE_LATENCY: Final = Metric("flowbridge.edge.latency", "histogram", "s", _EDGE, "Time from sent to dispatched.")

NODE_STATE: Final = Metric("flowbridge.node.state", "gauge", "", (*_NODE, "state"), "1 for the state the node has now.")
NODE_PROCESSED: Final = Metric("flowbridge.node.processed", "counter", "{message}", _NODE, "Messages handled.")
NODE_ERRORS: Final = Metric("flowbridge.node.errors", "counter", "{error}", _NODE, "Calls of the operator that failed.")
NODE_RESTARTS: Final = Metric(
    "flowbridge.node.restarts", "counter", "{restart}", _NODE, "Times the node started again."
)
NODE_LATENCY: Final = Metric("flowbridge.node.latency", "histogram", "s", _NODE, "Time of one call of the operator.")

PATH_DELIVERED: Final = Metric(
    "flowbridge.path.delivered", "counter", "{message}", _PATH, "Messages that came all the way."
)
PATH_MISSED: Final = Metric(
    "flowbridge.path.missed", "counter", "{message}", _PATH, "Messages that ended on this path late."
)
PATH_LATENCY: Final = Metric(
    "flowbridge.path.latency", "histogram", "s", _PATH, "Time from the first send to the last return."
)

METRICS: Final = (
    *(RUN_STATUS, RUN_DURATION),
    *(EDGE_SENT, EDGE_DELIVERED, EDGE_DROPPED, EDGE_EXPIRED, EDGE_REFUSED, EDGE_MISSED, EDGE_IN_FLIGHT, EDGE_LATENCY),
    *(EDGE_LATE_WAKES, EDGE_WITHOUT_RING),
    *(NODE_STATE, NODE_PROCESSED, NODE_ERRORS, NODE_RESTARTS, NODE_LATENCY),
    *(PATH_DELIVERED, PATH_MISSED, PATH_LATENCY),
)

FLOW: Final = Attribute("flowbridge.flow", "string", "", "Name of the flow.")
NODE: Final = Attribute("flowbridge.node", "string", "", "Id of the node.")
EDGE: Final = Attribute("flowbridge.edge", "string", "", "Id of the route, such as `a/out->b/in`.")
PRIORITY: Final = Attribute("flowbridge.priority", "string", "", "`realtime`, `high`, `normal` or `best-effort`.")
MESSAGE_SEQ: Final = Attribute(
    "flowbridge.message.seq", "int", "{message}", "Number of the message on its route, from 0."
)
MESSAGE_SIZE: Final = Attribute("flowbridge.message.size", "int", "By", "What the message costs in byte credit.")
QUEUE_TIME: Final = Attribute("flowbridge.queue.time", "double", "s", "Time from sent to the start of the call.")
DEADLINE_REMAINING: Final = Attribute(
    "flowbridge.deadline.remaining",
    "double",
    "s",
    "Time left at the end of the call, negative when the deadline was missed; absent without a deadline.",
)
ERROR_TYPE: Final = Attribute("error.type", "string", "", "Type of the exception; absent without one.")
SERVICE_NAME: Final = Attribute(
    "service.name", "string", "", "Of the resource: `OTEL_SERVICE_NAME`, else the name of the flow."
)

ATTRIBUTES: Final = (
    *(FLOW, NODE, EDGE, PRIORITY, MESSAGE_SEQ, MESSAGE_SIZE, QUEUE_TIME, DEADLINE_REMAINING),
    Attribute("flowbridge.tier", "string", "", "How the two nodes are joined, such as `inproc`."),
    Attribute("flowbridge.path", "string", "", "The nodes of a path, such as `a->b->c`."),
    Attribute(
        "flowbridge.policy", "string", "", "`drop_oldest`, `drop_newest`, `latest`, or `abort` for a queue cut off."
    ),
    Attribute("flowbridge.stage", "string", "", "`late` (when offered), `transport`, `queued` or `executing`."),
    Attribute("flowbridge.state", "string", "", "State of a node, such as `running` or `failed`."),
    Attribute("flowbridge.status", "string", "", "`running`, `done`, `failed` or `interrupted`."),
    Attribute("flowbridge.quantile", "string", "", "`0.5`, `0.95` or `0.99`."),
    *(ERROR_TYPE, SERVICE_NAME),
)

SPANS: Final = (
    Span("start <node>", "PRODUCER", (FLOW.name, NODE.name), "A sampled message starts at a source; it has no length."),
    Span(
        "process <node>",
        "CONSUMER",
        (
            *(FLOW.name, NODE.name, EDGE.name, PRIORITY.name, MESSAGE_SEQ.name, MESSAGE_SIZE.name),
            *(QUEUE_TIME.name, DEADLINE_REMAINING.name, ERROR_TYPE.name),
        ),
        "One call of the operator for a sampled message; its parent is the call that sent the message.",
    ),
)
