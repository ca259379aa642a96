"""Priority holds between the nodes of a host, not only inside one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.envelope import Priority
from flowbridge.host import Host
from flowbridge.plan import (
    Artifact,
    ArtifactKind,
    Origin,
    Plan,
    Plane,
    PluginManifest,
    Port,
    Qos,
    Route,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MESSAGES = 300


def plan() -> Plan:
    """One source, three readers of everything, each with a priority of its own."""

    def node(name: str, **more: Any) -> PluginManifest:
        artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref=f"host:{name}")
        return PluginManifest(node=name, artifact=artifact, origin=Origin.EXTERNAL, **more)

    def route(target: str, priority: Priority) -> Route:
        return Route(
            id=f"source/out->{target}/in",
            plane=Plane.DATA,
            source_node="source",
            source_port="out",
            target_node=target,
            target_port="in",
            qos=Qos(priority=priority, capacity_items=MESSAGES, high_items=MESSAGES),
        )

    return Plan(
        name="turns",
        digest="",
        manifests=(node("source", outputs=(Port(name="out"),)), node("bulk"), node("plain"), node("urgent")),
        routes=(
            route("bulk", Priority.BEST_EFFORT),
            route("plain", Priority.NORMAL),
            route("urgent", Priority.REALTIME),
        ),
    )


def test_the_node_with_the_urgent_message_runs_first() -> None:
    ran: list[tuple[str, int]] = []

    def reader(name: str) -> Callable[[int], None]:
        return lambda value: ran.append((name, value))

    def source() -> Iterator[int]:
        return iter(range(MESSAGES))

    async def main() -> None:
        operators: dict[str, Callable[..., Any]] = {name: reader(name) for name in ("bulk", "plain", "urgent")}
        async with Host(operators={**operators, "source": source}) as host:
            report = await host.run(plan())
        assert report.status == "done", report.errors
        assert all(edge.books.delivered == MESSAGES for edge in report.edges.values())

    asyncio.run(main())
    last = {name: max(at for at, (who, _) in enumerate(ran) if who == name) for name in ("bulk", "plain", "urgent")}
    assert last["urgent"] < last["plain"] < last["bulk"]
    assert [value for who, value in ran if who == "bulk"] == list(range(MESSAGES))
