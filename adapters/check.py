"""What must hold for a flow as a whole: reach, cycles, budgets, places and tiers."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from flowbridge.adapters import rule
from flowbridge.adapters.cycle import components, cycles, graph_of
from flowbridge.adapters.unit import duration_text
from flowbridge.budget import Budgets
from flowbridge.limits import FINDINGS_MAX
from flowbridge.plan import Category, ContentType, Delivery, Plane, Policy
from flowbridge.tiers import choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowbridge.adapters.collect import Findings, Mark
    from flowbridge.adapters.scene import Scene
    from flowbridge.budget import PathBudget
    from flowbridge.plan import Plan, Route

_SHOWN_MAX = 8  # nodes of a path in a message


def check_plan(plan: Plan, scene: Scene) -> None:
    """Note every rule about the whole that the plan breaks; what was cut from it is given the benefit of the doubt."""
    _check_places(plan, scene)
    _check_reach(plan, scene)
    data = [route for route in plan.routes if route.plane is Plane.DATA]
    if _check_cycles(plan, data, scene):
        _check_budgets(plan, scene)
    _check_tiers(plan, data, scene)
    _check_delivery(plan, data, scene)


def _mark(plan: Plan, *keys: str) -> Mark:
    for key in keys:
        position = plan.positions.get(key)
        if position is not None:
            return (position.line, position.column)
    return (1, 1)


def _check_places(plan: Plan, scene: Scene) -> None:
    for manifest in plan.manifests:
        draft = scene.drafts[manifest.node]
        if manifest.place.process is not None and manifest.place.host is not None:
            mark = draft.tree.entries["place"].value.mark
            scene.findings.add(rule.PLACE, mark, "place: both process and host are given", "keep one of them")
        if manifest.category is not Category.RESOURCE or draft.damaged:
            continue
        for port in manifest.outputs:
            typed = port.content_type in (ContentType.JSON, ContentType.CBOR)
            if not typed or port.schema_ref is None:
                lacks = "a schema" if typed else "type json or cbor"
                mark = _mark(plan, f"{manifest.node}.outputs.{port.name}", manifest.node)
                scene.findings.add(rule.RESOURCE, mark, f"output `{port.name}` of a resource needs {lacks}")


def _check_reach(plan: Plan, scene: Scene) -> None:
    """Walk on from every node where messages start."""
    after: dict[str, list[str]] = {manifest.node: [] for manifest in plan.manifests}
    reached: set[str] = set()
    for route in plan.routes:
        if route.plane is Plane.DATA:
            after[route.source_node].append(route.target_node)
        elif route.target_node in after:
            reached.add(route.target_node)
    for node, draft in scene.drafts.items():
        spec = draft.resolved.spec
        is_source = spec.is_source if spec is not None else not draft.joins
        if is_source or not draft.is_whole or not draft.joins:
            reached.add(node)  # a built-in with inputs and no joins has its own finding
    _reach(list(reached), after, reached)
    for node in after:
        if node in reached:
            continue
        before = len(reached)
        _reach([node], after, reached)
        further = len(reached) - before - 1
        message = f"no source reaches node {node}" + (f", nor {further} nodes after it" if further else "")
        scene.findings.add(rule.UNREACHED, _mark(plan, node), message)


def _reach(starts: Iterable[str], after: dict[str, list[str]], reached: set[str]) -> None:
    """Add to `reached` the starts and every node after them."""
    reached.update(starts)
    waiting = deque(starts)
    while waiting:
        for target in after[waiting.popleft()]:
            if target not in reached:
                reached.add(target)
                waiting.append(target)


def _check_cycles(plan: Plan, data: Sequence[Route], scene: Scene) -> bool:
    """Note cycles that lack feedback, feedback without a cycle, and cycles without credit; True without the first."""
    nodes = [manifest.node for manifest in plan.manifests]
    forward = graph_of(nodes, _edges(route for route in data if not route.feedback))
    undeclared = cycles(forward)
    ids = {(route.source_node, route.target_node): route.id for route in reversed(data) if not route.feedback}
    for cycle in undeclared:
        back = ids[cycle[-1], cycle[0]]
        message = f"cycle without a feedback edge: {_shown([*cycle, cycle[0]])}"
        hint = f"mark {back} with feedback: true and a queue that drops"
        scene.findings.add(rule.CYCLE, _mark(plan, back), message, hint)
    component = components(graph_of(nodes, _edges(data)))
    damaged = any(draft.damaged for draft in scene.drafts.values()) or bool(scene.shaped.lost)
    for route in data:
        if route.feedback and component[route.source_node] != component[route.target_node] and not damaged:
            mark = scene.feedback_marks[route.id]
            scene.findings.add(rule.FEEDBACK, mark, f"feedback: {route.id} closes no cycle")
    _check_credit(plan, nodes, data, scene)
    return not undeclared


def _check_credit(plan: Plan, nodes: Sequence[str], data: Sequence[Route], scene: Scene) -> None:
    """Cycles with a feedback edge on which every edge waits for credit: full once, they never move again."""
    blocking = [route for route in data if route.qos.policy is Policy.BLOCK]
    blocked = components(graph_of(nodes, _edges(blocking)))
    inside: dict[int, list[Route]] = {}
    for route in blocking:
        if blocked[route.source_node] == blocked[route.target_node]:
            inside.setdefault(blocked[route.source_node], []).append(route)
    for routes in inside.values():
        back = next((route for route in routes if route.feedback), None)
        if back is None:
            continue
        members = dict.fromkeys([back.target_node, *(other.target_node for other in routes)])
        cycle = cycles(graph_of(members, _edges(routes)))[0]
        message = f"every edge of the cycle {_shown([*cycle, cycle[0]])} blocks: it can run out of credit"
        hint = "queue: {policy: drop_oldest} on one of its edges"
        scene.findings.add(rule.CREDIT, _mark(plan, back.id), message, hint)


def _edges(routes: Iterable[Route]) -> Iterable[tuple[str, str]]:
    return ((route.source_node, route.target_node) for route in routes)


def _shown(nodes: Sequence[str]) -> str:
    if len(nodes) <= _SHOWN_MAX:
        return " -> ".join(nodes)
    left_out = len(nodes) - _SHOWN_MAX + 1
    return " -> ".join([*nodes[: _SHOWN_MAX - 3], f"({left_out} more)", *nodes[-2:]])


def _check_budgets(plan: Plan, scene: Scene) -> None:
    for path in islice(Budgets(plan).overruns(), FINDINGS_MAX + 1):
        _note_overrun(plan, path, scene.findings)


def _note_overrun(plan: Plan, path: PathBudget, findings: Findings) -> None:
    assert path.deadline_ns is not None
    message = (
        f"budgets along {_shown(path.nodes)} add up to {duration_text(path.declared_ns)}, "
        f"the deadline from {path.since} is {duration_text(path.deadline_ns)}"
    )
    findings.add(rule.BUDGET, _mark(plan, f"{path.since}.deadline", path.since), message)


def _check_tiers(plan: Plan, data: Sequence[Route], scene: Scene) -> None:
    places = {manifest.node: manifest.place for manifest in plan.manifests}
    for route in data:
        problem = choose(route, places[route.source_node], places[route.target_node]).problem
        if problem:
            scene.findings.add(rule.TIER, _mark(plan, route.id), f"{route.id}: {problem}")


def _check_delivery(plan: Plan, data: Sequence[Route], scene: Scene) -> None:
    """What is to be kept may not be dropped, and what is to have an effect once needs snapshots that know it."""
    for route in data:
        delivery, policy = route.qos.delivery, route.qos.policy
        if delivery is Delivery.AT_MOST_ONCE:
            continue
        mark = _mark(plan, route.id)
        if policy not in (Policy.BLOCK, Policy.ERROR):
            message = f"{route.id}: delivery {delivery.value} with a queue of policy {policy.value}, which drops"
            scene.findings.add(rule.DELIVERY, mark, message, "queue: {policy: block}")
        draft = scene.drafts[route.target_node]
        if delivery is not Delivery.EFFECTIVELY_ONCE or draft.damaged:
            continue
        if plan.manifest(route.target_node).snapshot_ns is None:
            message = f"{route.id}: delivery effectively_once, but node {route.target_node} keeps no snapshots"
            scene.findings.add(rule.DELIVERY, mark, message, "snapshot: 100ms, and an operator with both its hooks")
