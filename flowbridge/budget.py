"""What the declared budgets of nodes add up to along the paths of a plan, held against the deadlines there.

A deadline starts where a message starts (a source, a timer, the bus) or is sent on a route with a deadline of its own;
it covers the calls of all nodes after that place. Feedback edges end a path, and so does the bus.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowbridge.limits import PATHS_MAX
from flowbridge.plan import Plane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbridge.plan import Plan, PluginManifest, Route


@dataclass(frozen=True, slots=True)
class PathBudget:
    """One path, and the deadline on it that leaves the least slack.

    `since` is the node or route id where that deadline starts, and `declared_ns` the budgets it has to cover: so
    ``slack_ns == deadline_ns - declared_ns``. Without a deadline it is the sum of the whole path.
    """

    nodes: tuple[str, ...]
    deadline_ns: int | None
    declared_ns: int
    slack_ns: int | None
    since: str = ""


class Budgets:
    """The longest sum of budgets from every node on: one pass over the plan, however many paths there are."""

    def __init__(self, plan: Plan) -> None:
        self.manifests: Final = {manifest.node: manifest for manifest in plan.manifests}
        self._after: dict[str, list[Route]] = {node: [] for node in self.manifests}
        self._starts: dict[str, list[Route]] = {node: [] for node in self.manifests}
        self._before = dict.fromkeys(self.manifests, 0)
        for route in plan.routes:
            if route.target_node not in self.manifests or route.feedback:
                continue
            if route.plane is not Plane.DATA:
                self._starts[route.target_node].append(route)
            elif route.source_node in self.manifests:
                self._after[route.source_node].append(route)
                self._before[route.target_node] += 1
        self._longest, self._next = self._walk_back()

    def _walk_back(self) -> tuple[dict[str, int], dict[str, str]]:
        """Longest sum from each node, and the node that follows on it; what lies before a cycle is left out."""
        waiting = {node: len(routes) for node, routes in self._after.items()}
        before: dict[str, list[str]] = {node: [] for node in self.manifests}
        for routes in self._after.values():
            for route in routes:
                before[route.target_node].append(route.source_node)
        longest: dict[str, int] = {}
        following: dict[str, str] = {}
        ready = deque(node for node, count in waiting.items() if count == 0)
        while ready:
            node = ready.popleft()
            best = max((route.target_node for route in self._after[node]), key=longest.__getitem__, default=None)
            longest[node] = self.budget_ns(node) + (longest[best] if best is not None else 0)
            if best is not None:
                following[node] = best
            for source in before[node]:
                waiting[source] -= 1
                if waiting[source] == 0:
                    ready.append(source)
        return longest, following

    def budget_ns(self, node: str) -> int:
        """The declared time of one call; 0 when nothing is declared."""
        return self.manifests[node].budget_ns or 0

    def overruns(self) -> Iterator[PathBudget]:
        """For each place where a deadline starts, the path that exceeds it most, if one does."""
        for node, manifest in self.manifests.items():
            if manifest.deadline_ns is not None and self._after[node]:
                heaviest = max(self._after[node], key=lambda route: self._longest.get(route.target_node, 0))
                yield from self._overrun(node, manifest.deadline_ns, heaviest.target_node, node)
            for route in self._starts[node]:
                deadline_ns = start_deadline_ns(route, manifest)
                if deadline_ns is not None:
                    yield from self._overrun("", deadline_ns, node, route.id)
            for route in self._after[node]:
                if route.qos.deadline_ns is not None:
                    yield from self._overrun(node, route.qos.deadline_ns, route.target_node, route.id)

    def _overrun(self, start: str, deadline_ns: int, node: str, since: str) -> Iterator[PathBudget]:
        declared_ns = self._longest.get(node, 0)
        if declared_ns <= deadline_ns:
            return
        nodes = [start] if start else []
        following: str | None = node
        while following is not None:
            nodes.append(following)
            following = self._next.get(following)
        yield PathBudget(tuple(nodes), deadline_ns, declared_ns, deadline_ns - declared_ns, since)

    def paths(self, limit: int) -> Iterator[PathBudget]:
        """Every path from where messages start to where they end, at most `limit`."""
        for node in self.manifests:
            if self._before[node] and not self._starts[node]:
                continue
            way: list[Route] = []
            passed = {node}
            open_ends = [iter(self._after[node])]
            is_end = True
            while open_ends and limit > 0:
                route = next((r for r in open_ends[-1] if r.target_node not in passed), None)
                if route is not None:
                    way.append(route)
                    passed.add(route.target_node)
                    open_ends.append(iter(self._after[route.target_node]))
                    is_end = True
                    continue
                if is_end:
                    limit -= 1
                    yield self._path(node, tuple(way))
                    is_end = False
                open_ends.pop()
                if way:
                    passed.discard(way.pop().target_node)

    def _path(self, first: str, way: tuple[Route, ...]) -> PathBudget:
        nodes = (first, *(route.target_node for route in way))
        starts = self._starts[first]
        # The source's own call comes before its messages start; a timer's or the bus's message starts before it.
        rest_ns = sum(self.budget_ns(node) for node in nodes[0 if starts else 1 :])
        whole_ns = rest_ns
        manifest = self.manifests[first]
        places: list[tuple[int, int, str]] = []  # slack, budgets covered, where it starts
        for route in starts:
            deadline_ns = start_deadline_ns(route, manifest)
            if deadline_ns is not None:
                places.append((deadline_ns - rest_ns, rest_ns, route.id))
        if starts:
            rest_ns -= self.budget_ns(first)
        elif manifest.deadline_ns is not None:
            places.append((manifest.deadline_ns - rest_ns, rest_ns, first))
        for route in way:
            if route.qos.deadline_ns is not None:
                places.append((route.qos.deadline_ns - rest_ns, rest_ns, route.id))
            rest_ns -= self.budget_ns(route.target_node)
        if not places:
            return PathBudget(nodes, None, whole_ns, None)
        slack_ns, declared_ns, since = min(places, key=lambda place: place[0])
        return PathBudget(nodes, slack_ns + declared_ns, declared_ns, slack_ns, since)


def start_deadline_ns(route: Route, target: PluginManifest) -> int | None:
    """The deadline of messages that a timer or the bus brings: the route's or, when tighter, the timer's node's."""
    own = target.deadline_ns if route.plane is Plane.TIMER else None
    known = [value for value in (route.qos.deadline_ns, own) if value is not None]
    return min(known, default=None)


def plan_paths(plan: Plan, limit: int = PATHS_MAX) -> list[PathBudget]:
    """The paths of a plan and their budgets, in the order of its nodes, at most `limit`."""
    return list(Budgets(plan).paths(limit))
