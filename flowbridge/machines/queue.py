"""The queue of one route: four lanes, credit in items and bytes, watermarks, and a policy for when it is full.

Rules.
1. A lane's credit is its own: a full lane never stops another.
2. Under `block` and `error` credit is used by what is queued and by what is lent, and returns when that is settled.
   Under the dropping policies only what is queued counts: what was lent is at the operator already.
3. A lane with nothing in it accepts one message of any size, so that an oversized message cannot block for ever.
4. Under `block` a lane that turned a message away at its high watermark accepts nothing until it is down at its low
   one.
5. Everything offered is counted, and the books balance after every call.

No waiting, no clock: `now_ns` is an argument.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from flowbridge.errors import BlockReason, RemoteProtocolError
from flowbridge.limits import LANES
from flowbridge.machines.lane import LaneTurns
from flowbridge.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.envelope import Envelope
    from flowbridge.plan import Qos
    from flowbridge.time.ledger import EdgeBooks


_NO_LIMIT: Final = 2**63 - 1


class Lane:
    """One lane: what is queued, and what its messages hold of the credit."""

    __slots__ = ("bytes", "items", "queue", "stopped")

    def __init__(self) -> None:
        self.queue: deque[Envelope] = deque()
        self.items = 0  # queued and lent
        self.bytes = 0
        self.stopped = False  # above the high watermark, not yet back at the low one


class LaneQueue:
    """The machine behind every data port and subscription."""

    __slots__ = (
        *("_bytes_max", "_items_max", "_open_items", "_policy", "_turns"),
        *("books", "drops", "finished", "lanes", "qos"),
    )

    def __init__(self, qos: Qos, books: EdgeBooks) -> None:
        self.qos = qos
        self.books = books
        self.lanes = [Lane() for _ in range(LANES)]
        self.finished = False
        self._policy = qos.policy
        self.drops = qos.policy not in {Policy.BLOCK, Policy.ERROR}
        # Below this many items a lane needs no second look; `block` stops at the watermark, others at the capacity.
        self._items_max = qos.capacity_items
        self._open_items = min(qos.high_items, qos.capacity_items) if qos.policy is Policy.BLOCK else qos.capacity_items
        if qos.policy is Policy.LATEST:
            self._open_items = 0
        self._bytes_max = qos.capacity_bytes
        self._turns = LaneTurns()

    # --- the producer's side ---------------------------------------------------------------------------------------

    def offer(self, envelope: Envelope, now_ns: int) -> BlockReason | None:
        """Take the message in, or say what it lacks.

        None: counted (accepted, dropped by policy, or expired because it was late already). A reason under `block`:
        nothing counted, offer it again. A reason under `error`: counted as refused.
        """
        books = self.books
        if envelope.deadline_ns <= now_ns:
            books.sent += 1
            books.expired += 1
            books.missed.late += 1
            return None
        lane = self.lanes[envelope.priority]
        items = lane.items
        size = lane.bytes + envelope.size_bytes
        if items >= self._open_items or size > self._bytes_max or lane.stopped:
            return self._offer_full(lane, envelope)
        lane.queue.append(envelope)
        lane.items = items + 1
        lane.bytes = size
        books.sent += 1
        books.in_flight += 1
        return None

    def offer_many(self, envelopes: Sequence[Envelope], now_ns: int) -> int:
        """Offer messages in order until one must wait; returns how many were dealt with."""
        first = envelopes[0].priority
        lane = self.lanes[first]
        items = lane.items + len(envelopes)
        if items <= self._open_items and not lane.stopped:
            size = lane.bytes
            for envelope in envelopes:
                if envelope.deadline_ns <= now_ns or envelope.priority != first:
                    break
                size += envelope.size_bytes
            else:
                if size <= self._bytes_max:  # the common case: one lane, in time, with room for all
                    lane.queue.extend(envelopes)
                    lane.items = items
                    lane.bytes = size
                    self.books.sent += len(envelopes)
                    self.books.in_flight += len(envelopes)
                    return len(envelopes)
        for count, envelope in enumerate(envelopes):
            if self.offer(envelope, now_ns) is not None and self._policy is Policy.BLOCK:
                return count
        return len(envelopes)

    def _offer_full(self, lane: Lane, envelope: Envelope) -> BlockReason | None:
        policy = self._policy
        if policy is Policy.BLOCK or policy is Policy.ERROR:
            reason = self._lacking(lane, envelope.size_bytes)
            if reason is None:
                self._accept(lane, envelope)
            elif policy is Policy.ERROR:
                self.books.sent += 1
                self.books.refused += 1
            return reason
        books = self.books
        items_max = 1 if policy is Policy.LATEST else self._items_max
        queue = lane.queue
        # What is lent does not count here. Only when it might matter are the queued bytes added up.
        queued_bytes = lane.bytes + envelope.size_bytes
        if queued_bytes > self._bytes_max:
            queued_bytes = sum(held.size_bytes for held in queue) + envelope.size_bytes
        if policy is Policy.DROP_NEWEST:
            if len(queue) >= items_max or (queue and queued_bytes > self._bytes_max):
                books.sent += 1
                books.drop(policy.value)
                return None
        else:
            while queue and (len(queue) >= items_max or queued_bytes > self._bytes_max):
                queued_bytes -= self._drop_head(lane).size_bytes
        self._accept(lane, envelope)
        return None

    def _accept(self, lane: Lane, envelope: Envelope) -> None:
        lane.queue.append(envelope)
        lane.items += 1
        lane.bytes += envelope.size_bytes
        self.books.sent += 1
        self.books.in_flight += 1

    def _drop_head(self, lane: Lane) -> Envelope:
        oldest = lane.queue.popleft()
        lane.items -= 1
        lane.bytes -= oldest.size_bytes
        self.books.in_flight -= 1
        self.books.drop(self._policy.value)
        return oldest

    def _lacking(self, lane: Lane, size_bytes: int) -> BlockReason | None:
        if lane.items == 0:
            lane.stopped = False
            return None
        if lane.items >= self._items_max:
            lane.stopped = self._policy is Policy.BLOCK
            return BlockReason.CREDIT_ITEMS
        if self._policy is Policy.BLOCK:
            if lane.items >= self._open_items:
                lane.stopped = True
            if lane.stopped:
                return BlockReason.ABOVE_WATERMARK
        return BlockReason.CREDIT_BYTES if lane.bytes + size_bytes > self._bytes_max else None

    def offer_waited(self, envelope: Envelope, now_ns: int) -> BlockReason | None:
        """As `offer`, for a message whose sender waited for credit: lateness is the fault of the wait."""
        if envelope.deadline_ns <= now_ns:
            self.expire_waiting()
            return None
        return self.offer(envelope, now_ns)

    def room(self, number: int) -> tuple[int, int]:
        """How many messages and bytes may be passed on in this lane without a second look, at most."""
        if self.drops:
            return _NO_LIMIT, _NO_LIMIT
        lane = self.lanes[number]
        return (0, 0) if lane.stopped else (self._open_items - lane.items, self._bytes_max - lane.bytes)

    def pass_on(self, envelope: Envelope) -> None:
        """Count a message that went over a link at once, without standing here; `release` ends it."""
        self.pass_many(envelope.priority, 1, envelope.size_bytes)

    def pass_many(self, number: int, items: int, size_bytes: int) -> None:
        """Count messages of one lane that went over a link at once; see `pass_on`."""
        lane = self.lanes[number]
        lane.items += items
        lane.bytes += size_bytes
        books = self.books
        books.sent += items
        books.in_flight += items

    def arrive_plain(self, envelopes: Sequence[Envelope]) -> int:
        """Take in messages if all are of one lane and there is room for all; their bytes, or -1: `arrive` each."""
        first = envelopes[0].priority
        lane = self.lanes[first]
        count = len(envelopes)
        size = 0
        for envelope in envelopes:
            if envelope.priority != first:
                return -1
            size += envelope.size_bytes
        items = lane.items + count
        if items > self._items_max or lane.bytes + size > self._bytes_max or self._policy is Policy.LATEST:
            return -1
        lane.queue.extend(envelopes)
        lane.items = items
        lane.bytes += size
        books = self.books
        books.sent += count
        books.in_flight += count
        return size

    def arrive(self, envelope: Envelope) -> None:
        """Take in what the other end of a link accepted: credit was used there, so only a dropping policy acts here.

        Raises: RemoteProtocolError when it was sent without credit.
        """
        lane = self.lanes[envelope.priority]
        policy = self._policy
        has_room = lane.items < self._items_max and lane.bytes + envelope.size_bytes <= self._bytes_max
        if has_room and (policy is not Policy.LATEST or not lane.items):
            self._accept(lane, envelope)
        elif policy is not Policy.BLOCK and policy is not Policy.ERROR:
            self._offer_full(lane, envelope)
        elif lane.items:
            raise RemoteProtocolError(
                f"a message of {envelope.size_bytes} bytes came without credit: {lane.items} of {self._items_max} and "
                f"{lane.bytes} of {self._bytes_max} bytes are used"
            )
        else:
            self._accept(lane, envelope)

    def miss(self, is_stale: bool) -> None:
        """Count what the other end of a link accepted and will not come: it expired, or a newer one overtook it."""
        books = self.books
        books.sent += 1
        if is_stale:
            books.drop(Policy.LATEST.value)
        else:
            books.expired += 1
            books.missed.transport += 1

    def release(self, number: int, items: int, size_bytes: int) -> bool:
        """Return credit that the other end of a link is done with; True when the lane accepts again."""
        lane = self.lanes[number]
        lane.items -= items
        lane.bytes -= size_bytes
        if lane.stopped and lane.items <= self.qos.low_items:
            lane.stopped = False
        return not lane.stopped

    def withdraw(self, envelope: Envelope) -> bool:
        """Take back an accepted message as if it had never been offered; False when it is not queued any more."""
        lane = self.lanes[envelope.priority]
        if envelope not in lane.queue:
            return False
        lane.queue.remove(envelope)
        lane.items -= 1
        lane.bytes -= envelope.size_bytes
        lane.stopped = lane.stopped and lane.items > self.qos.low_items
        self.books.sent -= 1
        self.books.in_flight -= 1
        return True

    def reason(self, envelope: Envelope) -> BlockReason:
        """Why a lane in front of which others wait accepts nothing."""
        return self._lacking(self.lanes[envelope.priority], envelope.size_bytes) or BlockReason.CREDIT_ITEMS

    @property
    def stopped(self) -> bool:
        """Whether some lane waits to come down to its low watermark."""
        return any(lane.stopped for lane in self.lanes)

    def expire_waiting(self) -> None:
        """Count a message whose deadline passed while its sender waited for credit."""
        self.books.sent += 1
        self.books.expired += 1
        self.books.missed.transport += 1

    def credit_items(self, priority: int) -> int:
        """How many more messages of this lane would be accepted now without dropping any."""
        lane = self.lanes[priority]
        if self._policy is Policy.BLOCK or self._policy is Policy.ERROR:
            return 0 if lane.stopped else max(0, max(self._open_items, 1) - lane.items)
        items_max = 1 if self._policy is Policy.LATEST else self._items_max
        return max(0, items_max - len(lane.queue))

    # --- the consumer's side ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Which lanes have messages queued, as bits."""
        first, second, third, fourth = self.lanes
        mask = 1 if first.queue else 0
        if second.queue:
            mask |= 2
        if third.queue:
            mask |= 4
        return mask | 8 if fourth.queue else mask

    @property
    def ended(self) -> bool:
        """Finished, and nothing queued."""
        return self.finished and not self.waiting

    def take(self, limit: int, lane: int | None = None) -> list[Envelope]:
        """Lend up to `limit` messages of one lane; see `contracts.DataSource.take`."""
        if lane is None:
            mask = self.waiting
            if not mask:
                return []
            lane = self._turns.choose(mask)
        queue = self.lanes[lane].queue
        if len(queue) <= limit:
            taken = list(queue)
            queue.clear()
            return taken
        if limit == 1:
            return [queue.popleft()]
        return [queue.popleft() for _ in range(limit)]

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a take."""
        if taken:
            self.lanes[taken[0].priority].queue.extendleft(reversed(taken))

    def settle(self, taken: Sequence[Envelope], expired: int = 0) -> bool:
        """Return the credit of what was lent and count it; True when the lane accepts again.

        All of `taken` is of one lane.
        """
        if not taken:
            return False
        lane = self.lanes[taken[0].priority]
        count = len(taken)
        lane.items -= count
        lane.bytes -= taken[0].size_bytes if count == 1 else sum([envelope.size_bytes for envelope in taken])
        books = self.books
        books.in_flight -= count
        books.delivered += count - expired
        if expired:
            books.expired += expired
            books.missed.queued += expired
        if lane.stopped and lane.items <= self.qos.low_items:
            lane.stopped = False
        return not lane.stopped

    def abort(self, cause: str = "abort") -> int:
        """Drop everything queued, counted under `cause`; returns how many."""
        count = 0
        for lane in self.lanes:
            count += len(lane.queue)
            lane.items -= len(lane.queue)
            lane.bytes -= sum(envelope.size_bytes for envelope in lane.queue)
            lane.stopped = lane.stopped and lane.items > self.qos.low_items
            lane.queue.clear()
        if count:
            self.books.in_flight -= count
            self.books.drop(cause, count)
        return count

    def __repr__(self) -> str:
        depth = "/".join(str(lane.items) for lane in self.lanes)
        return (
            f"<LaneQueue {self._policy.value} {depth} of {self._items_max} each{' finished' if self.finished else ''}>"
        )
