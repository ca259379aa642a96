"""Which tier joins two nodes: one pure function, and the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbridge.plan import Plane, Tier

if TYPE_CHECKING:
    from flowbridge.plan import Placement, Plan, Route


@dataclass(frozen=True, slots=True)
class Choice:
    """The tier of a route, why, and a problem when what the flow asks for cannot be."""

    tier: Tier
    why: str
    problem: str = ""


def nearest(source: Placement, target: Placement) -> Tier:
    """The cheapest tier that reaches from one place to the other."""
    if source.host != target.host:
        return Tier.QUIC
    if source.process != target.process:
        return Tier.IPC
    return Tier.INPROC


_WHY = {
    Tier.INPROC: "both ends are in the same process",
    Tier.IPC: "the ends are in two processes of one host",
    Tier.QUIC: "the ends are on two hosts",
}


def choose(route: Route, source: Placement, target: Placement) -> Choice:
    """The tier of one route between two places.

    A tier that the flow names is kept when it reaches far enough; one that does not is a problem.
    """
    if route.plane is not Plane.DATA:
        return Choice(Tier.INPROC, "the runner of the node serves it")
    near = nearest(source, target)
    if route.tier is Tier.CHOOSE:
        return Choice(near, _WHY[near])
    order = (Tier.INPROC, Tier.IPC, Tier.QUIC)
    if order.index(route.tier) < order.index(near):
        problem = f"the flow asks for tier {route.tier.value}, but {_WHY[near]}"
        return Choice(near, _WHY[near], problem)
    return Choice(route.tier, "the flow asks for it")


def choose_all(plan: Plan) -> dict[str, Choice]:
    """The choice for every route of a plan, by route id."""
    places = {manifest.node: manifest.place for manifest in plan.manifests}
    choices: dict[str, Choice] = {}
    for route in plan.routes:
        source = places.get(route.source_node)
        target = places.get(route.target_node)
        here = source or target
        assert here is not None, f"route {route.id} joins no node"
        choices[route.id] = choose(route, source or here, target or here)
    return choices
