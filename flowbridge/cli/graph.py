"""``flowbridge graph``: a drawing of a flow."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import FlowArgument, JsonOption, load_plan
from flowbridge.errors import FlowbridgeError

if TYPE_CHECKING:
    from flowbridge.cli.graph_model import Picture


class Format(enum.Enum):
    """The forms of a drawing."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    HTML = "html"


def graph(
    flow: FlowArgument,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="By default what the suffix of -o says, else mermaid.")
    ] = None,
    target: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to: - is stdout.")] = "-",
    json: JsonOption = False,
) -> None:
    """Draw a flow.

    Nodes, bus topics and timers, joined by edges with their policy, priority and deadline.
    html is one page without outside parts; point at something for its details.
    """
    chosen = form or _by_suffix(target)
    plan = load_plan(flow)
    from flowbridge.cli.graph_model import picture_of

    picture = picture_of(plan)
    text = render(picture, chosen)
    if target != "-":
        Path(target).write_text(text, encoding="utf-8")
    if json:
        document = _document(picture, chosen)
        document |= {"digest": plan.digest, "file": None, "text": text}
        if target != "-":
            document |= {"file": target, "text": None}
        output.print_json(document)
    elif target == "-":
        sys.stdout.write(text)
    else:
        output.say(f"{target}: {chosen.value}, {len(picture.vertices):,} nodes, {len(picture.arrows):,} edges")


def _by_suffix(target: str) -> Format:
    suffixes = {".mmd": Format.MERMAID, ".dot": Format.DOT, ".gv": Format.DOT, ".svg": Format.SVG, ".html": Format.HTML}
    return suffixes.get(Path(target).suffix, Format.MERMAID)


def render(picture: Picture, form: Format) -> str:
    """The picture in one of the formats; FlowbridgeError when it is too large to be laid out."""
    from flowbridge.cli import graph_text

    if form is Format.MERMAID:
        return graph_text.mermaid(picture)
    if form is Format.DOT:
        return graph_text.dot(picture)
    from flowbridge.cli import graph_html, graph_svg

    if len(picture.vertices) > graph_svg.VERTICES_MAX or len(picture.arrows) > graph_svg.ARROWS_MAX:
        raise FlowbridgeError(
            f"{picture.name}: {form.value} draws at most {graph_svg.VERTICES_MAX:,} nodes and {graph_svg.ARROWS_MAX:,} "
            f"edges; this flow has {len(picture.vertices):,} and {len(picture.arrows):,}: use --format dot"
        )
    return graph_svg.svg(picture) if form is Format.SVG else graph_html.page(picture)


def _document(picture: Picture, form: Format) -> dict[str, Any]:
    return {
        "flow": picture.name,
        "format": form.value,
        "nodes": [{"id": v.key, "kind": v.kind, "label": v.title, "details": v.details} for v in picture.vertices],
        "edges": [
            {
                "id": a.key,
                "from": a.source,
                "to": a.target,
                "kind": a.kind,
                "feedback": a.feedback,
                "label": a.label,
                "details": a.details,
            }
            for a in picture.arrows
        ],
    }
