"""Parts of a flow at a node that trusts its hosts only as far as its policy goes, over socket pairs."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import pickle
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import compiled, flow_text
from node_scene import HOST, Scene
from process_scene import Sink, until

from flowbridge import registry
from flowbridge.addresses import PeerIdentity
from flowbridge.codec.part_frames import PartFrame, read_part
from flowbridge.codec.plan import digest_of
from flowbridge.machines.node_acl import AclRule, Action
from flowbridge.machines.node_policy import NodePolicy, OperatorGrant, default_policy
from flowbridge.plan import Artifact, ArtifactKind
from flowbridge.runtime.digest import operator_digest
from flowbridge.runtime.kept import Form, PackedState

if TYPE_CHECKING:
    from pathlib import Path

    from flowbridge.runtime.flow import RunningFlow

EDGE = "place: {host: edge-1}"
JSON = "outputs: {out: {type: json}}"
KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"
OUT = "outputs: {out: {type: json, topic: flights.new}}"
DEFAULT = default_policy("dev")

OPERATORS = textwrap.dedent(
    """
    def double(value):
        return 2 * value


    from flowbridge import Envelope


    def shouts(value, context):
        print("\\x1b]0;owned\\x07", "\\x9b31m", "tab\\there", file=context.stdout)
        if context.stdout.isatty():
            raise ValueError("it may think that it is on a terminal")
        if value == 2:
            raise ValueError("\\x1b]0;owned too\\x07")


    async def heard(value, context):
        await context.bus.publish("secret.plan", Envelope(value))


    class Count:
        def __init__(self, plain=True):
            self.plain, self.seen = plain, 0

        def process(self, value):
            self.seen += 1
            return {"seen": self.seen, "value": value}

        def snapshot(self):
            return {"seen": self.seen} if self.plain else State(self.seen)

        def restore(self, state):
            self.seen = state["seen"] if self.plain else state.seen


    class State:
        def __init__(self, seen):
            self.seen = seen
    """
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that is installed at the node."""
    name = f"node_ops_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OPERATORS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def source(count: int, more: str = "") -> str:
    return f"id: a, operator: sequence, with: {{count: {count}}}, {JSON}{more}"


def grant(ref: str, digest: str | None = None, peers: tuple[str, ...] = ("*",)) -> NodePolicy:
    return replace(DEFAULT, operators=(OperatorGrant(ref, digest, peers),))


def test_a_node_on_another_host_gives_what_it_gives_here(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    scene, sink = Scene(monkeypatch, grant(f"python:{module}:double")), Sink()
    middle = f'id: b, operator: "python:{module}:double", inputs: {{in: a/out}}, {JSON}, {EDGE}'
    report = scene.run(source(500), middle, KEEP, operators={"keep": sink})
    assert (report.status, report.errors) == ("done", [])
    assert sink.values == [2 * n for n in range(500)]
    assert [report.nodes[node].process for node in "abk"] == [None, "edge-1", None]
    assert {edge.tier for edge in report.edges.values()} == {"quic"}
    assert scene.kinds() == ["listening", "host_connected", "part_started", "host_left"]


def test_ends_of_routes_may_travel_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, sink = Scene(monkeypatch, DEFAULT), Sink()
    scene.meeting.tickets = {}
    report = scene.run(source(50, f", {EDGE}").replace("id: a", "id: b"), KEEP, operators={"keep": sink})
    assert (report.status, sink.values) == ("done", list(range(50)))
    assert scene.meeting.tickets == {}


def test_no_pickle_goes_to_another_host(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    scene, sink = Scene(monkeypatch, grant(f"python:{module}:Count")), Sink()
    middle = f'id: b, operator: "python:{module}:Count", inputs: {{in: a/out}}, {JSON}, {EDGE}'
    forbidden = pytest.MonkeyPatch()
    forbidden.setattr(pickle, "dumps", refuse)
    forbidden.setattr(pickle, "loads", refuse)
    with forbidden.context():
        report = scene.run(source(10), middle, KEEP, operators={"keep": sink}, state={"b": {"seen": 5}})
    forbidden.undo()
    assert report.status == "done"
    assert sink.values[-1] == {"seen": 15, "value": 9}
    (worker,) = scene.transports[-1].workers
    told = dict(read_part("host", *sent) for sent in worker.link.sent)
    assert not {"sys_path", "options"} & set(told[PartFrame.PART])
    assert told[PartFrame.PART]["state"]["b"][0] == "plain"


def refuse(*_args: Any, **_given: Any) -> Any:
    raise AssertionError("a pickle")


@pytest.mark.parametrize("state", [{"b": object()}, {"b": PackedState(pickle.dumps({"seen": 5}), Form.PICKLE)}])
def test_a_state_that_is_not_plain_data_is_refused_by_its_node(
    monkeypatch: pytest.MonkeyPatch, module: str, state: Any
) -> None:
    scene = Scene(monkeypatch, grant(f"python:{module}:Count"))
    middle = f'id: b, operator: "python:{module}:Count", inputs: {{in: a/out}}, {JSON}, {EDGE}'
    text = scene.refusal(source(10), middle, 'id: k, operator: "null", inputs: {in: b/out}', state=state)
    assert "node b" in text
    assert "another host" in text


def test_a_snapshot_that_is_not_plain_data_is_told_once_and_the_flow_goes_on(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    scene, sink = Scene(monkeypatch, grant(f"python:{module}:Count")), Sink()
    middle = (
        f'id: b, operator: "python:{module}:Count", with: {{plain: false}}, inputs: {{in: a/out}}, {JSON}, {EDGE}, '
        "restart: {when: on-failure}, snapshot: 10ms"
    )
    source_ = f"id: a, operator: sequence, with: {{count: 200, every: 5ms}}, {JSON}"
    report = scene.run(source_, middle, KEEP, operators={"keep": sink})
    assert len(sink.values) == 200
    (text,) = report.errors
    assert "node b: a snapshot that goes to another host must be plain data" in text


def test_a_snapshot_comes_back_as_plain_data(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    scene, sink, taken = Scene(monkeypatch, grant(f"python:{module}:Count")), Sink(), list[Any]()
    middle = f'id: b, operator: "python:{module}:Count", inputs: {{in: a/out}}, {JSON}, {EDGE}'

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 20, "nothing came")
        taken.append((await flow.snapshot())["b"])
        flow.drain("done")

    endless = f"id: a, operator: sequence, with: {{every: 1ms}}, {JSON}"
    scene.run(endless, middle, KEEP, operators={"keep": sink}, drive=drive)
    assert taken[0].form is Form.PLAIN


@pytest.mark.parametrize(
    ("operator", "more", "why"),
    [
        ("python:os:system", "", "does not list it"),
        ("python:./ops.py:x", "", "a file of the host is not on the node"),
        ("csv_source", ", with: {path: /etc/passwd}", "names no folder"),
    ],
)
def test_an_operator_that_is_not_allowed_is_refused_by_name_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, operator: str, more: str, why: str
) -> None:
    scene = Scene(monkeypatch, DEFAULT)
    first = f'id: a, operator: "{operator}"{more}, {EDGE}'
    text = scene.refusal(first, 'id: k, operator: "null", inputs: {in: a/out}')
    assert why in text
    assert "0x502 FORBIDDEN" in text
    assert operator in text
    assert "part_started" not in scene.kinds()
    assert "refused" in scene.kinds()


def test_a_plan_with_two_manifests_of_one_name_smuggles_nothing_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene, mark = Scene(monkeypatch, DEFAULT), tmp_path / "mark"
    plan = compiled(flow_text(source(3, f", {EDGE}"), "id: k, operator: 'null', inputs: {in: a/out}"))
    ref = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="python:os:mkdir")
    second = replace(plan.manifests[0], artifact=ref, config={"path": str(mark)})
    forged = replace(plan, manifests=(*plan.manifests, second))
    text = scene.refused(replace(forged, digest=digest_of(forged)))
    assert "operator 'python:os:mkdir' is not allowed" in text
    assert not mark.exists()


def test_an_operator_runs_only_with_the_source_that_the_policy_expects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    ref = f"python:{module}:double"
    digest = operator_digest(ref, registry.catalog())
    middle = f'id: b, operator: "{ref}", inputs: {{in: a/out}}, {JSON}, {EDGE}'
    sink = Sink()
    report = Scene(monkeypatch, grant(ref, digest)).run(source(3), middle, KEEP, operators={"keep": sink})
    assert (report.status, sink.values) == ("done", [0, 2, 4])
    (tmp_path / f"{module}.py").write_text(OPERATORS + "\n# changed\n")
    last = 'id: k, operator: "null", inputs: {in: b/out}'
    text = Scene(monkeypatch, grant(ref, digest)).refusal(source(3), middle, last)
    assert f"the policy expects {digest}" in text


def test_an_operator_is_allowed_to_those_that_are_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    ref = f"python:{module}:double"
    scene = Scene(monkeypatch, grant(ref, peers=("fb://dev/node/other",)))
    middle = f'id: b, operator: "{ref}", inputs: {{in: a/out}}, {JSON}, {EDGE}'
    text = scene.refusal(source(3), middle, 'id: k, operator: "null", inputs: {in: b/out}')
    assert f"is not allowed for {HOST}" in text


def test_a_host_that_nothing_is_allowed_to_is_refused_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, DEFAULT, PeerIdentity("elsewhere", "host"))
    text = scene.refusal(source(3, f", {EDGE}"), 'id: k, operator: "null", inputs: {in: a/out}')
    assert "node edge-1 allows nothing to fb://elsewhere/node/host (0x502 FORBIDDEN)" in text
    assert scene.kinds() == ["listening", "refused"]


def test_a_route_needs_the_right_to_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = NodePolicy(rules=(AclRule("*", Action.PORT_WRITE, "*"),), builtins=True)
    text = Scene(monkeypatch, policy).refusal(source(3, f", {EDGE}"), 'id: k, operator: "null", inputs: {in: a/out}')
    assert "has no right port.read on 'a/out->k/in'" in text


def test_a_file_operator_stays_in_the_folder_of_the_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "in.csv").write_text("n\n1\n2\n")
    policy = replace(DEFAULT, files=str(folder))
    sink = Sink()

    def reads(path: str) -> str:
        return f"id: b, operator: csv_source, with: {{path: {path}}}, {EDGE}"

    report = Scene(monkeypatch, policy).run(reads("in.csv"), KEEP, operators={"keep": sink})
    assert report.status == "done"
    assert sink.values[0].to_pydict() == {"n": [1, 2]}
    for path in ("../in.csv", "/etc/passwd", "~/x", "a/../../b"):
        text = Scene(monkeypatch, policy).refusal(reads(path), 'id: k, operator: "null", inputs: {in: b/out}')
        assert "leads out of the folder" in text


def test_a_link_in_the_folder_of_the_policy_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.csv").write_text("n\n1\n")
    (folder / "in.csv").write_text("n\n1\n2\n")
    (folder / "file.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "deep" / "none").symlink_to("../../nothing.csv")
    (folder / "round").symlink_to("round")
    (folder / "deep" / "good.csv").symlink_to("../in.csv")
    (tmp_path / "link").symlink_to(folder)
    policy, sink = replace(DEFAULT, files=str(tmp_path / "link")), Sink()

    def reads(path: str) -> str:
        return f"id: b, operator: csv_source, with: {{path: {path}}}, {EDGE}"

    report = Scene(monkeypatch, policy).run(reads("deep/good.csv"), KEEP, operators={"keep": sink})
    assert (report.status, sink.values[0].to_pydict()) == ("done", {"n": [1, 2]})
    for path in ("file.csv", "folder/secret.csv", "folder/link/in.csv/../../secret.csv", "deep/none"):
        text = Scene(monkeypatch, policy).refusal(reads(path), 'id: k, operator: "null", inputs: {in: b/out}')
        assert "leads out of the folder" in text
        assert "secret.csv" not in text.replace(path, ""), "where a link leads is not told"
    sink_there = f"id: k, operator: csv_sink, with: {{path: folder/out.csv}}, inputs: {{in: b/out}}, {EDGE}"
    assert "leads out of the folder" in Scene(monkeypatch, policy).refusal(reads("in.csv"), sink_there)
    assert not (tmp_path / "out.csv").exists()


def test_what_another_host_says_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shouts = f'id: b, operator: "python:{module}:shouts", inputs: {{in: a/out}}, {EDGE}'
    report = Scene(monkeypatch, grant(f"python:{module}:shouts")).run(source(3), shouts, is_balanced=False)
    assert report.status == "failed"
    assert "\\x1b]0;owned too\\x07" in report.errors[0]
    shown = capsys.readouterr()
    assert shown.out == 3 * "\\x1b]0;owned\\x07 \\x9b31m tab\there\n"
    everything = shown.out + shown.err + "".join(report.errors) + str(report.nodes["b"].error)
    assert not any(code in everything for code in "\x1b\x07\x9b")


def test_topics_cross_only_where_both_sides_name_them(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    ref = f"python:{module}:heard"
    rules = (*DEFAULT.rules, *(AclRule("*", action, ">") for action in (Action.PUB, Action.SUB)))
    policy = replace(grant(ref), rules=rules)
    first = f'id: b, operator: "{ref}", inputs: {{in: a/out}}, {EDGE}'
    report = Scene(monkeypatch, policy).run(source(3), first, is_balanced=False)
    assert report.status == "failed"
    assert "has no right pub on 'secret.plan'" in report.errors[0]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_bus_route_needs_a_right_at_the_node_too(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    rules = (*DEFAULT.rules, *((AclRule("*", Action.PUB, "flights.>"),) if allowed else ()))
    sink = Sink()
    report = Scene(monkeypatch, replace(DEFAULT, rules=rules)).run(
        f"id: a, operator: sequence, with: {{count: 3, every: 20ms}}, {OUT}, {EDGE}",
        "id: k, operator: host:keep, inputs: {in: bus/flights.new}",
        operators={"keep": sink},
        drive=drain_when(sink) if allowed else None,
        is_balanced=allowed,
    )
    if allowed:
        assert sink.values == [0, 1, 2]
    else:
        assert "has no right pub on 'flights.new'" in "".join(report.errors)


def drain_when(sink: Sink) -> Any:
    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) == 3, "nothing came")
        flow.drain("done")

    return drive


def test_a_node_that_drains_ends_the_flows_of_its_hosts_and_takes_no_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, sink = Scene(monkeypatch, DEFAULT), Sink()

    async def drive(_flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 5, "nothing came")
        scene.node.drain()

    first = f"id: b, operator: sequence, with: {{every: 1ms}}, {JSON}, {EDGE}"
    report = scene.run(first, KEEP, operators={"keep": sink}, drive=drive)
    assert report.status in ("done", "interrupted", "drained")
    assert sink.values == list(range(len(sink.values)))
    assert scene.kinds()[-3:] == ["draining", "host_left", "drained"]
    assert not scene.node.was_cut


def test_a_node_that_is_stopped_fails_the_flow_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, sink = Scene(monkeypatch, DEFAULT), Sink()

    async def drive(_flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 5, "nothing came")
        scene.node.stop()

    first = f"id: b, operator: sequence, with: {{every: 1ms}}, {JSON}, {EDGE}"
    report = scene.run(first, KEEP, operators={"keep": sink}, drive=drive)
    assert report.status == "failed"
    assert "host edge-1 was lost; its nodes: b" in report.errors[0]
    assert scene.node.was_cut


def test_a_host_without_an_address_is_a_line_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = source(3, f", {EDGE}"), 'id: k, operator: "null", inputs: {in: a/out}'
    text = Scene(monkeypatch, DEFAULT).refusal(*nodes, places={"edge-2": "quic://localhost:1"})
    assert text == (
        "flow.yaml:4:10: node a is placed in host edge-1, which has no address (known: edge-2); "
        "give one with --node edge-1=quic://HOST:PORT"
    )


def test_a_process_of_this_machine_hears_where_hosts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, sink = Scene(monkeypatch, DEFAULT), Sink()
    nodes = source(20, ", place: {process: w}"), "id: b, operator: host:keep, inputs: {in: a/out}"
    far = (
        f"id: c, operator: sequence, with: {{count: 5}}, {JSON}, {EDGE}",
        "id: k, operator: host:keep2, inputs: {in: c/out}",
    )
    other = Sink()
    report = scene.run(*nodes, *far, operators={"keep": sink, "keep2": other})
    assert (report.status, sink.values, other.values) == ("done", list(range(20)), list(range(5)))
    assert {edge.tier for edge in report.edges.values()} == {"ipc", "quic"}
