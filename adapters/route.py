"""From the joins of nodes to routes: every default decided, types and schemas of the two ends compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from flowbridge.adapters import endpoint, rule
from flowbridge.adapters.qos import priority_of, queue_qos
from flowbridge.adapters.source import Branch
from flowbridge.adapters.syntax import CONTENT_TYPES, Output
from flowbridge.limits import FLOW_ROUTES_MAX
from flowbridge.plan import ContentType, Delivery, Plane, Port, Qos, Route, Tier
from flowbridge.schema import accepts

if TYPE_CHECKING:
    from flowbridge.adapters.collect import Mark
    from flowbridge.adapters.scene import Draft, Join, Scene


def resolve_routes(scene: Scene) -> None:
    """Give every draft the routes that end at it, and those from it to the bus."""
    seen: set[str] = set()
    for draft in scene.drafts.values():
        _check_inputs(draft, scene)
        for join in draft.joins:
            route = _route(draft, join, scene)
            if route is not None:
                _keep(draft, route, join.mark, seen, scene)
                if route.feedback and isinstance(join.tree, Branch):
                    scene.feedback_marks[route.id] = join.tree.entries["feedback"].mark
        for name in draft.outputs:
            _publish(draft, name, seen, scene)
        if len(seen) > FLOW_ROUTES_MAX:
            scene.findings.add(rule.LIMIT, draft.mark, f"more than the limit of {FLOW_ROUTES_MAX} routes")
            return


def _keep(draft: Draft, route: Route, mark: Mark, seen: set[str], scene: Scene) -> None:
    if route.id in seen:
        scene.findings.add(rule.DUPLICATE_ROUTE, mark, f"route {route.id} is there already")
        return
    seen.add(route.id)
    draft.routes.append(route)
    scene.positions[route.id] = scene.findings.position(mark)


def _check_inputs(draft: Draft, scene: Scene) -> None:
    """The inputs of a built-in operator: all of them joined, and no others."""
    spec = draft.resolved.spec
    if spec is None:
        return
    names = [port.name for port in spec.inputs]
    joined = draft.node.inputs or {}
    for name in joined:
        if name not in names and not spec.any_inputs:
            known = f"inputs of {spec.name}: {', '.join(names)}" if names else f"{spec.name} has no inputs"
            hint = scene.findings.did_you_mean(name, names, known)
            mark = draft.entries("inputs")[name].mark
            scene.findings.add(rule.UNKNOWN_PORT, mark, f"{spec.name} has no input `{name}`", hint)
    if draft.damaged:
        return
    for name in names:
        if name not in joined and not (spec.any_inputs and joined):
            message = f"input `{name}` of {spec.name} is not joined"
            scene.findings.add(rule.MISSING_INPUT, draft.mark, message, f"inputs: {{{name}: node/port}}")
    if spec.any_inputs and not names and not joined:
        scene.findings.add(rule.MISSING_INPUT, draft.mark, f"{spec.name} needs at least one input")


def _route(draft: Draft, join: Join, scene: Scene) -> Route | None:
    """The route of one join; None when one of its ends is not there."""
    end, given = join.end, join.spec
    carried = _carried(draft, join, scene) if end.plane is Plane.DATA else Port(name=end.port)
    if carried is None:
        return None
    _check_settings(join, scene)
    needed = _needed(draft, join, scene)
    _check_ends(carried, needed, join, scene)
    if end.plane is not Plane.DATA:
        carried = needed
    return Route(
        id=f"{end}->{draft.node.id}/{join.port}",
        plane=end.plane,
        source_node=end.node,
        source_port=end.port,
        target_node=draft.node.id,
        target_port=join.port,
        qos=_qos(join, scene),
        tier=Tier(given.tier) if given is not None and given.tier is not None else Tier.CHOOSE,
        content_type=carried.content_type,
        schema_ref=carried.schema_ref,
        feedback=given is not None and bool(given.feedback),
        topic=end.port if end.plane is Plane.BUS else None,
        group=given.group if given is not None else None,
        reply=given is not None and bool(given.reply),
        period_ns=end.period_ns,
    )


def _carried(draft: Draft, join: Join, scene: Scene) -> Port | None:
    """The output port at the other end of a data route."""
    end = join.end
    source = scene.drafts.get(end.node)
    if source is None:
        draft.damaged = True
        if end.node not in scene.shaped.lost:
            known = ", ".join(islice(scene.drafts, 9))
            instead = f"nodes are {known}" if len(scene.drafts) <= 9 else ""
            hint = scene.findings.did_you_mean(end.node, scene.drafts, instead)
            scene.findings.add(rule.UNKNOWN_NODE, join.mark, f"there is no node {end.node[:60]!r}", hint)
        return None
    port = source.outputs.get(end.port)
    if port is None:
        draft.damaged = True
        if source.is_whole:
            known = ", ".join(source.outputs)
            instead = f"outputs of {end.node}: {known}" if known else f"{end.node} has no outputs"
            hint = scene.findings.did_you_mean(end.port, source.outputs, instead)
            scene.findings.add(rule.UNKNOWN_PORT, join.mark, f"{end.node} has no output {end.port[:60]!r}", hint)
    return port


def _check_settings(join: Join, scene: Scene) -> None:
    """Settings that have no meaning for this kind of end."""
    given = join.spec
    if given is None or not isinstance(join.tree, Branch):
        return
    wrong: list[tuple[str, str]] = []
    if join.end.plane is not Plane.BUS:
        wrong = [(key, "bus/...") for key in ("group", "reply") if getattr(given, key) is not None]
    if join.end.plane is not Plane.DATA:
        wrong += [(key, "node/port") for key in ("feedback", "tier", "delivery") if getattr(given, key) is not None]
    for key, place in wrong:
        mark = join.tree.entries[key].mark
        scene.findings.add(rule.MISPLACED, mark, f"`{key}` belongs to {place}, not to {join.end}")


def _needed(draft: Draft, join: Join, scene: Scene) -> Port:
    """What the input port asks for: what it says itself, or what its built-in operator does; OBJECT takes anything."""
    spec, given = draft.resolved.spec, join.spec
    fixed = ContentType.OBJECT
    if spec is not None:
        fixed = next((port.content_type for port in spec.inputs if port.name == join.port), fixed)
    if given is None or not isinstance(join.tree, Branch):
        return Port(name=join.port, content_type=fixed)
    content_type = CONTENT_TYPES[given.type] if given.type is not None else fixed
    if fixed not in (ContentType.OBJECT, content_type):
        message = f"input `{join.port}` of {draft.node.operator} takes {fixed.name.lower()}, not {given.type}"
        scene.findings.add(rule.TYPE_MISMATCH, join.tree.entries["type"].value.mark, message)
        content_type = fixed
    entry = join.tree.entries.get("schema")
    ref = scene.schema_ref(given.schema_, entry.value.mark if entry is not None else join.mark, content_type)
    return Port(name=join.port, content_type=content_type, schema_ref=ref)


def _check_ends(carried: Port, needed: Port, join: Join, scene: Scene) -> None:
    types = {carried.content_type, needed.content_type} - {ContentType.OBJECT}
    if len(types) > 1:
        message = (
            f"{join.end} carries {carried.content_type.name.lower()}, but {needed.content_type.name.lower()} is needed"
        )
        scene.findings.add(rule.TYPE_MISMATCH, join.mark, message)
    elif carried.schema_ref is not None and needed.schema_ref is not None:
        reason = accepts(scene.schemas[needed.schema_ref], scene.schemas[carried.schema_ref])
        if reason is not None:
            scene.findings.add(rule.SCHEMA_MISMATCH, join.mark, f"{join.end}: {reason}")


def _qos(join: Join, scene: Scene) -> Qos:
    is_bus = join.end.plane is Plane.BUS
    base = scene.topic_qos(join.end.port) if is_bus else scene.defaults.qos
    given = join.spec
    if given is None or not isinstance(join.tree, Branch):
        return base
    queue = join.tree.entries.get("queue")
    qos = queue_qos(given.queue, base, queue.value.mark if queue is not None else join.mark, scene.findings)
    priority = priority_of(given.priority)
    return replace(
        qos,
        priority=priority if priority is not None else qos.priority,
        deadline_ns=given.deadline if given.deadline is not None else qos.deadline_ns,
        delivery=Delivery(given.delivery) if given.delivery is not None and not is_bus else qos.delivery,
    )


def _publish(draft: Draft, name: str, seen: set[str], scene: Scene) -> None:
    """The route from an output to the bus, when the output has a topic."""
    outputs = draft.node.outputs
    output = outputs.get(name) if isinstance(outputs, dict) else None
    if not isinstance(output, Output) or output.topic is None:
        return
    mark = draft.entries("outputs", name)["topic"].value.mark
    try:
        endpoint.check_topic(output.topic, pattern=False)
    except endpoint.TopicError as error:
        scene.findings.add(rule.BAD_TOPIC, mark, str(error), error.hint)
        return
    port = draft.outputs[name]
    route = Route(
        id=f"{draft.node.id}/{name}->bus/{output.topic}",
        plane=Plane.BUS,
        source_node=draft.node.id,
        source_port=name,
        target_node="bus",
        target_port=output.topic,
        qos=scene.topic_qos(output.topic),
        content_type=port.content_type,
        schema_ref=port.schema_ref,
        topic=output.topic,
    )
    _keep(draft, route, mark, seen, scene)
