"""What a consumer is told to be missing when it, or the producer, is another one than before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from link_scene import KINDS, calm, joined, message, until

from flowbridge.envelope import Gap

if TYPE_CHECKING:
    from link_scene import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)

CONSUMER, PRODUCER = "the consumer died", "the producer died; another one counts from 0"


async def replaced(pair: Pair, *, consumer: bool = False, producer: bool = False) -> None:
    """Lose the link; a consumer or a producer that died has a successor."""
    pair.cut()
    await until(lambda: len(pair.lost) == 2)
    pair.lost.clear()
    await pair.replace(consumer=consumer, producer=producer)


def test_a_new_consumer_is_told_what_the_last_one_held_before_the_next_message(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            pair.sink.send_many_nowait([message(n) for n in range(7)])
            await until(lambda: pair.source.waiting)
            pair.source.settle(pair.source.take(4))
            await until(lambda: pair.sink.books.delivered == 4)
            await replaced(pair, consumer=True)
            told: list[Gap] = []
            pair.source.on_gap = told.append
            await calm()
            assert told == []
            pair.sink.send_nowait(message(7))
            await until(lambda: pair.source.waiting)
            assert told == [Gap(4, 6, CONSUMER, 3)]
            assert [one.seq for one in pair.take_all()] == [7]
            pair.sink.send_nowait(message(8))
            await until(lambda: pair.source.waiting)
            assert [one.seq for one in pair.take_all()] == [8]
            assert (len(told), pair.source.books.gaps) == (1, 1)
            assert pair.sink.books.dropped == {"lost": 3}

    asyncio.run(main())


def test_what_two_consumers_held_one_after_the_other_is_told_together(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            pair.sink.send_many_nowait([message(n) for n in range(3)])
            await until(lambda: pair.source.waiting)
            await replaced(pair, consumer=True)
            pair.sink.send_many_nowait([message(n) for n in range(3, 5)])
            await until(lambda: pair.source.waiting)
            await replaced(pair, consumer=True)
            told: list[Gap] = []
            pair.source.on_gap = told.append
            await pair.sink.finish()
            await until(lambda: pair.source.ended)
            assert told == [Gap(None, None, CONSUMER, 5)]

    asyncio.run(main())


def test_a_consumer_that_had_settled_everything_has_no_gap(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            pair.sink.send_many_nowait([message(n) for n in range(3)])
            await until(lambda: pair.source.waiting)
            pair.take_all()
            await until(lambda: pair.sink.books.delivered == 3)
            await replaced(pair, consumer=True)
            pair.sink.send_nowait(message(3))
            await until(lambda: pair.source.waiting)
            assert pair.source.books.gaps == 0

    asyncio.run(main())


def test_a_consumer_is_told_of_a_new_producer_once_everything_of_the_last_one_is_settled(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            told: list[Gap] = []
            pair.source.on_gap = told.append
            pair.sink.send_many_nowait([message(n) for n in range(3)])
            await until(lambda: pair.source.waiting)
            taken = pair.source.take(9)
            await replaced(pair, producer=True)
            pair.sink.send_nowait(message(0))
            await calm()
            assert told == []
            pair.source.settle(taken)
            await until(lambda: pair.source.waiting)
            assert told == [Gap(3, None, PRODUCER)]
            assert str(told[0]) == f"messages are missing from 3: {PRODUCER}"
            assert [one.seq for one in pair.take_all()] == [0]

    asyncio.run(main())
