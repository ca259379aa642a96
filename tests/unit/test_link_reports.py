"""How often the consumer's end of a route over a stream tells what ended."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from link_scene import calm, joined, message, until

from flowbridge.errors import WouldBlock
from flowbridge.limits import LANES, REPORT_SHARE
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from link_scene import Pair


async def brought(pair: Pair, count: int) -> None:
    """Send so many messages, which wait at the source."""
    for number in range(count):
        pair.sink.send_nowait(message(number))
    await until(lambda: pair.source.waiting)
    await calm()


def heard(pair: Pair) -> list[Sequence[int]]:
    """What the producer's end is told from now on."""
    link: Any = pair.source._link
    told: list[Sequence[int]] = []
    report = link.report

    def note(counts: Sequence[int]) -> None:
        told.append(counts)
        report(counts)

    link.report = note
    return told


def test_what_ends_while_most_credit_is_left_is_told_together() -> None:
    async def main() -> None:
        async with joined("socket", Qos(capacity_items=64, high_items=64, low_items=32)) as pair:
            await brought(pair, 6)
            told = heard(pair)
            for _ in range(6):
                pair.source.settle(pair.source.take(1))
                await asyncio.sleep(0)
            await until(lambda: not pair.source.owes_report)
            await calm()
            assert len(told) < 6
            assert sum(told[-1][:LANES]) == 6
            assert pair.sink.books.delivered == 6

    asyncio.run(main())


@pytest.mark.parametrize("qos", [Qos(capacity_items=64, high_items=64, low_items=32), Qos(capacity_bytes=64)])
def test_a_quarter_of_the_credit_is_told_in_the_next_turn(qos: Qos) -> None:
    async def main() -> None:
        async with joined("socket", qos) as pair:
            await brought(pair, 64 // REPORT_SHARE)
            told = heard(pair)
            pair.source.settle(pair.source.take(64))
            await asyncio.sleep(0)
            assert len(told) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("socket", Policy.DROP_OLDEST), ("socket", Policy.ERROR), ("socket", Policy.LATEST), ("ring", Policy.BLOCK)],
)
def test_who_does_not_wait_for_credit_is_told_at_once_and_so_is_everybody_over_a_ring(
    kind: str, policy: Policy
) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=policy)) as pair:
            await brought(pair, 1)
            told = heard(pair)
            pair.source.settle(pair.source.take(1))
            await asyncio.sleep(0)
            assert len(told) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "qos",
    [
        Qos(),
        Qos(capacity_items=100, high_items=100, low_items=0),
        Qos(capacity_items=11, high_items=11, low_items=0),
        Qos(capacity_items=64, high_items=64, low_items=63),
        Qos(capacity_bytes=100),
    ],
)
@pytest.mark.parametrize("batch", [1, 7, 30])
@pytest.mark.parametrize("sizes", [(1,), (1, 90), (20, 90), (1, 200)])
def test_who_waits_for_credit_gets_it_without_the_delay_once_all_is_settled(
    qos: Qos, batch: int, sizes: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with joined("socket", qos) as pair:
            for size_bytes in sizes:  # the first one of a size may wait: then it is known that there are such
                await pair.sink.send(message(0, size_bytes=size_bytes))
                await until(lambda: pair.source.waiting)
                pair.take_all()
            await until(lambda: not pair.source.owes_report)
            await calm()
            link: Any = pair.source._link
            link.report_delay_s = 3600.0
            for number in range(300):
                envelope = message(number, size_bytes=sizes[number % len(sizes)])
                try:
                    pair.sink.send_nowait(envelope)
                except WouldBlock:
                    await until(lambda: pair.source.waiting)
                    await calm()
                    while taken := pair.source.take(batch):
                        pair.source.settle(taken)
                        await asyncio.sleep(0)
                    await calm()
                    pair.sink.send_nowait(envelope)

    asyncio.run(main())
