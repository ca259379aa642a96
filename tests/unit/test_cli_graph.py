"""Pictures of plans in every format."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from flowbridge.cli.graph import Format, render
from flowbridge.cli.graph_model import Picture, picture_of
from flowbridge.envelope import Priority
from flowbridge.errors import FlowbridgeError
from flowbridge.limits import QUEUE_ITEMS_DEFAULT
from flowbridge.plan import (
    Artifact,
    ArtifactKind,
    Origin,
    Placement,
    Plan,
    Plane,
    PluginManifest,
    Policy,
    Qos,
    Route,
)

NASTY = "a\"b<c>&'d]|\\n`</script>"


def node(name: str, operator: str = "filter", place: Placement | None = None) -> PluginManifest:
    artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref=operator)
    return PluginManifest(node=name, artifact=artifact, origin=Origin.INTERNAL, place=place or Placement())


def route(source: str, target: str, qos: Qos | None = None, *, feedback: bool = False) -> Route:
    (a, a_port), (b, b_port) = source.split("/", 1), target.split("/", 1)
    return Route(
        id=f"{source}->{target}",
        plane=Plane.DATA,
        source_node=a,
        source_port=a_port,
        target_node=b,
        target_port=b_port,
        qos=qos or Qos(),
        feedback=feedback,
    )


def bus(source: str, target: str, topic: str) -> Route:
    return replace(route(source, target), plane=Plane.BUS, topic=topic)


def plan(nodes: tuple[PluginManifest, ...], routes: tuple[Route, ...], about: str = "") -> Plan:
    return Plan(name="demo", digest="sha256:0", manifests=nodes, routes=routes, description=about)


QUICK = Qos(policy=Policy.DROP_OLDEST, capacity_items=16, priority=Priority.HIGH, deadline_ns=20_000_000)
DEMO = plan(
    (node("source"), node("late"), node("sink", place=Placement(process="worker")), node("alarm")),
    (
        route("source/out", "late/in", QUICK),
        route("late/out", "sink/in"),
        route("sink/out", "late/back", feedback=True),
        bus("late/alerts", "bus/flights.alerts", "flights.alerts"),
        bus("bus/flights.*", "alarm/in", "flights.*"),
        replace(route("timer/100ms", "late/tick"), plane=Plane.TIMER, period_ns=100_000_000),
    ),
)


def nasty_picture() -> Picture:
    demo = plan((node("source"), node("sink", f"python:{NASTY}")), (bus("source/out", f"bus/{NASTY}", NASTY),), NASTY)
    return picture_of(demo)


def test_a_label_says_policy_priority_and_deadline() -> None:
    labels = {arrow.key: arrow.label for arrow in picture_of(DEMO).arrows}
    assert labels["source/out->late/in"] == "drop_oldest 16 · high · 20 ms"
    assert labels["late/out->sink/in"] == f"block {QUEUE_ITEMS_DEFAULT}"
    assert labels["sink/out->late/back"] == f"out → back · block {QUEUE_ITEMS_DEFAULT}"


def test_topics_and_timers_stand_beside_the_nodes() -> None:
    picture = picture_of(DEMO)
    kinds = {vertex.title: vertex.kind for vertex in picture.vertices}
    assert kinds["flights.alerts"] == kinds["flights.*"] == "topic"
    assert kinds["100 ms"] == "timer"
    assert kinds["source"] == "source"
    assert kinds["alarm"] == "sink"
    matches = [(a.source, a.target) for a in picture.arrows if a.kind == "match"]
    assert matches == [("bus/flights.alerts", "bus/flights.*")]


@pytest.mark.parametrize(
    ("pattern", "topic", "heard"),
    [("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.>", "a.b.c", True), ("a.>", "a", False), ("*.b", "a.c", False)],
)
def test_a_wildcard_is_joined_to_the_topics_it_hears(pattern: str, topic: str, heard: bool) -> None:
    demo = plan((node("a"), node("b")), (bus("a/out", f"bus/{topic}", topic), bus(f"bus/{pattern}", "b/in", pattern)))
    assert any(a.kind == "match" for a in picture_of(demo).arrows) == heard


def test_mermaid_quotes_whatever_could_be_syntax() -> None:
    text = render(nasty_picture(), Format.MERMAID)
    assert text.startswith("flowchart LR\n")
    body = text.replace("<br/><small>", "").replace("</small>", "")
    for line in body.splitlines()[1:]:
        quoted = re.findall(r'"([^"]*)"', line)
        assert line.count('"') == 2 * len(quoted), "no quote inside quotes"
        assert not any(set("<>&`\\|][") & set(part) for part in quoted)


def test_dot_escapes_quotes_and_backslashes() -> None:
    text = render(nasty_picture(), Format.DOT)
    assert text.startswith('digraph "demo" {')
    assert '\\"b<c>' in text
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', text)
    assert '"' not in "".join(re.split(r'"(?:[^"\\]|\\.)*"', text)), "every quote belongs to a string"
    assert any("script" in part for part in strings)


@pytest.mark.parametrize("picture", [picture_of(DEMO), nasty_picture()])
def test_svg_is_well_formed_and_shows_every_vertex_and_label(picture: Picture) -> None:
    root = ET.fromstring(render(picture, Format.SVG))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(element.itertext()) for element in root.iter(f"{space}text")]
    for vertex in picture.vertices:
        assert vertex.title in texts
    for arrow in picture.arrows:
        assert not arrow.label or arrow.label in texts
    groups = [g.get("class", "") for g in root.iter(f"{space}g")]
    assert sum("arrow" in name.split() for name in groups) == len(picture.arrows)


def test_feedback_is_dashed_and_urgent_arrows_are_coloured() -> None:
    text = render(picture_of(DEMO), Format.SVG)
    assert 'class="arrow high"' in text
    assert text.count('class="arrow dashed"') == 2  # the feedback edge and the match of topics


def test_everything_drawn_lies_within_the_picture() -> None:
    root = ET.fromstring(render(picture_of(DEMO), Format.SVG))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for element in root.iter("{http://www.w3.org/2000/svg}rect"):
        if element.get("class") == "box":
            x, y = float(element.get("x", "-1")), float(element.get("y", "-1"))
            assert 0 <= x <= x + float(element.get("width", "0")) <= width
            assert 0 <= y <= y + float(element.get("height", "0")) <= height


def test_a_page_loads_nothing_from_elsewhere_and_its_data_cannot_end_the_script() -> None:
    text = render(nasty_picture(), Format.HTML)
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    found = re.search(r'<script type="application/json" id="details">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    details = json.loads(found[1])
    assert details[f"bus/{NASTY}"]["details"]["topic"] == NASTY
    assert text.count("</script>") == 2


def test_every_part_of_a_page_has_its_details() -> None:
    text = render(picture_of(DEMO), Format.HTML)
    keys = set(re.findall(r'data-key="([^"]*)"', text))
    found = re.search(r'id="details">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert {key.replace("&gt;", ">") for key in keys} == set(json.loads(found[1]))


def test_a_graph_of_ten_thousand_nodes_is_refused_as_svg_and_drawn_as_text() -> None:
    nodes = tuple(node(f"n{i}") for i in range(10_000))
    routes = tuple(route(f"n{i}/out", f"n{i + 1}/in") for i in range(9_999))
    picture = picture_of(plan(nodes, routes))
    with pytest.raises(FlowbridgeError, match=r"at most 2,000 nodes .* has 10,000 and 9,999: use --format dot"):
        render(picture, Format.SVG)
    assert render(picture, Format.DOT).count(" -> ") == 9_999


def test_a_flow_of_one_node_is_a_picture() -> None:
    for form in Format:
        assert "alone" in render(picture_of(plan((node("alone"),), ())), form)
