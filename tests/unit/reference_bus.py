"""The simplest EventBus that is right: a list of reference ports, each with a pattern."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from reference_port import ReferencePort

from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import (
    BlockReason,
    ClosedError,
    DeadlineExceeded,
    Effect,
    FlowbridgeError,
    LocalProtocolError,
    NoResponderError,
    ResourceError,
    WouldBlock,
)
from flowbridge.limits import TOPIC_CHARACTERS_MAX, TOPIC_TOKENS_MAX
from flowbridge.plan import Policy, Qos
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from flowbridge.contracts import Clock


class ReferenceSubscription(ReferencePort):
    """A port that knows what it is subscribed to."""

    def __init__(self, qos: Qos, clock: Clock, edge: str, pattern: str, group: str | None) -> None:
        super().__init__(qos, clock, edge)
        self.pattern = pattern
        self.group = group
        self.served = 0


class ReferenceBus:
    """Everything is looked up anew for every message."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.open: list[ReferenceSubscription] = []
        self.all: dict[str, EdgeBooks] = {"(replies)": EdgeBooks()}
        self.topics: list[tuple[str, Qos]] = []
        self.requests: dict[int, tuple[Envelope, asyncio.Future[Envelope]]] = {}
        self.next = 0
        self.closed = False

    # --- words ------------------------------------------------------------------------------------------------------

    def check(self, text: str, *, pattern: bool = False) -> None:
        words = text.split(".")
        bad = not text or len(text) > TOPIC_CHARACTERS_MAX or len(words) > TOPIC_TOKENS_MAX
        for index, word in enumerate(words):
            if pattern and (word == "*" or (word == ">" and index == len(words) - 1)):
                continue
            bad = bad or not word or any(letter in word for letter in "*> ")
        if bad:
            raise LocalProtocolError(f"bad topic or pattern {text[:40]!r}")

    def matches(self, pattern: str, topic: str) -> bool:
        wanted, words = pattern.split("."), topic.split(".")
        if wanted[-1] == ">":
            if len(words) < len(wanted):
                return False
            wanted, words = wanted[:-1], words[: len(wanted) - 1]
        return len(wanted) == len(words) and all(w in ("*", word) for w, word in zip(wanted, words, strict=True))

    # --- publishing -------------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("the bus is closed")

    def qos_of(self, topic: str) -> Qos | None:
        return next((qos for pattern, qos in self.topics if self.matches(pattern, topic)), None)

    def copy(self, topic: str, envelope: Envelope) -> Envelope:
        """A copy for one subscription, with what is configured for the topic."""
        priority, deadline_ns = envelope.priority, envelope.deadline_ns
        qos = self.qos_of(topic)
        if qos is not None and qos.priority is not None and priority == Priority.NORMAL:
            priority = qos.priority
        if qos is not None and qos.deadline_ns is not None:
            deadline_ns = min(deadline_ns, self.clock.now_ns() + qos.deadline_ns)
        headers = {**(envelope.headers or {}), "topic": topic}
        copy = Envelope(envelope.payload, priority, deadline_ns, envelope.origin_ns, 0, envelope.size_bytes)
        copy.trail, copy.trace, copy.headers, copy.seq = envelope.trail, envelope.trace, headers, envelope.seq
        return copy

    def member(self, members: list[ReferenceSubscription], envelope: Envelope) -> ReferenceSubscription:
        """The member of a group that gets the next message: one with credit, and of those the one served least."""
        return min(members, key=lambda one: (one.credit_items(envelope.priority) == 0, one.served))

    def targets(self, topic: str, envelope: Envelope, *, everyone: bool = False) -> list[ReferenceSubscription]:
        self.check_open()
        self.check(topic)
        matching = [one for one in self.open if self.matches(one.pattern, topic)]
        chosen = [one for one in matching if everyone or one.group is None]
        if not everyone:
            groups = sorted({one.group for one in matching if one.group is not None})
            chosen += [self.member([one for one in matching if one.group == group], envelope) for group in groups]
        return chosen

    async def give(self, one: ReferenceSubscription, envelope: Envelope) -> bool:
        try:
            await one.send(envelope)
        except (WouldBlock, ResourceError):
            return False
        one.served += 1
        return True

    async def deliver(self, topic: str, envelope: Envelope, targets: Sequence[ReferenceSubscription]) -> int:
        given = await asyncio.gather(*(self.give(one, self.copy(topic, envelope)) for one in targets))
        return sum(given)

    async def publish(self, topic: str, envelope: Envelope) -> int:
        return await self.deliver(topic, envelope, self.targets(topic, envelope))

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        return await self.deliver(topic, envelope, self.targets(topic, envelope, everyone=True))

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        targets = self.targets(topic, envelope)
        for one in targets:
            if one.qos.policy is Policy.BLOCK and one.lacking(self.copy(topic, envelope)) is not None:
                raise WouldBlock(BlockReason.CREDIT_ITEMS, one.where)
        count = 0
        for one in targets:
            try:
                one.send_nowait(self.copy(topic, envelope))
            except WouldBlock:
                continue
            one.served += 1
            count += 1
        return count

    # --- requests ---------------------------------------------------------------------------------------------------

    def due_ns(self, envelope: Envelope, timeout_ns: int) -> int:
        return min(envelope.deadline_ns, self.clock.now_ns() + timeout_ns)

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int) -> Envelope:
        targets = self.targets(topic, envelope)
        if not targets:
            raise NoResponderError(f"nobody serves {topic}")
        self.next += 1
        number = self.next
        asked = self.copy(topic, envelope)
        asked.headers = {**(asked.headers or {}), "reply_to": number}
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self.requests[number] = (asked, answer)
        due_ns = self.due_ns(asked, timeout_ns)

        def expire() -> None:
            if not answer.done():
                answer.set_exception(DeadlineExceeded(topic, due_ns, self.clock.now_ns(), Effect.MAYBE))

        alarm = self.clock.call_at(due_ns, expire)
        try:
            await self.deliver(topic, asked, targets)
            return await answer
        finally:
            alarm.cancel()
            del self.requests[number]

    def inherit(self, request: Envelope, reply: Envelope) -> None:
        reply.deadline_ns, reply.priority = request.deadline_ns, request.priority

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        books = self.all["(replies)"]
        books.sent += 1
        asked, answer = self.requests.get(int((request.headers or {})["reply_to"]), (None, None))
        if asked is None or answer is None or answer.done():
            self.lost(books)
            return
        books.delivered += 1
        reply = self.copy("reply", envelope)
        self.inherit(asked, reply)
        answer.set_result(reply)

    def lost(self, books: EdgeBooks) -> None:
        books.expired += 1

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = ""
    ) -> AbstractAsyncContextManager[ReferenceSubscription]:
        return self.subscribed(pattern, group, qos, edge)

    @asynccontextmanager
    async def subscribed(
        self, pattern: str, group: str | None, qos: Qos | None, edge: str
    ) -> AsyncGenerator[ReferenceSubscription]:
        self.check_open()
        self.check(pattern, pattern=True)
        edge = edge or f"bus/{pattern} #{len(self.all)}"
        one = ReferenceSubscription(qos or self.qos_of(pattern) or Qos(), self.clock, edge, pattern, group)
        self.all[edge] = one.books
        self.open.append(one)
        try:
            yield one
        finally:
            if one in self.open:
                self.open.remove(one)
            await one.aclose()

    def configure(self, pattern: str, qos: Qos) -> None:
        self.topics.append((pattern, qos))

    def books(self) -> dict[str, EdgeBooks]:
        return self.all

    def pending_error(self) -> FlowbridgeError:
        return ClosedError("the bus was closed")

    async def aclose(self) -> None:
        self.closed = True
        for _, answer in self.requests.values():
            if not answer.done():
                answer.set_exception(self.pending_error())
        for one in self.open:
            await one.aclose()
        self.open.clear()


def bus_maker(kind: type[ReferenceBus] = ReferenceBus) -> Callable[[Clock], AbstractAsyncContextManager[ReferenceBus]]:
    """A maker for the clauses of a bus."""

    @asynccontextmanager
    async def make(clock: Clock) -> AsyncGenerator[ReferenceBus]:
        bus = kind(clock)
        try:
            yield bus
        finally:
            await bus.aclose()

    return make
