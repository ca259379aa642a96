"""Pictures as text: Mermaid and Graphviz DOT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowbridge.cli.graph_model import Picture

_MERMAID_SHAPE: Final = {
    "source": ("([", "])"),
    "step": ("[", "]"),
    "sink": ("[[", "]]"),
    "topic": ("{{", "}}"),
    "timer": ("((", "))"),
}
_DOT_SHAPE: Final = {"source": "box", "step": "box", "sink": "box", "topic": "hexagon", "timer": "circle"}


def mermaid(picture: Picture) -> str:
    """A Mermaid flowchart.

    Source: https://mermaid.js.org/syntax/flowchart.html.
    """
    ids = {vertex.key: f"n{i}" for i, vertex in enumerate(picture.vertices)}
    lines = ["flowchart LR"]
    for vertex in picture.vertices:
        opening, closing = _MERMAID_SHAPE[vertex.kind]
        text = f"{_entities(vertex.title)}<br/><small>{_entities(vertex.subtitle)}</small>"
        lines.append(f'  {ids[vertex.key]}{opening}"{text}"{closing}')
    for arrow in picture.arrows:
        line = "-.->" if arrow.feedback or arrow.kind == "match" else "-->"
        label = f'|"{_entities(arrow.label)}"|' if arrow.label else ""
        lines.append(f"  {ids[arrow.source]} {line}{label} {ids[arrow.target]}")
    return "\n".join(lines) + "\n"


def _entities(text: str) -> str:
    """Text inside Mermaid quotes: everything that could end them or start markup becomes an entity code."""
    return "".join(c if c.isalnum() or c in " .,:/_-@\u00b7\u2192" else f"#{ord(c)};" for c in text)


def dot(picture: Picture) -> str:
    """A Graphviz digraph.

    Source: https://graphviz.org/doc/info/lang.html.
    """
    lines = [f"digraph {_quoted(picture.name)} {{", "  rankdir=LR;"]
    lines.append('  node [fontname="sans-serif", fontsize=11];')
    lines.append('  edge [fontname="sans-serif", fontsize=9];')
    for vertex in picture.vertices:
        style = ', style="rounded"' if vertex.kind == "source" else ', peripheries="2"' if vertex.kind == "sink" else ""
        label = _quoted(f"{vertex.title}\n{vertex.subtitle}")
        lines.append(f"  {_quoted(vertex.key)} [label={label}, shape={_DOT_SHAPE[vertex.kind]}{style}];")
    for arrow in picture.arrows:
        style = ", style=dashed" if arrow.feedback or arrow.kind == "match" else ""
        # A feedback arrow must not decide which of its ends stands further right.
        free = ", constraint=false" if arrow.feedback else ""
        lines.append(
            f"  {_quoted(arrow.source)} -> {_quoted(arrow.target)} [label={_quoted(arrow.label)}{style}{free}];"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
