"""Turns a report into values by metric: the one place that says which field is which metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport
    from flowbridge.telemetry.names import Metric
    from flowbridge.time.histogram import Histogram
    from flowbridge.time.ledger import EdgeBooks

    Labels = tuple[str, ...]

_EDGE_COUNTS: dict[Metric, Callable[[EdgeBooks], int]] = {
    names.EDGE_SENT: lambda books: books.sent,
    names.EDGE_DELIVERED: lambda books: books.delivered,
    names.EDGE_EXPIRED: lambda books: books.expired,
    names.EDGE_REFUSED: lambda books: books.refused,
    names.EDGE_IN_FLIGHT: lambda books: books.in_flight,
    names.EDGE_LATE_WAKES: lambda books: books.late_wakes,
    names.EDGE_WITHOUT_RING: lambda books: books.without_ring,
}
_EDGE_SPLITS: dict[Metric, Callable[[EdgeBooks], dict[str, int]]] = {
    names.EDGE_DROPPED: lambda books: books.dropped,
    names.EDGE_MISSED: lambda books: {
        "late": books.missed.late,
        "transport": books.missed.transport,
        "queued": books.missed.queued,
        "executing": books.missed.executing,
    },
}
_NODE_COUNTS: dict[Metric, Callable[[NodeReport], int]] = {
    names.NODE_PROCESSED: lambda node: node.processed,
    names.NODE_ERRORS: lambda node: node.errors,
    names.NODE_RESTARTS: lambda node: node.restarts,
}
_PATH_COUNTS: dict[Metric, Callable[[PathReport], int]] = {
    names.PATH_DELIVERED: lambda path: path.delivered,
    names.PATH_MISSED: lambda path: path.missed,
}


def scalars(metric: Metric, report: RunReport) -> Iterator[tuple[Labels, float]]:
    """The values of one counter or gauge, each with the values of `metric.labels` in their order."""
    flow = report.flow
    if metric in _EDGE_COUNTS:
        count_of = _EDGE_COUNTS[metric]
        for edge in report.edges.values():
            yield _edge_labels(flow, edge), count_of(edge.books)
    elif metric in _EDGE_SPLITS:
        split = _EDGE_SPLITS[metric]
        for edge in report.edges.values():
            for word, count in split(edge.books).items():
                yield (*_edge_labels(flow, edge), word), count
    elif metric in _NODE_COUNTS:
        for node in report.nodes.values():
            yield (flow, node.node), _NODE_COUNTS[metric](node)
    elif metric in _PATH_COUNTS:
        for path in report.paths:
            yield (flow, path_label(path)), _PATH_COUNTS[metric](path)
    else:
        yield from _states(metric, report)


def _states(metric: Metric, report: RunReport) -> Iterator[tuple[Labels, float]]:
    if metric == names.NODE_STATE:
        for node in report.nodes.values():
            yield (report.flow, node.node, node.state), 1
    elif metric == names.RUN_STATUS:
        yield (report.flow, report.status), 1
    elif metric == names.RUN_DURATION:
        yield (report.flow,), report.duration_s
    else:
        raise KeyError(metric.name)


def histograms(metric: Metric, report: RunReport) -> Iterator[tuple[Labels, Histogram]]:
    """The values of one histogram metric, in nanoseconds, with their labels."""
    if metric == names.EDGE_LATENCY:
        for edge in report.edges.values():
            yield _edge_labels(report.flow, edge), edge.books.latency
    elif metric == names.NODE_LATENCY:
        for node in report.nodes.values():
            yield (report.flow, node.node), node.latency
    elif metric == names.PATH_LATENCY:
        for path in report.paths:
            yield (report.flow, path_label(path)), path.latency
    else:
        raise KeyError(metric.name)


def path_label(path: PathReport) -> str:
    """``a->b->c``."""
    return "->".join(path.nodes)


def _edge_labels(flow: str, edge: EdgeReport) -> Labels:
    return (flow, edge.edge, edge.tier)
