"""What is known of a flow while its names are resolved: the defaults, schemas, topics and nodes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbridge.adapters import endpoint, rule
from flowbridge.adapters.qos import priority_of, queue_qos
from flowbridge.adapters.source import Branch, Entry
from flowbridge.envelope import Priority
from flowbridge.limits import FLOW_TOPICS_MAX
from flowbridge.machines.topics import covers
from flowbridge.plan import ContentType, Defaults, Qos, SchemaField, SchemaSpec
from flowbridge.schema import TYPE_WORDS, SchemaTypeError, canonical_type, fingerprint

if TYPE_CHECKING:
    from flowbridge.adapters import syntax
    from flowbridge.adapters.artifact import Resolved
    from flowbridge.adapters.collect import Findings, Mark
    from flowbridge.adapters.endpoint import Endpoint
    from flowbridge.adapters.shape import Shaped
    from flowbridge.adapters.source import Value
    from flowbridge.contracts import OperatorCatalog
    from flowbridge.finding import Position
    from flowbridge.plan import Port, Route


@dataclass(slots=True)
class Join:
    """One end that an input port is joined to."""

    port: str
    end: Endpoint
    spec: syntax.Input | None  # None when only the end was written
    mark: Mark
    tree: Value


@dataclass(slots=True)
class Draft:
    """A node on its way to a manifest. `damaged`: something of it was cut, so what is missing is no finding."""

    node: syntax.Node
    tree: Branch
    mark: Mark
    resolved: Resolved
    damaged: bool
    joins: list[Join] = field(default_factory=list["Join"])
    outputs: dict[str, Port] = field(default_factory=dict[str, "Port"])
    routes: list[Route] = field(default_factory=list["Route"])  # those that end here, and those to the bus

    @property
    def is_whole(self) -> bool:
        """True when everything about this node is known."""
        return self.resolved.known and not self.damaged

    def entries(self, *path: str) -> dict[str, Entry]:
        """The entries of the map at a path of keys; none when there is no map."""
        value: Value = self.tree
        for key in path:
            found = value.entries.get(key) if isinstance(value, Branch) else None
            if found is None:
                return {}
            value = found.value
        return value.entries if isinstance(value, Branch) else {}


@dataclass(slots=True)
class Scene:
    """Everything that names can lead to."""

    findings: Findings
    shaped: Shaped
    catalog: OperatorCatalog
    defaults: Defaults = field(default_factory=Defaults)
    topics: dict[str, Qos] = field(default_factory=dict[str, Qos])
    schemas: dict[str, SchemaSpec] = field(default_factory=dict[str, SchemaSpec])  # by ref
    refs: dict[str, str | None] = field(default_factory=dict[str, "str | None"])  # name to ref; None: it is broken
    drafts: dict[str, Draft] = field(default_factory=dict[str, Draft])
    feedback_marks: dict[str, Mark] = field(default_factory=dict[str, "Mark"])  # by route id
    positions: dict[str, Position] = field(default_factory=dict[str, "Position"])

    def schema_ref(self, name: str | None, mark: Mark, content_type: ContentType | None = None) -> str | None:
        """The ref of a declared schema; the first port that uses a schema gives it its content type."""
        if name is None:
            return None
        if name not in self.refs:
            hint = self.findings.did_you_mean(name, self.refs, "declare it under schemas:")
            self.findings.add(rule.UNKNOWN_SCHEMA, mark, f"there is no schema {name!r}", hint)
            return None
        ref = self.refs[name]
        if ref is not None and content_type not in (None, ContentType.OBJECT):
            assert content_type is not None
            if ref not in self._used:
                self._used.add(ref)
                self.schemas[ref] = replace(self.schemas[ref], content_type=content_type)
        return ref

    _used: set[str] = field(default_factory=set[str])

    def topic_qos(self, pattern: str) -> Qos:
        """The QoS of a topic or pattern: of the first entry of `topics` that covers it, else the default."""
        for wide, qos in self.topics.items():
            if covers(wide, pattern):
                return qos
        return self.defaults.qos


def open_scene(shaped: Shaped, findings: Findings, catalog: OperatorCatalog) -> Scene:
    """A scene with defaults, schemas and topics resolved, and no nodes yet."""
    scene = Scene(findings, shaped, catalog)
    root = shaped.tree.entries
    given = shaped.flow.defaults
    if given is not None:
        mark = _mark_in(root["defaults"], "queue")
        priority = priority_of(given.priority)
        scene.defaults = Defaults(
            deadline_ns=given.deadline,
            priority=Priority.NORMAL if priority is None else priority,
            qos=queue_qos(given.queue, Qos(), mark, findings),
        )
    _schemas(scene)
    _topics(scene)
    return scene


def _mark_in(entry: Entry, key: str) -> Mark:
    """Where the value of a key of a map stands, or the map."""
    inner = entry.value.entries.get(key) if isinstance(entry.value, Branch) else None
    return inner.value.mark if inner is not None else entry.value.mark


def _topics(scene: Scene) -> None:
    if scene.shaped.flow.topics is None:
        return
    found = scene.shaped.tree.entries["topics"]
    branch = found.value
    assert isinstance(branch, Branch)
    count = len(branch.entries)
    if count > FLOW_TOPICS_MAX:
        scene.findings.add(rule.LIMIT, found.mark, f"{count} topics exceed the limit of {FLOW_TOPICS_MAX}")
        return
    for pattern, topic in scene.shaped.flow.topics.items():
        entry = branch.entries[pattern]
        try:
            endpoint.check_topic(pattern, pattern=True)
        except endpoint.TopicError as error:
            scene.findings.add(rule.BAD_TOPIC, entry.mark, str(error), error.hint)
            continue
        qos = queue_qos(topic.queue, scene.defaults.qos, _mark_in(entry, "queue"), scene.findings)
        scene.topics[pattern] = replace(qos, priority=priority_of(topic.priority), deadline_ns=topic.deadline)


def _schemas(scene: Scene) -> None:
    shaped = scene.shaped
    root = shaped.tree.entries.get("schemas")
    by_shape: dict[str, str] = {}
    for name, schema in (shaped.flow.schemas or {}).items():
        assert root is not None
        assert isinstance(root.value, Branch)
        branch = root.value.entries[name].value
        assert isinstance(branch, Branch)
        fields = _fields(schema.fields, branch, scene.findings)
        scene.refs[name] = None
        if fields is None or (id(branch), "fields") in shaped.cut:
            continue
        ref = f"{name}@{schema.version}"
        spec = SchemaSpec(
            ref=ref, name=name, version=schema.version, content_type=ContentType.ARROW, fields=tuple(fields)
        )
        kept = by_shape.setdefault(fingerprint(spec), ref)
        scene.refs[name] = kept
        if kept == ref:
            scene.schemas[ref] = spec
    cut_of = id(root.value) if root is not None else 0
    for container, key in shaped.cut:
        if container == cut_of:
            scene.refs.setdefault(key, None)


def _fields(given: dict[str, str], branch: Branch, findings: Findings) -> list[SchemaField] | None:
    """The columns; None when one of them cannot be understood."""
    where = branch.entries["fields"].value
    assert isinstance(where, Branch)
    if not given:
        findings.add(rule.BAD_VALUE, where.mark, "fields: at least one column is needed")
        return None
    fields: list[SchemaField] = []
    for name, text in given.items():
        nullable = not text.endswith("!")
        word = text[:-1] if text.endswith(("!", "?")) else text
        try:
            fields.append(SchemaField(name=name, type=canonical_type(word), nullable=nullable))
        except SchemaTypeError as error:
            hint = findings.did_you_mean(word, TYPE_WORDS)
            findings.add(rule.BAD_FIELD_TYPE, where.entries[name].value.mark, f"{name}: {error}", hint)
    return fields if len(fields) == len(given) else None
