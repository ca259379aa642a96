"""Every clause of a clock, on the real ones and the manual one, on every loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge.runtime.clock import SystemClock
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance import Clause, clauses
from flowbridge.testing.conformance.clock import ClockBench

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

RUNS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@asynccontextmanager
async def manual() -> AsyncGenerator[ClockBench]:
    clock = ManualClock()
    yield ClockBench(clock, clock.advance, lambda: len(clock.pending()))


def system(*, precise: bool) -> Callable[[], Any]:
    @asynccontextmanager
    async def make() -> AsyncGenerator[ClockBench]:
        clock = SystemClock(precise=precise)

        async def let_pass(ns: int) -> None:
            await clock.sleep_until(clock.now_ns() + ns)

        yield ClockBench(clock, let_pass, clock.pending)

    return make


MAKERS = {"manual": manual, "timerfd": system(precise=True), "call_at": system(precise=False)}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("clause", clauses("clock"), ids=lambda clause: str(clause.name).replace(" ", "_"))
def test_a_clock_keeps_its_promise(clause: Clause, maker: str, run: str) -> None:
    clause.check(MAKERS[maker], RUNS[run])
