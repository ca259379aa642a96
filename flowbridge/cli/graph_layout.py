"""Where the vertices of a picture stand: layers from left to right, few crossings, short arrows.

Sugiyama's steps: cut the cycles, give each vertex the layer of its longest path, split long arrows with bends, order
each layer by the barycentres of its neighbours, then shift vertices to the mean of their neighbours without overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SWEEPS: Final = 8
BENDS_MAX: Final = 20_000  # beyond, the arrows that need most of them are drawn without bends


@dataclass(slots=True)
class Layout:
    """`layer` and `middle` (the vertical centre) of every vertex and bend; `bends` of each arrow, by its index."""

    layer: dict[str, int]
    middle: dict[str, float]
    bends: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    backward: set[int] = field(default_factory=set[int])  # arrows against the direction, drawn below everything

    @property
    def layers(self) -> int:
        """How many there are."""
        return max(self.layer.values(), default=-1) + 1


def lay_out(
    heights: Mapping[str, float], arrows: Sequence[tuple[str, str]], ignored: Iterable[int] = (), gap: float = 24
) -> Layout:
    """Place vertices of given heights; `ignored` arrows (feedback) have no say in it. Deterministic."""
    backward = set(ignored) | {i for i, (source, target) in enumerate(arrows) if source == target}
    backward |= _closing_arrows(heights, arrows, backward)
    forward = [(i, s, t) for i, (s, t) in enumerate(arrows) if i not in backward]
    layer = _longest_paths(heights, forward)
    layout = Layout(layer, {}, backward=backward)
    tall = dict(heights)
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    budget = BENDS_MAX
    for i, source, target in sorted(forward, key=lambda f: layer[f[2]] - layer[f[1]]):
        between = range(layer[source] + 1, layer[target])
        bends = [f"\0{i}/{at}" for at in between] if len(between) <= budget else []
        budget -= len(bends)
        for at, bend in zip(between, bends, strict=False):
            layer[bend], tall[bend] = at, 6.0
        layout.bends[i] = bends
        chain = [source, *bends, target]
        for left, right in pairwise(chain):
            after.setdefault(left, []).append(right)
            before.setdefault(right, []).append(left)
    rows = _ordered_rows(layer, before, after)
    layout.middle = _settled(rows, tall, before, after, gap)
    return layout


def _closing_arrows(nodes: Iterable[str], arrows: Sequence[tuple[str, str]], ignored: set[int]) -> set[int]:
    """The arrows that close a cycle, found by one depth-first walk without recursion."""
    after: dict[str, list[tuple[int, str]]] = {}
    for i, (source, target) in enumerate(arrows):
        if i not in ignored:
            after.setdefault(source, []).append((i, target))
    closing: set[int] = set()
    state: dict[str, int] = {}  # 1: on the way, 2: done
    for root in nodes:
        if root in state:
            continue
        state[root] = 1
        way = [(root, iter(after.get(root, ())))]
        while way:
            node, rest = way[-1]
            for i, target in rest:
                if state.get(target) == 1:
                    closing.add(i)
                elif target not in state:
                    state[target] = 1
                    way.append((target, iter(after.get(target, ()))))
                    break
            else:
                state[node] = 2
                way.pop()
    return closing


def _longest_paths(nodes: Iterable[str], forward: Sequence[tuple[int, str, str]]) -> dict[str, int]:
    """The layer of each vertex; sources then move right, next to what they feed."""
    after: dict[str, list[str]] = {}
    missing = dict.fromkeys(nodes, 0)
    for _, source, target in forward:
        after.setdefault(source, []).append(target)
        missing[target] += 1
    has_input = {node for node, count in missing.items() if count}
    ready = [node for node, count in missing.items() if not count]
    layer = dict.fromkeys(missing, 0)
    for node in ready:  # grows while it is walked
        for target in after.get(node, ()):
            layer[target] = max(layer[target], layer[node] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    for node in layer:
        if node not in has_input and node in after:
            layer[node] = min(layer[target] for target in after[node]) - 1
    return layer


def _ordered_rows(
    layer: Mapping[str, int], before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> list[list[str]]:
    """The members of each layer from top to bottom, ordered by alternating barycentre sweeps."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node, at in layer.items():
        rows[at].append(node)
    place: dict[str, float] = {}
    for row in rows:
        _number(row, place)
    best, fewest = [row[:] for row in rows], _crossings(rows, after, place)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        beside = before if forth else after
        for row in rows if forth else reversed(rows):
            centre = {n: _mean([place[m] for m in beside.get(n, ())], place[n]) for n in row}
            row.sort(key=centre.__getitem__)
            _number(row, place)
        count = _crossings(rows, after, place)
        if count < fewest:
            best, fewest = [row[:] for row in rows], count
    return best


def _number(row: list[str], place: dict[str, float]) -> None:
    # Relative places: layers of different sizes compare.
    for i, node in enumerate(row):
        place[node] = (i + 0.5) / len(row)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(rows: Sequence[Sequence[str]], after: Mapping[str, list[str]], place: Mapping[str, float]) -> int:
    """How many pairs of arrows cross, counted as inversions with a sorted list."""
    from bisect import bisect_right, insort

    total = 0
    for row in rows:
        seen: list[float] = []
        for node in row:
            ends = sorted(place[target] for target in after.get(node, ()))
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _settled(
    rows: Sequence[Sequence[str]],
    tall: Mapping[str, float],
    before: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
    gap: float,
) -> dict[str, float]:
    """Vertical centres: each vertex as near to the mean of its neighbours as order and heights allow."""
    middle: dict[str, float] = {}
    for row in rows:
        middle |= _spread(row, [0.0] * len(row), tall, gap)
    for sweep in range(SWEEPS + 4):
        forth = sweep % 2 == 0
        for row in rows if forth else reversed(rows):
            wanted: list[float] = []
            for node in row:
                sides = [before.get(node, []), after.get(node, [])]
                near = sides[0 if forth else 1] if sweep < SWEEPS else [*sides[0], *sides[1]]
                wanted.append(_mean([middle[m] for m in near], middle[node]))
            middle |= _spread(row, wanted, tall, gap)
    top = min((middle[n] - tall[n] / 2 for n in middle), default=0.0)
    return {node: y - top for node, y in middle.items()}


def _spread(row: Sequence[str], wanted: Sequence[float], tall: Mapping[str, float], gap: float) -> dict[str, float]:
    """The least-squares places in this order with at least `gap` between neighbours (pool adjacent violators)."""
    offsets: list[float] = []
    reach = 0.0
    for i, node in enumerate(row):
        if i:
            reach += (tall[row[i - 1]] + tall[node]) / 2 + gap
        offsets.append(reach)
    blocks: list[tuple[float, int]] = []  # sum and count of (wanted - offset); means must not fall
    for want, offset in zip(wanted, offsets, strict=True):
        total, count = want - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            last = blocks.pop()
            total, count = total + last[0], count + last[1]
        blocks.append((total, count))
    starts = [total / count for total, count in blocks for _ in range(count)]
    return {node: start + offset for node, start, offset in zip(row, starts, offsets, strict=True)}
