"""What a person reads when a run has ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.text import Text

from flowbridge.cli import output
from flowbridge.cli.run_view import alarming, percentiles
from flowbridge.cli.table import print_rest, print_table, table
from flowbridge.cli.units import duration_text, rate_text, size_text
from flowbridge.codec.terminal_text import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from flowbridge.plan import Plan
    from flowbridge.report import EdgeReport, PathReport, RunReport

ROWS_MAX: Final = 40
_STYLE: Final = {"done": "bold green", "failed": "bold red", "interrupted": "bold yellow"}


def print_summary(plan: Plan, report: RunReport, stream: TextIO) -> None:
    """Status and time, nodes, edges, losses, paths, files, errors."""
    console = output.console(stream)
    head = Text.assemble((report.flow, "bold"), ": ", (report.status, _STYLE.get(report.status, "bold")))
    head.append(f" after {duration_text(report.duration_s * 1e9)}" if report.nodes else " before it had started")
    console.print(head)
    _print_nodes(console, report)
    _print_edges(console, report)
    _print_losses(console, report)
    _print_paths(console, report)
    if report.errors:
        console.print()
    for text in _files(plan, report):
        console.print(Text(text))
    for error in report.errors:
        console.print(Text.assemble(("error: ", "bold red"), harmless(error)))


def _print_nodes(console: Console, report: RunReport) -> None:
    nodes = [*report.nodes.values()]
    places = ("process",) if any(node.process for node in nodes) else ()
    counts = (">messages", ">per second", ">errors", ">restarts", ">p50", ">p95", ">p99")
    rows = table("Nodes", "node", *places, "state", *counts)
    # The nodes in trouble must not be the ones that are left out.
    first = sorted(range(len(nodes)), key=lambda i: (nodes[i].error is None and not nodes[i].errors, i))[:ROWS_MAX]
    for node in (nodes[i] for i in sorted(first)):
        rows.add_row(
            Text(node.node),
            *([Text(node.process or "-")] if places else []),
            Text(node.state, "red" if node.state == "failed" else ""),
            f"{node.processed:,}",
            _rate(node.processed, report.duration_s),
            alarming(node.errors),
            alarming(node.restarts),
            *percentiles(node.latency),
        )
    if nodes:
        print_table(console, rows)
        print_rest(console, len(nodes), ROWS_MAX, "node")


def _print_edges(console: Console, report: RunReport) -> None:
    edges = [*report.edges.values()]
    titles = ("tier", ">sent", ">delivered", ">dropped", ">expired", ">refused", ">in flight", ">missed")
    rows = table("Edges", "edge", *titles, ">p50", ">p95", ">p99")
    first = sorted(range(len(edges)), key=lambda i: (not _has_losses(edges[i]), i))[:ROWS_MAX]
    for edge in (edges[i] for i in sorted(first)):
        books = edge.books
        rows.add_row(
            Text(edge.edge),
            edge.tier,
            f"{books.sent:,}",
            f"{books.delivered:,}",
            *map(alarming, (books.dropped_total, books.expired, books.refused, books.in_flight, books.missed.total)),
            *percentiles(books.latency),
        )
    if edges:
        print_table(console, rows)
        print_rest(console, len(edges), ROWS_MAX, "edge")
    for edge in edges:
        if not edge.books.balances:
            console.print(Text(f"{edge.edge}: the books do not balance; please report this", "bold red"))


def _has_losses(edge: EdgeReport) -> bool:
    books = edge.books
    return bool(books.dropped_total or books.expired or books.refused or books.missed.total or not books.balances)


def _print_losses(console: Console, report: RunReport) -> None:
    """Misses by stage and drops by policy, over all edges."""
    missed = {"late": 0, "transport": 0, "queued": 0, "executing": 0}
    dropped: dict[str, int] = {}
    for edge in report.edges.values():
        for stage in missed:
            missed[stage] += int(getattr(edge.books.missed, stage))
        for policy, count in edge.books.dropped.items():
            dropped[policy] = dropped.get(policy, 0) + count
    if any(missed.values()) or dropped:
        console.print()
    for title, counts in (("Deadlines missed", missed), ("Dropped", dropped)):
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        if parts:
            by = "stage" if counts is missed else "policy"
            console.print(Text(f"{title}: {sum(counts.values()):,}, by {by}: {', '.join(parts)}"))


def _print_paths(console: Console, report: RunReport) -> None:
    rows = table("Paths", "path", ">deadline", ">delivered", ">missed", ">share", ">p50", ">p95", ">p99")
    for path in sorted(report.paths, key=lambda path: -path.missed)[:ROWS_MAX]:
        rows.add_row(
            Text(" \u2192 ".join(path.nodes)),
            duration_text(path.deadline_ns),
            f"{path.delivered:,}",
            alarming(path.missed),
            _share(path),
            *percentiles(path.latency),
        )
    if report.paths:
        print_table(console, rows)
        print_rest(console, len(report.paths), ROWS_MAX, "path")


def _share(path: PathReport) -> str:
    """Missed of all that should have arrived; a late arrival counts as missed and as delivered."""
    total = max(path.delivered, path.missed)
    return f"{100 * path.missed / total:.2f} %" if total and path.deadline_ns is not None else "-"


def _files(plan: Plan, report: RunReport) -> Iterator[str]:
    """Where the nodes that only receive have written on this machine, as far as their `path` says so.

    A node that did not come to its end has left what was there before.
    """
    for manifest in plan.manifests:
        path: Any = manifest.config.get("path")
        if not manifest.inputs or manifest.outputs or not isinstance(path, str) or manifest.place.host is not None:
            continue
        if manifest.node not in report.nodes or report.nodes[manifest.node].state != "done":
            continue
        whole = os.path.join(plan.base_dir, path)
        if os.path.isfile(whole):
            yield f"{manifest.node} wrote {os.path.relpath(whole)} ({size_text(os.path.getsize(whole))})"


def _rate(count: int, duration_s: float) -> str:
    return rate_text(count / duration_s) if duration_s > 0 else "-"
