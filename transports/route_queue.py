"""The two ends of a queue on one loop: a sink and a source. Every tier puts its data ports together from these.

Everything that decides is in `LaneQueue`; here is what waits: senders without credit, first come first served within
their lane, and one receiver.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import BrokenError, BusyError, ClosedError, EndOfStream, WouldBlock
from flowbridge.limits import LANES
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Policy
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import Alarm, Clock
    from flowbridge.envelope import Envelope
    from flowbridge.errors import ResourceError
    from flowbridge.plan import Qos


@dataclass(slots=True, eq=False)
class _Waiter:
    """A sender without credit: its message, and what it is told once the message went one way or the other."""

    envelope: Envelope
    done: asyncio.Future[None]
    alarm: Alarm | None = None


class RouteQueue:
    """A queue and those who wait at it: what its sink and its source see."""

    __slots__ = (
        *("abandoned", "broken", "clock", "edge", "guarded", "idle", "news", "on_wait", "queue", "receiver"),
        *("waiters", "writable"),
    )

    def __init__(self, edge: str, qos: Qos, clock: Clock, books: EdgeBooks | None = None) -> None:
        self.edge = edge
        self.queue = LaneQueue(qos, EdgeBooks() if books is None else books)
        self.clock = clock
        self.waiters: list[deque[_Waiter]] = [deque() for _ in range(LANES)]
        self.writable: list[asyncio.Future[None]] = []
        self.news: Callable[[], None] | None = None
        self.receiver: asyncio.Future[None] | None = None
        self.idle = True  # the source found nothing when it last looked, so news must be told
        self.abandoned = False  # the source was closed
        self.broken: Exception | None = None  # the other end of the link vanished: this is why
        self.on_wait: Callable[[], None] | None = None  # called when somebody starts to wait for credit
        self.guarded = False  # sending needs a second look: the port has ended, or others wait for credit

    @property
    def ended(self) -> bool:
        """Nothing more can be sent."""
        return self.queue.finished or self.abandoned or self.broken is not None

    def guard(self) -> None:
        """Look again whether sending needs a second look."""
        self.guarded = self.ended or any(self.waiters)

    def tell(self) -> None:
        """Wake an idle source, once."""
        if self.idle:
            self.idle = False
            self.wake_receiver()
            if self.news is not None:
                self.news()

    def wake_receiver(self) -> None:
        """Let a waiting `receive` look again."""
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)

    def admit_waiters(self, lane: int) -> None:
        """Let waiting senders of a lane in, as far as there is credit."""
        waiters = self.waiters[lane]
        while waiters:
            waiter = waiters[0]
            now_ns = waiter.envelope.sent_ns = self.clock.now_ns()
            if self.queue.offer_waited(waiter.envelope, now_ns) is not None:
                return
            waiters.popleft()
            _finish(waiter)
            self.tell()
        self.guard()

    def fail_waiters(self, kind: type[ResourceError], why: str) -> None:
        """Tell every waiting sender that it cannot be."""
        for waiters in self.waiters:
            while waiters:
                waiter = waiters.popleft()
                if waiter.alarm is not None:
                    waiter.alarm.cancel()
                if not waiter.done.done():
                    waiter.done.set_exception(kind(f"{self.edge}: {why}"))
        self.tell_writable()

    def break_off(self, why: Exception) -> None:
        """The other end is gone for good: senders get BrokenError at once, the receiver once everything was taken."""
        if self.broken is None:
            self.broken = why
            self.guarded = True
            self.fail_waiters(BrokenError, str(why))
            self.tell()
            self.wake_receiver()

    def tell_writable(self) -> None:
        """Wake whoever waits for credit in general."""
        pending, self.writable = self.writable, []
        for future in pending:
            if not future.done():
                future.set_result(None)


def _finish(waiter: _Waiter) -> None:
    if waiter.alarm is not None:
        waiter.alarm.cancel()
    if not waiter.done.done():
        waiter.done.set_result(None)


class QueueSink:
    """The producer's end; see `contracts.DataSink`."""

    __slots__ = ("_ends", "_now_ns", "_offer", "_queue")

    def __init__(self, ends: RouteQueue) -> None:
        self._ends = ends
        self._queue = ends.queue
        self._offer = ends.queue.offer
        self._now_ns = ends.clock.now_ns

    @property
    def books(self) -> EdgeBooks:
        """The counts of this route as seen from this end."""
        return self._queue.books

    def send_nowait(self, envelope: Envelope) -> None:
        """Accept the message or say at once why not."""
        ends = self._ends
        if ends.guarded:
            self._guard(envelope)
        now_ns = envelope.sent_ns = self._now_ns()
        reason = self._offer(envelope, now_ns)
        if reason is not None:
            raise WouldBlock(reason, ends.edge)
        if ends.idle:
            ends.tell()

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        """Accept messages in order, as many as there is credit for."""
        ends = self._ends
        if ends.guarded:
            if ends.ended:
                self._refuse()
            if any(ends.waiters[envelope.priority] for envelope in envelopes):
                return 0
        count = self._queue.offer_many(envelopes, self._now_ns()) if envelopes else 0
        if ends.idle and count:
            ends.tell()
        return count

    async def send(self, envelope: Envelope) -> None:
        """Accept the message, waiting for credit where the policy is `block`."""
        ends = self._ends
        queue = self._queue
        if ends.ended:
            self._refuse()
        now_ns = envelope.sent_ns = self._now_ns()
        waiters = ends.waiters[envelope.priority]
        if not waiters:
            reason = queue.offer(envelope, now_ns)
            if reason is None:
                ends.tell()
                return
            if queue.qos.policy is not Policy.BLOCK:
                raise WouldBlock(reason, ends.edge)
        elif envelope.deadline_ns <= now_ns:
            queue.offer(envelope, now_ns)  # late already: it is counted and takes no place
            return
        waiter = _Waiter(envelope, asyncio.get_running_loop().create_future())
        waiters.append(waiter)
        ends.guarded = True
        if ends.on_wait is not None:
            ends.on_wait()
        if envelope.deadline_ns != NO_DEADLINE:
            waiter.alarm = ends.clock.call_at(envelope.deadline_ns, lambda: self._expire(waiter))
        try:
            await waiter.done
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def _expire(self, waiter: _Waiter) -> None:
        waiters = self._ends.waiters[waiter.envelope.priority]
        if waiter in waiters:
            waiters.remove(waiter)
            self._queue.expire_waiting()
            _finish(waiter)
            self._ends.admit_waiters(waiter.envelope.priority)

    def _withdraw(self, waiter: _Waiter) -> None:
        waiters = self._ends.waiters[waiter.envelope.priority]
        if waiter in waiters:
            waiters.remove(waiter)
            if waiter.alarm is not None:
                waiter.alarm.cancel()
        else:  # admitted in the same turn of the loop; nobody may have taken it yet
            self._queue.withdraw(waiter.envelope)
        self._ends.admit_waiters(waiter.envelope.priority)
        self._ends.tell_writable()

    async def wait_writable(self) -> None:
        """Return once no lane is stopped at its watermark, or the route ended."""
        ends = self._ends
        while self._queue.stopped and not ends.ended:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            ends.writable.append(future)
            if ends.on_wait is not None:
                ends.on_wait()
            try:
                await future
            finally:
                if future in ends.writable:
                    ends.writable.remove(future)

    def credit_items(self, priority: int) -> int:
        """How many more messages this lane accepts now."""
        return 0 if self._ends.waiters[priority] else self._queue.credit_items(priority)

    async def finish(self) -> None:
        """End of stream, after everything sent before. Messages still waiting for credit fail with ClosedError."""
        ends = self._ends
        if not self._queue.finished:
            self._queue.finished = ends.guarded = True
            ends.fail_waiters(ClosedError, "finished while a message waited for credit")
            ends.tell()

    def _guard(self, envelope: Envelope) -> None:
        ends = self._ends
        if ends.ended:
            self._refuse()
        if ends.waiters[envelope.priority]:
            raise WouldBlock(self._queue.reason(envelope), ends.edge)

    def _refuse(self) -> None:
        edge = self._ends.edge
        if self._queue.finished:
            raise ClosedError(f"{edge}: finished already")
        broken = self._ends.broken
        raise BrokenError(f"{edge}: {broken or 'the consumer closed its end'}") from broken


class QueueLease:
    """One borrowed message; see `contracts.Lease`."""

    __slots__ = ("_source", "envelope")

    def __init__(self, envelope: Envelope, source: QueueSource) -> None:
        self.envelope = envelope
        self._source: QueueSource | None = source

    def release(self) -> None:
        """Give it back, once."""
        source, self._source = self._source, None
        if source is not None:
            source.settle((self.envelope,))

    def __enter__(self) -> Envelope:
        return self.envelope

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<QueueLease {'released' if self._source is None else 'held'} {self.envelope!r}>"


class QueueSource:
    """The consumer's end; see `contracts.DataSource`."""

    __slots__ = ("_ends", "_queue", "books")

    def __init__(self, ends: RouteQueue) -> None:
        self._ends = ends
        self._queue = ends.queue
        self.books = ends.queue.books

    @property
    def ended(self) -> bool:
        """True once the sender finished and everything was taken."""
        return self._queue.ended

    @property
    def waiting(self) -> int:
        """Which lanes have messages to take, as bits."""
        mask = self._queue.waiting
        if not mask and not self._queue.finished:
            self._ends.idle = True
        return mask

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        """Borrow up to `limit` messages of one lane."""
        taken = self._queue.take(limit, lane)
        if not taken and not self._queue.finished:
            ends = self._ends
            ends.idle = True
            if ends.broken is not None and not self._queue.waiting:
                raise BrokenError(f"{ends.edge}: {ends.broken}") from ends.broken
        return taken

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a `take`."""
        self._queue.give_back(taken)
        if self._ends.abandoned:
            self._queue.abort()
        else:
            self._ends.tell()

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """Return what `take` lent, and with it the credit."""
        ends = self._ends
        if self._queue.settle(taken, expired):
            lane = taken[0].priority
            if ends.waiters[lane]:
                ends.admit_waiters(lane)
            if ends.writable:
                ends.tell_writable()

    def on_news(self, callback: Callable[[], None] | None) -> None:
        """Call this when something arrives at an idle source; at once if there is news already."""
        self._ends.news = callback
        if callback is not None:
            self._ends.idle = False
            if self._queue.waiting or self._queue.finished or self._ends.broken is not None:
                callback()
            else:
                self._ends.idle = True

    async def receive(self) -> QueueLease:
        """Wait for one message that is not late."""
        ends = self._ends
        if ends.receiver is not None:
            raise BusyError(f"{ends.edge}: another task receives already")
        while True:
            taken = self.take(1)
            if taken:
                if taken[0].deadline_ns > ends.clock.now_ns():
                    return QueueLease(taken[0], self)
                self.settle(taken, expired=1)
                continue
            if self._queue.finished:
                raise EndOfStream(f"{ends.edge}: the sender finished")
            if ends.abandoned:
                raise ClosedError(f"{ends.edge}: closed")
            ends.receiver = asyncio.get_running_loop().create_future()
            try:
                await ends.receiver  # nothing is lent meanwhile, so a cancellation loses nothing
            finally:
                ends.receiver = None

    async def aclose(self) -> None:
        """Take no more; what is queued is counted as dropped by `abort`."""
        ends = self._ends
        if ends.abandoned:
            return
        ends.abandoned = ends.guarded = True
        self._queue.abort()
        ends.fail_waiters(BrokenError, "the consumer closed its end")
        ends.wake_receiver()
