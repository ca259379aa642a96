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

RUNS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
WAYS = [(None, "asyncio"), (None, "uvloop"), (1, "asyncio"), (2, "uvloop")]  # None is plain, a number seeds clogging


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


def how(value: int | str | None) -> str:
    return "plain" if value is None else value if isinstance(value, str) else f"clogged_{value}"


@pytest.mark.parametrize(("seed", "run"), WAYS, ids=how)
@pytest.mark.parametrize("clause", clauses("bus"), ids=named)
def test_a_bus_link_keeps_its_promise(clause: Clause, seed: int | None, run: str) -> None:
    clause.check(bus_maker(seed), RUNS[run])
