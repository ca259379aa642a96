"""Every clause of the data plane and the control plane, on every installed transport, plain and clogged."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge import registry
from flowbridge.contracts import BlockingSink, BlockingSource
from flowbridge.plan import Plane, Route
from flowbridge.testing.conformance import Clause, clauses, port_books
from flowbridge.testing.faults import CloggedBus, CloggedPort
from flowbridge.testing.quiet import quiet_after

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from flowbridge.contracts import Clock, DataPort, EventBus
    from flowbridge.plan import Qos

TIERS = registry.transports()
WITHOUT_RING = "ipc-socket"  # the ipc tier as it is where the native module could not be built
SCRIPTS = max(1, int(os.environ.get("FLOWBRIDGE_SEEDS", "100")) // 25)  # under each policy
RUNS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
WAYS = [(None, "asyncio"), (None, "uvloop"), (1, "asyncio"), (2, "uvloop")]  # each clogging on one of the loops


def is_under_way(transport: object) -> bool:
    """Whether a tier has something between two sockets."""
    return getattr(transport, "is_under_way", False)


def port_maker(tier: str, seed: int | None) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(qos: Qos, clock: Clock) -> AsyncGenerator[DataPort]:
        route = Route(
            id="a/out->b/in",
            plane=Plane.DATA,
            source_node="a",
            source_port="out",
            target_node="b",
            target_port="in",
            qos=qos,
        )
        transport = registry.transport(tier.partition("-")[0], clock)
        try:
            port = await transport.open_port(route)
            source = port.source
            with quiet_after(lambda: is_under_way(transport) or getattr(source, "owes_report", False)):
                yield port if seed is None else CloggedPort(port, seed)
        finally:
            await transport.aclose()

    return make


def bus_maker(tier: str, seed: int | None) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(clock: Clock) -> AsyncGenerator[EventBus]:
        transport = registry.transport(tier, clock)
        try:
            bus = await transport.open_bus()
            with quiet_after(lambda: is_under_way(transport)):
                yield bus if seed is None else CloggedBus(bus, seed)
        finally:
            await transport.aclose()

    return make


def named(clause: Clause) -> str:
    return clause.name.replace(" ", "_")


def ways(tiers: Sequence[str]) -> list[Any]:
    """Tier, seed of the clogging and loop of each run."""
    return [
        pytest.param(tier, seed, run, id=f"{tier}-{'plain' if seed is None else f'clogged_{seed}'}-{run}")
        for tier in tiers
        for seed, run in WAYS
    ]


def test_a_transport_is_installed() -> None:
    assert "inproc" in TIERS


@pytest.mark.parametrize(("tier", "seed", "run"), ways([*TIERS, WITHOUT_RING]))
@pytest.mark.parametrize("clause", clauses("port"), ids=named)
def test_a_data_port_keeps_its_promise(
    clause: Clause, tier: str, seed: int | None, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tier == WITHOUT_RING:
        monkeypatch.setenv("FLOWBRIDGE_NATIVE", "0")
    monkeypatch.setattr(port_books, "SEEDS", range(SCRIPTS))
    clause.check(port_maker(tier, seed), RUNS[run])


def blocking_maker(tier: str) -> Callable[..., Any]:
    """As `port_maker`; plain, because a clogged port gives way in calls that wait on the loop, which these do not."""

    @asynccontextmanager
    async def make(qos: Qos, clock: Clock) -> AsyncGenerator[DataPort]:
        async with port_maker(tier, None)(qos, clock) as port:
            if not (isinstance(port.source, BlockingSource) and isinstance(port.sink, BlockingSink)):
                pytest.skip(f"{tier}: both ends are of one loop, so nobody can wait without it")
            yield port

    return make


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("tier", [*TIERS, WITHOUT_RING])
@pytest.mark.parametrize("clause", clauses("blocking"), ids=named)
def test_a_port_that_is_waited_for_keeps_its_promise(
    clause: Clause, tier: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tier == WITHOUT_RING:
        monkeypatch.setenv("FLOWBRIDGE_NATIVE", "0")
    clause.check(blocking_maker(tier), RUNS[run])


@pytest.mark.parametrize(("tier", "seed", "run"), ways(TIERS))
@pytest.mark.parametrize("clause", clauses("bus"), ids=named)
def test_a_bus_keeps_its_promise(clause: Clause, tier: str, seed: int | None, run: str) -> None:
    clause.check(bus_maker(tier, seed), RUNS[run])
