"""A picture as SVG: boxes in layers from left to right, curved arrows, labels that keep clear of each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from flowbridge.cli.graph_layout import lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.cli.graph_layout import Layout
    from flowbridge.cli.graph_model import Arrow, Picture, Vertex

VERTICES_MAX: Final = 2_000  # beyond, neither the layout is quick nor the result readable
ARROWS_MAX: Final = 10_000

_TITLE_PX, _SMALL_PX, _LABEL_PX = 7.6, 6.1, 5.7  # mean width of a character of each text size
_BOX_HEIGHT: Final = 44.0
_GAP_MIN: Final = 76.0
_MARGIN: Final = 28.0
_LANE: Final = 22.0  # between arrows that run backwards below everything
_SUBTITLE_MAX: Final = 34

# Colours stand twice because not every viewer knows CSS variables; the second set is for dark surroundings.
STYLE: Final = """
.fb{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
.fb .page{fill:#ffffff}.fb text{fill:#1c2430}.fb .name{font-size:16px;font-weight:600}
.fb .title{font-size:13px;font-weight:600}.fb .small{font-size:10.5px;fill:#5b6675}
.fb .label{font-size:10px;fill:#47515f}.fb .halo{fill:#ffffff;fill-opacity:.88}
.fb .box{stroke-width:1.3}
.fb .source .box{fill:#e6f0fc;stroke:#3b7dd8}.fb .step .box{fill:#f4f5f8;stroke:#8792a4}
.fb .sink .box{fill:#e7f5ea;stroke:#3f9b57}.fb .topic .box{fill:#fdf2de;stroke:#c9861c}
.fb .timer .box{fill:#f2eafb;stroke:#8d5bd1}
.fb .arrow path{fill:none;stroke:#8792a4;stroke-width:1.4}.fb .arrow .head{fill:#8792a4;stroke:none}
.fb .realtime path{stroke:#c6392f}.fb .realtime .head{fill:#c6392f}
.fb .high path{stroke:#d0711d}.fb .high .head{fill:#d0711d}
.fb .best-effort path{stroke:#b7bfca}.fb .best-effort .head{fill:#b7bfca}
.fb .dashed path{stroke-dasharray:5 4}.fb .dashed .head{stroke-dasharray:none}
@media (prefers-color-scheme:dark){
.fb .page{fill:#14181f}.fb text{fill:#e6eaf0}.fb .small{fill:#9aa5b4}.fb .label{fill:#b4bdca}.fb .halo{fill:#14181f}
.fb .source .box{fill:#17304f;stroke:#5b9bf0}.fb .step .box{fill:#222934;stroke:#7f8b9d}
.fb .sink .box{fill:#173a22;stroke:#55b56e}.fb .topic .box{fill:#45320f;stroke:#dda03a}
.fb .timer .box{fill:#33234a;stroke:#a67be0}}
""".strip()


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    def overlaps(self, other: _Box) -> bool:
        beside = self.right <= other.x or other.right <= self.x
        return not (beside or self.y + self.height <= other.y or other.y + other.height <= self.y)


def svg(picture: Picture, *, page: bool = False) -> str:
    """The drawing; with `page` for use inside HTML: without heading and tooltips, with ``data-`` keys instead."""
    drawing = _Drawing(picture, heading=not page)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fb" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" '
        f'width="{drawing.width:.0f}" height="{drawing.height:.0f}" role="img" '
        f'aria-label="{_attribute(f"flow {picture.name}")}">',
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
    ]
    if not page:
        parts.append(f'<text class="name" x="{_MARGIN}" y="34">{escape(picture.name)}</text>')
        if picture.description:
            about = _shortened(picture.description.split("\n")[0], 120)
            parts.append(f'<text class="small" x="{_MARGIN}" y="50">{escape(about)}</text>')
    parts += [drawing.arrow(i, arrow, page) for i, arrow in enumerate(picture.arrows)]
    parts += [_vertex(vertex, drawing.boxes[vertex.key], page) for vertex in picture.vertices]
    parts += drawing.labels()
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Drawing:
    """The geometry of one picture."""

    def __init__(self, picture: Picture, *, heading: bool) -> None:
        self._picture = picture
        arrows = [(arrow.source, arrow.target) for arrow in picture.arrows]
        ignored = [i for i, arrow in enumerate(picture.arrows) if arrow.feedback]
        heights = {vertex.key: _BOX_HEIGHT for vertex in picture.vertices}
        self._layout: Layout = lay_out(heights, arrows, ignored)
        self._top = _MARGIN + (38.0 if heading else 0.0)
        self._left = _MARGIN + (30.0 if self._layout.backward else 0.0)
        self._columns = self._column_places()
        self.boxes = {vertex.key: self._box(vertex) for vertex in picture.vertices}
        bottom = max((y for y in self._layout.middle.values()), default=0.0) + _BOX_HEIGHT / 2
        self._lanes = {i: self._top + bottom + _LANE * (n + 1) for n, i in enumerate(sorted(self._layout.backward))}
        right = self._columns[-1].right if self._columns else 0.0
        self.width = max(right + self._left, 320.0)
        self.height = self._top + bottom + _LANE * len(self._lanes) + _MARGIN
        self._exits = self._spread_ends(arrows, 0)
        self._entries = self._spread_ends(arrows, 1)
        self._fan = (Counter(source for source, _ in arrows), Counter(target for _, target in arrows))
        self._curves = {i: self._curve(i) for i in range(len(arrows))}

    def _column_places(self) -> list[_Box]:
        """The left edge and width of each layer, with room for labels between them."""
        layer = self._layout.layer
        widths = [0.0] * self._layout.layers
        for vertex in self._picture.vertices:
            widths[layer[vertex.key]] = max(widths[layer[vertex.key]], _width(vertex))
        gaps = [_GAP_MIN] * self._layout.layers
        for i, arrow in enumerate(self._picture.arrows):
            if i not in self._layout.backward:
                at = layer[arrow.source]
                gaps[at] = max(gaps[at], len(arrow.label) * _LABEL_PX * 1.4 + 44)
        places: list[_Box] = []
        x = self._left
        for width, gap in zip(widths, gaps, strict=True):
            places.append(_Box(x, 0, width, 0))
            x += width + gap
        return places

    def _box(self, vertex: Vertex) -> _Box:
        column = self._columns[self._layout.layer[vertex.key]]
        width = _width(vertex)
        middle = self._top + self._layout.middle[vertex.key]
        return _Box(column.x + (column.width - width) / 2, middle - _BOX_HEIGHT / 2, width, _BOX_HEIGHT)

    def _spread_ends(self, arrows: Sequence[tuple[str, str]], end: int) -> dict[int, float]:
        """Where on the side of its box each arrow starts (end 0) or arrives (end 1), ordered by where it leads."""
        by_vertex: dict[str, list[tuple[float, int]]] = {}
        for i, arrow in enumerate(arrows):
            if i in self._lanes:
                leads_to = self._lanes[i]
            else:
                bends = self._layout.bends[i]
                beside = arrow[1 - end] if not bends else bends[0 if end == 0 else -1]
                leads_to = self._top + self._layout.middle[beside]
            by_vertex.setdefault(arrow[end], []).append((leads_to, i))
        places: dict[int, float] = {}
        for key, ends in by_vertex.items():
            box = self.boxes[key]
            step = min(11.0, (box.height - 14) / max(1, len(ends) - 1))
            for n, (_, i) in enumerate(sorted(ends)):
                places[i] = box.y + box.height / 2 + (n - (len(ends) - 1) / 2) * step
        return places

    def _curve(self, i: int) -> list[tuple[float, float]]:
        """The points of an arrow: pairs that are joined by lines within columns and by curves between them."""
        arrow = self._picture.arrows[i]
        source, target = self.boxes[arrow.source], self.boxes[arrow.target]
        layer = self._layout.layer
        out_of, into = self._columns[layer[arrow.source]], self._columns[layer[arrow.target]]
        points = [(source.right, self._exits[i]), (out_of.right, self._exits[i])]
        if i in self._lanes:
            return [*points, (into.x, self._entries[i]), (target.x, self._entries[i])]
        for bend in self._layout.bends[i]:
            column = self._columns[layer[bend]]
            y = self._top + self._layout.middle[bend]
            points += [(column.x, y), (column.right, y)]
        return [*points, (into.x, self._entries[i]), (target.x, self._entries[i])]

    def _path(self, i: int) -> str:
        points = self._curves[i]
        (x0, y0), (x1, y1) = points[0], points[1]
        text = f"M{x0:.1f},{y0:.1f} L{x1:.1f},{y1:.1f}"
        end_x, end_y = points[-1][0] - 6, points[-1][1]  # the head covers the rest
        if i in self._lanes:
            lane = self._lanes[i]
            (x2, y2) = points[2]
            text += f" C{x1 + 30:.1f},{y1:.1f} {x1 + 30:.1f},{lane:.1f} {x1:.1f},{lane:.1f} L{x2:.1f},{lane:.1f}"
            text += f" C{x2 - 34:.1f},{lane:.1f} {x2 - 34:.1f},{y2:.1f} {min(x2, end_x):.1f},{y2:.1f}"
            return text + f" L{end_x:.1f},{end_y:.1f}"
        for n in range(1, len(points) - 1, 2):
            (xa, ya), (xb, yb) = points[n], points[n + 1]
            if n + 2 == len(points):
                xb = min(xb, end_x)
            bow = (xb - xa) / 2
            text += f" C{xa + bow:.1f},{ya:.1f} {xb - bow:.1f},{yb:.1f} {xb:.1f},{yb:.1f}"
            if n + 2 < len(points):
                last = n + 2 == len(points) - 1
                text += f" L{end_x if last else points[n + 2][0]:.1f},{points[n + 2][1]:.1f}"
        return text

    def arrow(self, i: int, arrow: Arrow, page: bool) -> str:
        """The line and head of one arrow."""
        classes = [
            "arrow",
            *(word for word in ("realtime", "high", "best-effort") if arrow.details.get("priority") == word),
        ]
        if arrow.feedback or arrow.kind == "match":
            classes.append("dashed")
        x, y = self._curves[i][-1]
        head = f'<path class="head" d="M{x:.1f},{y:.1f} l-8,-3.8 v7.6 z"/>'
        tail = f'<path d="{self._path(i)}"/>'
        return _group(classes, arrow.key, arrow.details, tail + head, page)

    def labels(self) -> list[str]:
        """Every label, each at the first place along its arrow that is free."""
        taken = _Taken()
        for box in self.boxes.values():
            taken.add(box)
        parts: list[str] = []
        for i, arrow in enumerate(self._picture.arrows):
            if not arrow.label:
                continue
            width = len(arrow.label) * _LABEL_PX + 6
            tries = [_Box(x - width / 2, y - 7, width, 14) for x, y in self._label_places(i)]
            box = next((b for b in tries if not taken.hits(b)), tries[0])
            taken.add(box)
            parts.append(
                f'<rect class="halo" x="{box.x:.1f}" y="{box.y:.1f}" width="{width:.1f}" height="14" rx="3"/>'
                f'<text class="label" x="{box.x + width / 2:.1f}" y="{box.y + 10.4:.1f}" text-anchor="middle">'
                f"{escape(arrow.label)}</text>"
            )
        return parts

    def _label_places(self, i: int) -> list[tuple[float, float]]:
        points = self._curves[i]
        if i in self._lanes:
            return [((points[1][0] + points[2][0]) / 2, self._lanes[i])]
        places: list[tuple[float, float]] = []
        for n in range(1, len(points) - 1, 2):
            places += [_on_curve(points[n], points[n + 1], t) for t in self._label_order(i)]
        x, y = places[0]
        return [*places, *((x, y + shift) for shift in (9, -9, 15, -15, 24, -24))]

    def _label_order(self, i: int) -> tuple[float, ...]:
        """Where along a curve to try first: at the end that is spread out, so that a label is nearest its own arrow."""
        arrow = self._picture.arrows[i]
        out, into = self._fan[0][arrow.source], self._fan[1][arrow.target]
        if out > into:
            return (0.68, 0.6, 0.75, 0.5, 0.4, 0.3)
        return (0.32, 0.4, 0.25, 0.5, 0.6, 0.7) if into > out else (0.5, 0.4, 0.6, 0.3, 0.7)


class _Taken:
    """Places that are taken, in a coarse grid so that asking stays quick."""

    _CELL: Final = 120.0

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[_Box]] = {}

    def _cells_of(self, box: _Box) -> list[tuple[int, int]]:
        columns = range(int(box.x // self._CELL), int(box.right // self._CELL) + 1)
        rows = range(int(box.y // self._CELL), int((box.y + box.height) // self._CELL) + 1)
        return [(c, r) for c in columns for r in rows]

    def add(self, box: _Box) -> None:
        for cell in self._cells_of(box):
            self._cells.setdefault(cell, []).append(box)

    def hits(self, box: _Box) -> bool:
        return any(box.overlaps(other) for cell in self._cells_of(box) for other in self._cells.get(cell, ()))


def _on_curve(start: tuple[float, float], end: tuple[float, float], t: float) -> tuple[float, float]:
    """A point of the curve that leaves and arrives horizontally."""
    bow = (end[0] - start[0]) / 2
    weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    xs = (start[0], start[0] + bow, end[0] - bow, end[0])
    ys = (start[1], start[1], end[1], end[1])
    return sum(w * x for w, x in zip(weights, xs, strict=True)), sum(w * y for w, y in zip(weights, ys, strict=True))


def _width(vertex: Vertex) -> float:
    longest = max(len(vertex.title) * _TITLE_PX, min(len(vertex.subtitle), _SUBTITLE_MAX) * _SMALL_PX)
    return max(longest + 28, 84.0)


def _vertex(vertex: Vertex, box: _Box, page: bool) -> str:
    middle = box.x + box.width / 2
    round_ = {"source": 22, "timer": 22, "topic": 3}.get(vertex.kind, 7)
    size = f'width="{box.width:.1f}" height="{box.height:.0f}" rx="{round_}"'
    shape = f'<rect class="box" x="{box.x:.1f}" y="{box.y:.1f}" {size}/>'
    if vertex.kind == "topic":
        x, y, right, half = box.x, box.y, box.right, box.height / 2
        shape = (
            f'<path class="box" d="M{x + 12:.1f},{y:.1f} H{right - 12:.1f} L{right:.1f},{y + half:.1f} '
            f'L{right - 12:.1f},{y + box.height:.1f} H{x + 12:.1f} L{x:.1f},{y + half:.1f} Z"/>'
        )
    body = (
        f'{shape}<text class="title" x="{middle:.1f}" y="{box.y + 19:.1f}" text-anchor="middle">'
        f"{escape(vertex.title)}</text>"
        f'<text class="small" x="{middle:.1f}" y="{box.y + 34:.1f}" text-anchor="middle">'
        f"{escape(_shortened(vertex.subtitle, _SUBTITLE_MAX))}</text>"
    )
    return _group(["vertex", vertex.kind], vertex.key, vertex.details, body, page)


def _group(classes: Sequence[str], key: str, details: Mapping[str, str], body: str, page: bool) -> str:
    if page:
        return f'<g class="{" ".join(classes)}" data-key="{_attribute(key)}" tabindex="0">{body}</g>'
    tip = "\n".join([key, *(f"{name}: {value}" for name, value in details.items() if value != key)])
    return f'<g class="{" ".join(classes)}"><title>{escape(tip)}</title>{body}</g>'


def _shortened(text: str, longest: int) -> str:
    """The text with its middle left out where it is too long: the end of an operator's name says most."""
    if len(text) <= longest:
        return text
    keep = longest - 1
    return text[: keep // 3] + "\u2026" + text[len(text) - (keep - keep // 3) :]


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;", "\n": "&#10;"})
