"""Who waits for which reply."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.codec.codes import Code, error_as, error_of
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
from flowbridge.machines.request_memory import RequestMemory
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from flowbridge.contracts import Alarm, Clock
    from flowbridge.machines.request_memory import Name
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

    __slots__ = ("_clock", "_table", "alarm", "answer", "deadline_ns", "delivery", "key", "left", "priority", "topic")

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
        self.left: list[FlowbridgeError] = []  # why those do not answer who accepted the request, and left
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
        self._table.forget(self, was_heard=delivery is not None and bool(delivery.accepted))


class ReplyTable:
    """The requests of a bus that are not answered yet, and the books of their replies."""

    __slots__ = ("_memory", "_pending", "_seq", "books")

    def __init__(self) -> None:
        self.books = EdgeBooks()
        self._pending: dict[str, PendingReply] = {}
        self._memory: RequestMemory[Envelope | FlowbridgeError] = RequestMemory()
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

    def forget(self, pending: PendingReply, *, was_heard: bool) -> None:
        """Nobody waits for this one any more. Idempotent."""
        if self._pending.pop(pending.key, None) is not None and not was_heard:
            self._memory.forget(pending.key)

    # --- requests with an id ------------------------------------------------------------------------------------

    def known(self, message: Envelope, name: Name, who: str, clock: Clock, answer: Answer) -> PendingReply | None:
        """Answer a request that was made before with the outcome that it had, unless there is none yet.

        Raises: FlowbridgeError (CONFLICT) then.
        """
        known = self._memory.find(who, name, message.sent_ns)
        if known is None:
            return None
        outcome = known.outcome
        if outcome is None:
            raise error_of(Code.CONFLICT, f"request {name[1]} on {name[0]} was made before and is not answered yet")
        pending = PendingReply(self, "", message, name[0], clock, answer)
        if isinstance(outcome, FlowbridgeError):
            assert outcome.code is not None, "it was given a code when it was told"
            answer.set_result(error_as(outcome.code, str(outcome)))  # a new one, for another traceback
        else:
            answer.set_result(_reply(outcome, message.priority, message.deadline_ns))
        return pending

    def remember(self, pending: PendingReply, name: Name, who: str, now_ns: int) -> None:
        """A request with an id is made."""
        self._memory.begin(who, name, pending.key, pending.deadline_ns - now_ns, now_ns)

    # --- outcomes -----------------------------------------------------------------------------------------------

    def deliver(self, request: Envelope, envelope: Envelope, now_ns: int) -> None:
        """Hand a reply to its requester; one that came late or was not the first is counted as expired.

        Raises: LocalProtocolError when `request` is not one.
        """
        key = _key_of(request)
        pending = self._take(key, request, now_ns)
        if pending is None:
            if self._memory.awaits(key):
                self._memory.settle(key, envelope, _size_bytes(envelope), now_ns)
            return
        seq = self._seq
        self._seq = seq + 1
        headers: dict[str, str | int] = {**envelope.headers} if envelope.headers else {}
        headers.pop(REPLY_TO, None)
        headers["topic"] = key
        reply = Envelope(
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
        if self._memory.awaits(key):
            self._memory.settle(key, reply, _size_bytes(reply), now_ns)
        pending.answer.set_result(reply)

    def refuse(self, request: Envelope, error: FlowbridgeError, now_ns: int) -> None:
        """As `deliver`, with why there is no reply. What was not done, or may not have been, may be done again."""
        key = _key_of(request)
        pending = self._take(key, request, now_ns)
        if error.effect is Effect.DONE:
            self._memory.settle(key, error, 0, now_ns)
        else:
            self._memory.forget(key)
        if pending is not None:
            pending.answer.set_result(error)

    def unanswered(self, request: Envelope, error: FlowbridgeError) -> None:
        """One who accepted a request will not answer it; see `LocalEventBus.unanswered`."""
        pending = self._pending.get(str((request.headers or {}).get(REPLY_TO)))
        delivery = None if pending is None else pending.delivery
        if pending is None or delivery is None or pending.answer.done():
            return
        pending.left.append(error)
        if not delivery.waits and len(pending.left) >= delivery.accepted:
            # Whoever had it in hand may have done it; nobody waits for the outcome, so the next one may ask again.
            self._memory.forget(pending.key)
            pending.fail(next((one for one in pending.left if one.effect is not Effect.NONE), error))

    def _take(self, key: str, request: Envelope, now_ns: int) -> PendingReply | None:
        """Who waits for an answer, which is counted; None when nobody does any more."""
        books = self.books
        books.sent += 1
        pending = self._pending.get(key)
        if pending is None or pending.answer.done() or pending.deadline_ns <= now_ns:
            books.expired += 1
            if request.deadline_ns <= now_ns:
                books.missed.late += 1
            return None
        del self._pending[key]
        books.delivered += 1
        return pending

    def close(self) -> None:
        """Every request that waits fails with ClosedError."""
        for pending in tuple(self._pending.values()):
            pending.fail(ClosedError("the bus was closed before a reply came"))
        self._pending.clear()

    def __repr__(self) -> str:
        return f"<ReplyTable {len(self._pending)} pending>"


def _key_of(request: Envelope) -> str:
    key = None if request.headers is None else request.headers.get(REPLY_TO)
    if not isinstance(key, str):
        raise LocalProtocolError(f"a reply to {request!r}, which is no request: it has no header {REPLY_TO!r}")
    return key


def _size_bytes(envelope: Envelope) -> int:
    """What it costs to keep a reply, as far as that is known."""
    payload = envelope.payload
    return max(envelope.size_bytes, len(payload) if isinstance(payload, bytes) else 0)


def _reply(kept: Envelope, priority: int, deadline_ns: int) -> Envelope:
    """A reply that was given before, to another request."""
    headers = {name: value for name, value in (kept.headers or {}).items() if name != REPLY_TO}
    return Envelope(
        kept.payload,
        priority,
        deadline_ns,
        kept.origin_ns,
        kept.sent_ns,
        kept.size_bytes,
        kept.seq,
        kept.trail,
        kept.trace,
        headers,
    )
