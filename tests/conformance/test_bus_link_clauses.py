"""Every clause of the control plane, on a bus behind a Unix socket: plain and clogged."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge import registry
from flowbridge.testing.conformance import Clause, clauses
from flowbridge.testing.faults import CloggedBus
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import UdsEventBus, serve_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from flowbridge.contracts import Clock, EventBus

SEEDS = (None, 1, 2)  # None is plain
RUNS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def bus_maker(seed: int | None) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(clock: Clock) -> AsyncGenerator[EventBus]:
        transport = registry.transport("inproc", clock)
        server = BusServer(await transport.open_bus(), clock)
        ours, theirs = socket.socketpair()
        try:
            serve_client(server, theirs)
            bus = await UdsEventBus.connect(ours, clock)
            try:
                yield bus if seed is None else CloggedBus(bus, seed)
            finally:
                await bus.aclose()
        finally:
            await server.aclose()
            await transport.aclose()

    return make


def named(clause: Clause) -> str:
    return clause.name.replace(" ", "_")


def how(seed: int | None) -> str:
    return "plain" if seed is None else f"clogged_{seed}"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("seed", SEEDS, ids=how)
@pytest.mark.parametrize("clause", clauses("bus"), ids=named)
def test_a_bus_link_keeps_its_promise(clause: Clause, seed: int | None, run: str) -> None:
    clause.check(bus_maker(seed), RUNS[run])
