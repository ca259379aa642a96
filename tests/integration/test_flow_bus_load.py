"""Flows on the bus that are asked more and more while they end."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import MS, S, WorkClock, balanced, compiled, flow_text, to_end

from flowbridge.envelope import Envelope
from flowbridge.errors import NoResponderError
from flowbridge.host import Host

if TYPE_CHECKING:
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow


@pytest.mark.parametrize("has_source", [False, True])
def test_a_node_on_the_bus_ends_under_load_that_never_stops(has_source: bool) -> None:
    """It leaves the bus when it is drained, or when its other input has ended, and answers what it was asked before."""
    clock = WorkClock()
    answered: list[int] = []
    refused: list[int] = []
    asked = itertools.count()
    tasks: set[asyncio.Task[None]] = set()
    started: list[tuple[Host, RunningFlow]] = []

    async def ask(number: int) -> None:
        ((host, _),) = started
        try:
            reply = await host.bus.request("q", Envelope(number), timeout_ns=60 * S)
        except NoResponderError:
            refused.append(number)
        else:
            assert reply.payload == 2 * number
            answered.append(number)

    def double(value: int | str) -> int | None:
        if isinstance(value, str):
            return None
        assert value < 1000, "it does not end"
        tasks.add(asyncio.create_task(ask(next(asked))))  # one comes for each that goes: the queue is never empty
        if value == 100:
            started[0][1].drain()
        clock.work(2 * MS)
        return 2 * value

    async def ticks() -> Any:
        while True:
            yield "tick"
            await clock.pause(10 * MS)

    async def main() -> RunReport:
        async with Host(operators={"source": ticks, "double": double}, clock=clock) as host:
            more = "a/out, " if has_source else ""
            nodes = [f"id: d, operator: host:double, inputs: {{in: [{more}{{from: bus/q, reply: true}}]}}"]
            if has_source:
                nodes.insert(0, "id: a, operator: host:source")
            started.append((host, await host.start(compiled(flow_text(*nodes)))))
            tasks.update(asyncio.create_task(ask(next(asked))) for _ in range(8))
            report = await to_end(started[0][1], clock)
            await asyncio.gather(*tasks)
            return report

    report = asyncio.run(main())
    assert (report.status, report.errors) == ("interrupted", [])
    assert report.edges["bus/q->d/in"].books.dropped_total == 0
    assert sorted((*answered, *refused)) == list(range(next(asked)))
    assert len(refused) == 8, "what came after it had left, one for each that it still answered"
    assert min(refused) > max(answered)
    balanced(report)
