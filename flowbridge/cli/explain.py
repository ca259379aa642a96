"""``flowbridge explain``: what the compiler decided for every edge and path, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from flowbridge.cli import output
from flowbridge.cli.flow_file import FlowArgument, JsonOption, load_plan
from flowbridge.cli.graph_model import queue_text
from flowbridge.cli.units import count_text, duration_text, size_text
from flowbridge.limits import PATHS_MAX
from flowbridge.plan import Plane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.budget import PathBudget
    from flowbridge.plan import Plan, PluginManifest, Qos, Route
    from flowbridge.tiers import Choice

ROWS_MAX: Final = 100  # of a table for people; --json has them all


def explain(flow: FlowArgument, json: JsonOption = False) -> None:
    """Say what was decided for each edge, and why.

    Its tier and the reason, its queue, priority and deadline; and the declared budget of every path against its
    deadline.
    """
    plan = load_plan(flow)
    from flowbridge.budget import plan_paths
    from flowbridge.tiers import choose_all

    choices = choose_all(plan)
    paths = list(plan_paths(plan, PATHS_MAX))
    if json:
        output.print_json(_document(plan, choices, paths))
    else:
        _print(plan, choices, paths)


def _document(plan: Plan, choices: Mapping[str, Choice], paths: Sequence[PathBudget]) -> dict[str, Any]:
    defaults = plan.defaults
    return {
        "flow": plan.name,
        "digest": plan.digest,
        "defaults": {
            "deadline_ns": defaults.deadline_ns,
            "priority": defaults.priority.word,
            "queue": _queue(defaults.qos),
        },
        "nodes": {manifest.node: _node(manifest) for manifest in plan.manifests},
        "edges": {route.id: _edge(route, choices[route.id]) for route in plan.routes},
        "paths": [
            {
                "nodes": list(path.nodes),
                "deadline_ns": path.deadline_ns,
                "declared_ns": path.declared_ns,
                "slack_ns": path.slack_ns,
            }
            for path in paths
        ],
        "paths_max": PATHS_MAX,
    }


def _node(manifest: PluginManifest) -> dict[str, Any]:
    return {
        "operator": manifest.artifact.ref,
        "kind": manifest.artifact.kind.value,
        "origin": manifest.origin.value,
        "category": manifest.category.value,
        "process": manifest.place.process,
        "host": manifest.place.host,
        "priority": None if manifest.priority is None else manifest.priority.word,
        "deadline_ns": manifest.deadline_ns,
        "budget_ns": manifest.budget_ns,
        "restart": manifest.restart.when.value,
    }


def _queue(qos: Qos) -> dict[str, Any]:
    return {
        "policy": qos.policy.value,
        "capacity_items": qos.capacity_items,
        "capacity_bytes": qos.capacity_bytes,
        "high_items": qos.high_items,
        "low_items": qos.low_items,
    }


def _edge(route: Route, choice: Choice) -> dict[str, Any]:
    return {
        "plane": route.plane.value,
        "tier": choice.tier.value,
        "why": choice.why,
        "problem": choice.problem or None,
        "queue": _queue(route.qos),
        "priority": None if route.qos.priority is None else route.qos.priority.word,
        "deadline_ns": route.qos.deadline_ns,
        "content_type": route.content_type.value,
        "schema": route.schema_ref,
        "feedback": route.feedback,
    }


def _print(plan: Plan, choices: Mapping[str, Choice], paths: Sequence[PathBudget]) -> None:
    from rich.markup import escape

    from flowbridge.cli.table import print_rest, print_table, table

    console = output.console(sys.stdout)
    console.print(f"[bold]{escape(plan.name)}[/bold]  digest {escape(plan.digest)}")
    edges = table("Edges", "edge", "tier", "because", "queue", "priority", "deadline", "carries")
    for route in plan.routes[:ROWS_MAX]:
        edges.add_row(*map(escape, _edge_row(plan, route, choices[route.id])))
    print_table(console, edges)
    print_rest(console, len(plan.routes), ROWS_MAX, "edge")
    if paths:
        budgets = table("Paths", "path", ">deadline", ">declared", ">slack")
        for path in sorted(paths, key=_slack)[:ROWS_MAX]:
            budgets.add_row(*map(escape, _path_row(path)))
        print_table(console, budgets)
        print_rest(console, len(paths), ROWS_MAX, "path")
    if len(paths) >= PATHS_MAX:
        console.print(f"[dim]not more than {count_text(PATHS_MAX, 'path')} are looked at[/dim]")


def _slack(path: PathBudget) -> float:
    return float("inf") if path.slack_ns is None else path.slack_ns


def _edge_row(plan: Plan, route: Route, choice: Choice) -> tuple[str, ...]:
    why = f"{choice.why}; {choice.problem}" if choice.problem else choice.why
    qos = route.qos
    queue = "-"
    if route.plane is not Plane.TIMER:
        queue = f"{queue_text(qos)}, {size_text(qos.capacity_bytes)}"
    schema = route.schema_ref or route.content_type.name.lower()
    return (
        route.id + (" (feedback)" if route.feedback else ""),
        choice.tier.value if route.plane is Plane.DATA else route.plane.value,
        why,
        queue,
        "inherited" if qos.priority is None else qos.priority.word,
        "inherited" if qos.deadline_ns is None else duration_text(qos.deadline_ns),
        schema,
    )


def _path_row(path: PathBudget) -> tuple[str, ...]:
    slack = "-" if path.slack_ns is None else duration_text(path.slack_ns)
    if path.slack_ns is not None and path.slack_ns < 0:
        slack = f"-{duration_text(-path.slack_ns)}: too late"
    return (" \u2192 ".join(path.nodes), duration_text(path.deadline_ns), duration_text(path.declared_ns), slack)
