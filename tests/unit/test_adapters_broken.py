"""Broken flows and exactly what is found in them."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest

from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.adapters.rule import RULES
from flowbridge.errors import FlowErrors
from flowbridge.operator_spec import ConfigField, OperatorSpec
from flowbridge.plan import ContentType, Port
from flowbridge.registry import Catalog, catalog

_PATH = ConfigField(name="path", type="path", doc="the file")
_SPECS = (
    OperatorSpec(
        name="csv_source",
        summary="Rows of a file.",
        factory="flowbridge.operators.csv:CsvSource",
        inputs=(),
        config=(
            _PATH,
            ConfigField(name="batch_rows", type="int", doc="rows", default=1000),
            ConfigField(name="on_ragged", type="string", doc="what then", default="fail", choices=("fail", "skip")),
            ConfigField(name="every", type="duration", doc="pace", default=None),
            ConfigField(name="loud", type="bool", doc="say so", default=False),
        ),
    ),
    OperatorSpec(
        name="map",
        summary="New columns.",
        factory="flowbridge.operators.map:Map",
        config=(ConfigField(name="columns", type="map", doc="columns"),),
    ),
    OperatorSpec(
        name="csv_sink",
        summary="Rows to a file.",
        factory="flowbridge.operators.csv:CsvSink",
        outputs=(),
        config=(_PATH,),
    ),
    OperatorSpec(
        name="gather",
        summary="Many to one.",
        factory="flowbridge.operators.gather:Gather",
        inputs=(),
        outputs=(Port(name="out", content_type=ContentType.OBJECT),),
        any_inputs=True,
    ),
)
_ADAPTER = YamlFlowAdapter(Catalog({spec.name: spec for spec in _SPECS}, {}), {"SET": "5", "EMPTY": ""})
_HEAD = "flowbridge: 1\nname: f\n"
_SOURCE = "  - {id: s, operator: csv_source, with: {path: a.csv}}\n"


def findings(text: str) -> list[str]:
    """What is found, one line each."""
    with pytest.raises(FlowErrors) as caught:
        _ADAPTER.compile(TextSource("f.yaml", text))
    return [str(finding) for finding in caught.value.findings]


def marked(text: str) -> tuple[str, list[str]]:
    """A flow with a source in line 4 and the nodes of `text` from line 5 on, and the findings that are marked in it."""
    lines: list[str] = []
    expected: list[str] = []
    for number, line in enumerate(dedent(text).strip("\n").splitlines(), 5):
        parts = re.split("§(FB[0-9]+)§", "  " + line)
        clean = ""
        for piece, rule in zip(parts[::2], [*parts[1::2], ""], strict=True):
            clean += piece
            if rule:
                expected.append(f"{number}:{len(clean) + 1}: {rule}")
        lines.append(clean)
    return _HEAD + "nodes:\n" + _SOURCE + "\n".join(lines), expected


TEXTS = {
    "nothing": ("", ["1:1: FB004"]),
    "only comments": ("# nothing\n", ["1:1: FB004"]),
    "a list": ("- 1\n", ["1:1: FB202"]),
    "only a word": ("hello", ["1:1: FB202"]),
    "no nodes": (_HEAD, ["1:1: FB203"]),
    "an empty list of nodes": (_HEAD + "nodes: []\n", ["3:8: FB205"]),
    "nothing but nodes": ("nodes:\n" + _SOURCE, ["1:1: FB203", "1:1: FB203"]),
    "another version": ("flowbridge: 2\nname: f\nnodes:\n" + _SOURCE, ["1:13: FB207"]),
    "a name with a space": ("flowbridge: 1\nname: a b\nnodes:\n" + _SOURCE, ["2:7: FB206"]),
    "a number as name": ("flowbridge: 1\nname: 7\nnodes:\n" + _SOURCE, ["2:7: FB202"]),
    "a long name": (f"flowbridge: 1\nname: {'n' * 129}\nnodes:\n" + _SOURCE, ["2:7: FB901"]),
    "a tab": (_HEAD + "nodes:\n\t- id: s\n", ["4:1: FB102"]),
    "no YAML": (_HEAD + "nodes: [a\n", ["4:1: FB101"]),
    "a NUL": (_HEAD + "a: \0\n", ["3:4: FB003"]),
    "a duplicate key": (_HEAD + "name: g\nnodes:\n" + _SOURCE, ["3:1: FB103"]),
    "two documents": (_HEAD + "nodes:\n" + _SOURCE + "---\na: 1\n", ["5:1: FB104"]),
    "a merge key": (_HEAD + "nodes:\n  - <<: {a: b}\n    id: t\n    operator: python:m:f\n", ["4:5: FB105"]),
    "a tag": ("flowbridge: !!int 1\nname: f\nnodes:\n" + _SOURCE, ["1:13: FB112"]),
    "a directive": ("%YAML 1.1\n---\n" + _HEAD + "nodes:\n" + _SOURCE, ["1:1: FB112"]),
    "an alias to nothing": (_HEAD + "description: *x\nnodes:\n" + _SOURCE, ["3:14: FB111"]),
    "an alias within itself": (_HEAD + "nodes: &x\n  - *x\n", ["4:5: FB111"]),
    "a bomb of aliases": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40)),
        ["6:45: FB110"],
    ),
    "a deep nesting": ("a: " + "[" * 100_000, ["1:35: FB109"]),
    "a deep nesting by alias": (
        "a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20,
        ["2:24: FB109"],
    ),
    "an unknown key": (_HEAD + "descripton: x\nnodes:\n" + _SOURCE, ["3:1: FB201"]),
    "a bare number of time": (_HEAD + "defaults: {deadline: 20}\nnodes:\n" + _SOURCE, ["3:22: FB204"]),
    "an unset variable": (_HEAD + "description: ${UNSET}\nnodes:\n" + _SOURCE, ["3:14: FB113"]),
    "half a variable": (_HEAD + "description: a${B\nnodes:\n" + _SOURCE, ["3:14: FB113"]),
    "a schema of nothing": (_HEAD + "schemas: {a: {fields: {}}}\nnodes:\n" + _SOURCE, ["3:23: FB205"]),
    "an unknown column type": (_HEAD + "schemas: {a: {fields: {x: in64}}}\nnodes:\n" + _SOURCE, ["3:27: FB307"]),
    "a bad pattern": (_HEAD + 'topics: {"a.>.b": {priority: high}}\nnodes:\n' + _SOURCE, ["3:10: FB308"]),
    "too many topics": (
        _HEAD + "topics:\n" + "".join(f"  a{i}: {{priority: high}}\n" for i in range(257)) + "nodes:\n" + _SOURCE,
        ["3:1: FB901"],
    ),
    "watermarks upside down": (
        _HEAD + "defaults: {queue: {size: 8, high: 2, low: 4}}\nnodes:\n" + _SOURCE,
        ["3:19: FB205"],
    ),
    "latest with two places": (
        _HEAD + "defaults: {queue: {policy: latest, size: 2}}\nnodes:\n" + _SOURCE,
        ["3:19: FB205"],
    ),
    "a queue too large": (_HEAD + "defaults: {queue: {size: 1000001}}\nnodes:\n" + _SOURCE, ["3:19: FB901"]),
    "bytes too many": (_HEAD + "defaults: {queue: {bytes: 65GiB}}\nnodes:\n" + _SOURCE, ["3:27: FB901"]),
}

TRAPS = {
    "NO": "FB106",
    "yes": "FB106",
    "On": "FB106",
    "010": "FB107",
    "0o10": "FB107",
    "0b1": "FB107",
    "1_000": "FB107",
    "1_0.5": "FB107",
    "12:30": "FB107",
    ".inf": "FB114",
    "1e999": "FB114",
    "99999999999999999999": "FB114",
}

NODES = {
    "a duplicate id": "- {id: §FB301§s, operator: python:m:f}",
    "a reserved id": "- {id: §FB206§bus, operator: python:m:f}",
    "an id that is missing": "- §FB203§{operator: python:m:f}",
    "no operator": "- §FB203§{id: t}",
    "an unknown node": "- {id: t, operator: python:m:f, inputs: {in: §FB302§S/out}}",
    "an unknown port": "- {id: t, operator: python:m:f, inputs: {in: §FB303§s/ot}}",
    "an unknown input": "- {id: §FB404§t, operator: csv_sink, with: {path: a}, inputs: {§FB303§i: s/out}}",
    "an unknown output": "- {id: t, operator: map, with: {columns: {}}, inputs: {in: s/out}, outputs: {§FB303§o: }}",
    "scatter on an unknown port": (
        "- {id: t, operator: map, with: {columns: {}}, inputs: {in: s/out}, outputs: {§FB303§o: {scatter: copy}}}"
    ),
    "an unknown operator": "- {id: t, operator: §FB304§csv_snk, with: {path: a}, inputs: {in: s/out}}",
    "an unknown kind": "- {id: t, operator: §FB305§'pyton:a:b'}",
    "half a reference": "- {id: t, operator: §FB305§'python:a'}",
    "an unknown schema": "- {id: t, operator: 'python:a:b', outputs: {out: {schema: §FB306§f}}}",
    "no slash": "- {id: t, operator: 'python:a:b', inputs: {in: §FB309§s}}",
    "a bad period": "- {id: t, operator: 'python:a:b', inputs: {in: §FB204§timer/100}}",
    "a bad subscription": "- {id: t, operator: 'python:a:b', inputs: {in: §FB308§bus/a..b}}",
    "a pattern to publish to": "- {id: t, operator: 'python:a:b', outputs: {out: {topic: §FB308§a.*}}}",
    "joined twice": "- {id: t, operator: 'python:a:b', inputs: {in: [s/out, §FB310§s/out]}}",
    "an unknown setting": "- {id: t, operator: csv_source, with: {path: a, §FB401§bach_rows: 3}}",
    "a missing setting": "- {id: §FB402§t, operator: csv_source}",
    "badly typed settings": (
        "- {id: t, operator: csv_source, with: {path: §FB403§3, batch_rows: §FB403§x, "
        "every: §FB403§3, loud: §FB403§1, on_ragged: §FB403§skp}}"
    ),
    "a sink without input": "- {id: §FB404§t, operator: csv_sink, with: {path: a}}",
    "gather without input": "- {id: §FB404§t, operator: gather}",
    "json into an Arrow sink": """
        - {id: j, operator: 'python:m:f', outputs: {out: {type: json}}}
        - {id: t, operator: csv_sink, with: {path: a}, inputs: {in: §FB501§j/out}}
    """,
    "a type that the built-in does not give": (
        "- {id: t, operator: csv_source, with: {path: a}, outputs: {§FB501§out: {type: json}}}"
    ),
    "a type that the input does not take": (
        "- {id: t, operator: csv_sink, with: {path: a}, inputs: {in: {from: s/out, type: §FB501§json}}}"
    ),
    "group without bus": "- {id: t, operator: 'python:m:f', inputs: {in: {from: s/out, §FB511§group: g}}}",
    "reply without bus": "- {id: t, operator: 'python:m:f', inputs: {in: {from: s/out, §FB511§reply: true}}}",
    "delivery of a timer": (
        "- {id: t, operator: 'python:m:f', inputs: {in: {from: timer/1s, §FB511§delivery: at_least_once}}}"
    ),
    "a delivery that drops": """
        - id: t
          operator: 'python:m:f'
          inputs: {in: {from: §FB512§s/out, delivery: at_least_once, queue: {policy: latest}}}
    """,
    "an effect once without snapshots": (
        "- {id: t, operator: 'python:m:f', inputs: {in: {from: §FB512§s/out, delivery: effectively_once}}}"
    ),
    "feedback from a timer": "- {id: t, operator: 'python:m:f', inputs: {in: {from: timer/1s, §FB511§feedback: true}}}",
    "feedback without a cycle": "- {id: t, operator: 'python:m:f', inputs: {in: {from: s/out, §FB505§feedback: true}}}",
    "two places": "- {id: t, operator: 'python:m:f', place: §FB510§{process: a, host: b}}",
    "an untyped resource": "- {id: t, operator: 'python:m:f', category: resource, outputs: {§FB509§out: {type: json}}}",
    "inproc between processes": (
        "- {id: t, operator: 'python:m:f', place: {process: p}, inputs: {in: {from: §FB508§s/out, tier: inproc}}}"
    ),
    "a cycle": """
        - {id: a, operator: 'python:m:f', inputs: {in: [s/out, §FB504§b/out]}}
        - {id: b, operator: 'python:m:f', inputs: {in: a/out}}
    """,
    "a node that feeds itself": "- {id: a, operator: 'python:m:f', inputs: {in: [s/out, §FB504§a/out]}}",
    "a cycle that blocks": """
        - {id: a, operator: 'python:m:f', inputs: {in: s/out, back: {from: §FB506§b/out, feedback: true}}}
        - {id: b, operator: 'python:m:f', inputs: {in: a/out}}
    """,
    "an island": """
        - {id: §FB503§a, operator: 'python:m:f', inputs: {in: {from: b/out, feedback: true, queue: {policy: latest}}}}
        - {id: b, operator: 'python:m:f', inputs: {in: a/out}}
    """,
    "budgets beyond a source's deadline": """
        - {id: a, operator: 'python:m:f', deadline: §FB507§5ms, budget: 9s}
        - {id: b, operator: 'python:m:f', budget: 3ms, inputs: {in: a/out}}
        - {id: c, operator: 'python:m:f', budget: 3ms, inputs: {in: b/out}}
    """,
    "budgets beyond a route's deadline": """
        - {id: b, operator: 'python:m:f', budget: 3ms, inputs: {in: {from: §FB507§s/out, deadline: 5ms}}}
        - {id: c, operator: 'python:m:f', budget: 3ms, inputs: {in: b/out}}
    """,
    "budgets beyond a timer's deadline": (
        "- {id: b, operator: 'python:m:f', budget: 3ms, inputs: {in: {from: §FB507§timer/1s, deadline: 2ms}}}"
    ),
    "several at once, from shape to graph": """
        - {id: a, operator: 'python:m:f', budget: §FB204§3, inputs: {in: s/out}}
        - {id: b, operator: 'python:m:f', §FB201§colour: red, inputs: {in: §FB302§x/out}}
        - {id: §FB402§c, operator: csv_sink, with: {§FB401§pth: a}, inputs: {in: s/out}}
    """,
    "a cut node does not break its readers": """
        - §FB203§{id: a}
        - {id: b, operator: csv_sink, with: {path: a}, inputs: {in: a/out}}
    """,
    "a cut output does not break its readers": """
        - {id: a, operator: 'python:m:f', outputs: {late: {§FB201§tpe: json}, bad: §FB202§7}}
        - {id: b, operator: 'python:m:f', inputs: {in: a/bad}}
    """,
}
"""Nodes after a source `s`; ``§RULE§`` stands right before the place where that rule is found."""


def places(lines: list[str]) -> list[str]:
    """``line:column: RULE`` of each line."""
    return [" ".join(line.removeprefix("f.yaml:").split(" ")[:2]) for line in lines]


@pytest.mark.parametrize("name", TEXTS)
def test_a_broken_text_gives_exactly_these_findings(name: str) -> None:
    text, expected = TEXTS[name]
    assert places(findings(text)) == expected


@pytest.mark.parametrize("name", NODES)
def test_a_broken_node_gives_exactly_these_findings(name: str) -> None:
    text, expected = marked(NODES[name])
    assert expected
    assert places(findings(text)) == expected


@pytest.mark.parametrize(("word", "rule"), TRAPS.items())
def test_a_plain_scalar_that_readers_dispute_is_a_finding_as_value(word: str, rule: str) -> None:
    text = f"{_HEAD}nodes:\n  - {{id: s, operator: 'python:m:f', with: {{a: {word}}}}}"
    assert places(findings(text)) == [f"4:{text.splitlines()[3].index('a: ') + 4}: {rule}"]


@pytest.mark.parametrize("word", ["NO", "yes", "on", "Off", "010", "1_000", "12:30", "7", "true", "null", "~", "1.5"])
def test_a_plain_key_that_readers_dispute_is_a_finding(word: str) -> None:
    text = f"{_HEAD}nodes:\n  - {{id: s, operator: 'python:m:f', with: {{{word}: a}}}}"
    [found] = findings(text)
    assert found.startswith(("f.yaml:4:44: FB106", "f.yaml:4:44: FB108"))
    assert f'write "{word}"' in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  - {id: t, operator: csv_snk}", "did you mean csv_sink?"),
        ("  - {id: t, operator: 'python:m:f', inputs: {in: s/uot}}", "did you mean out?"),
        ("  - {id: t, operator: 'python:m:f', inpts: {in: s/out}}", "did you mean inputs?"),
        ("  - {id: t, operator: 'python:m:f', priority: hihg}", "did you mean high?"),
        ("  - {id: t, operator: 'python:m:f', budget: 5sec}", "did you mean 5s?"),
        ("  - {id: t, operator: 'python:m:f', inputs: {in: s}}", "did you mean s/out?"),
        ("  - {id: t, operator: csv_source, with: {pth: a}}", "did you mean path?"),
        (
            "  - {id: t, operator: 'python:m:f', inputs: {in: {from: s/out, queue: {polcy: block}}}}",
            "did you mean policy?",
        ),
        ("  - {id: t, operator: 'python:m:f', outputs: {out: {scatter: coppy}}}", "did you mean copy?"),
        ("  - {id: t, operator: 'python:m:f', restart: {wen: always}}", "did you mean when?"),
    ],
)
def test_a_slip_of_the_pen_gets_a_suggestion(text: str, words: str) -> None:
    assert words in "\n".join(findings(_HEAD + "nodes:\n" + _SOURCE + text))


def test_a_schema_mismatch_names_the_column() -> None:
    text = (
        _HEAD
        + "schemas:\n  a: {fields: {x: int64, y: double}}\n  b: {fields: {x: int32}}\n  c: {fields: {y: float64!}}\n"
        "nodes:\n"
        "  - {id: s, operator: csv_source, with: {path: a.csv}, outputs: {out: {schema: a}}}\n"
        "  - {id: t, operator: 'python:m:f', inputs: {in: {from: s/out, schema: b}}}\n"
        "  - {id: u, operator: 'python:m:f', inputs: {in: {from: s/out, schema: c}}}\n"
    )
    assert findings(text) == [
        "f.yaml:9:57: FB502 s/out: column x is int64, int32 is needed",
        "f.yaml:10:57: FB502 s/out: column y may be null, but must not be",
    ]


def test_findings_beyond_the_limit_are_counted_in_a_closing_one() -> None:
    text = _HEAD + "nodes:\n" + "".join(f"  - {{id: n{i}, operator: nope}}\n" for i in range(250))
    found = findings(text)
    assert len(found) == 201
    assert found[-1].endswith("FB999 50 further findings are not shown")


def test_too_many_nodes_are_one_finding() -> None:
    text = _HEAD + "nodes:\n" + "  - {}\n" * 20_001
    assert findings(text) == ["f.yaml:3:1: FB901 20001 nodes exceed the limit of 20000"]


def test_a_path_in_a_finding_is_written_out() -> None:
    text, _ = marked(NODES["budgets beyond a source's deadline"])
    [found] = findings(text)
    assert found.endswith("FB507 budgets along a -> b -> c add up to 6ms, the deadline from a is 5ms")


def test_an_operator_judges_its_own_configuration() -> None:
    text = dedent(
        """\
        flowbridge: 1
        name: f
        nodes:
          - {id: s, operator: sequence}
          - {id: f, operator: filter, with: {where: value >> 25}, inputs: {in: s/out}}
          - {id: w, operator: window, with: {time: t, every: 1s, aggregate: {n: median(x)}}, inputs: {in: f/out}}
        """
    )
    with pytest.raises(FlowErrors) as refused:
        YamlFlowAdapter(catalog(), {}).compile(TextSource("f.yaml", text))
    first, second = map(str, refused.value.findings)
    assert first.startswith("f.yaml:5:45: FB405 filter: expression 'value >> 25', column 1: RShift")
    assert second.startswith("f.yaml:6:10: FB405 window: ")


def test_every_rule_about_a_text_has_an_example() -> None:
    cases = (*TEXTS.values(), *(marked(text) for text in NODES.values()))
    shown = {place.split(" ")[1] for _, expected in cases for place in expected}
    elsewhere = {"FB001", "FB002", "FB106", "FB107", "FB108", "FB114", "FB405", "FB502", "FB999"}
    assert shown | elsewhere == set(RULES)
