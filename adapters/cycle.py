"""Cycles of a graph: its strongly connected components, and a short cycle through one of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Graph: TypeAlias = "Mapping[str, Sequence[str]]"
"""Nodes, and the nodes each leads to."""


def graph_of(nodes: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The graph of some edges; both ends of each must be among the nodes."""
    graph: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in edges:
        graph[source].append(target)
    return graph


def components(graph: Graph) -> dict[str, int]:
    """The number of the strongly connected component of each node.

    Two nodes have one number when each leads to the other. R. Tarjan, SIAM J. Comput. 1 (1972), without recursion.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    component: dict[str, int] = {}
    path: list[str] = []
    for root in graph:
        if root in index:
            continue
        calls: list[tuple[str, Iterator[str]]] = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        path.append(root)
        while calls:
            node, targets = calls[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    path.append(target)
                    calls.append((target, iter(graph[target])))
                    break
                if target not in component:
                    low[node] = min(low[node], index[target])
            else:
                calls.pop()
                if calls:
                    low[calls[-1][0]] = min(low[calls[-1][0]], low[node])
                if low[node] == index[node]:
                    _close(node, path, component, index[node])
    return component


def _close(node: str, path: list[str], component: dict[str, int], number: int) -> None:
    while True:
        member = path.pop()
        component[member] = number
        if member == node:
            return


def cycles(graph: Graph) -> list[list[str]]:
    """One short cycle for each component that has any, as nodes in order; it starts at the component's first node."""
    component = components(graph)
    members: dict[int, list[str]] = {}
    for node in graph:
        members.setdefault(component[node], []).append(node)
    found = [_cycle(graph, component, group[0]) for group in members.values()]
    return [cycle for cycle in found if cycle]


def _cycle(graph: Graph, component: Mapping[str, int], start: str) -> list[str]:
    """The shortest way from a node back to itself; empty when there is none."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for target in graph[node]:
            if target == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if component[target] == component[start] and target not in came_from:
                came_from[target] = node
                waiting.append(target)
    return []
