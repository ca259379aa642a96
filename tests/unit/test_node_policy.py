"""What a node runs for whom."""

from __future__ import annotations

import pytest

from flowbridge import registry
from flowbridge.errors import AuthError, FlowbridgeError, LocalProtocolError
from flowbridge.machines.node_acl import AclRule, Action, NodeAcl, plan_acl
from flowbridge.machines.node_policy import NodePolicy, OperatorGrant, default_policy
from flowbridge.plan import (
    Artifact,
    ArtifactKind,
    Origin,
    Placement,
    Plan,
    Plane,
    PluginManifest,
    Qos,
    Route,
)

HOST = "fb://dev/node/host"
CATALOG = registry.catalog()


def manifest(ref: str, **config: object) -> PluginManifest:
    artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref=ref)
    return PluginManifest(node="n", artifact=artifact, origin=Origin.EXTERNAL, config=config)


def refusal(policy: NodePolicy, ref: str, who: str = HOST, digest: str = "sha256:1", **config: object) -> str:
    spec = None if ":" in ref else CATALOG.get(ref)
    return policy.refusal(who, manifest(ref, **config), spec, lambda _: digest)


def test_an_empty_policy_runs_nothing() -> None:
    for ref in ("filter", "null", "python:m:f", "no_such"):
        assert "does not list it" in refusal(NodePolicy(), ref)


def test_the_default_runs_every_built_in_that_touches_no_file_and_no_other() -> None:
    policy = default_policy("dev")
    with_files = {name for name in CATALOG.names() if "source" in name or "sink" in name} - {"timer_source"}
    assert len(with_files) == 6
    for name in CATALOG.names():
        assert bool(refusal(policy, name)) == (name in with_files), name
    assert "names no folder" in refusal(policy, "csv_sink", path="x.csv")
    assert refusal(policy, "python:m:f")
    assert policy.knows(HOST)
    assert not policy.knows("fb://other/node/host")


@pytest.mark.parametrize(
    ("ref", "why"),
    [
        ("host:keep", "an object of a host"),
        ("python:./ops.py:f", "a file of the host"),
        ("python:ops.py:f", "a file of the host"),
        ("python:../x:f", "a file of the host"),
        ("wasm:x.wasm", "are not known"),
    ],
)
def test_what_is_not_on_the_node_never_runs_even_when_it_is_listed(ref: str, why: str) -> None:
    assert why in refusal(NodePolicy(operators=(OperatorGrant(ref),), builtins=True), ref)


def test_a_digest_is_held_against_the_source() -> None:
    ref = "python:m:f"
    policy = NodePolicy(operators=(OperatorGrant(ref, "sha256:1"), OperatorGrant(ref, "sha256:2")))
    assert not refusal(policy, ref, digest="sha256:1")
    assert not refusal(policy, ref, digest="sha256:2")
    assert "digest sha256:3" in refusal(policy, ref, digest="sha256:3")
    anything = NodePolicy(operators=(*policy.operators, OperatorGrant(ref)))
    assert not refusal(anything, ref, digest="sha256:3")


def test_a_source_that_cannot_be_read_is_not_a_yes() -> None:
    def unreadable(_: str) -> str:
        raise FlowbridgeError("no source")

    policy = NodePolicy(operators=(OperatorGrant("python:m:f", "sha256:1"),))
    with pytest.raises(FlowbridgeError, match="no source"):
        policy.refusal(HOST, manifest("python:m:f"), None, unreadable)


def test_a_grant_is_for_those_that_it_names_and_a_rule_takes_it_back() -> None:
    ref = "python:m:f"
    policy = NodePolicy(operators=(OperatorGrant(ref, None, ("fb://dev/node/*",)),))
    assert not refusal(policy, ref)
    assert refusal(policy, ref, "fb://other/node/host")
    assert refusal(policy, ref, "fb://dev/node/host/x")
    denied = NodePolicy(operators=policy.operators, rules=(AclRule(HOST, Action.INVOKE, "python:m:*", False),))
    assert "a rule denies it" in refusal(denied, ref)
    assert not refusal(denied, ref, "fb://dev/node/other")


@pytest.mark.parametrize("path", ["/x", "../x", "a/../../x", "~/x", "a\\..\\x", "", "x\0y"])
def test_a_path_that_leads_out_of_the_folder_is_refused(path: str) -> None:
    policy = NodePolicy(builtins=True, files="/data")
    assert "leads out of the folder" in refusal(policy, "csv_sink", path=path)
    assert not refusal(policy, "csv_sink", path="a/b.csv")
    assert not refusal(policy, "csv_sink", path="./..b.csv")


def test_a_refusal_names_operator_peer_and_code() -> None:
    text = refusal(NodePolicy(), "python:m:f")
    assert text.splitlines() == [text]
    assert text.startswith(f"operator 'python:m:f' is not allowed for {HOST}: ")
    assert text.endswith("(0x502 FORBIDDEN)")


def test_a_right_that_is_missing_is_named() -> None:
    with pytest.raises(AuthError, match=r"fb://dev/node/host has no right sub on 'a\.>'"):
        NodeAcl().check(HOST, Action.SUB, "a.>")


def test_a_subscription_must_be_covered_and_meet_nothing_that_is_denied() -> None:
    acl = NodeAcl([AclRule("*", Action.SUB, "a.>"), AclRule("*", Action.SUB, "a.secret.>", False)])
    assert acl.may(HOST, Action.SUB, "a.b")
    assert acl.may(HOST, Action.SUB, "a.b.*")
    for pattern in (">", "*", "a.>", "*.b", "a.*.x", "a.secret.x", "a.*.>", "", "a..b", "a.>.b"):
        assert not acl.may(HOST, Action.SUB, pattern), pattern


def test_a_topic_rule_needs_a_pattern() -> None:
    with pytest.raises(LocalProtocolError, match="before its last word"):
        AclRule("*", Action.PUB, "a.>.b")


def bus_route(source: str, target: str, topic: str) -> Route:
    return Route(
        id=f"{source}->{target}", plane=Plane.BUS, source_node=source, source_port="out", target_node=target,
        target_port="in", qos=Qos(), topic=topic,
    )  # fmt: skip


def test_a_place_may_use_the_topics_of_its_own_routes() -> None:
    edge = Placement(host="edge")
    nodes = [PluginManifest(node=n, artifact=manifest("x").artifact, origin=Origin.INTERNAL) for n in "ab"]
    far = PluginManifest(node="far", artifact=manifest("x").artifact, origin=Origin.INTERNAL, place=edge)
    routes = (bus_route("far", "", "t.out"), bus_route("", "far", "t.in.*"), bus_route("a", "", "t.other"))
    acl = plan_acl(Plan(name="p", digest="", manifests=(*nodes, far), routes=routes), edge)
    assert acl.may("edge", Action.PUB, "t.out")
    assert acl.may("edge", Action.SUB, "t.in.*")
    assert acl.may("edge", Action.SUB, "t.in.x")
    for action, name in ((Action.PUB, "t.other"), (Action.SUB, "t.out"), (Action.SUB, ">"), (Action.PUB, "t.in.x")):
        assert not acl.may("edge", action, name)
