"""Any script at both ends of a route over a link, against plain lists: nothing is lost, doubled or out of order.

The lists know nothing of links, credit or reports. They know what was offered and what became of it as both ends saw
it; the books of both ends must say the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_scene import KINDS, calm, joined, message

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import BrokenError, ClosedError, WouldBlock
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from link_scene import Pair

    from flowbridge.envelope import Envelope

SIZES: Final = (0, 1, 40, 1025, 5_000, 70_000)  # in the ring, and in slots
LANE: Final = st.integers(0, 3)
STEP: Final = st.one_of(
    st.tuples(st.just("offer"), LANE, st.sampled_from(SIZES), st.sampled_from([0, 5, NO_DEADLINE, NO_DEADLINE])),
    st.tuples(st.just("many"), LANE, st.integers(1, 9), st.sampled_from(SIZES)),
    st.tuples(st.just("send"), LANE, st.sampled_from([5, NO_DEADLINE])),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("take"), st.integers(0, 5)),
    st.tuples(st.just("settle"), st.booleans()),
    st.tuples(st.just("give_back")),
    st.tuples(st.just("turns"), st.integers(0, 30)),
    st.tuples(st.just("time"), st.integers(1, 6)),
)
LOSS: Final = st.one_of(STEP, STEP, STEP, st.tuples(st.sampled_from(["cut", "rejoin", "rejoin"])))
LAST: Final = st.sampled_from(["finish", "aclose", "close", "leave"])


def qos_of(policy: Policy, capacity: int, high: int, size: int) -> Qos:
    return Qos(policy=policy, capacity_items=capacity, high_items=min(high, capacity), low_items=0, capacity_bytes=size)


QOS: Final = st.builds(
    qos_of, st.sampled_from(Policy), st.integers(1, 8), st.integers(1, 8), st.sampled_from([100, 100_000])
)


class Script:
    """Plays a script, and keeps the plain lists."""

    def __init__(self, pair: Pair, qos: Qos) -> None:
        self.pair = pair
        self.qos = qos
        self.seq = 0
        self.offered = 0  # that count: accepted, late, dropped or refused
        self.refused = 0
        self.held: list[Sequence[Envelope]] = []
        self.settled: list[Envelope] = []
        self.expired = 0  # as the consumer said
        self.lanes: dict[int, int] = {}  # the last number that was taken of each lane
        self.senders: list[asyncio.Task[None]] = []
        self.cuts = 0

    def next(self, lane: int, size: int = 1, lasts_ns: int = NO_DEADLINE) -> Envelope:
        deadline_ns = lasts_ns if lasts_ns == NO_DEADLINE else self.pair.clock.now_ns() + lasts_ns
        self.seq += 1
        return message(self.seq, bytes(size), lane=lane, size_bytes=size, deadline_ns=deadline_ns)

    async def play(self, step: tuple[Any, ...]) -> None:
        await getattr(self, step[0])(*step[1:])
        near, far = self.pair.sink.books, self.pair.source.books
        assert near.balances
        assert far.balances
        assert near.in_flight >= 0

    async def offer(self, lane: int, size: int, lasts_ns: int) -> None:
        envelope = self.next(lane, size, lasts_ns)
        try:
            self.pair.sink.send_nowait(envelope)
        except WouldBlock:
            assert self.qos.policy in (Policy.BLOCK, Policy.ERROR)
            if self.qos.policy is Policy.BLOCK:
                return
            self.refused += 1
        self.offered += 1

    async def many(self, lane: int, count: int, size: int) -> None:
        if self.senders and any(not sender.done() for sender in self.senders):
            return  # it would overtake those who wait, and be refused
        before = self.pair.sink.books.refused
        done = self.pair.sink.send_many_nowait([self.next(lane, size) for _ in range(count)])
        self.refused += self.pair.sink.books.refused - before  # the list cannot know how many
        assert not self.refused or self.qos.policy is Policy.ERROR
        assert done == count or self.qos.policy is Policy.BLOCK
        self.offered += done

    async def send(self, lane: int, lasts_ns: int) -> None:
        if self.qos.policy is Policy.BLOCK:
            self.senders.append(asyncio.create_task(self.pair.sink.send(self.next(lane, 1, lasts_ns))))
            await asyncio.sleep(0)

    async def cancel(self) -> None:
        for sender in self.senders:
            if not sender.done():
                sender.cancel()
                return

    async def take(self, limit: int) -> None:
        taken = self.pair.source.take(limit)
        assert len(taken) <= limit
        assert len({envelope.priority for envelope in taken}) <= 1
        for envelope in taken:
            assert len(envelope.payload) == envelope.size_bytes
            assert envelope.seq > self.lanes.get(envelope.priority, 0)
            self.lanes[envelope.priority] = envelope.seq
        if taken:
            self.held.append(taken)

    async def settle(self, is_late: bool) -> None:
        if self.held:
            taken = self.held.pop(0)
            self.pair.source.settle(taken, expired=int(is_late))
            self.settled.extend(taken)
            self.expired += is_late

    async def give_back(self) -> None:
        if self.held:
            taken = self.held.pop()
            lane = taken[0].priority
            if all(other[0].priority != lane for other in self.held):
                self.pair.source.give_back(taken)
                self.lanes[lane] = taken[0].seq - 1
            else:
                self.held.append(taken)

    async def turns(self, count: int) -> None:
        await calm(count)

    async def time(self, step_ns: int) -> None:
        await self.pair.clock.advance(step_ns)

    async def cut(self) -> None:
        if not self.pair.lost:
            self.cuts += 1
            self.pair.cut()
            await calm()
            assert len(self.pair.lost) == 2

    async def rejoin(self) -> None:
        if self.pair.lost:
            self.pair.lost.clear()
            self.pair.rejoin()

    async def end(self, how: str) -> None:
        """End it in one of the ways, take what is left, and compare."""
        pair = self.pair
        await self.rejoin()
        while self.held:
            await self.settle(is_late=False)
        if how == "finish":
            await pair.sink.finish()
        elif how == "aclose":
            await pair.source.aclose()
        elif how == "leave":
            pair.source.close()
        elif how == "close":
            pair.sink.close()
        for _ in range(200):
            await calm(3)
            try:
                await self.take(100)
            except BrokenError:
                break
            while self.held:
                await self.settle(is_late=False)
        await calm()
        for end, error in pair.lost:  # nobody will come back
            (pair.sink if end == "sink" else pair.source).break_off(error)
        await calm()
        self.compare(how)

    def compare(self, how: str) -> None:
        near, far = self.pair.sink.books, self.pair.source.books
        for sender in self.senders:
            assert sender.done() or how not in ("finish", "aclose", "close", "leave")
            if sender.done() and not sender.cancelled() and sender.exception() is None:
                self.offered += 1
            elif sender.done() and not sender.cancelled():
                assert isinstance(sender.exception(), BrokenError | ClosedError)
        assert near.balances
        assert far.balances
        assert near.in_flight == far.in_flight == 0
        assert near.sent == self.offered
        assert near.refused == self.refused
        assert far.delivered == len(self.settled) - self.expired
        assert far.expired == self.expired
        drops = Counter(near.dropped)
        lost = drops.pop("lost", 0)
        assert not set(drops) - {self.qos.policy.value, "abort"}
        if how in ("finish", "aclose") and not self.cuts:
            assert not lost
            assert near.delivered == far.delivered
            assert near.expired - near.missed.late - near.missed.transport == far.expired
        else:
            assert near.delivered <= far.delivered
            assert lost or near.delivered == far.delivered


def played(kind: str, qos: Qos, steps: list[tuple[Any, ...]], last: str) -> None:
    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(60), joined(kind, qos) as pair:
            pair.keep()
            await calm(10)
            script = Script(pair, qos)
            for step in steps:
                await script.play(step)
            await script.end(last)
        assert not failures, failures

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(qos=QOS, steps=st.lists(STEP, max_size=40), last=LAST)
def test_any_script_ends_with_equal_books(kind: str, qos: Qos, steps: list[tuple[Any, ...]], last: str) -> None:
    played(kind, qos, steps, last)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(qos=QOS, steps=st.lists(LOSS, max_size=40), last=LAST)
def test_any_script_with_lost_links_ends_with_balanced_books(
    kind: str, qos: Qos, steps: list[tuple[Any, ...]], last: str
) -> None:
    played(kind, qos, steps, last)
