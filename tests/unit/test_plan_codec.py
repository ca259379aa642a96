"""Plan documents: what is refused, and what a later minor may add. (Round trips: tests/property.)"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cbor2
import pytest

from flowbridge.codec.plan import digest_of, plan_from_cbor, plan_from_json, plan_to_cbor, plan_to_json
from flowbridge.envelope import Priority
from flowbridge.errors import PlanError
from flowbridge.finding import Position
from flowbridge.plan import Artifact, ArtifactKind, Origin, Plan, Plane, PluginManifest, Qos, Route

_BARE = Plan(
    name="f",
    digest="",
    manifests=(
        PluginManifest(
            node="a",
            artifact=Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="python:m:f"),
            origin=Origin.EXTERNAL,
            config={"b": 1, "a": [1.5, None, True, "ü"]},
            priority=Priority.REALTIME,
        ),
    ),
    routes=(
        Route(
            id="timer/1s->a/in",
            plane=Plane.TIMER,
            source_node="timer",
            source_port="1s",
            target_node="a",
            target_port="in",
            qos=Qos(),
            period_ns=10**9,
        ),
    ),
    topics={"z.>": Qos(), "a.*": Qos(priority=Priority.HIGH)},
    positions={"a": Position(file="f.yaml", line=3, column=7)},
)
_PLAN = replace(_BARE, digest=digest_of(_BARE))


def document(**changes: Any) -> str:
    """The document of `_PLAN` with other members."""
    return json.dumps({**json.loads(plan_to_json(_PLAN)), **changes})


def test_the_compact_form_is_one_line_and_the_pretty_one_is_not() -> None:
    compact = plan_to_json(_PLAN, compact=True)
    assert "\n" not in compact
    assert json.loads(compact) == json.loads(plan_to_json(_PLAN))
    assert plan_to_json(_PLAN).count("\n") > 50


def test_topics_keep_their_order() -> None:
    assert list(plan_from_json(plan_to_json(_PLAN)).topics) == ["z.>", "a.*"]
    assert list(plan_from_cbor(plan_to_cbor(_PLAN)).topics) == ["z.>", "a.*"]


def test_digest_positions_and_folder_do_not_count_in_the_digest() -> None:
    other = replace(_PLAN, digest="x", positions={}, base_dir="elsewhere")
    assert digest_of(other) == _PLAN.digest
    assert digest_of(replace(_PLAN, name="g")) != _PLAN.digest


def test_another_major_is_refused() -> None:
    with pytest.raises(PlanError, match=r"plan format 2\.0: this version reads 1\.x"):
        plan_from_json(document(format=[2, 0]))


def test_a_later_minor_may_add_members_and_leave_others_out() -> None:
    later = json.loads(document(format=[1, 7], novelty={"x": 1}))
    later["manifests"][0]["novelty"] = True
    del later["manifests"][0]["scatter"]
    plan = plan_from_json(json.dumps(later))
    assert plan == replace(_PLAN, format=(1, 7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "plan is not JSON"),
        ("[1]", "a map is needed"),
        ("[" * 100_000, "plan is not JSON"),
        ("{}", "damaged at format"),
        (document(format="1.0"), "damaged at format"),
        (document(name=7), "damaged at name: "),
        (document(manifests=[{}]), r"damaged at manifests\.0\.node: "),
        (document(routes=[3]), r"damaged at routes\.0: "),
        (document(topics=[1]), "damaged"),
        (document(defaults={"priority": 9}), r"damaged at defaults\.priority: "),
        (document(description="another"), "damaged at digest: "),
    ],
)
def test_a_damaged_document_is_refused_naming_where(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan_from_json(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81" * 100_000,
        cbor2.dumps({"format": [1, 0], "name": b"x"}),
    ],
)
def test_damaged_cbor_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        plan_from_cbor(data)


def test_a_cut_document_is_refused_wherever_it_is_cut() -> None:
    data = plan_to_cbor(_PLAN)
    for end in range(len(data)):
        with pytest.raises(PlanError):
            plan_from_cbor(data[:end])


def test_a_configuration_keeps_its_order_in_cbor() -> None:
    # The columns of a result stand in the order of the flow, wherever its node runs.
    assert list(plan_from_cbor(plan_to_cbor(_PLAN)).manifests[0].config) == ["b", "a"]
