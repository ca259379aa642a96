"""Who waits for which reply."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Final

from flowbridge.envelope import Envelope
from flowbridge.errors import BlockReason, ClosedError, FlowbridgeError, LocalProtocolError, WouldBlock
from flowbridge.limits import REQUESTS_PENDING_MAX
from flowbridge.time.ledger import EdgeBooks

REPLY_TO: Final = "reply_to"
_NUMBERS: Final = itertools.count()  # of all buses of a process, so that a reply cannot go astray to another bus


@dataclass(slots=True, eq=False)
class PendingReply:
    """One request that is not answered yet."""

    key: str
    answer: asyncio.Future[Envelope | FlowbridgeError]
    deadline_ns: int
    priority: int

    def fail(self, error: FlowbridgeError) -> None:
        """Let the requester raise this, unless it has an answer."""
        if not self.answer.done():
            self.answer.set_result(error)

    async def wait(self) -> Envelope:
        """The reply. Raises: what `fail` was given."""
        answer = await self.answer
        if isinstance(answer, FlowbridgeError):
            raise answer
        return answer


class ReplyTable:
    """The requests of a bus that are not answered yet, and the books of their replies."""

    __slots__ = ("_pending", "_seq", "books")

    def __init__(self) -> None:
        self.books = EdgeBooks()
        self._pending: dict[str, PendingReply] = {}
        self._seq = 0

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, deadline_ns: int, priority: int) -> PendingReply:
        """Be ready for a reply. Raises: WouldBlock when `REQUESTS_PENDING_MAX` requests wait already."""
        if len(self._pending) >= REQUESTS_PENDING_MAX:
            raise WouldBlock(BlockReason.CREDIT_ITEMS, f"the bus, with {REQUESTS_PENDING_MAX} requests unanswered")
        key = f"_reply.{next(_NUMBERS)}"
        pending = PendingReply(key, asyncio.get_running_loop().create_future(), deadline_ns, priority)
        self._pending[key] = pending
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
        headers = {name: value for name, value in (envelope.headers or {}).items() if name != REPLY_TO}
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
