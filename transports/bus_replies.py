"""Who waits for which reply."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.errors import (
    BlockReason,
    ClosedError,
    DeadlineExceeded,
    Effect,
    FlowbridgeError,
    LocalProtocolError,
    NoResponderError,
    WouldBlock,
)
from flowbridge.limits import REQUESTS_PENDING_MAX
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from flowbridge.contracts import Alarm, Clock
    from flowbridge.transports.bus_gate import Delivery

REPLY_TO: Final = "reply_to"
_NUMBERS: Final = itertools.count()  # of all buses of a process, so that a reply cannot go astray to another bus


class Answer(Protocol):
    """Where the outcome of a request goes, once: the reply, or why there is none. A future is one."""

    def done(self) -> bool:
        """Whether it has an outcome, or nobody wants it any more."""
        ...

    def set_result(self, result: Envelope | FlowbridgeError, /) -> None:
        """Take the outcome. Raises: nothing; whoever replies would get it."""
        ...


class PendingReply:
    """One request that is not answered yet."""

    __slots__ = ("_clock", "_table", "alarm", "answer", "deadline_ns", "delivery", "key", "priority", "topic")

    def __init__(
        self, table: ReplyTable, key: str, message: Envelope, topic: str, clock: Clock, answer: Answer
    ) -> None:
        self.key: Final = key
        self.topic: Final = topic
        self.answer: Final = answer
        self.deadline_ns: Final = message.deadline_ns
        self.priority: Final = message.priority
        self.delivery: Delivery | None = None  # of the request
        self.alarm: Alarm | None = None
        self._table = table
        self._clock = clock

    def watch(self) -> None:
        """Fail at the deadline."""
        if self.deadline_ns != NO_DEADLINE:
            self.alarm = self._clock.call_at(self.deadline_ns, self._expire)

    def _expire(self) -> None:
        what = f"request on {self.topic}"
        self.fail(DeadlineExceeded(what, self.deadline_ns, self._clock.now_ns(), Effect.MAYBE))

    def unheard(self) -> None:
        """The request waits nowhere any more."""
        delivery = self.delivery
        if delivery is not None and not delivery.accepted and self.deadline_ns > self._clock.now_ns():
            self.fail(NoResponderError(f"topic {self.topic!r} lost its subscribers before one took the request"))

    def fail(self, error: FlowbridgeError) -> None:
        """Let the requester raise this, unless it has an answer."""
        if not self.answer.done():
            self.answer.set_result(error)

    def close(self) -> None:
        """Wait no more, neither for credit nor for the reply. Idempotent."""
        alarm, self.alarm = self.alarm, None
        if alarm is not None:
            alarm.cancel()
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            delivery.withdraw()
        self._table.forget(self)


class ReplyTable:
    """The requests of a bus that are not answered yet, and the books of their replies."""

    __slots__ = ("_pending", "_seq", "books")

    def __init__(self) -> None:
        self.books = EdgeBooks()
        self._pending: dict[str, PendingReply] = {}
        self._seq = 0

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, message: Envelope, topic: str, clock: Clock, answer: Answer) -> PendingReply:
        """Be ready for the reply to a message. Raises: WouldBlock when `REQUESTS_PENDING_MAX` wait already."""
        if len(self._pending) >= REQUESTS_PENDING_MAX:
            raise WouldBlock(BlockReason.CREDIT_ITEMS, f"the bus, with {REQUESTS_PENDING_MAX} requests unanswered")
        key = f"_reply.{next(_NUMBERS)}"
        pending = self._pending[key] = PendingReply(self, key, message, topic, clock, answer)
        return pending

    def forget(self, pending: PendingReply) -> None:
        """Nobody waits for this one any more. Idempotent."""
        self._pending.pop(pending.key, None)

    def deliver(self, request: Envelope, envelope: Envelope, now_ns: int) -> None:
        """Hand a reply to its requester; one that came late or was not the first is counted as expired.

        Raises: LocalProtocolError when `request` is not one.
        """
        key = None if request.headers is None else request.headers.get(REPLY_TO)
        if not isinstance(key, str):
            raise LocalProtocolError(f"a reply to {request!r}, which is no request: it has no header {REPLY_TO!r}")
        books = self.books
        books.sent += 1
        pending = self._pending.get(key)
        if pending is None or pending.answer.done() or pending.deadline_ns <= now_ns:
            books.expired += 1
            if request.deadline_ns <= now_ns:
                books.missed.late += 1
            return
        del self._pending[key]
        books.delivered += 1
        seq = self._seq
        self._seq = seq + 1
        headers: dict[str, str | int] = {**envelope.headers} if envelope.headers else {}
        headers.pop(REPLY_TO, None)
        headers["topic"] = key
        pending.answer.set_result(
            Envelope(
                envelope.payload,
                pending.priority,
                pending.deadline_ns,
                envelope.origin_ns or request.origin_ns,
                now_ns,
                envelope.size_bytes,
                seq,
                envelope.trail,
                envelope.trace,
                headers,
            )
        )

    def close(self) -> None:
        """Every request that waits fails with ClosedError."""
        for pending in tuple(self._pending.values()):
            pending.fail(ClosedError("the bus was closed before a reply came"))
        self._pending.clear()

    def __repr__(self) -> str:
        return f"<ReplyTable {len(self._pending)} pending>"
