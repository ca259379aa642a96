"""The simplest DataPort that is right: one list of what is queued, one of what is lent, and everything else is counted.

It is slow on purpose and has no other use than to be the model of the clauses and the healthy parent of the mutants in
`test_clauses.py`, each of which overrides one of the small methods here.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import BlockReason, BrokenError, BusyError, ClosedError, EndOfStream, WouldBlock
from flowbridge.limits import STARVATION_TURNS_MAX
from flowbridge.plan import Plane, Policy, Qos, Route
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from flowbridge.contracts import Clock


def route_of(qos: Qos) -> Route:
    """A route between two ports that do not matter."""
    return Route(
        id="a/out->b/in",
        plane=Plane.DATA,
        source_node="a",
        source_port="out",
        target_node="b",
        target_port="in",
        qos=qos,
    )


class ReferencePort:
    """Sink, source and port in one object."""

    def __init__(self, qos: Qos, clock: Clock, where: str = "a/out->b/in") -> None:
        self.route = route_of(qos)
        self.qos = qos
        self.clock = clock
        self.where = where
        self.books = EdgeBooks()
        self.queued: list[Envelope] = []  # in the order they were accepted
        self.lent: list[Envelope] = []
        self.senders: list[Envelope] = []  # what waits for credit, in the order it came
        self.stopped: set[int] = set()  # lanes between high and low watermark, on the way down
        self.passed = dict.fromkeys(range(len(Priority)), 0)
        self.finished = self.abandoned = self.receiving = False
        self.idle = True
        self.news: Callable[[], None] | None = None
        self._changed: list[asyncio.Future[None]] = []

    @property
    def sink(self) -> ReferencePort:
        return self

    @property
    def source(self) -> ReferencePort:
        return self

    # --- waiting: everybody is woken by every change and looks again -------------------------------------------------

    def changed(self) -> None:
        woken, self._changed = self._changed, []
        for future in woken:
            if not future.done():
                future.set_result(None)

    async def change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        await future

    # --- the lanes --------------------------------------------------------------------------------------------------

    def queue_of(self, lane: int) -> list[Envelope]:
        return [held for held in self.queued if held.priority == lane]

    def held(self, lane: int) -> list[Envelope]:
        """What uses the credit of a lane."""
        if self.qos.policy in (Policy.BLOCK, Policy.ERROR):
            return self.queue_of(lane) + [held for held in self.lent if held.priority == lane]
        return self.queue_of(lane)

    def lacking(self, envelope: Envelope) -> BlockReason | None:
        held = self.held(envelope.priority)
        if not held:
            return None
        if len(held) >= self.items_max:
            return BlockReason.CREDIT_ITEMS
        if self.qos.policy is Policy.BLOCK and (envelope.priority in self.stopped or len(held) >= self.qos.high_items):
            return BlockReason.ABOVE_WATERMARK
        if sum(one.size_bytes for one in held) + envelope.size_bytes > self.qos.capacity_bytes:
            return BlockReason.CREDIT_BYTES
        return None

    @property
    def items_max(self) -> int:
        return 1 if self.qos.policy is Policy.LATEST else self.qos.capacity_items

    def stop(self, lane: int) -> None:
        if len(self.held(lane)) >= min(self.qos.high_items, self.items_max):
            self.stopped.add(lane)

    def unstop(self) -> None:
        self.stopped = {lane for lane in self.stopped if len(self.held(lane)) > self.qos.low_items}

    # --- the sink ---------------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        if self.finished:
            raise ClosedError(f"{self.where}: finished")
        if self.abandoned:
            raise BrokenError(f"{self.where}: the consumer closed its end")

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        self.check_open()
        for count, envelope in enumerate(envelopes):
            sent_ns = envelope.sent_ns
            try:
                self.send_nowait(envelope)
            except WouldBlock:
                if self.qos.policy is Policy.BLOCK:
                    return count
            envelope.sent_ns = sent_ns
        return len(envelopes)

    def accept(self, envelope: Envelope) -> None:
        envelope.sent_ns = self.clock.now_ns()
        self.books.sent += 1
        self.books.in_flight += 1
        self.queued.append(envelope)
        self.tell()
        self.changed()

    def expire(self, stage: str) -> None:
        self.books.sent += 1
        self.books.expired += 1
        setattr(self.books.missed, stage, getattr(self.books.missed, stage) + 1)

    def late(self, envelope: Envelope) -> bool:
        return envelope.deadline_ns <= self.clock.now_ns()

    def late_when_offered(self, envelope: Envelope) -> bool:
        return self.late(envelope)

    def late_while_waiting(self, envelope: Envelope) -> bool:
        return self.late(envelope)

    def late_when_received(self, envelope: Envelope) -> bool:
        return self.late(envelope)

    def drop(self, envelope: Envelope) -> None:
        self.queued.remove(envelope)
        self.books.in_flight -= 1
        self.books.drop(self.qos.policy.value)

    def make_room(self, envelope: Envelope) -> None:
        while self.lacking(envelope) is not None:
            self.drop(self.queue_of(envelope.priority)[0])

    def send_nowait(self, envelope: Envelope) -> None:
        self.check_open()
        if self.late_when_offered(envelope):
            self.expire("late")
            return
        reason = self.lacking(envelope)
        if reason is None and self.somebody_waits(envelope):
            reason = BlockReason.CREDIT_ITEMS
        if reason is None:
            self.accept(envelope)
        else:
            self.full(envelope, reason)

    def somebody_waits(self, envelope: Envelope) -> bool:
        return any(one.priority == envelope.priority for one in self.senders)

    def full(self, envelope: Envelope, reason: BlockReason) -> None:
        if self.qos.policy is Policy.BLOCK:
            self.stop(envelope.priority)
            raise WouldBlock(reason, self.where)
        if self.qos.policy is Policy.ERROR:
            self.books.sent += 1
            self.books.refused += 1
            raise WouldBlock(reason, self.where)
        if self.qos.policy is Policy.DROP_NEWEST:
            self.books.sent += 1
            self.books.drop(self.qos.policy.value)
            return
        self.make_room(envelope)
        self.accept(envelope)

    def next_in_line(self, envelope: Envelope) -> bool:
        return next(one for one in self.senders if one.priority == envelope.priority) is envelope

    async def send(self, envelope: Envelope) -> None:
        try:
            self.send_nowait(envelope)
        except WouldBlock:
            if self.qos.policy is not Policy.BLOCK:
                raise
        else:
            return
        self.senders.append(envelope)
        alarm = None
        if envelope.deadline_ns != NO_DEADLINE:
            alarm = self.clock.call_at(envelope.deadline_ns, self.changed)
        try:
            await self.wait_for_credit(envelope)
        finally:
            self.senders.remove(envelope)
            if alarm is not None:
                alarm.cancel()
            self.changed()

    async def wait_for_credit(self, envelope: Envelope) -> None:
        while True:
            await self.change()
            self.check_open()
            if self.late_while_waiting(envelope):
                self.expire("transport")
                return
            if self.next_in_line(envelope) and self.lacking(envelope) is None:
                self.accept(envelope)
                return

    async def wait_writable(self) -> None:
        while self.stopped and not (self.finished or self.abandoned):
            await self.change()

    def credit_items(self, priority: int) -> int:
        if priority in self.stopped or any(one.priority == priority for one in self.senders):
            return 0
        limit = min(self.items_max, self.qos.high_items) if self.qos.policy is Policy.BLOCK else self.items_max
        return max(0, limit - len(self.held(priority)))

    async def finish(self) -> None:
        self.finished = True
        self.tell()
        self.changed()

    # --- the source -------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        if self.idle and self.news is not None:
            self.idle = False
            self.news()

    def on_news(self, callback: Callable[[], None] | None) -> None:
        self.news = callback
        self.idle = True
        if self.queued or self.finished:
            self.tell()

    @property
    def ended(self) -> bool:
        return self.finished and not self.queued

    @property
    def waiting(self) -> int:
        return sum(1 << lane for lane in {one.priority for one in self.queued})

    def choose(self) -> int:
        lanes = sorted({one.priority for one in self.queued})
        starved = [lane for lane in lanes if self.passed[lane] >= STARVATION_TURNS_MAX]
        chosen = starved[-1] if starved else lanes[0]
        for lane in lanes:
            self.passed[lane] += 1
        self.passed[chosen] = 0
        return chosen

    def pick(self, limit: int, lane: int) -> list[Envelope]:
        return self.queue_of(lane)[:limit]

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        if not self.queued:
            self.idle = True
            return []
        taken = self.pick(limit, self.choose() if lane is None else lane)
        for envelope in taken:
            self.queued.remove(envelope)
            self.lent.append(envelope)
        return taken

    def give_back(self, taken: Sequence[Envelope]) -> None:
        for envelope in taken:
            self.lent.remove(envelope)
        self.queued[:0] = taken

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        for envelope in taken:
            self.lent.remove(envelope)
        self.books.in_flight -= len(taken)
        self.books.delivered += len(taken) - expired
        self.books.expired += expired
        self.books.missed.queued += expired
        self.unstop()
        self.changed()

    def enter(self) -> None:
        if self.receiving:
            raise BusyError(f"{self.where}: another task receives")
        self.receiving = True

    async def receive(self) -> ReferenceLease:
        self.enter()
        try:
            while True:
                taken = self.take(1)
                if taken and not self.late_when_received(taken[0]):
                    return ReferenceLease(self, taken[0])
                if taken:
                    self.settle(taken, expired=1)
                elif self.finished:
                    raise EndOfStream(f"{self.where}: ended")
                elif self.abandoned:
                    raise ClosedError(f"{self.where}: closed")
                else:
                    await self.change()
        finally:
            self.receiving = False

    async def aclose(self) -> None:
        self.abandoned = True
        if self.queued:
            self.books.in_flight -= len(self.queued)
            self.books.drop("abort", len(self.queued))
            self.queued.clear()
        self.changed()


class BlockingReferencePort(ReferencePort):
    """A port that can be waited for without the loop. What was accepted is there at once; only the news of it waits."""

    def __init__(self, qos: Qos, clock: Clock, where: str = "a/out->b/in") -> None:
        super().__init__(qos, clock, where)
        self.has_come = False  # since somebody was told
        self.is_kept = False  # the loop may tell nobody
        self.arrival = threading.Event()

    def tell(self) -> None:
        self.has_come = True
        self.arrival.set()
        if not self.is_kept:
            asyncio.get_running_loop().call_soon(self.tell_by_loop)

    def tell_by_loop(self) -> None:
        if not self.is_kept:
            self.tell_now()

    def tell_now(self) -> None:
        if self.has_come:
            super().tell()
        self.has_come = False
        self.arrival.clear()

    def wait_blocking(self, timeout_ns: int) -> bool:
        self.is_kept = True
        if not self.abandoned:
            self.arrival.wait(timeout_ns / 1e9)
        found = self.has_come
        self.tell_now()
        return found

    def leave_to_loop(self) -> None:
        self.is_kept = False
        self.tell_now()

    @property
    def needs_loop(self) -> bool:
        return bool(self.senders)


class ReferenceLease:
    """One message that `receive` lent."""

    def __init__(self, port: ReferencePort, envelope: Envelope) -> None:
        self.port = port
        self.envelope = envelope
        self.held = True

    def release(self) -> None:
        if self.held:
            self.held = False
            self.port.settle([self.envelope])

    def __enter__(self) -> Envelope:
        return self.envelope

    def __exit__(self, *exc: object) -> None:
        self.release()


def port_maker(
    kind: type[ReferencePort] = ReferencePort,
) -> Callable[[Qos, Clock], object]:
    """A maker for the clauses of a port."""

    @asynccontextmanager
    async def make(qos: Qos, clock: Clock) -> AsyncGenerator[ReferencePort]:
        yield kind(qos, clock)

    return make
