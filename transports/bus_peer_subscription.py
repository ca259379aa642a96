"""One subscription of a client, at the host: what it took from the bus, and what it still owes it.

Rules.
1. Everything that arrives goes on to the client at once, within the limits below, and stays on loan here until the
   client tells what became of it. Under `block` and `error` that is what holds the credit, so those limits are the
   queue's own.
2. A queue that drops is at the client, so nothing here may fill up before it. A client that does not read gets
   `BUS_LINK_WINDOW_ITEMS` and `BUS_LINK_WINDOW_BYTES` more than the queue holds; from then on the queue at the host
   drops.
3. The books here are the host's. What the client dropped is counted as it says; what the host alone has counted, is
   told to the client, so that the books of both ends balance and each message is in one column.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flowbridge.codec.bus_frames import ABORTED, BOOKS, DELIVER, DELIVERED, TRANSPORT, deliver, mixed
from flowbridge.codec.codes import Code
from flowbridge.errors import BrokenError, CodecError, FlowbridgeError, RemoteProtocolError
from flowbridge.limits import BUS_LINK_WINDOW_BYTES, BUS_LINK_WINDOW_ITEMS, LANES
from flowbridge.plan import Policy
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from flowbridge.contracts import Subscription
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Qos
    from flowbridge.transports.bus_peer import BusPeer

_AT_ONCE = 64
_NO_LIMIT = 1 << 62


class PeerSubscription:
    """See the rules of this module."""

    def __init__(
        self,
        peer: BusPeer,
        sub: int,
        source: Subscription,
        opening: AbstractAsyncContextManager[Subscription],
        qos: Qos,
    ) -> None:
        self.sub = sub
        self.source = source
        self._peer = peer
        self._opening = opening
        self._policy = qos.policy
        self._lent: dict[int, Envelope] = {}
        self._lane_items = [0] * LANES
        self._lane_bytes = [0] * LANES
        self._items_max = self._bytes_max = _NO_LIMIT
        if qos.policy not in (Policy.BLOCK, Policy.ERROR):
            self._items_max = BUS_LINK_WINDOW_ITEMS + (1 if qos.policy is Policy.LATEST else qos.capacity_items)
            self._bytes_max = BUS_LINK_WINDOW_BYTES + qos.capacity_bytes
        self._is_pumping = False
        self.is_closed = False
        # What the client has counted, and what an edge that was there before had counted already.
        self._theirs = EdgeBooks()
        self._before = _copy(source.books)
        self._told: tuple[Any, ...] = (0, 0, 0, 0, {})
        self._own = source.books.expired + source.books.refused + source.books.dropped_total

    @property
    def owed(self) -> int:
        """How many messages the client has not told about."""
        return len(self._lent)

    def start(self) -> None:
        """Forward from now on."""
        self.source.on_news(self.pump)

    # --- to the client ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Forward what is there, as far as the client and its link take it."""
        if self._is_pumping or self.is_closed:
            return
        self._is_pumping = True
        try:
            while not self._peer.is_congested and self._pump_once():
                pass
        finally:
            self._is_pumping = False

    def _pump_once(self) -> bool:
        """Forward some of the most urgent lane that may; False when there is none."""
        source = self.source
        mask = source.waiting
        for lane in range(LANES) if mask else ():
            room = min(self._items_max - self._lane_items[lane], _AT_ONCE)
            if mask & 1 << lane and room > 0 and self._lane_bytes[lane] < self._bytes_max:
                taken = source.take(room, lane)
                for envelope in taken:
                    self._forward(envelope, lane)
                return bool(taken)
        return False

    def _forward(self, envelope: Envelope, lane: int) -> None:
        try:
            if envelope.seq in self._lent:
                raise FlowbridgeError(f"message {envelope.seq} is on loan already")
            fields, body = self._peer.envelopes.write(envelope)
            self._peer.send(DELIVER, deliver(self.sub, fields), body)
        except (CodecError, FlowbridgeError):
            self.source.settle((envelope,))  # it cannot leave the process
            self.source.books.delivered -= 1
            self.source.books.drop("encode")
            return
        self._lent[envelope.seq] = envelope
        self._lane_items[lane] += 1
        self._lane_bytes[lane] += envelope.size_bytes

    def tell_books(self) -> None:
        """Tell what this end has counted by itself since it last told."""
        books, before, theirs = self.source.books, self._before, self._theirs
        own = books.expired + books.refused + books.dropped_total - theirs.expired - theirs.dropped_total
        if own == self._own:
            return
        self._own = own
        dropped = {
            name: here
            for name, count in books.dropped.items()
            if (here := count - before.dropped.get(name, 0) - theirs.dropped.get(name, 0))
        }
        told = (
            books.expired - before.expired - theirs.expired,
            books.missed.late - before.missed.late,
            books.missed.transport - before.missed.transport - theirs.missed.transport,
            books.refused - before.refused,
            dropped,
        )
        if told != self._told:
            self._told = told
            self._peer.send(BOOKS, mixed(self.sub, *told))

    # --- from the client --------------------------------------------------------------------------------------------

    def settle(self, outcome: int, expired: int, pairs: list[tuple[int, int]]) -> None:
        """What became of messages, by pairs of the first number and a count. Raises: RemoteProtocolError."""
        total = sum([count for _, count in pairs])
        late = total if outcome == TRANSPORT else expired
        if total > len(self._lent) or late > total or (expired and outcome != DELIVERED):
            raise RemoteProtocolError(
                f"subscription {self.sub} settles {total} messages of {len(self._lent)}, {expired} of them late"
            )
        lanes: dict[int, list[Envelope]] = {}
        for first, count in pairs:
            for seq in range(first, first + count):
                envelope = self._lent.pop(seq, None)
                if envelope is None:
                    self._lent.update((one.seq, one) for taken in lanes.values() for one in taken)
                    raise RemoteProtocolError(f"subscription {self.sub} settles message {seq}, which it does not have")
                lanes.setdefault(envelope.priority, []).append(envelope)
        self._theirs.expired += late
        if outcome == TRANSPORT:
            self._theirs.missed.transport += total
        for lane, taken in lanes.items():
            self._give_up(lane, taken, outcome, min(late, len(taken)))
            late -= min(late, len(taken))
        self.tell_books()
        self.pump()

    def _give_up(self, lane: int, taken: list[Envelope], outcome: int, late: int) -> None:
        """Settle messages of one lane with the bus, and put them into the column where they belong."""
        count = len(taken)
        self._lane_items[lane] -= count
        self._lane_bytes[lane] -= sum([envelope.size_bytes for envelope in taken])
        books = self.source.books
        self.source.settle(taken, expired=late)
        if outcome == TRANSPORT:
            books.missed.queued -= count
            books.missed.transport += count
        elif outcome != DELIVERED:
            column = "abort" if outcome == ABORTED else self._policy.value
            books.delivered -= count
            books.drop(column, count)
            self._theirs.drop(column, count)
            if outcome == ABORTED:
                self._peer.left_unanswered(taken, Code.REFUSED)

    async def aclose(self) -> None:
        """Be published to no more."""
        if not self.is_closed:
            self.is_closed = True
            self.source.on_news(None)
            await self._opening.__aexit__(None, None, None)

    async def abandon(self) -> None:
        """The client is gone: what it had and did not tell about is lost, and so is what it was still to be sent.

        One name for both, because which of them a message is in depends on how far the client had read.
        """
        lent = tuple(self._lent.values())
        self._lent.clear()
        queued: list[Envelope] = []
        if not self.is_closed:
            with suppress(BrokenError):
                while taken := self.source.take(_AT_ONCE):
                    queued += taken
        try:
            await self.aclose()  # before anything is given back: the credit is nobody's
        finally:
            for count, envelope in enumerate((*lent, *queued)):
                self.source.settle((envelope,))
                self.source.books.delivered -= 1
                self.source.books.drop("lost")
                self._peer.left_unanswered((envelope,), Code.PEER_GONE if count < len(lent) else Code.REFUSED)

    def __repr__(self) -> str:
        return f"<PeerSubscription {self.sub} {self.source.pattern}, {len(self._lent)} on loan>"


def _copy(books: EdgeBooks) -> EdgeBooks:
    copy = EdgeBooks(expired=books.expired, refused=books.refused, dropped=dict(books.dropped))
    copy.missed.late = books.missed.late
    copy.missed.transport = books.missed.transport
    return copy
