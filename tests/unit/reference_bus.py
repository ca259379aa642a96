"""The simplest EventBus that is right: a list of reference ports, each with a pattern."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from reference_port import ReferencePort

from flowbridge.codec.codes import Code, coded, error_of
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
from flowbridge.limits import (
    REQUEST_ATTEMPTS_MAX,
    REQUEST_KEPT_NS,
    RETRY_BASE_NS,
    TOPIC_CHARACTERS_MAX,
    TOPIC_TOKENS_MAX,
)
from flowbridge.machines.retry import RetryBudget, may_repeat
from flowbridge.plan import Policy, Qos
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from flowbridge.contracts import Clock


class ReferenceSubscription(ReferencePort):
    """A port that knows what it is subscribed to."""

    def __init__(self, qos: Qos, clock: Clock, edge: str, pattern: str, group: str | None) -> None:
        super().__init__(qos, clock, edge)
        self.pattern = pattern
        self.group = group
        self.served = 0
        self.bus: ReferenceBus

    def drain(self) -> None:
        self.bus.drain(self)


class ReferenceBus:
    """Everything is looked up anew for every message."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.open: list[ReferenceSubscription] = []
        self.draining: list[ReferenceSubscription] = []
        self.all: dict[str, EdgeBooks] = {"(replies)": EdgeBooks()}
        self.topics: list[tuple[str, Qos]] = []
        self.requests: dict[int, tuple[Envelope, asyncio.Future[Envelope]]] = {}
        self.known: dict[object, tuple[Envelope | FlowbridgeError | None, int]] = {}
        self.names: dict[int, object] = {}
        self.budget = RetryBudget()
        self.pauses: list[asyncio.Future[None]] = []
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

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        self.budget.earn()
        due_ns = self.due_ns(envelope, timeout_ns)
        number = f"id {self.next}"
        for attempt in itertools.count(1):
            asked = self.copy(topic, envelope)
            if idempotent or attempt > 1:
                asked.headers = {"request_id": number, **(asked.headers or {}), "attempt": attempt}
                if attempt == 1:
                    del asked.headers["attempt"]
            try:
                return await self.attempt(topic, asked, due_ns)
            except FlowbridgeError as error:
                at_ns = self.again_ns(error, attempt, idempotent)
                if at_ns is None or at_ns >= due_ns or not self.budget.spend():
                    raise
            pause = asyncio.ensure_future(self.clock.sleep_until(at_ns))
            self.pauses.append(pause)
            await asyncio.wait([pause])
            self.pauses.remove(pause)
        raise AssertionError("never")

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        """When to ask again."""
        if attempt == REQUEST_ATTEMPTS_MAX or not may_repeat(error, idempotent=idempotent):
            return None
        if error.retry_after_ns is not None:
            return self.clock.now_ns() + error.retry_after_ns
        return self.clock.now_ns() + (RETRY_BASE_NS << (attempt - 1))

    def name_of(self, topic: str, headers: Mapping[str, str | int]) -> object:
        return None if "request_id" not in headers else (topic, headers["request_id"])

    def kept_ns(self) -> int:
        return REQUEST_KEPT_NS

    async def attempt(self, topic: str, asked: Envelope, due_ns: int) -> Envelope:
        self.check(topic)
        headers = asked.headers or {}
        name = self.name_of(topic, headers)
        if name in self.known and self.known[name][1] > self.clock.now_ns():
            return self.again(name, asked)
        targets = self.targets(topic, asked)
        if not targets:
            raise NoResponderError(f"nobody serves {topic}")
        self.next += 1
        number = self.next
        asked.headers = {**headers, "reply_to": number}
        asked.deadline_ns = due_ns
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self.requests[number] = (asked, answer)
        if name is not None:
            self.known[name] = (None, self.clock.now_ns() + self.kept_ns())
        self.names[number] = name

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

    def again(self, name: object, asked: Envelope) -> Envelope:
        """The outcome that a request had before."""
        outcome = self.known[name][0]
        if outcome is None:
            raise error_of(Code.CONFLICT)
        if isinstance(outcome, FlowbridgeError):
            raise outcome
        reply = self.copy("reply", outcome)
        self.inherit(asked, reply)
        return reply

    def ended(self, request: Envelope, outcome: Envelope | FlowbridgeError) -> None:
        """Remember what became of a request."""
        name = self.names.get(int((request.headers or {})["reply_to"]))
        if name is None:
            return
        if isinstance(outcome, FlowbridgeError) and outcome.effect is not Effect.DONE:
            self.known.pop(name, None)
        elif self.known[name][0] is None:
            self.known[name] = (outcome, self.clock.now_ns() + self.kept_ns())

    def inherit(self, request: Envelope, reply: Envelope) -> None:
        reply.deadline_ns, reply.priority = request.deadline_ns, request.priority

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        self.ended(request, envelope)
        found = self.waiting(request)
        if found is not None:
            asked, answer = found
            reply = self.copy("reply", envelope)
            self.inherit(asked, reply)
            answer.set_result(reply)

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        error = coded(error)
        self.ended(request, error)
        found = self.waiting(request)
        if found is not None:
            found[1].set_exception(error)

    def waiting(self, request: Envelope) -> tuple[Envelope, asyncio.Future[Envelope]] | None:
        """Who waits for an answer, which is counted."""
        books = self.all["(replies)"]
        books.sent += 1
        found = self.requests.get(int((request.headers or {})["reply_to"]))
        if found is None or found[1].done():
            self.lost(books)
            return None
        books.delivered += 1
        return found

    def left(self, request: Envelope) -> None:
        """The only one who has a request drops it."""
        found = self.requests.get(int((request.headers or {}).get("reply_to", 0)))
        if found is not None and not found[1].done():
            self.ended(request, error_of(Code.REFUSED))
            found[1].set_exception(error_of(Code.REFUSED))

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
        one.bus = self
        one.books = self.all.setdefault(edge, one.books)
        self.open.append(one)
        try:
            yield one
        finally:
            self.leave(one)
            if one in self.draining:
                self.draining.remove(one)
            queued = [envelope for lane in Priority for envelope in one.queue_of(lane)]
            await one.aclose()
            for envelope in queued:
                self.left(envelope)

    def leave(self, one: ReferenceSubscription) -> None:
        """It gets nothing more."""
        if one in self.open:
            self.open.remove(one)

    def drain(self, one: ReferenceSubscription) -> None:
        if not (one.finished or one.abandoned):
            self.leave(one)
            self.draining.append(one)
            self.finish(one)

    def finish(self, one: ReferenceSubscription) -> None:
        """It ends once everything was taken."""
        one.finished = True
        one.tell()
        one.changed()

    def configure(self, pattern: str, qos: Qos) -> None:
        self.topics.append((pattern, qos))

    def books(self) -> dict[str, EdgeBooks]:
        return self.all

    def pending_error(self) -> FlowbridgeError:
        return ClosedError("the bus was closed")

    async def aclose(self) -> None:
        self.closed = True
        for pause in self.pauses:
            pause.cancel()
        for _, answer in self.requests.values():
            if not answer.done():
                answer.set_exception(self.pending_error())
        for one in (*self.open, *self.draining):
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
