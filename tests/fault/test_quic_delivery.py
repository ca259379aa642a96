"""Routes between machines whose consumer's process is killed at any moment: what `plan.Delivery` promises.

The seconds are virtual. A kill comes at random among sending, taking, settling, snapshots, and what tells that they are
safe.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, MBIT, Scene, message, route_of, simulate, until

from flowbridge.errors import EndOfStream, ResourceError
from flowbridge.plan import Delivery, Qos
from flowbridge.testing.virtual_loop import pause

if TYPE_CHECKING:
    from quic_scene import Pair

COUNT = 150
KILLS = 3


@dataclass
class Consumer:
    """An operator that keeps numbers, over all of its processes."""

    chance: Random
    once: bool
    handled: list[int] = field(default_factory=list[int])
    lives: list[list[int]] = field(default_factory=list[list[int]])
    state: list[int] = field(default_factory=list[int])
    safe: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # with the host: state and marks
    has_ended: bool = False

    async def live(self, source: Any) -> None:
        self.state, known = list(self.safe[0]), self.safe[1]
        self.lives.append([])
        if self.once:
            source.resume(known)
        try:
            number = 0
            while True:
                try:
                    lease = await source.receive()
                except EndOfStream:
                    break
                with lease as envelope:
                    self.state.append(envelope.seq)
                    self.handled.append(envelope.seq)
                    self.lives[-1].append(envelope.seq)
                    await pause(self.chance.uniform(0.0, 0.01))
                if self.once and (self.chance.random() < 0.2 or len(self.state) % 8 == 0):  # before credit is used up
                    number += 1
                    await self._snapshot(source, number)
            if self.once:
                await self._snapshot(source, number + 1)
            self.has_ended = True
        except ResourceError:
            return

    async def _snapshot(self, source: Any, number: int) -> None:
        taken = (list(self.state), source.mark(number))
        await pause(self.chance.uniform(0.0, 0.03))
        self.safe = taken
        await pause(self.chance.uniform(0.0, 0.03))
        source.is_safe(number)


async def killed_at_random(seed: int, delivery: Delivery) -> tuple[Pair, Consumer]:
    chance = Random(seed)
    async with Scene(seed, "edge", rate_bytes_s=20 * MBIT, loss=chance.choice((0.0, 0.02))) as scene:
        qos = Qos(delivery=delivery, capacity_items=24, high_items=24, low_items=12)
        pair = await scene.join(route_of("a/out->b/in", qos), HOME, "edge")
        pair.sink.on_lost = lambda error: None
        consumer = Consumer(chance, once=delivery is Delivery.EFFECTIVELY_ONCE)
        pair.far.host.start(consumer.live(pair.source))

        async def produce() -> None:
            for seq in range(COUNT):
                await pair.sink.send(message(seq, bytes(chance.randrange(1, 4_000))))
                await pause(0.004)

        producer = pair.send(produce())
        edge = scene.node("edge")
        for _ in range(KILLS):
            await pause(chance.uniform(0.05, 0.6))
            edge.host.kill()
            await pause(chance.uniform(0.0, 1.0))
            edge.host.restart()
            await edge.start(listens=True)
            assert await until(lambda: pair.sink._link is None, 5.0) < 5.0
            await scene.rejoin(pair)
            edge.host.start(consumer.live(pair.source))
        await producer
        await pair.finish()
        await until(lambda: consumer.has_ended and not pair.sink.books.in_flight, 60.0)
        return pair, consumer


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delivery", [Delivery.AT_LEAST_ONCE, Delivery.EFFECTIVELY_ONCE], ids=lambda found: found.value)
def test_a_consumer_that_is_killed_at_random_moments_loses_nothing(seed: int, delivery: Delivery) -> None:
    pair, consumer = simulate(lambda seed: killed_at_random(seed, delivery), seed)
    books = pair.sink.books
    assert books.balances
    assert (books.sent, books.delivered, books.dropped, books.in_flight) == (COUNT, COUNT, {}, 0)
    assert list(dict.fromkeys(consumer.handled)) == list(range(COUNT)), "all, in order of their first time"
    assert all(life == sorted(set(life)) for life in consumer.lives), "in order, and each once in one process"
    if delivery is Delivery.EFFECTIVELY_ONCE:
        assert consumer.state == list(range(COUNT))
    twice = len(consumer.handled) - COUNT
    print(f"{delivery.value}, seed {seed}: {books.redelivered} sent again, {twice} handled again")
