"""In which order the nodes of a flow end that do not end by themselves.

A node that is fed by the bus alone never sees the end of anything: it is drained. When is a question of the whole
flow, because what it is still to be sent must reach it first:

1. Not before every node has ended that runs by itself: sources, nodes with timers, and what these feed.
2. Then one after another: first those to whose topics nobody can publish any more, as far as the plan says.
3. Nodes that publish to each other in a circle, and nothing else is left: all at once.

Does not promise: that a topic is known to which an operator publishes through its context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.machines.topics import covers
from flowbridge.plan import Plane

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from flowbridge.plan import Plan, Route


class Endings:
    """What is to be drained next, from which nodes have ended."""

    def __init__(self, plan: Plan) -> None:
        nodes = [manifest.node for manifest in plan.manifests]
        known = set(nodes)
        lasting = {route.target_node for route in plan.routes if _ends_itself(route) or route.plane is Plane.TIMER}
        listening = {route.target_node for route in plan.routes if route.plane is Plane.BUS} & known
        self.lasts = frozenset(listening - lasting)
        """The nodes that are fed by the bus alone."""
        self._after = frozenset(_reached(self.lasts, [route for route in plan.routes if _ends_itself(route)]))
        self._own = frozenset(known - self.lasts - self._after)
        self._publishers = {node: _publishers(node, plan.routes, known) for node in nodes if node in self.lasts}

    def following(self, ended: Collection[str], drained: Collection[str]) -> list[str]:
        """Which nodes are to be drained now; none while others must end first."""
        if not self._own.issubset(ended):
            return []
        waiting = [node for node in self._publishers if node not in drained and node not in ended]
        free = [node for node in waiting if all(p in ended for p in self._publishers[node])]
        under_way = any(node not in ended for node in drained if node in self.lasts)
        return free or ([] if under_way else waiting)


def _ends_itself(route: Route) -> bool:
    return route.plane is Plane.DATA and not route.feedback


def _reached(starts: Collection[str], routes: Iterable[Route]) -> set[str]:
    """Every node after the starts, without these."""
    after: dict[str, list[str]] = {}
    for route in routes:
        after.setdefault(route.source_node, []).append(route.target_node)
    found: set[str] = set()
    ahead = [target for node in starts for target in after.get(node, ())]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += after.get(node, ())
    return found


def _publishers(node: str, routes: Iterable[Route], known: Collection[str]) -> frozenset[str]:
    """The other nodes that publish to a topic this one subscribes to."""
    bus = [route for route in routes if route.plane is Plane.BUS and route.topic is not None]
    patterns = [route.topic for route in bus if route.target_node == node]
    return frozenset(
        route.source_node
        for route in bus
        if route.target_node not in known and route.source_node != node and _reaches(route.topic, patterns)
    )


def _reaches(topic: str | None, patterns: Iterable[str | None]) -> bool:
    return topic is not None and any(pattern is not None and covers(pattern, topic) for pattern in patterns)
