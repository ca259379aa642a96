"""From resolved nodes and routes to the `Plan`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbridge.adapters import rule
from flowbridge.adapters.artifact import Marks, resolve_config
from flowbridge.adapters.qos import priority_of
from flowbridge.adapters.source import plain
from flowbridge.adapters.syntax import CATEGORIES, Output, Restart
from flowbridge.codec.plan import digest_of
from flowbridge.plan import (
    Category,
    ContentType,
    OnError,
    Per,
    Placement,
    Plan,
    Plane,
    PluginManifest,
    Port,
    RestartPolicy,
    RestartWhen,
    RetryPolicy,
    Scatter,
)

if TYPE_CHECKING:
    from typing import Any

    from flowbridge.adapters import syntax
    from flowbridge.adapters.scene import Draft, Scene


def emit_plan(scene: Scene, base_dir: str) -> Plan:
    """The plan without its digest: it is still to be checked."""
    drafts = scene.drafts.values()
    return Plan(
        name=scene.shaped.flow.name,
        digest="",
        manifests=tuple(_manifest(draft, scene) for draft in drafts),
        routes=tuple(route for draft in drafts for route in draft.routes),
        schemas=scene.schemas,
        topics=scene.topics,
        defaults=scene.defaults,
        description=scene.shaped.flow.description or "",
        base_dir=base_dir,
        positions=scene.positions,
    )


def seal(plan: Plan) -> Plan:
    """The plan with its digest."""
    return replace(plan, digest=digest_of(plan))


def _manifest(draft: Draft, scene: Scene) -> PluginManifest:
    node, spec = draft.node, draft.resolved.spec
    category = spec.category if spec is not None else Category.BUSINESS
    # Without inputs of its own a node is a source; with a timer, messages start here too.
    starts = not draft.joins or any(join.end.plane is Plane.TIMER for join in draft.joins)
    priority = priority_of(node.priority)
    outputs: dict[str, Output | None] = node.outputs if isinstance(node.outputs, dict) else {}
    return PluginManifest(
        node=node.id,
        artifact=draft.resolved.artifact,
        origin=draft.resolved.origin,
        category=CATEGORIES[node.category] if node.category is not None else category,
        inputs=_inputs(draft, scene),
        outputs=tuple(draft.outputs.values()),
        config=_config(draft, scene),
        place=Placement(process=node.place.process, host=node.place.host) if node.place is not None else Placement(),
        restart=_restart(node.restart),
        retry=_retry(node.retry),
        on_error=OnError(node.on_error) if node.on_error is not None else OnError.FAIL,
        per=Per(node.per) if node.per is not None else Per.MESSAGE,
        thread=bool(node.thread),
        scatter={name: Scatter(o.scatter) for name, o in outputs.items() if o is not None and o.scatter is not None},
        priority=scene.defaults.priority if priority is None else priority,
        deadline_ns=node.deadline if node.deadline is not None else scene.defaults.deadline_ns if starts else None,
        budget_ns=node.budget,
        snapshot_ns=node.snapshot,
    )


def _inputs(draft: Draft, scene: Scene) -> tuple[Port, ...]:
    """The input ports: of a built-in operator as it says, else as what arrives there, if that is all of one kind."""
    spec = draft.resolved.spec
    ports: dict[str, Port] = {}
    for port in spec.inputs if spec is not None else ():
        ports[port.name] = Port(name=port.name, content_type=port.content_type)
    arriving: dict[str, set[tuple[ContentType, str | None]]] = {}
    for route in draft.routes:
        if route.target_node == draft.node.id:
            arriving.setdefault(route.target_port, set()).add((route.content_type, route.schema_ref))
    declared = {
        join.port: scene.refs.get(join.spec.schema_)
        for join in draft.joins
        if join.spec is not None and join.spec.schema_ is not None
    }
    for name in draft.node.inputs or {}:
        kinds = arriving.get(name, set())
        types, refs = {kind for kind, _ in kinds}, {ref for _, ref in kinds}
        base = ports.get(name)
        content_type = types.pop() if len(types) == 1 else ContentType.OBJECT
        if base is not None and base.content_type is not ContentType.OBJECT:
            content_type = base.content_type
        ref = declared.get(name) or (refs.pop() if len(refs) == 1 else None)
        ports[name] = Port(name=name, content_type=content_type, schema_ref=ref)
    return tuple(ports.values())


def _config(draft: Draft, scene: Scene) -> dict[str, Any]:
    entries = draft.entries("with")
    given = {key: plain(entry.value) for key, entry in entries.items()}
    spec = draft.resolved.spec
    if spec is None:
        return given
    keys = {key: entry.mark for key, entry in entries.items()}
    values = {key: entry.value.mark for key, entry in entries.items()}
    marks = Marks(keys, values, draft.mark)
    before = len(scene.findings)
    config = resolve_config(given, spec, marks, scene.findings, whole=not draft.damaged)
    if not draft.damaged and len(scene.findings) == before:
        refusal = scene.catalog.refusal(spec, config)
        if refusal is not None:
            at = next(iter(values.values())) if len(values) == 1 else draft.mark
            scene.findings.add(rule.REFUSED_CONFIG, at, f"{spec.name}: {refusal}")
    return config


def _restart(given: str | Restart | None) -> RestartPolicy:
    if given is None:
        return RestartPolicy()
    if isinstance(given, str):
        return RestartPolicy(when=RestartWhen(given))
    default = RestartPolicy()
    return RestartPolicy(
        when=RestartWhen(given.when),
        max=default.max if given.max is None else given.max,
        window_ns=default.window_ns if given.window is None else given.window,
        delay_ns=default.delay_ns if given.delay is None else given.delay,
        delay_max_ns=default.delay_max_ns if given.max_delay is None else given.max_delay,
    )


def _retry(given: syntax.Retry | None) -> RetryPolicy:
    if given is None:
        return RetryPolicy()
    delay_ns = RetryPolicy().delay_ns if given.delay is None else given.delay
    return RetryPolicy(max=given.max, delay_ns=delay_ns, on=tuple(given.on or ()))
