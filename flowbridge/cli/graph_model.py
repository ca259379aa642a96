"""What a drawing of a plan shows: vertices, arrows, their labels and details. Every format starts from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowbridge.cli.units import duration_text, size_text
from flowbridge.plan import Plane, Policy

if TYPE_CHECKING:
    from flowbridge.plan import Plan, PluginManifest, Qos, Route

BUS: Final = "bus"
TIMER: Final = "timer"


@dataclass(frozen=True, slots=True)
class Vertex:
    """A node, a bus topic or a timer. `kind` is ``source``, ``step``, ``sink``, ``topic`` or ``timer``."""

    key: str
    title: str
    subtitle: str
    kind: str
    details: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Arrow:
    """A route, or ``match``: a topic that a wildcard subscription also hears."""

    key: str
    source: str
    target: str
    label: str
    kind: str
    feedback: bool = False
    details: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything to draw."""

    name: str
    description: str
    vertices: tuple[Vertex, ...]
    arrows: tuple[Arrow, ...]


def picture_of(plan: Plan) -> Picture:
    """The picture of a plan."""
    from flowbridge.tiers import choose_all

    nodes = {manifest.node for manifest in plan.manifests}
    tiers = {route_id: choice.tier.value for route_id, choice in choose_all(plan).items()}
    fed = {route.target_node for route in plan.routes if route.plane is not Plane.TIMER}
    feeding = {route.source_node for route in plan.routes}
    vertices = {m.node: _node(m, m.node in fed, m.node in feeding) for m in plan.manifests}
    arrows: list[Arrow] = []
    for route in plan.routes:
        source, target = _ends(route, nodes)
        for key in (source, target):
            if key not in vertices:
                vertices[key] = _outside(key, route)
        arrows.append(_arrow(route, source, target, tiers[route.id]))
    arrows += _matches(arrows)
    return Picture(plan.name, plan.description, tuple(vertices.values()), tuple(arrows))


def _ends(route: Route, nodes: set[str]) -> tuple[str, str]:
    if route.plane is Plane.BUS:
        topic = f"{BUS}/{route.topic}"
        return (topic, route.target_node) if route.target_node in nodes else (route.source_node, topic)
    if route.plane is Plane.TIMER:
        # One clock face per node: timers of different nodes are not joined.
        return f"{TIMER}/{route.source_port}->{route.target_node}/{route.target_port}", route.target_node
    return route.source_node, route.target_node


def _node(manifest: PluginManifest, is_fed: bool, feeds: bool) -> Vertex:
    place = "/".join(part for part in (manifest.place.host, manifest.place.process) if part)
    operator = manifest.artifact.ref
    details = {"operator": operator, "origin": manifest.origin.value, "category": manifest.category.value}
    details |= {f"input {port.name}": _port_text(port.content_type.value, port.schema_ref) for port in manifest.inputs}
    details |= {
        f"output {port.name}": _port_text(port.content_type.value, port.schema_ref) for port in manifest.outputs
    }
    optional = {
        "place": place,
        "deadline": duration_text(manifest.deadline_ns) if manifest.deadline_ns is not None else "",
        "priority": manifest.priority.word if manifest.priority is not None else "",
        "budget": duration_text(manifest.budget_ns) if manifest.budget_ns is not None else "",
        "restart": manifest.restart.when.value if manifest.restart.when.value != "never" else "",
    }
    details |= {name: value for name, value in optional.items() if value}
    details |= {f"with {name}": str(value) for name, value in manifest.config.items()}
    kind = "step" if is_fed and feeds else "sink" if is_fed else "source"
    short = operator.removeprefix("python:")
    return Vertex(manifest.node, manifest.node, f"{short} @ {place}" if place else short, kind, details)


def _outside(key: str, route: Route) -> Vertex:
    if route.plane is Plane.BUS:
        return Vertex(key, route.topic or "", "topic", "topic", {"topic": route.topic or ""})
    period = duration_text(route.period_ns)
    return Vertex(key, period, "timer", "timer", {"period": period})


def _arrow(route: Route, source: str, target: str, tier: str) -> Arrow:
    ports = [p for p, usual in ((route.source_port, "out"), (route.target_port, "in")) if p != usual]
    words: list[str] = []
    if route.plane is Plane.DATA and ports:
        words.append(f"{route.source_port} \u2192 {route.target_port}")
    # What is said of an arrow into a topic has no queue of its own: the subscriptions have.
    if not target.startswith(f"{BUS}/") and route.plane is not Plane.TIMER:
        words.append(queue_text(route.qos))
    if route.qos.priority is not None:
        words.append(route.qos.priority.word)
    if route.qos.deadline_ns is not None:
        words.append(duration_text(route.qos.deadline_ns))
    return Arrow(
        route.id, source, target, " \u00b7 ".join(words), route.plane.value, route.feedback, _route_details(route, tier)
    )


def queue_text(qos: Qos) -> str:
    """The policy and how many messages wait at most, such as ``drop_oldest 16``."""
    return qos.policy.value if qos.policy is Policy.LATEST else f"{qos.policy.value} {qos.capacity_items}"


def _route_details(route: Route, tier: str) -> dict[str, str]:
    qos = route.qos
    details = {"route": route.id, "tier": tier, "type": _port_text(route.content_type.value, route.schema_ref)}
    details["queue"] = f"{queue_text(qos)}, {size_text(qos.capacity_bytes)}"
    details["watermarks"] = f"stops at {qos.high_items}, goes on at {qos.low_items}"
    details["priority"] = "of the message" if qos.priority is None else qos.priority.word
    details["deadline"] = "of the message" if qos.deadline_ns is None else duration_text(qos.deadline_ns)
    if route.feedback:
        details["feedback"] = "yes"
    if route.group:
        details["group"] = route.group
    if route.reply:
        details["reply"] = "yes"
    return details


def _port_text(content_type: str, schema_ref: str | None) -> str:
    return f"{content_type} ({schema_ref})" if schema_ref else content_type


def _matches(arrows: list[Arrow]) -> list[Arrow]:
    """Arrows from published topics to the wildcard subscriptions that hear them."""
    published = dict.fromkeys(a.target for a in arrows if a.target.startswith(f"{BUS}/"))
    patterns = dict.fromkeys(
        a.source for a in arrows if a.source.startswith(f"{BUS}/") and ("*" in a.source or ">" in a.source)
    )
    return [
        Arrow(f"{topic}~{pattern}", topic, pattern, "", "match")
        for pattern in patterns
        for topic in published
        if topic != pattern and _hears(pattern.removeprefix(f"{BUS}/"), topic.removeprefix(f"{BUS}/"))
    ]


def _hears(pattern: str, topic: str) -> bool:
    wanted, words = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(w in ("*", word) for w, word in zip(wanted, words, strict=True))
