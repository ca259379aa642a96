"""The states of a node, as a table: what may follow what.

starting -> running -> done
               |  \\-> aborted
               v
failed <- restarting -> running, done (a source that is drained before it starts again)
"""

from __future__ import annotations

import enum
from typing import Final


class NodeState(enum.Enum):
    """Where a node is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"


FOLLOWS: Final = {
    NodeState.STARTING: {NodeState.RUNNING, NodeState.RESTARTING, NodeState.FAILED, NodeState.ABORTED},
    NodeState.RUNNING: {NodeState.DONE, NodeState.RESTARTING, NodeState.FAILED, NodeState.ABORTED},
    NodeState.RESTARTING: {
        NodeState.RUNNING,
        NodeState.RESTARTING,
        NodeState.DONE,
        NodeState.FAILED,
        NodeState.ABORTED,
    },
    NodeState.DONE: set[NodeState](),
    NodeState.FAILED: set[NodeState](),
    NodeState.ABORTED: set[NodeState](),
}

ENDED: Final = frozenset(state for state, following in FOLLOWS.items() if not following)


def follow(now: NodeState, then: NodeState) -> NodeState:
    """The next state; AssertionError when the table does not allow it, which is a bug of ours."""
    assert then in FOLLOWS[now], f"a node cannot go from {now.value} to {then.value}"
    return then
