"""From a plan to a running flow: which nodes run where, what stands against that, and the start of all parts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from flowbridge import registry
from flowbridge.plan import Placement
from flowbridge.runtime.assembly import Assembly
from flowbridge.runtime.books import FlowBooks
from flowbridge.runtime.flow import RunningFlow
from flowbridge.runtime.kept import unpacked
from flowbridge.runtime.problem import Problem, refused
from flowbridge.tiers import choose_all, nearest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from contextlib import AsyncExitStack

    from flowbridge.contracts import Clock, Transport
    from flowbridge.placing import PlacingTransport
    from flowbridge.plan import Plan, PluginManifest
    from flowbridge.runtime.flow import Supervised
    from flowbridge.runtime.remote import RemoteParts


async def launch(
    plan: Plan,
    *,
    state: Mapping[str, Any],
    drain_ns: int,
    clock: Clock,
    transport: Callable[[str], Awaitable[Transport]],
    hosts: Collection[str] = (),
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    resources: AsyncExitStack,
    **for_assembly: Any,
) -> RunningFlow:
    """Start every part of a flow, or nothing; the keywords that are not named go to `Assembly`.

    `hosts` names the hosts that have an address; `options` are what transports are made with, by tier.

    Raises: FlowbridgeError with a line for every node, route and process that cannot be.
    """
    problems = _place_problems(plan, hosts)
    placed = {manifest.node for manifest in plan.manifests if manifest.place != Placement()}
    remote: RemoteParts | None = None
    if placed and not problems:
        from flowbridge.runtime.remote import RemoteParts, placing_tiers

        remote = RemoteParts(
            plan,
            {tier: cast("PlacingTransport", await transport(tier)) for tier in sorted(placing_tiers(plan))},
            clock,
            state,
            for_assembly["stdout"],
            bus=for_assembly["bus"],
            serial=for_assembly["serial"],
            options=options,
            instrument=for_assembly.get("instrument"),
        )
        resources.push_async_callback(remote.aclose)
        problems += await remote.start()
    here = [manifest.node for manifest in plan.manifests if manifest.node not in placed]
    assembly = Assembly(plan, here, clock=clock, transport=transport, resources=resources, **for_assembly)
    problems += assembly.load()
    if any(problem.part != "operator" for problem in problems):
        raise refused(plan, problems)  # without its routes no node can be joined
    if remote is not None:
        await remote.open_ends()
        problems += await remote.prepare()
        if any(problem.part == "process" for problem in problems):
            raise refused(plan, problems)
    await assembly.open(*((remote.sinks, remote.sources) if remote is not None else ({}, {})))
    supervisors, found = assembly.supervise({node: unpacked(state[node]) for node in here if node in state})
    problems += found
    if problems:
        raise refused(plan, problems)
    bus = for_assembly["bus"]
    for pattern, qos in plan.topics.items():
        bus.configure(pattern, qos)
    if remote is not None:
        remote.account(assembly.edges)
    edges = {route.id: assembly.edges[route.id] for route in plan.routes if route.id in assembly.edges}
    books = FlowBooks(edges, assembly.paths)
    nodes: dict[str, Supervised] = {supervisor.node: supervisor for supervisor in supervisors}
    if remote is not None:
        nodes.update(remote.nodes)
        remote.report_to(books)
    in_order = [nodes[manifest.node] for manifest in plan.manifests]
    return RunningFlow(plan, in_order, books, clock, resources.pop_all(), drain_ns, remote)


# --- what stands against it -----------------------------------------------------------------------------------------


def _place_problems(plan: Plan, hosts: Collection[str]) -> list[Problem]:
    """Places that no installed tier reaches, what cannot be placed, and routes that need a tier that is not there."""
    problems: list[Problem] = []
    installed = registry.transports()
    here = f"not installed; installed: {', '.join(installed)}"
    elsewhere: set[str] = set()
    for manifest in plan.manifests:
        tier = nearest(Placement(), manifest.place).value
        text = f"{_placed(manifest)}, which needs tier {tier}, and that is {here}" if tier not in installed else ""
        if text:
            elsewhere.add(manifest.node)
        elif manifest.place != Placement():
            text = _cannot_be_placed(manifest, hosts)
        if text:
            where = plan.where(f"{manifest.node}.place", manifest.node)
            problems.append(Problem(manifest.node, "place", f"{where}: node {manifest.node} {text}"))
    choices = choose_all(plan)
    for route in plan.routes:
        choice, target = choices[route.id], route.target_node
        text = choice.problem
        if not text and choice.tier.value not in installed and not elsewhere & {route.source_node, target}:
            text = f"tier {choice.tier.value} is needed because {choice.why}, but it is {here}"
        if text:
            where = plan.where(route.id, f"{target}.place", target)
            problems.append(Problem(target, "route", f"{where}: route {route.id}: {text}"))
    return problems


def _placed(manifest: PluginManifest) -> str:
    return f"is placed in {manifest.place}"


def _cannot_be_placed(manifest: PluginManifest, hosts: Collection[str]) -> str:
    """Why a node cannot run where it is placed, as far as the plan says; empty when it can."""
    if manifest.artifact.ref.startswith("host:"):
        return f"{_placed(manifest)}, but its operator {manifest.artifact.ref} is an object of this process"
    host = manifest.place.host
    if host is not None and host not in hosts:
        known = f"known: {', '.join(sorted(hosts))}" if hosts else "none is known"
        return f"{_placed(manifest)}, which has no address ({known}); give one with --node {host}=quic://HOST:PORT"
    return ""
