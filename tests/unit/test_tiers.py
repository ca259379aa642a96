"""Which tier joins two nodes, as a table."""

from __future__ import annotations

import pytest

from flowbridge.plan import Artifact, ArtifactKind, Origin, Placement, Plan, Plane, PluginManifest, Qos, Route, Tier
from flowbridge.tiers import choose, choose_all, nearest

HERE = Placement()
WORKER = Placement(process="worker")
OTHER = Placement(process="other")
EDGE = Placement(host="edge")
EDGE_WORKER = Placement(host="edge", process="worker")
CLOUD = Placement(host="cloud")


def route(
    tier: Tier = Tier.CHOOSE,
    plane: Plane = Plane.DATA,
    *,
    name: str = "a/out->b/in",
    source: str = "a",
    target: str = "b",
) -> Route:
    return Route(
        id=name,
        plane=plane,
        source_node=source,
        source_port="out",
        target_node=target,
        target_port="in",
        qos=Qos(),
        tier=tier,
    )


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (HERE, HERE, Tier.INPROC),
        (WORKER, WORKER, Tier.INPROC),
        (EDGE, EDGE, Tier.INPROC),
        (EDGE_WORKER, EDGE_WORKER, Tier.INPROC),
        (HERE, WORKER, Tier.IPC),
        (WORKER, OTHER, Tier.IPC),
        (EDGE, EDGE_WORKER, Tier.IPC),
        (HERE, EDGE, Tier.QUIC),
        (WORKER, EDGE_WORKER, Tier.QUIC),
        (EDGE, CLOUD, Tier.QUIC),
    ],
)
def test_the_nearest_tier_reaches_from_place_to_place_either_way(
    source: Placement, target: Placement, wanted: Tier
) -> None:
    assert nearest(source, target) is nearest(target, source) is wanted
    chosen = choose(route(), source, target)
    assert (chosen.tier, chosen.problem) == (wanted, "")


@pytest.mark.parametrize(
    ("asked", "target", "wanted", "why", "problem"),
    [
        (Tier.CHOOSE, HERE, Tier.INPROC, "both ends are in the same process", ""),
        (Tier.CHOOSE, WORKER, Tier.IPC, "the ends are in two processes of one host", ""),
        (Tier.CHOOSE, EDGE, Tier.QUIC, "the ends are on two hosts", ""),
        (Tier.INPROC, HERE, Tier.INPROC, "the flow asks for it", ""),
        (Tier.IPC, HERE, Tier.IPC, "the flow asks for it", ""),
        (Tier.QUIC, HERE, Tier.QUIC, "the flow asks for it", ""),
        (Tier.IPC, WORKER, Tier.IPC, "the flow asks for it", ""),
        (Tier.QUIC, WORKER, Tier.QUIC, "the flow asks for it", ""),
        (Tier.QUIC, EDGE, Tier.QUIC, "the flow asks for it", ""),
        (
            *(Tier.INPROC, WORKER, Tier.IPC, "the ends are in two processes of one host"),
            "the flow asks for tier inproc, but the ends are in two processes of one host",
        ),
        (
            *(Tier.INPROC, EDGE, Tier.QUIC, "the ends are on two hosts"),
            "the flow asks for tier inproc, but the ends are on two hosts",
        ),
        (
            *(Tier.IPC, EDGE, Tier.QUIC, "the ends are on two hosts"),
            "the flow asks for tier ipc, but the ends are on two hosts",
        ),
    ],
)
def test_a_tier_that_the_flow_names_is_kept_when_it_reaches_far_enough(
    asked: Tier, target: Placement, wanted: Tier, why: str, problem: str
) -> None:
    chosen = choose(route(asked), HERE, target)
    assert (chosen.tier, chosen.why, chosen.problem) == (wanted, why, problem)


@pytest.mark.parametrize("plane", [Plane.BUS, Plane.TIMER])
def test_timers_and_bus_routes_are_served_by_the_runner(plane: Plane) -> None:
    chosen = choose(route(Tier.QUIC, plane), HERE, EDGE)
    assert (chosen.tier, chosen.problem) == (Tier.INPROC, "")


def manifest(node: str, place: Placement) -> PluginManifest:
    artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="python:x:y")
    return PluginManifest(node=node, artifact=artifact, origin=Origin.EXTERNAL, place=place)


def test_every_route_of_a_plan_gets_a_choice() -> None:
    routes = (
        route(),
        route(name="b/out->c/in", source="b", target="c"),
        route(plane=Plane.TIMER, name="timer/1s->c/tick", source="timer", target="c"),
        route(plane=Plane.BUS, name="a/out->bus/t", source="a", target="bus"),
        route(name="x/out->c/in", source="x", target="c"),  # one end is not a node of this plan
    )
    places = {"a": HERE, "b": WORKER, "c": EDGE}
    plan = Plan(name="f", digest="d", manifests=tuple(manifest(*place) for place in places.items()), routes=routes)
    chosen = {name: choice.tier for name, choice in choose_all(plan).items()}
    assert chosen == {
        "a/out->b/in": Tier.IPC,
        "b/out->c/in": Tier.QUIC,
        "timer/1s->c/tick": Tier.INPROC,
        "a/out->bus/t": Tier.INPROC,
        "x/out->c/in": Tier.INPROC,
    }


def test_a_route_that_joins_no_node_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="route a/out->b/in joins no node"):
        choose_all(Plan(name="f", digest="d", manifests=(), routes=(route(),)))
