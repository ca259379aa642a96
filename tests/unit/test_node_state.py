"""The states of a node, as the table says."""

from __future__ import annotations

from itertools import product

import pytest

from flowbridge.machines.node import ENDED, FOLLOWS, NodeState, follow

ALLOWED = {
    "starting": {"running", "restarting", "failed", "aborted"},
    "running": {"done", "restarting", "failed", "aborted"},
    "restarting": {"running", "restarting", "done", "failed", "aborted"},
    "done": set[str](),
    "failed": set[str](),
    "aborted": set[str](),
}


@pytest.mark.parametrize(("now", "then"), list(product(NodeState, NodeState)))
def test_a_node_goes_only_where_the_table_allows(now: NodeState, then: NodeState) -> None:
    if then.value in ALLOWED[now.value]:
        assert follow(now, then) is then
    else:
        with pytest.raises(AssertionError, match=f"a node cannot go from {now.value} to {then.value}"):
            follow(now, then)


def test_the_table_names_every_state_and_those_that_end() -> None:
    assert set(FOLLOWS) == set(NodeState)
    assert {NodeState.DONE, NodeState.FAILED, NodeState.ABORTED} == ENDED


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {NodeState.STARTING}
    while more := {then for now in reached for then in FOLLOWS[now]} - reached:
        reached |= more
    assert reached == set(NodeState)
    assert all(FOLLOWS[state] & ENDED for state in NodeState if state not in ENDED)
