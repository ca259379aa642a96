"""What the tests of the inproc bus share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowbridge.contracts import DataSource
    from flowbridge.envelope import Envelope


START = 1_000_000_000_000
MS = 1_000_000


def qos(items: int = 1, policy: Policy = Policy.BLOCK, **more: Any) -> Qos:
    """A QoS with the watermarks right below the capacity."""
    return Qos(policy=policy, capacity_items=items, high_items=items, low_items=max(items - 1, 0), **more)


def run(scenario: Callable[[LocalEventBus, ManualClock], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a new bus; afterwards no task is left, no alarm, and all books balance."""

    async def main() -> None:
        clock = ManualClock(START)
        bus = LocalEventBus(clock)
        await asyncio.wait_for(scenario(bus, clock), 60)
        await bus.aclose()
        await bus.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert clock.pending() == ()
        for edge, books in bus.books().items():
            assert books.balances, edge

    asyncio.run(main())


def drain(source: DataSource) -> list[Any]:
    """The payloads of all that is queued."""
    payloads: list[Any] = []
    while taken := source.take(1000):
        payloads.extend(envelope.payload for envelope in taken)
        source.settle(taken)
    return payloads


def take_one(source: DataSource) -> Envelope:
    """Take and give back one message."""
    taken = source.take(1)
    assert len(taken) == 1
    source.settle(taken)
    return taken[0]


def take_one_of(source: DataSource, lane: int) -> Envelope:
    """As `take_one`, from one lane."""
    taken = source.take(1, lane)
    source.settle(taken)
    return taken[0]
