"""A flow that compiles: what is in its plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flowbridge.adapters import rule
from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.envelope import Priority
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
