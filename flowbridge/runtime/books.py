"""The books of a whole flow, put together from what each of its processes counts.

A route within one process has one account. A route between two has one at each end: the producer's end counts every
message and hears from the other how it ended; only the consumer's end knows how long it took. When the producer's
process died, its last account is out of date, and the consumer's end says what arrived; what neither knows is `lost`.
Of a route within a process that died nobody else knows anything: what its last report (`WORKER_REPORT_NS`) had in
flight is `lost`, though some of it may have been delivered since, and what was sent since is not counted at all.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from flowbridge.report import EdgeReport, NodeReport, PathReport
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks, Missed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowbridge.runtime.path import PathBook


class Role(enum.Enum):
    """Which end of a route an account is of."""

    WHOLE = "whole"  # both
    SINK = "sink"
    SOURCE = "source"


class Account:
    """What one process, and those before it of the same name, counted of one end of a route."""

    __slots__ = ("_past", "has_died", "is_live", "read")

    def __init__(self, read: Callable[[], EdgeBooks]) -> None:
        self.read = read
        self.is_live = True
        self.has_died = False
        self._past: EdgeBooks | None = None

    def total(self) -> EdgeBooks:
        """The counts of all of them; those of the only one as they are."""
        if self._past is None:
            return self.read()
        made = EdgeBooks()
        made.merge(self._past)
        made.merge(self.read())
        return made

    def end(self, *, loses: bool) -> None:
        """The process died; with `loses` what was in flight is lost, else the other end knows what became of it."""
        past = EdgeBooks()
        past.merge(self.total())
        if loses:
            past.lose()
        past.in_flight = 0
        self._past, self.has_died, self.is_live = past, True, False
        empty = EdgeBooks()
        self.read = lambda: empty

    def go_on(self, read: Callable[[], EdgeBooks]) -> None:
        """Another process, or the same with newer counts."""
        self.read, self.is_live = read, True


class EdgeAccounts:
    """One edge: its tier, and the accounts of its ends."""

    __slots__ = ("by_role", "tier")

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.by_role: dict[Role, Account] = {}

    def of(self, role: Role) -> Account:
        """The account of an end, empty at first."""
        account = self.by_role.get(role)
        if account is None:
            empty = EdgeBooks()
            account = self.by_role[role] = Account(lambda: empty)
        return account

    def books(self) -> EdgeBooks:
        """The books of the edge."""
        if Role.WHOLE in self.by_role:
            return self.by_role[Role.WHOLE].total()
        sink, source = self.of(Role.SINK), self.of(Role.SOURCE)
        if sink.has_died:
            return _without_producer(sink, source)
        sent, taken = sink.total(), source.total()
        return EdgeBooks(
            sent=sent.sent,
            delivered=sent.delivered,
            expired=sent.expired,
            refused=sent.refused,
            in_flight=sent.in_flight,
            dropped=dict(sent.dropped),
            missed=Missed(sent.missed.late, sent.missed.transport, sent.missed.queued, taken.missed.executing),
            latency=taken.latency.copy(),
            gaps=taken.gaps,
            redelivered=sent.redelivered,
            repeated=taken.repeated,
            late_wakes=sent.late_wakes + taken.late_wakes,
            without_ring=sent.without_ring,
        )


def _without_producer(sink: Account, source: Account) -> EdgeBooks:
    """The books of an edge whose producer died: what arrived is counted where it arrived."""
    sent, taken = sink.total(), source.total()
    before = sent.missed.late + sent.missed.transport
    dropped = {
        cause: max(sent.dropped.get(cause, 0), taken.dropped.get(cause, 0)) for cause in {*sent.dropped, *taken.dropped}
    }
    books = EdgeBooks(
        delivered=taken.delivered,
        expired=before + taken.expired,
        refused=sent.refused,
        in_flight=sent.in_flight if sink.is_live else taken.in_flight,
        dropped=dropped,
        missed=Missed(sent.missed.late, sent.missed.transport, taken.missed.queued, taken.missed.executing),
        latency=taken.latency.copy(),
        gaps=taken.gaps,
        redelivered=sent.redelivered,
        repeated=taken.repeated,
        late_wakes=sent.late_wakes + taken.late_wakes,
        without_ring=sent.without_ring,
    )
    known = books.delivered + books.expired + books.refused + books.in_flight + books.dropped_total
    books.sent = max(sent.sent, known)
    if books.sent > known:
        books.drop("lost", books.sent - known)
    return books


class FlowBooks:
    """Edges and paths of a flow."""

    def __init__(self, edges: Mapping[str, EdgeAccounts], paths: PathBook) -> None:
        self._edges = edges
        self._paths = paths
        self.far_paths: dict[str, list[PathReport]] = {}
        """What other processes counted, by any name that tells them apart."""

    def edges(self) -> dict[str, EdgeReport]:
        """Every edge, by route id."""
        return {edge: EdgeReport(edge, account.tier, account.books()) for edge, account in self._edges.items()}

    def paths(self) -> list[PathReport]:
        """Every path met so far."""
        near = self._paths.reports()
        return merged_paths([near, *self.far_paths.values()]) if self.far_paths else near


def merged_paths(reports: Iterable[Sequence[PathReport]]) -> list[PathReport]:
    """Paths that several processes met, each once."""
    found: dict[tuple[str, ...], PathReport] = {}
    for report in (report for some in reports for report in some):
        made = found.get(report.nodes)
        if made is None:
            made = found[report.nodes] = PathReport(report.nodes, report.deadline_ns, Histogram())
        made.delivered += report.delivered
        made.missed += report.missed
        made.latency.merge(report.latency)
    return list(found.values())


# --- what travels ---------------------------------------------------------------------------------------------------


def node_to_plain(report: NodeReport) -> list[Any]:
    """A node's report for another process."""
    return [report.state, report.processed, report.errors, report.restarts, report.error, report.latency.to_plain()]


def node_from_plain(node: str, process: str, plain: Sequence[Any]) -> NodeReport:
    """What `node_to_plain` gave. Raises: ValueError, TypeError."""
    state, processed, errors, restarts, error, latency = plain
    return NodeReport(
        node,
        Histogram.from_plain(latency),
        str(state),
        int(processed),
        int(errors),
        int(restarts),
        error=None if error is None else str(error),
        process=process,
    )


def path_to_plain(report: PathReport) -> list[Any]:
    """A path's report for another process."""
    return [list(report.nodes), report.deadline_ns, report.delivered, report.missed, report.latency.to_plain()]


def path_from_plain(plain: Sequence[Any]) -> PathReport:
    """What `path_to_plain` gave. Raises: ValueError, TypeError."""
    nodes, deadline_ns, delivered, missed, latency = plain
    return PathReport(
        tuple(map(str, nodes)),
        None if deadline_ns is None else int(deadline_ns),
        Histogram.from_plain(latency),
        int(delivered),
        int(missed),
    )
