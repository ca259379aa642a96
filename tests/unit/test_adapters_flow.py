"""A flow that compiles: what is in its plan."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from flowbridge import loading
from flowbridge.adapters import jsonschema, rule
from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.codec.plan import plan_to_cbor, plan_to_json
from flowbridge.envelope import Priority
from flowbridge.errors import FlowErrors, PlanError
from flowbridge.limits import FLOW_FILE_BYTES_MAX
from flowbridge.operator_spec import ConfigField, OperatorSpec
from flowbridge.plan import (
    ArtifactKind,
    Category,
    ContentType,
    OnError,
    Origin,
    Per,
    Plan,
    Plane,
    Policy,
    Port,
    Qos,
    RestartPolicy,
    RestartWhen,
    RetryPolicy,
    Route,
    Scatter,
    Tier,
)
from flowbridge.registry import Catalog

_ROOT = Path(__file__).parents[2]
_WINDOW = OperatorSpec(
    name="window",
    summary="Aggregates.",
    factory="flowbridge.operators.window:Window",
    config=(
        ConfigField(name="every", type="duration", doc="length"),
        ConfigField(name="where", type="expression", doc="which", default="true"),
        ConfigField(name="lateness", type="duration", doc="patience", default="0ns"),
        ConfigField(name="room", type="bytes", doc="memory", default="1MiB"),
        ConfigField(name="share", type="float", doc="part", default=None),
        ConfigField(name="by", type="list", doc="keys", default=()),
    ),
)
_SOURCE = OperatorSpec(
    name="csv_source",
    summary="Rows.",
    factory="flowbridge.operators.csv:CsvSource",
    inputs=(),
    config=(ConfigField(name="path", type="path", doc="file"),),
)
_STRANGE = OperatorSpec(name="strange", summary="Of a package.", factory="strange.package:Operator", inputs=())
_CATALOG = Catalog({"window": _WINDOW, "csv_source": _SOURCE, "strange": _STRANGE}, {})
_WHOLE = """\
flowbridge: 1
name: flights
description: ${GREETING:-hello} $$5
defaults:
  deadline: 500ms
  priority: high
  queue: {policy: backpressure, size: 32, bytes: 1MiB, low: 4}
schemas:
  flight: {version: 2, fields: {carrier: string!, dep_delay: double, tail: "string?"}}
  twin: {fields: {carrier: string!, dep_delay: float64, tail: string}}
topics:
  "alerts.>": {priority: realtime, deadline: 50ms, queue: {policy: drop_oldest, size: 16}}
  "*.get": {queue: {policy: error}}
nodes:
  - id: source
    operator: csv_source
    with: {path: data/a.csv}
    outputs: {out: {schema: flight}}
    deadline: 250ms
    priority: realtime
  - id: enrich
    operator: python:operators:enrich
    with: {threshold: 3, names: [a, b]}
    inputs:
      in: source/out
      tick: timer/30hz
      cmd: {from: "bus/alerts.cmd.*", group: pricers, reply: true}
      get: bus/price.get
      back:
        {from: late/out, feedback: true, queue: {policy: latest}, deadline: 20ms, priority: best-effort, tier: inproc}
    outputs:
      out: {type: arrow, schema: twin, scatter: round_robin}
      alerts: {topic: alerts.high, type: json}
    budget: 2ms
    per: record
    thread: true
    retry: {max: 3, on: [TimeoutError]}
    on_error: skip
    restart: {when: always, window: 1m}
    snapshot: 1s
    place: {process: worker}
    category: system
  - id: late
    operator: window
    with: {every: 1s, where: 3, share: 1}
    inputs: {in: [enrich/out, source/out]}
    place: {process: worker}
  - id: odd
    operator: strange
"""


def compiled(text: str, environ: dict[str, str] | None = None) -> Plan:
    return YamlFlowAdapter(_CATALOG, environ or {}).compile(TextSource("f.yaml", text, "folder"))


def route(plan: Plan, id_: str) -> Route:
    return next(route for route in plan.routes if route.id == id_)


def test_routes_are_named_by_their_ends_in_the_order_of_the_text() -> None:
    assert [route.id for route in compiled(_WHOLE).routes] == [
        "source/out->enrich/in",
        "timer/30hz->enrich/tick",
        "bus/alerts.cmd.*->enrich/cmd",
        "bus/price.get->enrich/get",
        "late/out->enrich/back",
        "enrich/alerts->bus/alerts.high",
        "enrich/out->late/in",
        "source/out->late/in",
    ]


def test_defaults_are_decided_in_every_route() -> None:
    plan = compiled(_WHOLE)
    base = Qos(policy=Policy.BLOCK, capacity_items=32, capacity_bytes=2**20, high_items=32, low_items=4)
    assert plan.defaults.qos == base
    assert plan.defaults.deadline_ns == 500_000_000
    assert route(plan, "source/out->enrich/in").qos == base
    back = route(plan, "late/out->enrich/back")
    assert back.qos == Qos(
        policy=Policy.LATEST,
        capacity_items=1,
        capacity_bytes=2**20,
        high_items=1,
        low_items=0,
        priority=Priority.BEST_EFFORT,
        deadline_ns=20_000_000,
    )
    assert (back.feedback, back.tier) == (True, Tier.INPROC)


def test_a_bus_route_takes_the_qos_of_the_first_topic_that_covers_it() -> None:
    plan = compiled(_WHOLE)
    alerts = route(plan, "bus/alerts.cmd.*->enrich/cmd")
    assert (alerts.plane, alerts.topic, alerts.group, alerts.reply) == (Plane.BUS, "alerts.cmd.*", "pricers", True)
    assert (alerts.qos.policy, alerts.qos.capacity_items) == (Policy.DROP_OLDEST, 16)
    assert (alerts.qos.priority, alerts.qos.deadline_ns) == (Priority.REALTIME, 50_000_000)
    assert route(plan, "bus/price.get->enrich/get").qos.policy is Policy.ERROR
    published = route(plan, "enrich/alerts->bus/alerts.high")
    assert (published.target_node, published.topic, published.content_type) == ("bus", "alerts.high", ContentType.JSON)
    assert published.qos.deadline_ns == 50_000_000
    assert list(plan.topics) == ["alerts.>", "*.get"]


def test_a_timer_route_has_its_period() -> None:
    tick = route(compiled(_WHOLE), "timer/30hz->enrich/tick")
    assert (tick.plane, tick.period_ns, tick.source_node) == (Plane.TIMER, 33_333_333, "timer")


def test_a_manifest_says_everything_about_its_node() -> None:
    plan = compiled(_WHOLE)
    node = plan.manifest("enrich")
    assert (node.artifact.kind, node.artifact.ref) == (ArtifactKind.PYTHON_OPERATOR, "python:operators:enrich")
    assert (node.origin, node.category) == (Origin.EXTERNAL, Category.SYSTEM)
    assert node.config == {"threshold": 3, "names": ["a", "b"]}
    assert node.retry == RetryPolicy(max=3, on=("TimeoutError",))
    assert node.restart == RestartPolicy(when=RestartWhen.ALWAYS, window_ns=60 * 10**9)
    assert (node.per, node.on_error, node.thread) == (Per.RECORD, OnError.SKIP, True)
    assert (node.budget_ns, node.snapshot_ns) == (2_000_000, 10**9)
    assert node.scatter == {"out": Scatter.ROUND_ROBIN}
    assert node.place.process == "worker"
    assert (node.deadline_ns, node.priority) == (500_000_000, Priority.HIGH)  # the timer starts messages here
    assert plan.manifest("source").deadline_ns == 250_000_000
    assert plan.manifest("source").priority is Priority.REALTIME
    assert plan.manifest("late").deadline_ns is None


def test_ports_have_the_types_of_what_travels_there() -> None:
    plan = compiled(_WHOLE)
    flight = Port(name="in", content_type=ContentType.ARROW, schema_ref="flight@2")
    assert plan.manifest("enrich").inputs[0] == flight
    assert plan.manifest("enrich").inputs[1] == Port(name="tick")
    assert plan.manifest("enrich").outputs == (
        Port(name="out", content_type=ContentType.ARROW, schema_ref="flight@2"),
        Port(name="alerts", content_type=ContentType.JSON),
    )
    assert plan.manifest("late").inputs == (flight,)


def test_equal_shapes_are_kept_once() -> None:
    plan = compiled(_WHOLE)
    assert list(plan.schemas) == ["flight@2"]
    fields = plan.schemas["flight@2"].fields
    assert [(f.name, f.type, f.nullable) for f in fields] == [
        ("carrier", "string", False),
        ("dep_delay", "float64", True),
        ("tail", "string", True),
    ]


def test_settings_of_a_built_in_reach_it_as_integers_and_with_defaults() -> None:
    plan = compiled(_WHOLE)
    assert plan.manifest("late").config == {
        "every": 10**9,
        "where": "3",
        "lateness": 0,
        "room": 2**20,
        "share": 1.0,
        "by": [],
    }
    assert plan.manifest("source").config == {"path": "data/a.csv"}
    assert plan.manifest("source").origin is Origin.INTERNAL
    assert plan.manifest("odd").origin is Origin.EXTERNAL


def test_positions_lead_back_to_the_text() -> None:
    plan = compiled(_WHOLE)
    lines = _WHOLE.splitlines()
    for key, text in {
        "enrich": "enrich",
        "enrich.operator": "python:operators:enrich",
        "enrich.inputs.cmd": "cmd:",
        "enrich.with.names": "names:",
        "late.outputs.x": "",
        "source/out->late/in": "source/out]",
        "bus/alerts.cmd.*->enrich/cmd": '"bus/alerts',
        "enrich/alerts->bus/alerts.high": "alerts.high",
    }.items():
        position = plan.positions.get(key)
        assert (position is None) == (text == "")
        if position is not None:
            assert lines[position.line - 1][position.column - 1 :].startswith(text)


def test_variables_are_put_in_and_keep_their_meaning() -> None:
    text = "flowbridge: ${V}\nname: n-${N:-x}\nnodes:\n"
    text += "- {id: s, operator: 'host:${H:-h}', with: {a: '${V}', b: '$${V}'}}\n"
    plan = compiled(text, {"V": "1", "N": "", "H": "NO"})
    assert plan.name == "n-x"
    assert plan.manifests[0].artifact.ref == "host:NO"
    assert plan.manifests[0].config == {"a": "1", "b": "${V}"}
    assert compiled(_WHOLE).description == "hello $5"
    disputed = "flowbridge: 1\nname: n\nnodes:\n- id: s\n  operator: python:m:f\n"
    disputed += "  with:\n    a: ${A}\n    b: ${B}\n    c: ${C}\n"
    assert compiled(disputed, {"A": "NO", "B": "010", "C": "true"}).manifests[0].config == {
        "a": "NO",
        "b": "010",
        "c": True,
    }


def test_the_outputs_of_a_python_operator_are_those_that_others_read() -> None:
    text = """\
flowbridge: 1
name: n
nodes:
- {id: a, operator: 'python:m:f'}
- {id: b, operator: 'python:m:f', inputs: {x: a/late, y: a/out}}
- {id: c, operator: 'python:m:f', inputs: {x: b/out}, outputs: [out, spare]}
"""
    plan = compiled(text)
    assert [[port.name for port in manifest.outputs] for manifest in plan.manifests] == [
        ["late", "out"],
        ["out"],
        ["out", "spare"],
    ]


def test_comments_folders_and_the_order_of_settings_do_not_change_the_digest() -> None:
    plain = compiled(_WHOLE)
    other = _WHOLE.replace("{threshold: 3, names: [a, b]}", "{names: [a, b], threshold: 3} # twice").replace(
        "nodes:\n", "\n# the nodes\nnodes:\n"
    )
    moved = YamlFlowAdapter(_CATALOG, {}).compile(TextSource("g.yaml", other, "elsewhere"))
    assert moved.digest == plain.digest
    assert moved.positions != plain.positions
    assert compiled(_WHOLE.replace("threshold: 3", "threshold: 4")).digest != plain.digest


def test_the_order_of_topics_changes_the_digest() -> None:
    one = '  "a.>": {priority: high}\n'
    two = '  "*.b": {priority: normal}\n'
    text = "flowbridge: 1\nname: n\ntopics:\n{}nodes:\n- {{id: a, operator: 'python:m:f'}}\n"
    assert compiled(text.format(one + two)).digest != compiled(text.format(two + one)).digest


_SCRIPT = """
import sys
from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.registry import Catalog
text = sys.stdin.read()
print(YamlFlowAdapter(Catalog({}, {}), {}).compile(TextSource("f.yaml", text)).digest)
"""


def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    text = "flowbridge: 1\nname: n\nschemas: {q: {fields: {a: int8}}, r: {fields: {a: int16}}}\nnodes:\n" + "".join(
        f"- {{id: n{i}, operator: 'python:m:f', with: {{z: 1, y: 2, x: {{b: 1, a: 2}}}}}}\n" for i in range(20)
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            input=text,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")


def test_the_example_of_the_language_page_compiles() -> None:
    page = (_ROOT / "docs/reference/flow-language.md").read_text()
    text = page.partition("## An example")[2].partition("```yaml\n")[2].partition("```")[0]
    where = ConfigField(name="where", type="expression", doc="which")
    path = ConfigField(name="path", type="path", doc="file")
    specs = {
        "csv_source": _SOURCE,
        "filter": OperatorSpec(
            name="filter", summary="", factory="flowbridge.operators.filter:Filter", config=(where,)
        ),
        "csv_sink": OperatorSpec(
            name="csv_sink", summary="", factory="flowbridge.operators.csv:CsvSink", outputs=(), config=(path,)
        ),
    }
    plan = YamlFlowAdapter(Catalog(specs, {}), {}).compile(TextSource("flow.yaml", text))
    assert [route.id for route in plan.routes] == ["source/out->late/in", "late/out->sink/in"]


def test_the_page_of_rules_is_the_table_of_rules() -> None:
    assert (_ROOT / "docs/reference/rules.md").read_text() == rule.page()


def test_the_schema_for_editors_is_what_the_models_say() -> None:
    assert (_ROOT / "docs/reference/flow.schema.json").read_text() == jsonschema.page()


def complaints(value: Any, schema: Any, root: Any, at: str = "") -> list[str]:
    """Where a value breaks a JSON Schema, for the words that ours uses; an unknown word fails."""
    known = {"$ref", "type", "enum", "const", "pattern", "properties", "required", "additionalProperties", "items"}
    known |= {"anyOf", "oneOf", "propertyNames", "minItems", "minimum", "description", "default", "examples"}
    assert schema.keys() - {"$schema", "$defs", "title"} <= known, schema
    if "$ref" in schema:
        return complaints(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    for word, wanted in (("anyOf", range(1, 99)), ("oneOf", range(1, 2))):
        if word in schema:
            tried = [complaints(value, option, root, at) for option in schema[word]]
            if sum(not found for found in tried) not in wanted:
                return max(tried, key=lambda found: max(line.count("/") for line in found) if found else 0)
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if "type" in schema and not isinstance(value, types[schema["type"]]):
        return [f"{at}: not {schema['type']}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{at}: not allowed"]
    if isinstance(value, str):
        return [] if re.search(schema.get("pattern", ""), value) else [f"{at}: not like {schema['pattern']}"]
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [c for i, v in enumerate(items) for c in complaints(v, schema.get("items", {}), root, f"{at}/{i}")]
    if isinstance(value, dict):
        return _map_complaints(cast("dict[str, Any]", value), schema, root, at)
    return [f"{at}: too small"] if isinstance(value, int) and value < schema.get("minimum", value) else []


def _map_complaints(value: dict[str, Any], schema: Any, root: Any, at: str) -> list[str]:
    found = [f"{at}: {key} is missing" for key in schema.get("required", []) if key not in value]
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        if not re.search(schema.get("propertyNames", {}).get("pattern", ""), key):
            found.append(f"{at}/{key}: bad name")
        if key in schema.get("properties", {}):
            found += complaints(item, schema["properties"][key], root, f"{at}/{key}")
        elif others is False:
            found.append(f"{at}/{key}: unknown key")
        elif isinstance(others, dict):
            found += complaints(item, others, root, f"{at}/{key}")
    return found


def test_the_schema_for_editors_takes_a_flow_that_compiles() -> None:
    schema = json.loads(jsonschema.page())
    assert complaints(yaml.safe_load(_WHOLE.replace("on: [", '"on": [')), schema, schema) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("description:", "descripton:", "/descripton: unknown key"),
        ("budget: 2ms", "budgt: 2ms", "/nodes/1/budgt: unknown key"),
        ("group: pricers", "grop: pricers", "/nodes/1/inputs/cmd/grop: unknown key"),
        ("scatter: round_robin", "scater: copy", "/nodes/1/outputs/out/scater: unknown key"),
        ("window: 1m", "windw: 1m", "/nodes/1/restart/windw: unknown key"),
        ("policy: latest", "polcy: latest", "/nodes/1/inputs/back/queue/polcy: unknown key"),
        ("  - id: odd\n", "  - id: o d\n", "/nodes/3/id: not like "),
        ("flowbridge: 1", "flowbridge: 2", "/flowbridge: not allowed"),
        ("operator: strange", "per: record", "/nodes/3: operator is missing"),
    ],
)
def test_the_schema_for_editors_points_at_what_is_wrong(old: str, new: str, complaint: str) -> None:
    schema = json.loads(jsonschema.page())
    text = _WHOLE.replace("on: [", '"on": [')
    assert old in text
    found = complaints(yaml.safe_load(text.replace(old, new)), schema, schema)
    assert any(line.startswith(complaint) for line in found), found


# --- files --------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(FlowErrors) as caught:
        loading.read_flow(path)
    [finding] = caught.value.findings
    assert (finding.position.line, finding.position.column) == (1, 1)
    assert finding.position.file == str(path)
    return f"{finding.rule} {finding.message}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == "FB001 there is no such file"
    assert refused(tmp_path) == "FB001 this is a folder, not a file"
    assert refused(tmp_path / "a\0b").startswith("FB001 ")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "FB001 this is not a regular file"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b" \n")
    assert refused(file) == "FB004 the file is empty"
    file.write_bytes(b"\x7fELF\0\0")
    assert refused(file) == "FB003 the file is binary: byte 4 is NUL"
    file.write_bytes(b"name: \xff\n")
    assert refused(file).startswith("FB003 the file is not UTF-8: byte 6 ")


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with file.open("wb") as opened:
        opened.truncate(100 * 1024 * 1024)  # a sparse file: reading it would find NUL characters
    assert refused(file) == f"FB002 {100 * 1024 * 1024} bytes exceed the limit of {FLOW_FILE_BYTES_MAX}"


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + _WHOLE.encode())
    source = loading.read_flow(file)
    assert (source.text, source.base_dir) == (_WHOLE, str(tmp_path))
    assert YamlFlowAdapter(_CATALOG, {}).compile(source).base_dir == str(tmp_path)


def test_plan_documents_are_loaded_by_their_suffix(tmp_path: Path) -> None:
    plan = compiled(_WHOLE)
    (tmp_path / "p.json").write_text(plan_to_json(plan))
    (tmp_path / "p.cbor").write_bytes(plan_to_cbor(plan))
    assert loading.load(tmp_path / "p.json") == plan == loading.load(str(tmp_path / "p.cbor"))
    assert list(loading.load(tmp_path / "p.json").topics) == ["alerts.>", "*.get"]
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(PlanError, match=r"p\.json: plan is not JSON"):
        loading.load(tmp_path / "p.json")


def test_a_flow_file_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.registry.catalog", lambda: _CATALOG)
    (tmp_path / "f.yaml").write_text(_WHOLE)
    assert loading.load(tmp_path / "f.yaml").digest == compiled(_WHOLE).digest
