"""The two ends of a route whose producer and consumer are joined by a link: the data ports of the byte tiers.

Rules.
1. Credit is kept at the producer's end: its queue counts a message until the consumer's end reports how it ended.
2. Whatever the link has room for goes over at once, the most urgent lane first; the rest stands in the queue here,
   where a dropping policy can still reach it. A dropping policy acts at the consumer's end too, on arrival. What is
   late by the time there is room is counted as expired and does not travel; so is what the link refuses because it
   would be late before it arrives.
3. A consumer that vanishes loses what it had not reported: counted as dropped by `lost`. A producer that vanishes
   breaks the route once everything that arrived was taken.
4. A link that is lost may be followed by another. The counts of a link start at zero, so a source takes nothing from
   the new one before everything of the old one is settled.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from flowbridge.codec.route_frames import RouteOpen
from flowbridge.errors import BrokenError, ClosedError, EncodeError, RemoteProtocolError, WouldBlock
from flowbridge.limits import LANES, SLICE_ITEMS_MAX
from flowbridge.machines.outcome import NOTHING, Outcomes
from flowbridge.plan import Policy
from flowbridge.transports.link_pair import LinkDataPort
from flowbridge.transports.link_source import LinkSource
from flowbridge.transports.route_link import without_refused
from flowbridge.transports.route_queue import QueueSink, RouteQueue
from flowbridge.transports.route_records import RecordWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Route
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.route_link import NearLink

__all__ = ["LinkDataPort", "LinkSink", "LinkSource"]

_log: Final = logging.getLogger("flowbridge.transports")
_PRODUCER_BITS: Final = 62  # enough that no two runs of a producer are taken for one


class LinkSink(QueueSink):
    """The producer's end; see `contracts.DataSink`."""

    __slots__ = (
        "_flushed",
        "_is_full",
        "_is_left",
        "_lazy_items",
        "_link",
        "_loop",
        "_lost_items",
        "_outcomes",
        "_producer",
        "_records",
        "_seen",
        "_soon",
        "on_lost",
    )

    def __init__(self, route: Route, clock: Clock, link: NearLink | None = None) -> None:
        super().__init__(RouteQueue(route.id, route.qos, clock))
        ends = self._ends
        ends.idle = False  # nobody is told of news here: whoever sends pushes
        ends.on_wait = self._ask
        self._loop = asyncio.get_running_loop()
        self._outcomes = Outcomes(self._queue)
        self._records = RecordWriter()
        self._seen: Sequence[int] = NOTHING  # the report that was taken in last
        self._link: NearLink | None = None
        self._lazy_items = max(1, min(route.qos.high_items, route.qos.capacity_items) // 2)
        self._is_full = False
        self._is_left = False
        self._soon = False
        self._flushed: asyncio.Future[None] | None = None
        self._producer = secrets.randbits(_PRODUCER_BITS)
        self._lost_items = 0  # with the last consumer: the next one is told
        self.on_lost: Callable[[Exception], None] = self._break_unless_finished
        """What to do when the link is lost, such as to `attach` another; else it breaks a route that is not over."""
        if link is not None:
            self.attach(link)

    # --- the link ---------------------------------------------------------------------------------------------------

    @property
    def opening(self) -> RouteOpen:
        """What the next consumer is to be told when the route is opened."""
        return RouteOpen(producer=self._producer, lost=self._lost_items)

    def attach(self, link: NearLink) -> None:
        """Go on over this link; messages that wait go over it first. One that is still there is taken as lost."""
        self._leave()
        self._admit()
        if self._is_left:
            link.close()
            return
        self._link = link
        self._records.reset()
        self._seen = NOTHING
        link.records = self._records
        link.on_news = self._news
        link.on_lost = partial(self._lost, link)
        self._is_full = False
        self._pump_backlog()
        if self._wants():
            self._ask()

    def _leave(self) -> int:
        """Let go of the link; what it had not reported is counted as lost. Returns how many."""
        link = self._link
        if link is None:
            return 0
        self._take_report(link)
        self._link = None
        link.close()
        before = 0 if self._outcomes.has_heard else self._lost_items  # that consumer died before it handled anything
        lost = self._forget()
        self._lost_items = before + lost
        return lost

    def _forget(self) -> int:
        """The consumer is gone: what becomes of that which it had not reported. Returns how many were lost."""
        return self._outcomes.lose()

    def _lost(self, link: NearLink, error: Exception) -> None:
        if link is not self._link:
            return
        self._take_report(link)
        was_finished = self._outcomes.is_finished
        lost = self._leave()
        if lost:
            _log.warning("%s: %d messages were lost with the consumer: %s", self._ends.edge, lost, error)
        elif was_finished and not self._queue.waiting:
            self._outcomes.is_finished = True  # a successor of the consumer is sent the end once more
        try:
            self.on_lost(error)
        finally:
            self._admit()

    def _break_unless_finished(self, error: Exception) -> None:
        if not self._outcomes.is_finished:
            self.break_off(error)

    def break_off(self, why: Exception) -> None:
        """The consumer will not come back: what waits here is counted as dropped by `lost`, senders get BrokenError."""
        self._queue.abort("lost")
        self._ends.break_off(why)
        self._tell_flushed()

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def books(self) -> EdgeBooks:
        """The counts of this route: what was decided here, and what the other end reported of the rest."""
        self._refresh()
        return self._queue.books

    def send_nowait(self, envelope: Envelope) -> None:
        """Accept the message or say at once why not."""
        went, tree = self._send_one(envelope)
        if went:
            return
        if self._ends.guarded:
            self._guard(envelope)
        prepared = self._prepare(envelope, tree)
        now_ns = prepared.sent_ns = self._now_ns()
        reason = self._offer(prepared, now_ns)
        if reason is not None:
            raise WouldBlock(reason, self._ends.edge)
        self._pump()

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        """Accept messages in order, as many as there is credit for and up to one that cannot be written.

        Raises: EncodeError when the first cannot be: it is counted as refused, the others are untouched.
        """
        ends = self._ends
        self._refresh()
        if ends.guarded:
            if ends.ended:
                self._refuse()
            if any(ends.waiters[envelope.priority] for envelope in envelopes):
                return 0
        done, tree = 0, None
        if envelopes and not ends.guarded:
            done, tree = self._send_plain(envelopes, self._now_ns(), is_now=False)
        while done < len(envelopes):
            part = self._affordable(envelopes[done : done + SLICE_ITEMS_MAX], tree, is_first=not done)
            tree = None
            if not part:
                break
            if self._queue.drops and not self._queue.waiting and not self._is_full and not self._soon:
                count = self._pass_on(part)
            else:
                count = self._queue.offer_many(part, self._now_ns())
                self._pump()
            done += count
            if count < len(part):
                break
        return done

    def _send_one(self, envelope: Envelope) -> tuple[bool, bytes | None]:
        """As `_send_plain`, for one message; when it did not go, the newest report was taken in.

        As long as half of the credit is left, reports can wait; that the consumer closed its end, the link sees.
        """
        ends = self._ends
        tree = None
        if not ends.guarded and self._queue.lanes[envelope.priority].items < self._lazy_items:
            count, tree = self._send_plain((envelope,), self._now_ns(), is_now=True)
            if count:
                return True, None
        self._refresh()
        if tree is None and not ends.guarded:
            count, tree = self._send_plain((envelope,), self._now_ns(), is_now=True)
            return count > 0, tree
        return False, tree

    def _send_plain(self, envelopes: Sequence[Envelope], now_ns: int, *, is_now: bool) -> tuple[int, bytes | None]:
        """Send the first messages without preparing and queueing them, as far as that is the same.

        Nobody waits for credit. Returns how many, and the payload of the next as a tree in bytes if that was made.
        """
        link, queue = self._link, self._queue
        if link is None or self._is_full or self._soon or queue.waiting:
            return 0, None
        lane = envelopes[0].priority
        items, size_bytes = queue.room(lane)
        if items <= 0:
            return 0, None
        count, size_bytes, tree = link.push_plain(envelopes, items, size_bytes, now_ns, now_ns if is_now else -1)
        if count:
            queue.pass_many(lane, count, size_bytes)
            self._outcomes.pushed(lane, size_bytes, count)
        return count, tree

    def _affordable(self, envelopes: Sequence[Envelope], tree: bytes | None, *, is_first: bool) -> list[Envelope]:
        """Prepare messages up to the first that must wait, that one included, or up to one that cannot be written.

        `tree` is the first payload as a tree in bytes if they are at hand.
        Raises: EncodeError when that is the very first of all; it is counted as refused.
        """
        queue = self._queue
        room = [queue.credit_items(lane) for lane in range(LANES)] if queue.qos.policy is Policy.BLOCK else None
        part: list[Envelope] = []
        for envelope in envelopes:
            try:
                part.append(self._records.prepare(envelope, tree))
                tree = None
            except EncodeError as error:
                if is_first and not part:
                    raise self._refused(error) from error
                break
            if room is not None:
                room[envelope.priority] -= 1
                if room[envelope.priority] < 0:
                    break
        return part

    async def send(self, envelope: Envelope) -> None:
        """Accept the message, waiting for credit where the policy is `block`."""
        went, tree = self._send_one(envelope)
        if went:
            return
        if self._ends.ended:
            self._refuse()
        # `tell` within is not heard (nothing is idle), so what was accepted is pushed here.
        await super().send(self._prepare(envelope, tree))
        self._pump()

    def credit_items(self, priority: int) -> int:
        """How many more messages this lane accepts now."""
        self._refresh()
        return super().credit_items(priority)

    async def wait_writable(self) -> None:
        """Return once no lane is stopped at its watermark, or the route ended."""
        self._refresh()
        await super().wait_writable()

    async def finish(self) -> None:
        """End of stream, after everything sent before."""
        await super().finish()
        self._pump()

    async def flushed(self) -> None:
        """Return once the consumer's end has seen the end of the stream, or the route is closed or broken."""
        while not self._is_flushed:
            if self._flushed is None:
                self._flushed = self._loop.create_future()
            self._ask()
            await asyncio.shield(self._flushed)

    @property
    def _is_flushed(self) -> bool:
        ends = self._ends
        return self._outcomes.is_finished or ends.abandoned or ends.broken is not None or self._is_left

    def _pass_on(self, envelopes: Sequence[Envelope]) -> int:
        """Send past the empty queue, so that a dropping policy acts at the consumer's end, where the older ones are."""
        queue, link = self._queue, self._link
        now_ns = self._now_ns()
        timely: list[Envelope] = []
        for envelope in envelopes:
            if envelope.deadline_ns > now_ns:
                timely.append(envelope)
            else:
                queue.offer(envelope, now_ns)  # counts it as late
        count = 0 if link is None else link.push(timely)
        went = timely[:count]
        if link is not None and link.refused:
            for _ in link.refused:
                queue.expire_waiting()
            went = without_refused(link, went)
        for envelope in went:
            queue.pass_on(envelope)
            self._outcomes.pushed(envelope.priority, envelope.size_bytes)
        if count < len(timely):
            queue.offer_many(timely[count:], now_ns)
            self._is_full = True
            self._ask()
        return len(envelopes)

    def _prepare(self, envelope: Envelope, tree: bytes | None) -> Envelope:
        try:
            return self._records.prepare(envelope, tree)
        except EncodeError as error:
            raise self._refused(error) from error

    def _refused(self, error: EncodeError) -> EncodeError:
        books = self._queue.books
        books.sent += 1
        books.refused += 1
        return EncodeError(f"{self._ends.edge}: {error}")

    def _pump(self, *, is_backlog: bool = False) -> None:
        """Push what the link has room for."""
        link, queue, outcomes = self._link, self._queue, self._outcomes
        if link is None or self._is_full or self._soon:
            return
        while queue.waiting:
            taken = queue.take(SLICE_ITEMS_MAX)
            if is_backlog:
                taken = self._timely(taken)
            count = link.push(taken) if taken else 0
            went = taken[:count]
            if link.refused:
                self._miss(link.refused)
                self._loop.call_soon(self._admit)
                went = without_refused(link, went)
            self._went(went)
            if count < len(taken):
                queue.give_back(taken[count:])
                self._is_full = True
                self._ask()
                return
        if queue.finished and not outcomes.has_ended:
            outcomes.has_ended = link.push_end()
            if not outcomes.has_ended:
                self._is_full = True
                self._ask()

    def _went(self, envelopes: Sequence[Envelope]) -> None:
        """Messages that stood in the queue went over the link."""
        for envelope in envelopes:
            self._outcomes.pushed(envelope.priority, envelope.size_bytes)

    def _pump_backlog(self) -> None:
        """As `_pump`, for what has stood here a while: it may be late by now."""
        expired = self._queue.books.expired
        self._pump(is_backlog=True)
        if self._queue.books.expired != expired:
            self._admit()

    def _timely(self, taken: list[Envelope]) -> list[Envelope]:
        """Those that are not late; the others are counted as expired on the way."""
        now_ns = self._now_ns()
        late = [envelope for envelope in taken if envelope.deadline_ns <= now_ns]
        if not late:
            return taken
        self._miss(late)
        return [envelope for envelope in taken if envelope.deadline_ns > now_ns]

    def _miss(self, late: Sequence[Envelope]) -> None:
        """Count messages that were taken from the queue here as expired on the way."""
        self._queue.settle(late, len(late))
        missed = self._queue.books.missed
        missed.queued -= len(late)
        missed.transport += len(late)

    def _tell_flushed(self) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None and not flushed.done():
            flushed.set_result(None)

    # --- what comes back --------------------------------------------------------------------------------------------

    def _wants(self) -> bool:
        """Whether somebody waits for credit or room."""
        ends = self._ends
        return self._is_full or self._flushed is not None or bool(ends.writable) or any(ends.waiters)

    @property
    def needs_loop(self) -> bool:
        """See `contracts.BlockingSink`."""
        link, ends = self._link, self._ends
        return (
            link is None
            or self._is_full  # else nothing waits in the queue here
            or self._soon
            or self._flushed is not None
            or ends.guarded
            or bool(ends.writable)
            or link.needs_loop
        )

    def _ask(self) -> None:
        """Hear of it when credit or room comes back."""
        link = self._link
        if link is not None and link.ask():
            self._loop.call_soon(self._news)

    def _news(self) -> None:
        if self._link is None:
            return
        self._is_full = False
        self._refresh()
        self._pump_backlog()
        if self._wants():
            self._ask()

    def _refresh(self) -> None:
        if self._link is not None:
            self._take_report(self._link)

    def _take_report(self, link: NearLink) -> None:
        counts = link.counts()
        if counts is self._seen:
            return
        self._seen = counts
        ends = self._ends
        try:
            accepting = self._outcomes.apply(counts)
        except RemoteProtocolError as error:
            self._loop.call_soon(link.fail, error)
            self._loop.call_soon(self._lost, link, error)
            return
        if self._outcomes.is_finished:
            self._tell_flushed()
        if self._outcomes.is_closed and not ends.abandoned:
            ends.abandoned = ends.guarded = True
            self._queue.abort()
            ends.fail_waiters(BrokenError, "the consumer closed its end")
            self._tell_flushed()
        if accepting and (ends.guarded or ends.writable):
            self._admit(accepting)

    def _admit(self, lanes: int = -1) -> None:
        """Let waiting senders in; `lanes` are bits."""
        ends = self._ends
        for lane in range(LANES):
            if lanes >> lane & 1 and ends.waiters[lane]:
                ends.admit_waiters(lane)
                self._pump_soon()
        if ends.writable and not self._queue.stopped:
            ends.tell_writable()

    def _pump_soon(self) -> None:
        """Push once the senders that were admitted have run: one that was cancelled then takes its message back."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._soon = False
        self._pump_backlog()

    @property
    def is_left(self) -> bool:
        """Whether it was closed."""
        return self._is_left

    def close(self) -> None:
        """Leave the link; what was not reported is counted as lost, what was not sent as `abort`. Idempotent."""
        if self._is_left:
            return
        self._is_left = True
        if not self._ends.ended:
            self._queue.finished = self._ends.guarded = True
            self._ends.fail_waiters(ClosedError, "closed")
        self._leave()
        self._queue.abort()
        self._tell_flushed()
