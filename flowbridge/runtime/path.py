"""The books of whole paths: how long messages took from their start to the last node, and how many were late."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from flowbridge.limits import PATHS_MAX
from flowbridge.report import PathReport
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.envelope import Envelope, Trail

_OTHERS = ("(others)",)


class PathBook:
    """Every way that messages ended, by trail."""

    def __init__(
        self, deadlines_ns: Mapping[str, int | None], tightened_ns: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        self._deadlines_ns = deadlines_ns  # of messages that start at a node
        self._tightened_ns = tightened_ns or {}  # of routes between two nodes
        self._by_trail: dict[Trail, PathReport] = {}
        self._others = PathReport(_OTHERS, None, Histogram())

    def of(self, trail: Trail) -> PathReport:
        """The report of one trail; beyond `PATHS_MAX` trails, the one that counts all others."""
        report = self._by_trail.get(trail)
        if report is None:
            if len(self._by_trail) >= PATHS_MAX:
                return self._others
            nodes = trail.nodes
            report = PathReport(nodes, self._tightest_ns(nodes), Histogram())
            self._by_trail[trail] = report
        return report

    def _tightest_ns(self, nodes: tuple[str, ...]) -> int | None:
        """The smallest deadline that holds anywhere on a path."""
        start_ns = self._deadlines_ns.get(nodes[0])
        found = [] if start_ns is None else [start_ns]
        found += [self._tightened_ns[hop] for hop in pairwise(nodes) if hop in self._tightened_ns]
        return min(found, default=None)

    def ended(self, envelopes: Sequence[Envelope], ended_ns: Sequence[int]) -> None:
        """Messages reached a node that sends nothing on, each at its time."""
        trail: Trail | None = None
        report: PathReport | None = None
        for envelope, now_ns in zip(envelopes, ended_ns, strict=True):
            if envelope.trail is None:
                continue
            if envelope.trail is not trail or report is None:
                if report is not None:
                    report.latency.settle()
                trail = envelope.trail
                report = self.of(trail)
            report.delivered += 1
            report.latency.pending.append(now_ns - envelope.origin_ns)
            if now_ns >= envelope.deadline_ns:
                report.missed += 1
        if report is not None:
            report.latency.settle()

    def lost(self, envelope: Envelope) -> None:
        """A message was given up on the way because it was late."""
        if envelope.trail is not None:
            self.of(envelope.trail).missed += 1

    def reports(self) -> list[PathReport]:
        """Every path met so far, in the order it was first met."""
        found = list(self._by_trail.values())
        return [*found, self._others] if self._others.delivered or self._others.missed else found
