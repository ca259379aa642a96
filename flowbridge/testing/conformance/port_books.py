"""Clauses of DataPort: random scripts after each step of which the books must balance."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Final

from flowbridge.envelope import NO_DEADLINE, Priority
from flowbridge.errors import WouldBlock
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import ClauseFailed, equal, holds
from flowbridge.testing.conformance.message import MS, balanced, message, number_of, qos
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.contracts import DataPort
    from flowbridge.envelope import Envelope
    from flowbridge.testing.conformance.message import PortMaker

SEEDS: Final = range(4)
"""Scripts under each policy; another seed is another order of the same steps."""

STEPS: Final = 150


class _Script:
    """Random steps on one port, and a count of its own of what became of every message."""

    def __init__(self, port: DataPort, clock: ManualClock, random: Random, policy: Policy) -> None:
        self.port = port
        self.clock = clock
        self.random = random
        self.policy = policy
        self.next = 0
        self.lanes: dict[int, Priority] = {}
        self.offered = 0  # what must be counted as sent
        self.refused = 0
        self.lent: list[Sequence[Envelope]] = []
        self.settled = 0
        self.late = 0
        self.seen: list[int] = []
        self.senders: list[asyncio.Task[None]] = []

    def _message(self) -> Envelope:
        now_ns = self.clock.now_ns()
        deadline_ns = self.random.choice((NO_DEADLINE, NO_DEADLINE, now_ns - MS, now_ns + 3 * MS, now_ns + 9 * MS))
        lane = self.random.choice(tuple(Priority))
        self.lanes[self.next] = lane
        self.next += 1
        return message(self.next - 1, lane, deadline_ns=deadline_ns, size=self.random.choice((0, 1, 20, 60, 300)))

    async def offer(self) -> None:
        """Send without waiting."""
        try:
            self.port.sink.send_nowait(self._message())
        except WouldBlock:
            holds(self.policy in (Policy.BLOCK, Policy.ERROR), f"WouldBlock under {self.policy.value}")
            if self.policy is Policy.ERROR:
                self.offered += 1
                self.refused += 1
        else:
            self.offered += 1

    async def send(self) -> None:
        """Send, in a task that may wait."""
        if self.policy is Policy.BLOCK:
            self.senders.append(asyncio.create_task(self.port.sink.send(self._message())))
        else:
            await self.offer()

    async def cancel(self) -> None:
        """Cancel some sender that waits."""
        waiting = [sender for sender in self.senders if not sender.done()]
        if waiting:
            self.random.choice(waiting).cancel()

    async def take(self) -> None:
        """Borrow some."""
        taken = self.port.source.take(self.random.randint(1, 5))
        if taken:
            holds(len({envelope.priority for envelope in taken}) == 1, "one take lent messages of several lanes")
            self.lent.append(taken)

    async def settle(self) -> None:
        """Give some of what was borrowed back with its credit."""
        if self.lent:
            taken = self.lent.pop(self.random.randrange(len(self.lent)))
            expired = self.random.randint(0, len(taken))
            self.port.source.settle(taken, expired=expired)
            self.settled += len(taken) - expired
            self.late += expired
            self.seen += [number_of(envelope) for envelope in taken]

    async def give_back(self) -> None:
        """Undo the last take, when it is the last of its lane."""
        if self.lent:
            self.port.source.give_back(self.lent.pop())

    async def advance(self) -> None:
        """Let time pass."""
        await self.clock.advance(self.random.randint(0, 4) * MS)

    def check(self, step: str) -> None:
        """The books, against the count of this script."""
        balanced(self.port, f"after {step}")
        books = self.port.sink.books
        through = sum(1 for sender in self.senders if sender.done() and not sender.cancelled())
        equal(books.sent, self.offered + through, f"after {step}: sent")
        equal(books.refused, self.refused, f"after {step}: refused")
        books = self.port.source.books
        equal(books.delivered, self.settled, f"after {step}: delivered")
        equal(books.missed.queued, self.late, f"after {step}: missed in the queue")
        equal(books.missed.total, books.expired, f"after {step}: misses, and what expired")
        lent = sum(len(taken) for taken in self.lent)
        holds(books.in_flight >= lent, f"after {step}: {books.in_flight} in flight, but {lent} are lent")

    async def run(self) -> None:
        """All steps, then the end."""
        steps = [self.offer, self.offer, self.send, self.send, self.take, self.settle, self.give_back, self.advance]
        if self.policy is Policy.BLOCK:
            steps.append(self.cancel)
        for count in range(STEPS):
            step = self.random.choice(steps)
            await step()
            await quiet()
            self.check(f"step {count} ({step.__name__})")
        while self.lent:
            await self.settle()
            await quiet()
        while taken := self.port.source.take(4):
            self.lent.append(taken)
            await self.settle()
            await quiet()
        self.check("emptying")
        equal(self.port.source.books.in_flight, 0, "in flight when it is empty")
        holds(all(sender.done() for sender in self.senders), "a sender still waits although it is empty")
        holds(len(set(self.seen)) == len(self.seen), "a message was lent twice")


@clause("port")
async def the_books_balance_after_every_step(maker: PortMaker) -> None:
    """sent = delivered + dropped + expired + refused + in flight after every step, under every policy."""
    for policy in Policy:
        for seed in SEEDS:
            clock = ManualClock()
            async with maker(qos(4, policy, high=3, low=1, bytes_=100), clock) as port:
                script = _Script(port, clock, Random(seed), policy)  # noqa: S311 - a test, not a secret
                try:
                    await script.run()
                except ClauseFailed as failure:
                    raise ClauseFailed(f"policy {policy.value}, seed {seed}: {failure}") from failure


@clause("port")
async def the_books_balance_when_the_consumer_leaves(maker: PortMaker) -> None:
    """Closing the source at any moment leaves only what is lent in flight, and nothing once that is settled."""
    for policy in Policy:
        for seed in SEEDS:
            random = Random(seed)  # noqa: S311 - a test, not a secret
            async with maker(qos(4, policy), ManualClock()) as port:
                for number in range(random.randint(0, 10)):
                    lane = random.choice(tuple(Priority))
                    if port.sink.credit_items(lane):
                        port.sink.send_nowait(message(number, lane))
                await quiet()
                taken = port.source.take(random.randint(1, 3))
                await port.source.aclose()
                what = f"policy {policy.value}, seed {seed}"
                equal(port.source.books.in_flight, len(taken), f"{what}: in flight after closing")
                balanced(port, f"{what}: after closing")
                port.source.settle(taken)
                equal(port.source.books.in_flight, 0, f"{what}: in flight after settling")
                balanced(port, f"{what}: after settling")
