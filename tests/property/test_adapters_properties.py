"""Properties of the flow language: any text, mutated flows, units, patterns, cycles, budgets, plan documents."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbridge.adapters import unit
from flowbridge.adapters.cycle import components, cycles
from flowbridge.adapters.endpoint import TopicError, check_topic
from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.budget import Budgets, plan_paths
from flowbridge.codec.plan import digest_of, plan_from_cbor, plan_from_json, plan_to_cbor, plan_to_json
from flowbridge.errors import FlowErrors, PlanError
from flowbridge.limits import DURATION_NS_MAX, FINDINGS_MAX, QUEUE_BYTES_MAX
from flowbridge.machines.topics import covers
from flowbridge.operator_spec import ConfigField, OperatorSpec
from flowbridge.plan import Plan
from flowbridge.registry import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_SPECS = (
    OperatorSpec(
        name="csv_source",
        summary="Rows.",
        factory="flowbridge.operators.csv:CsvSource",
        inputs=(),
        config=(
            ConfigField(name="path", type="path", doc="file"),
            ConfigField(name="every", type="duration", doc="pace"),
        ),
    ),
    OperatorSpec(name="csv_sink", summary="Rows.", factory="flowbridge.operators.csv:CsvSink", outputs=()),
)
_ADAPTER = YamlFlowAdapter(Catalog({spec.name: spec for spec in _SPECS}, {}), {"A": "1"})
_FLOW = """\
flowbridge: 1
name: n
defaults: {deadline: 1s, queue: {policy: block, size: 8}}
schemas: {f: {version: 1, fields: {a: int8, b: "list<string>!"}}}
topics: {"a.>": {priority: high}}
nodes:
  - id: a
    operator: csv_source
    with: {path: '${A}x', every: 3ms}
    outputs: {out: {schema: f}}
  - id: b
    operator: python:m:f
    inputs:
      in: a/out
      tick: timer/100ms
      cmd: {from: bus/a.*, group: g, reply: true}
      back: {from: c/out, feedback: true, queue: {policy: latest}}
    outputs: {out: {type: arrow}, p: {topic: a.b}}
    budget: 1ms
    retry: {max: 2, on: [OSError]}
    restart: {when: always, max: 2}
  - id: c
    operator: python:m:g
    inputs: {in: b/out}
  - {id: d, operator: csv_sink, inputs: {in: c/out}}
"""
_PIECES = [
    "", " ", "\n", ":", "-", "{", "}", "[", "]", "*a", "&a ", "!!x ", "null", "no", "010", "\t", "'", '"', "#", "${A}",
    "${", "block", "a/out", "c/out", "timer/1s", "bus/>", "1", "1ms", "?", "|", ">", "<<", "%YAML 1.1\n", "---\n",
    "é", "\x85",
]  # fmt: skip


def compiled(text: str) -> Plan | FlowErrors:
    """The plan or the findings; anything else fails the test."""
    try:
        return _ADAPTER.compile(TextSource("f.yaml", text))
    except FlowErrors as errors:
        return errors


def holds(text: str) -> None:
    """Compiling gives a plan, or findings at places of the text, and the same thing each time."""
    result = compiled(text)
    if isinstance(result, Plan):
        assert compiled(text) == result
        return
    assert 1 <= len(result.findings) <= FINDINGS_MAX + 1
    lines = len(text.splitlines()) + 1
    assert all(1 <= f.position.line <= lines and f.position.column >= 1 for f in result.findings)
    again = compiled(text)
    assert isinstance(again, FlowErrors)
    assert again.findings == result.findings


def test_the_flow_that_is_mutated_compiles() -> None:
    assert isinstance(compiled(_FLOW), Plan)


@given(st.text())
def test_any_text_gives_a_plan_or_findings(text: str) -> None:
    holds(text)


@given(st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=20))
def test_text_that_is_no_unicode_gives_findings(text: str) -> None:
    compiled(text)


@given(st.lists(st.sampled_from([*_PIECES, *_FLOW.splitlines(keepends=True)]), max_size=40).map("".join))
def test_shuffled_pieces_give_a_plan_or_findings(text: str) -> None:
    holds(text)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(_FLOW)), st.integers(0, 6), st.sampled_from(_PIECES)), min_size=1, max_size=3)
)
def test_a_mutated_flow_gives_a_plan_or_findings(mutations: list[tuple[int, int, str]]) -> None:
    text = _FLOW
    for at, cut, piece in mutations:
        text = text[:at] + piece + text[at + cut :]
    holds(text)


@settings(max_examples=200)
@given(st.permutations(_FLOW.splitlines(keepends=True)), st.integers(0, 30))
def test_a_flow_whose_lines_are_mixed_gives_a_plan_or_findings(lines: list[str], kept: int) -> None:
    holds("".join([*_FLOW.splitlines(keepends=True)[:kept], *lines[kept:]]))


# --- units --------------------------------------------------------------------------------------------------------


@given(st.integers(0, DURATION_NS_MAX))
def test_a_duration_is_read_as_it_was_written(value_ns: int) -> None:
    assert unit.parse_duration(unit.duration_text(value_ns)) == value_ns


@given(st.integers(0, QUEUE_BYTES_MAX))
def test_a_size_is_read_as_it_was_written(value_bytes: int) -> None:
    assert unit.parse_size(unit.size_text(value_bytes)) == value_bytes


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(["us", "ms", "s"]))
def test_a_fraction_is_exact(whole: int, thousandths: int, word: str) -> None:
    expected = (whole * 1000 + thousandths) * unit.DURATION_NS[word] // 1000
    assert unit.parse_duration(f"{whole}.{thousandths:03}{word}") == expected


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())))
def test_whatever_is_no_quantity_is_a_unit_error(value: object) -> None:
    for parse in (unit.parse_duration, unit.parse_size):
        try:
            assert parse(value) >= 0
        except unit.UnitError:
            continue


@given(st.text(alphabet="0123456789.hzsm ", max_size=12))
def test_a_period_is_at_least_a_nanosecond(text: str) -> None:
    try:
        assert 1 <= unit.parse_period(text) <= DURATION_NS_MAX
    except unit.UnitError:
        return


@pytest.mark.parametrize(
    ("text", "period_ns"), [("30hz", 33_333_333), ("1000Hz", 10**6), ("0.5hz", 2 * 10**9), ("20ms", 20_000_000)]
)
def test_a_rate_is_a_period(text: str, period_ns: int) -> None:
    assert unit.parse_period(text) == period_ns


# --- patterns -----------------------------------------------------------------------------------------------------

_TOPICS = [".".join(words) for count in (1, 2, 3) for words in itertools.product("ab", repeat=count)]
_PATTERNS = st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=3).map(".".join)


def matches(pattern: str, topic: str) -> bool:
    """The definition, word by word: `*` is one word, a last `>` one or more."""
    wide, words = pattern.split("."), topic.split(".")
    if wide[-1] == ">":
        return len(words) >= len(wide) and all(p in ("*", w) for p, w in zip(wide[:-1], words, strict=False))
    return len(wide) == len(words) and all(p in ("*", w) for p, w in zip(wide, words, strict=True))


def is_pattern(text: str) -> bool:
    try:
        check_topic(text, pattern=True)
    except TopicError:
        return False
    return True


@given(_PATTERNS.filter(is_pattern), st.sampled_from(_TOPICS))
def test_a_pattern_covers_the_topics_that_it_matches(pattern: str, topic: str) -> None:
    assert covers(pattern, topic) == matches(pattern, topic)


@given(_PATTERNS.filter(is_pattern), _PATTERNS.filter(is_pattern))
def test_a_pattern_that_covers_another_matches_all_its_topics(wide: str, narrow: str) -> None:
    if covers(wide, narrow):
        assert all(matches(wide, topic) for topic in _TOPICS if matches(narrow, topic))


# --- cycles -------------------------------------------------------------------------------------------------------

_GRAPHS = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=14).map(
        lambda edges: {str(i): [str(b) for a, b in edges if a == i] for i in range(n)}
    )
)


def reach(graph: dict[str, list[str]]) -> dict[str, set[str]]:
    """What each node leads to in one step or more, by repeated squaring of the obvious."""
    reached = {node: set(targets) for node, targets in graph.items()}
    for _ in graph:
        for targets in reached.values():
            for target in list(targets):
                targets |= reached[target]
    return reached


@given(_GRAPHS)
def test_two_nodes_share_a_component_when_each_leads_to_the_other(graph: dict[str, list[str]]) -> None:
    component, reached = components(graph), reach(graph)
    for a, b in itertools.combinations(graph, 2):
        assert (component[a] == component[b]) == (b in reached[a] and a in reached[b])


@given(_GRAPHS)
def test_a_cycle_is_found_in_each_component_that_has_one(graph: dict[str, list[str]]) -> None:
    component, reached = components(graph), reach(graph)
    found = cycles(graph)
    for cycle in found:
        assert all(b in graph[a] for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    assert {component[cycle[0]] for cycle in found} == {component[n] for n in graph if n in reached[n]}


# --- budgets and plans --------------------------------------------------------------------------------------------


@st.composite
def layered_flows(draw: st.DrawFn) -> str:
    """A flow without cycles: each node reads from earlier ones; some have budgets, some routes deadlines."""
    lines = ["flowbridge: 1\nname: n\nnodes:"]
    for i in range(draw(st.integers(1, 6))):
        ends = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        budget = draw(st.integers(0, 5))
        deadline = draw(st.integers(0, 12))
        lines.append(f"- id: n{i}\n  operator: python:m:f")
        if budget:
            lines.append(f"  budget: {budget}ms")
        if deadline:
            lines.append(f"  deadline: {deadline}ms")
        inputs: list[str] = []
        for end in ends:
            limit = draw(st.integers(0, 12))
            inputs.append(f"p{end}: {{from: n{end}/out{f', deadline: {limit}ms' if limit else ''}}}")
        if draw(st.booleans()) and inputs:
            inputs.append("tick: timer/1s")
        lines.append(f"  inputs: {{{', '.join(inputs)}}}")
    return "\n".join(lines) + "\n"


@settings(max_examples=200)
@given(layered_flows())
def test_the_one_pass_over_budgets_finds_what_walking_every_path_finds(text: str) -> None:
    result = compiled(text)
    overrun = isinstance(result, FlowErrors)
    if isinstance(result, FlowErrors):
        assert {finding.rule for finding in result.findings} == {"FB507"}
    relaxed = _without_checks(text)
    exceeded = list(Budgets(relaxed).overruns())
    assert bool(exceeded) == overrun
    walked = plan_paths(relaxed, 10_000)
    slacks = [path.slack_ns for path in walked if path.slack_ns is not None]
    inner = [p for p in exceeded if relaxed.manifests and p.since not in _starts(relaxed) and "->" not in p.since]
    if not inner:  # a deadline of a node in the middle holds for messages that start there: no whole path has it
        assert (min(slacks, default=0) < 0) == overrun
        if overrun:
            assert min(slacks) == min(path.slack_ns for path in exceeded if path.slack_ns is not None)


def _starts(plan: Plan) -> set[str]:
    targets = {route.target_node for route in plan.routes}
    return {manifest.node for manifest in plan.manifests if manifest.node not in targets}


def _without_checks(text: str) -> Plan:
    """The plan with its budgets, whether they are kept or not."""
    relaxed = compiled(text.replace("budget:", "snapshot:"))
    assert isinstance(relaxed, Plan)
    manifests = tuple(replace(m, budget_ns=m.snapshot_ns, snapshot_ns=None) for m in relaxed.manifests)
    return replace(relaxed, manifests=manifests)


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


def _numbers(value: object) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict):
        for part in cast("dict[str, Any]", value).values():
            yield from _numbers(part)
    elif isinstance(value, list):
        for part in cast("Sequence[Any]", value):
            yield from _numbers(part)


@settings(max_examples=150)
@given(layered_flows(), st.dictionaries(st.text(), _VALUES, max_size=3), st.text())
def test_a_plan_survives_being_written_and_read(text: str, config: dict[str, object], base_dir: str) -> None:
    bare = _without_checks(text)
    manifests = (replace(bare.manifests[0], config=config), *bare.manifests[1:])
    plan = replace(bare, manifests=manifests, base_dir=base_dir)
    plan = replace(plan, digest=digest_of(plan))
    copies = [plan_from_json(plan_to_json(plan)), plan_from_json(plan_to_json(plan, compact=True))]
    if any(not -(2**63) <= number < 2**64 for number in _numbers(config)):
        with pytest.raises(PlanError, match="is a number of more than 64 bits"):
            plan_to_cbor(plan)
    else:
        copies.append(plan_from_cbor(plan_to_cbor(plan)))
    for copy in copies:
        assert copy == plan
        written = json.dumps(copy.manifests[0].config, sort_keys=True)
        assert written == json.dumps(config, sort_keys=True)  # 1 is neither 1.0 nor true
        assert digest_of(copy) == plan.digest


@given(layered_flows())
def test_comments_and_blank_lines_change_neither_plan_nor_digest(text: str) -> None:
    first = compiled(text)
    spaced = "# a comment\n\n" + text.replace("\n", "   # another\n")
    second = compiled(spaced)
    assert isinstance(first, Plan) == isinstance(second, Plan)
    if isinstance(first, Plan) and isinstance(second, Plan):
        assert second.digest == first.digest
        assert replace(second, positions={}) == replace(first, positions={})
