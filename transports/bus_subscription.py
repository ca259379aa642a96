"""The client's end of a subscription: its queue, and what it tells the host about the messages in it.

The host keeps every message on loan until it is told what became of it. What a settle, a drop, an abort or lateness
decides here is gathered, and told at the next turn of the loop or before the next call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.codec.bus_frames import ABORTED, DELIVERED, DROPPED, TRANSPORT, settle
from flowbridge.errors import BrokenError, LocalProtocolError, RemoteProtocolError
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Policy
from flowbridge.transports.route_queue import QueueSource, RouteQueue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.machines.queue import Lane
    from flowbridge.plan import Qos
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.bus_client import BusClient


_PAIRS_MAX = 64
"""So many go in one SETTLE."""


class Outcomes:
    """What became of messages and is not told yet."""

    __slots__ = ("_client", "_subscription", "expired", "owed", "seqs")

    def __init__(self, client: BusClient) -> None:
        self._client = client
        self._subscription: ClientSubscription | None = None
        self.seqs: tuple[list[int], ...] = ([], [], [], [])  # by outcome
        self.expired = 0
        self.owed = 0  # messages that came, less those that are told

    def bind(self, subscription: ClientSubscription) -> None:
        """Whose outcomes these are."""
        self._subscription = subscription

    def note(self, outcome: int, seq: int) -> None:
        """One message."""
        self.seqs[outcome].append(seq)
        self._dirty()

    def note_settled(self, taken: Sequence[Envelope], expired: int) -> None:
        """Messages that were given back; some too late to be used."""
        self.seqs[DELIVERED].extend([envelope.seq for envelope in taken])
        self.expired += expired
        self._dirty()

    def headers(self, sub: int) -> Iterator[bytes]:
        """The headers of SETTLE that tell everything noted; it is told then."""
        expired, self.expired = self.expired, 0
        for outcome, seqs in enumerate(self.seqs):
            if not seqs:
                continue
            self.owed -= len(seqs)
            pairs = _pairs(seqs)
            seqs.clear()
            for at in range(0, len(pairs), 2 * _PAIRS_MAX):
                part = pairs[at : at + 2 * _PAIRS_MAX]
                late = min(expired, sum(part[1::2])) if outcome == DELIVERED else 0
                expired -= late
                yield settle(sub, outcome, late, part)

    def _dirty(self) -> None:
        assert self._subscription is not None, "bound when it is made"
        self._client.note_outcome(self._subscription)


class ReportingQueue(LaneQueue):
    """A `LaneQueue` that tells what became of each message."""

    __slots__ = ("outcomes",)

    def __init__(self, qos: Qos, books: EdgeBooks, outcomes: Outcomes) -> None:
        super().__init__(qos, books)
        self.outcomes = outcomes

    def settle(self, taken: Sequence[Envelope], expired: int = 0) -> bool:
        """As `LaneQueue.settle`, and tell."""
        if taken:
            self.outcomes.note_settled(taken, expired)
        return super().settle(taken, expired)

    def abort(self, cause: str = "abort") -> int:
        """As `LaneQueue.abort`, and tell."""
        for lane in self.lanes:
            for envelope in lane.queue:
                self.outcomes.note(ABORTED, envelope.seq)
        return super().abort(cause)

    def _drop_head(self, lane: Lane) -> Envelope:
        dropped = super()._drop_head(lane)
        self.outcomes.note(DROPPED, dropped.seq)
        return dropped

    def take_in(self, envelope: Envelope, now_ns: int) -> None:
        """Queue what the host sent. Raises: RemoteProtocolError when it has no credit for it."""
        if envelope.deadline_ns <= now_ns:
            self.expire_waiting()
            self.outcomes.note(TRANSPORT, envelope.seq)
            return
        reason = self.offer(envelope, now_ns)
        if reason is not None:
            raise RemoteProtocolError(f"message {envelope.seq} was sent without credit ({reason.value})")
        if self.qos.policy is Policy.DROP_NEWEST and self.lanes[envelope.priority].queue[-1] is not envelope:
            self.outcomes.note(DROPPED, envelope.seq)


class ClientSubscription(QueueSource):
    """See `contracts.Subscription`. When the host vanishes what arrived can still be taken; then BrokenError."""

    __slots__ = (
        *("_broken", "_client", "_is_draining", "_leaving", "_take_in", "_told"),
        *("edge", "group", "is_over", "outcomes", "pattern", "sub"),
    )

    def __init__(
        self,
        client: BusClient,
        sub: int,
        pattern: str,
        group: str | None,
        *,
        edge: str,
        qos: Qos,
        clock: Clock,
        books: EdgeBooks,
    ) -> None:
        ends = RouteQueue(edge, qos, clock, books)
        self.outcomes = Outcomes(client)
        queue = ReportingQueue(qos, books, self.outcomes)
        ends.queue = queue
        super().__init__(ends)
        self.outcomes.bind(self)
        self.sub = sub
        self.pattern = pattern
        self.group = group
        self.edge = edge
        self.is_over = False  # the host knows that nothing more is wanted here
        self._client = client
        self._is_draining = False
        self._leaving: asyncio.Future[None] | None = None  # done once nothing more can come
        self._take_in = queue.take_in
        self._broken: BrokenError | None = None
        self._told: tuple[int, int, int, int, Mapping[str, int]] = (0, 0, 0, 0, {})

    # --- what the client does ---------------------------------------------------------------------------------------

    def arrived(self, envelope: Envelope, now_ns: int) -> None:
        """The host sent a message. Raises: RemoteProtocolError."""
        self.outcomes.owed += 1
        self._take_in(envelope, now_ns)
        if self._ends.abandoned:
            self._queue.abort()
        elif self._ends.idle:
            self._ends.tell()

    def counted(self, told: tuple[int, int, int, int, Mapping[str, int]]) -> None:
        """What the host has counted by itself, since this was opened."""
        books = self.books
        expired, late, transport, refused = (new - old for new, old in zip(told[:4], self._told[:4], strict=True))
        books.expired += expired
        books.missed.late += late
        books.missed.transport += transport
        books.refused += refused
        books.sent += expired + refused
        for column, count in told[4].items():
            more = count - self._told[4].get(column, 0)
            books.sent += more
            books.drop(column, more)
        self._told = told

    def break_off(self, error: BrokenError) -> None:
        """The host is gone."""
        self._broken = error
        self._ends.idle = True
        self._ends.tell()

    def abandon(self) -> bool:
        """Take no more; False when that was so already."""
        ends = self._ends
        if ends.abandoned:
            return False
        ends.abandoned = ends.guarded = True
        self._queue.abort()
        ends.wake_receiver()
        return True

    def leave(self) -> None:
        """Tell the host, once, that nothing more is wanted."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
            self._client.unsubscribe(self)

    def left(self) -> None:
        """Nothing more can come: the host said so, or it is gone."""
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)
        if self._is_draining and self._broken is None and not self._ends.abandoned:
            self._queue.finished = self._ends.guarded = True
            self._ends.tell()

    # --- what its user does -----------------------------------------------------------------------------------------

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        """Borrow up to `limit` messages of one lane."""
        taken = super().take(limit, lane)
        if taken or self._broken is None or self._queue.finished:
            return taken
        if not self._ends.abandoned and not self._queue.waiting:
            raise BrokenError(str(self._broken)) from self._broken.__cause__
        return taken

    def drain(self) -> None:
        """Be published to no more; once the host knows and everything that came was taken, it has ended. Idempotent."""
        if not self._ends.abandoned and self._broken is None:
            self._is_draining = True
            self.leave()

    async def aclose(self) -> None:
        """Take no more, and be published to no more. Idempotent."""
        if self.abandon():
            self.leave()
            assert self._leaving is not None, "it just left, or had before"
            await self._leaving

    def __repr__(self) -> str:
        return f"<ClientSubscription {self.edge}>"


class Opening:
    """A subscription for the length of an ``async with``."""

    __slots__ = ("_client", "_is_entered", "_subscription", "edge", "group", "pattern", "qos", "sub")

    def __init__(self, client: BusClient, pattern: str, group: str | None, qos: Qos | None, edge: str) -> None:
        self._client = client
        self._is_entered = False
        self._subscription: ClientSubscription | None = None
        self.sub = -1
        self.pattern = pattern
        self.group = group
        self.qos = qos
        self.edge = edge

    async def __aenter__(self) -> ClientSubscription:
        if self._is_entered:
            raise LocalProtocolError(f"subscription {self.pattern!r} is entered a second time: subscribe again")
        self._is_entered = True
        self._subscription = await self._client.open(self)
        return self._subscription

    async def __aexit__(self, *exc: object) -> None:
        assert self._subscription is not None, "left without being entered"
        await self._subscription.aclose()


def _pairs(seqs: list[int]) -> list[int]:
    """Numbers as pairs of the first of some that follow each other, and how many."""
    pairs: list[int] = []
    for seq in seqs:
        if pairs and seq == pairs[-2] + pairs[-1]:
            pairs[-1] += 1
        else:
            pairs += (seq, 1)
    return pairs
