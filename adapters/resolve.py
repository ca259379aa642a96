"""Resolves the names of a flow: ids, operators, output ports and the ends of inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.adapters import endpoint, rule, unit
from flowbridge.adapters.artifact import resolve_operator
from flowbridge.adapters.scene import Draft, Join
from flowbridge.adapters.source import Branch, Items, Scalar
from flowbridge.adapters.syntax import CONTENT_TYPES, Input, Output
from flowbridge.plan import ContentType, Plane, Port

if TYPE_CHECKING:
    from flowbridge.adapters.collect import Mark
    from flowbridge.adapters.scene import Scene
    from flowbridge.adapters.source import Value
    from flowbridge.contracts import OperatorCatalog


def resolve_nodes(scene: Scene, catalog: OperatorCatalog) -> None:
    """Fill `scene.drafts` with every node whose id is its own."""
    for node, tree in zip(scene.shaped.flow.nodes, scene.shaped.node_trees(), strict=True):
        mark = tree.entries["id"].value.mark
        if node.id in endpoint.RESERVED:
            scene.findings.add(
                rule.BAD_NAME, mark, f"id: {node.id} means something else in inputs", "choose another id"
            )
            scene.shaped.lost.add(node.id)
            continue
        first = scene.drafts.get(node.id)
        if first is not None:
            message = f"id {node.id} belongs already to the node in line {first.mark[0]}"
            scene.findings.add(rule.DUPLICATE_NODE, mark, message)
            first.damaged = True  # whose ports are meant is not known
            continue
        at = tree.entries["operator"].value.mark
        resolved = resolve_operator(node.operator, catalog, at, scene.findings)
        damaged = id(tree) in scene.shaped.damaged
        draft = scene.drafts[node.id] = Draft(node, tree, mark, resolved, damaged)
        draft.joins = _joins(draft, scene)
        _place_marks(draft, at, scene)
    read = _ports_read(scene)
    for draft in scene.drafts.values():
        draft.outputs = _outputs(draft, read.get(draft.node.id, {}), scene)


def _place_marks(draft: Draft, operator: Mark, scene: Scene) -> None:
    """Note where the parts of a node stand, for later messages."""
    position = scene.findings.position
    node = draft.node.id
    scene.positions[f"{node}.operator"] = position(operator)
    for part in ("inputs", "outputs", "with"):
        for key, entry in draft.entries(part).items():
            scene.positions[f"{node}.{part}.{key}"] = position(entry.mark)
    deadline = draft.tree.entries.get("deadline")
    if deadline is not None:
        scene.positions[f"{node}.deadline"] = position(deadline.value.mark)
    scene.positions[node] = position(draft.mark)


def _joins(draft: Draft, scene: Scene) -> list[Join]:
    joins: list[Join] = []
    entries = draft.entries("inputs")
    for port, given in (draft.node.inputs or {}).items():
        tree = entries[port].value
        trees = tree.values if isinstance(tree, Items) else [tree]
        for one, where in zip(given if isinstance(given, list) else [given], trees, strict=True):
            join = _join(port, one, where, scene)
            if join is None:
                draft.damaged = True
            else:
                joins.append(join)
    return joins


def _join(port: str, given: str | Input, tree: Value, scene: Scene) -> Join | None:
    text = given.from_ if isinstance(given, Input) else given
    mark = tree.entries["from"].value.mark if isinstance(tree, Branch) else tree.mark
    spec = given if isinstance(given, Input) else None
    try:
        return Join(port, endpoint.parse_endpoint(text), spec, mark, tree)
    except endpoint.TopicError as error:
        scene.findings.add(rule.BAD_TOPIC, mark, str(error), error.hint)
    except endpoint.EndpointError as error:
        scene.findings.add(rule.BAD_ENDPOINT, mark, str(error), error.hint)
    except unit.UnitError as error:
        scene.findings.add(rule.BAD_UNIT, mark, f"timer: {error}", error.hint)
    return None


def _ports_read(scene: Scene) -> dict[str, dict[str, None]]:
    """The output ports that inputs name, by node, in the order of the text."""
    read: dict[str, dict[str, None]] = {}
    for draft in scene.drafts.values():
        for join in draft.joins:
            if join.end.plane is Plane.DATA:
                read.setdefault(join.end.node, {})[join.end.port] = None
    return read


def _outputs(draft: Draft, read: dict[str, None], scene: Scene) -> dict[str, Port]:
    """The output ports of a node by name."""
    spec = draft.resolved.spec
    given = draft.node.outputs
    declared: dict[str, Output] = {}
    if isinstance(given, list):
        declared = dict.fromkeys(given, Output.model_construct(type=None, schema_=None, scatter=None, topic=None))
    elif given is not None:
        declared = {name: output or Output.model_construct(type=None, schema_=None) for name, output in given.items()}
    ports: dict[str, Port] = {}
    if spec is not None:
        ports = {port.name: Port(name=port.name, content_type=port.content_type) for port in spec.outputs}
        if spec.any_outputs:
            ports |= {name: Port(name=name) for name in read if name not in ports}
    elif given is None:
        ports = {name: Port(name=name) for name in read or ("out",)}
    marks = _output_marks(draft)
    for name, output in declared.items():
        if spec is not None and name not in ports and not spec.any_outputs:
            known = ", ".join(ports) or "none"
            hint = scene.findings.did_you_mean(name, ports, f"outputs of {spec.name}: {known}")
            scene.findings.add(rule.UNKNOWN_PORT, marks[name], f"{spec.name} has no output `{name}`", hint)
            continue
        ports[name] = _output(draft, output, ports.get(name, Port(name=name)), marks[name], scene)
    return ports


def _output(draft: Draft, output: Output, base: Port, mark: Mark, scene: Scene) -> Port:
    name, fixed, word = base.name, base.content_type, output.type
    content_type = CONTENT_TYPES[word] if word is not None else fixed
    if word is None and output.schema_ is not None and fixed is ContentType.OBJECT:
        content_type = ContentType.ARROW
    if fixed not in (ContentType.OBJECT, content_type):
        message = f"output `{name}` of {draft.node.operator} carries {fixed.name.lower()}, not {word}"
        scene.findings.add(rule.TYPE_MISMATCH, mark, message)
        content_type = fixed
    at = draft.entries("outputs", name).get("schema")
    ref = scene.schema_ref(output.schema_, at.value.mark if at is not None else mark, content_type)
    return Port(name=name, content_type=content_type, schema_ref=ref)


def _output_marks(draft: Draft) -> dict[str, Mark]:
    """Where the name of each declared output stands."""
    outputs = draft.tree.entries.get("outputs")
    if outputs is not None and isinstance(outputs.value, Items):
        return {str(item.value): item.mark for item in outputs.value.values if isinstance(item, Scalar)}
    return {name: entry.mark for name, entry in draft.entries("outputs").items()}
