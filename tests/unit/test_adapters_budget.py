"""The paths of a plan and what their budgets leave of their deadlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.adapters.flow import TextSource, YamlFlowAdapter
from flowbridge.budget import PathBudget, plan_paths
from flowbridge.registry import Catalog

if TYPE_CHECKING:
    from flowbridge.plan import Plan

_MS = 10**6
_TWO_WAYS = """\
flowbridge: 1
name: n
nodes:
- {id: s, operator: 'python:m:f', deadline: 20ms, budget: 9s}
- id: a
  operator: python:m:f
  budget: 3ms
  inputs: {in: s/out, back: {from: c/out, feedback: true, queue: {policy: latest}}}
- {id: b, operator: 'python:m:f', budget: 5ms, inputs: {in: s/out}}
- {id: c, operator: 'python:m:f', budget: 4ms, inputs: {x: {from: a/out, deadline: 6ms}, y: b/out}}
"""


def compiled(text: str) -> Plan:
    return YamlFlowAdapter(Catalog({}, {}), {}).compile(TextSource("f.yaml", text))


def test_each_path_shows_the_deadline_that_leaves_the_least() -> None:
    assert plan_paths(compiled(_TWO_WAYS)) == [
        PathBudget(("s", "a", "c"), 6 * _MS, 4 * _MS, 2 * _MS, "a/out->c/x"),
        PathBudget(("s", "b", "c"), 20 * _MS, 9 * _MS, 11 * _MS, "s"),
    ]


def test_without_a_deadline_there_is_no_slack() -> None:
    text = _TWO_WAYS.replace("deadline: 20ms, ", "").replace(", deadline: 6ms", "")
    assert plan_paths(compiled(text)) == [
        PathBudget(("s", "a", "c"), None, 7 * _MS, None),
        PathBudget(("s", "b", "c"), None, 9 * _MS, None),
    ]


def test_a_timer_starts_a_path_whose_first_call_counts() -> None:
    text = """\
flowbridge: 1
name: n
defaults: {deadline: 10ms}
nodes:
- {id: a, operator: 'python:m:f', budget: 3ms, inputs: {t: timer/1s}}
- {id: b, operator: 'python:m:f', budget: 4ms, inputs: {in: a/out}}
"""
    assert plan_paths(compiled(text)) == [PathBudget(("a", "b"), 10 * _MS, 7 * _MS, 3 * _MS, "timer/1s->a/t")]


def test_of_very_many_paths_only_so_many_are_walked() -> None:
    text = "flowbridge: 1\nname: n\nnodes:\n- {id: n0, operator: 'python:m:f'}\n" + "".join(
        f"- {{id: {side}{i}, operator: 'python:m:f', inputs: {{in: n{i}/out}}}}\n"
        + (f"- {{id: n{i + 1}, operator: 'python:m:f', inputs: {{in: [a{i}/out, b{i}/out]}}}}\n" if side == "b" else "")
        for i in range(60)
        for side in "ab"
    )
    plan = compiled(text)  # 2 to the 60 paths
    paths = plan_paths(plan, 5)
    assert len(paths) == 5
    assert len({path.nodes for path in paths}) == 5
    assert all(len(path.nodes) == 121 for path in paths)
