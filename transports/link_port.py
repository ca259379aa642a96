"""The two ends of a route whose producer and consumer are joined by a link: the data ports of the byte tiers.

Rules.
1. Credit is kept at the producer's end: its queue counts a message until the consumer's end reports how it ended.
2. Whatever the link has room for goes over at once, the most urgent lane first; the rest stands in the queue here,
   where a dropping policy can still reach it. A dropping policy acts at the consumer's end too, on arrival.
3. A consumer that vanishes loses what it had not reported: counted as dropped by `lost`. A producer that vanishes
   breaks the route once everything that arrived was taken.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from flowbridge.errors import BrokenError, ClosedError, EncodeError, RemoteProtocolError, WouldBlock
from flowbridge.limits import LANES, SLICE_ITEMS_MAX
from flowbridge.machines.outcome import Arrivals, Outcomes
from flowbridge.transports.route_queue import QueueSink, QueueSource, RouteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Route
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.route_link import FarLink, NearLink

_log: Final = logging.getLogger("flowbridge.transports")


class LinkSink(QueueSink):
    """The producer's end; see `contracts.DataSink`."""

    __slots__ = (
        *("_asked", "_end_pushed", "_flushed", "_is_full", "_is_left", "_link", "_outcomes", "_prepares", "_soon"),
        "on_lost",
    )

    def __init__(self, route: Route, clock: Clock, link: NearLink | None = None) -> None:
        super().__init__(RouteQueue(route.id, route.qos, clock))
        ends = self._ends
        ends.idle = False  # nobody is told of news here: whoever sends pushes
        ends.on_wait = self._ask
        self._outcomes = Outcomes(self._queue)
        self._link: NearLink | None = None
        self._prepares: NearLink | None = None  # the link, also when it is lost: its successor sends what waits
        self._is_full = False
        self._is_left = False
        self._asked = False
        self._soon = False
        self._end_pushed = False
        self._flushed: asyncio.Future[None] | None = None
        self.on_lost: Callable[[Exception], None] = self.break_off
        """What to do when the link is lost; by default the route is broken. Another may `attach` a new link later."""
        if link is not None:
            self.attach(link)

    # --- the link ---------------------------------------------------------------------------------------------------

    def attach(self, link: NearLink) -> None:
        """Go on over this link; messages that wait go over it first."""
        assert self._link is None, f"{self._ends.edge}: has a link already"
        self._link = self._prepares = link
        link.on_news = self._news
        link.on_lost = self._lost
        self._is_full = False
        self._pump()
        if self._wants():
            self._ask()

    def _lost(self, error: Exception) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        self._take_report(link)
        link.close()
        lost = self._outcomes.lose()
        if lost:
            _log.warning("%s: %d messages were lost with the consumer: %s", self._ends.edge, lost, error)
        self._asked = False
        if self._outcomes.is_finished and not lost:
            return  # everything was sent and how it ended is known: what happens to the other end does not matter
        self._end_pushed = False
        self.on_lost(error)
        for lane in range(LANES):
            self._ends.admit_waiters(lane)

    def break_off(self, why: Exception) -> None:
        """The consumer will not come back: what waits here is counted as dropped by `lost`, senders get BrokenError."""
        self._drop_queued("lost")
        self._ends.break_off(why)
        self._tell_flushed()

    def _drop_queued(self, cause: str) -> None:
        books = self._queue.books
        before = books.dropped.get("abort", 0)
        count = self._queue.abort()
        if count and cause != "abort":
            books.dropped["abort"] = before
            if not before:
                del books.dropped["abort"]
            books.drop(cause, count)

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def books(self) -> EdgeBooks:
        """The counts of this route: what was decided here, and what the other end reported of the rest."""
        self._refresh()
        return self._queue.books

    def send_nowait(self, envelope: Envelope) -> None:
        """Accept the message or say at once why not."""
        self._refresh()
        if self._ends.guarded:
            self._guard(envelope)
        prepared = self._prepare(envelope)
        now_ns = prepared.sent_ns = self._now_ns()
        reason = self._offer(prepared, now_ns)
        if reason is not None:
            raise WouldBlock(reason, self._ends.edge)
        self._pump()

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        """Accept messages in order, as many as there is credit for."""
        ends = self._ends
        self._refresh()
        if ends.guarded:
            if ends.ended:
                self._refuse()
            if any(ends.waiters[envelope.priority] for envelope in envelopes):
                return 0
        done = 0
        for start in range(0, len(envelopes), SLICE_ITEMS_MAX):
            part = [self._prepare(envelope) for envelope in envelopes[start : start + SLICE_ITEMS_MAX]]
            if self._queue.drops and not self._queue.waiting and not self._is_full and not self._soon:
                count = self._pass_on(part)
            else:
                count = self._queue.offer_many(part, self._now_ns())
                self._pump()
            done += count
            if count < len(part):
                break
        return done

    async def send(self, envelope: Envelope) -> None:
        """Accept the message, waiting for credit where the policy is `block`."""
        self._refresh()
        if self._ends.ended:
            self._refuse()
        # `tell` within is not heard (nothing is idle), so what was accepted is pushed here.
        await super().send(self._prepare(envelope))
        self._pump()

    def credit_items(self, priority: int) -> int:
        """How many more messages this lane accepts now."""
        self._refresh()
        return super().credit_items(priority)

    async def finish(self) -> None:
        """End of stream, after everything sent before."""
        await super().finish()
        self._pump()

    async def flushed(self) -> None:
        """Return once the consumer's end has seen the end of the stream, or the route is closed or broken."""
        while not self._is_flushed:
            if self._flushed is None:
                self._flushed = asyncio.get_running_loop().create_future()
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
        for envelope in timely[:count]:
            queue.pass_on(envelope)
            self._outcomes.pushed(envelope.priority, envelope.size_bytes)
        if count < len(timely):
            queue.offer_many(timely[count:], now_ns)
            self._is_full = True
            self._ask()
        return len(envelopes)

    def _prepare(self, envelope: Envelope) -> Envelope:
        link = self._prepares
        assert link is not None, f"{self._ends.edge}: was never joined to its consumer"
        try:
            return link.prepare(envelope)
        except EncodeError as error:
            books = self._queue.books
            books.sent += 1
            books.refused += 1
            raise EncodeError(f"{self._ends.edge}: {error}") from error

    def _pump(self) -> None:
        """Push what the link has room for."""
        link, queue = self._link, self._queue
        if link is None or self._is_full or self._soon:
            return
        while queue.waiting:
            taken = queue.take(SLICE_ITEMS_MAX)
            count = link.push(taken)
            for envelope in taken[:count]:
                self._outcomes.pushed(envelope.priority, envelope.size_bytes)
            if count < len(taken):
                queue.give_back(taken[count:])
                self._is_full = True
                self._ask()
                return
        if queue.finished and not self._end_pushed:
            self._end_pushed = link.push_end()
            if not self._end_pushed:
                self._is_full = True
                self._ask()

    def _tell_flushed(self) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None and not flushed.done():
            flushed.set_result(None)

    # --- what comes back --------------------------------------------------------------------------------------------

    def _wants(self) -> bool:
        """Whether somebody waits for credit or room."""
        ends = self._ends
        return self._is_full or self._flushed is not None or bool(ends.writable) or any(ends.waiters)

    def _ask(self) -> None:
        """Hear of it when credit or room comes back."""
        if self._asked or self._link is None:
            return
        self._asked = True
        if self._link.ask():
            asyncio.get_running_loop().call_soon(self._news)

    def _news(self) -> None:
        self._asked = False
        if self._link is None:
            return
        self._is_full = False
        self._refresh()
        self._pump()
        if self._wants():
            self._ask()

    def _refresh(self) -> None:
        if self._link is not None:
            self._take_report(self._link)

    def _take_report(self, link: NearLink) -> None:
        ends = self._ends
        try:
            accepting = self._outcomes.apply(link.counts())
        except RemoteProtocolError as error:
            asyncio.get_running_loop().call_soon(self._lost, error)
            return
        if self._outcomes.is_finished:
            self._tell_flushed()
        if self._outcomes.is_closed and not ends.abandoned:
            ends.abandoned = ends.guarded = True
            self._drop_queued("abort")
            ends.fail_waiters(BrokenError, "the consumer closed its end")
            self._tell_flushed()
        if accepting:
            for lane in range(LANES):
                if accepting >> lane & 1 and ends.waiters[lane]:
                    ends.admit_waiters(lane)
                    self._pump_soon()
            if ends.writable and not self._queue.stopped:
                ends.tell_writable()

    def _pump_soon(self) -> None:
        """Push once the senders that were admitted have run: one that was cancelled then takes its message back."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._soon = False
        self._pump()

    def close(self) -> None:
        """Leave the link; what was not reported is counted as lost. Idempotent."""
        self._is_left = True
        link, self._link = self._link, None
        if link is not None:
            self._take_report(link)
            link.close()
            self._outcomes.lose()
            self._drop_queued("abort")
        if not self._ends.ended:
            self._queue.finished = self._ends.guarded = True
            self._ends.fail_waiters(ClosedError, "closed")
        self._tell_flushed()


class LinkSource(QueueSource):
    """The consumer's end; see `contracts.DataSource`."""

    __slots__ = ("_arrivals", "_link", "_reports", "_starts", "on_lost")

    def __init__(self, route: Route, clock: Clock, link: FarLink | None = None) -> None:
        super().__init__(RouteQueue(route.id, route.qos, clock))
        self._arrivals = Arrivals(self._queue)
        self._link: FarLink | None = None
        self._reports = False
        self._starts = False  # the link begins once what came over the last one is settled
        self.on_lost: Callable[[Exception], None] = self.break_off
        """What to do when the link is lost before the end; by default the route is broken."""
        if link is not None:
            self.attach(link)

    def attach(self, link: FarLink) -> None:
        """Go on over this link."""
        assert self._link is None, f"{self._ends.edge}: has a link already"
        self._link = link
        link.on_messages = self._arrived
        link.on_end = self._finished
        link.on_lost = self._lost
        self._starts = True
        self._start()

    def _start(self) -> None:
        """Begin: the counts of a link are of what came over it, so nothing older may still be held."""
        if self._starts and self._link is not None and not any(lane.items for lane in self._queue.lanes):
            self._starts = False
            self._arrivals.rebase()
            self._link.start()
        if self._arrivals.is_closed:
            self._report_soon()

    def break_off(self, why: Exception) -> None:
        """The producer will not come back: BrokenError once everything that arrived was taken."""
        if not self._queue.finished:
            self._ends.break_off(why)

    def _arrived(self, envelopes: Sequence[Envelope]) -> None:
        queue, arrivals = self._queue, self._arrivals
        for envelope in envelopes:
            arrivals.arrived(envelope.priority, envelope.size_bytes)
            queue.arrive(envelope)
        if self._ends.abandoned:
            queue.abort()
            self._report_soon()
            return
        if queue.books.dropped:
            self._report_soon()
        self._ends.tell()

    def _finished(self) -> None:
        self._queue.finished = self._ends.guarded = True
        self._report_soon()
        self._ends.tell()
        self._ends.wake_receiver()

    def _lost(self, error: Exception) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
            if not self._queue.finished:
                self.on_lost(error)

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """Return what `take` lent; the producer's end hears of it in the next turn of the loop."""
        self._queue.settle(taken, expired)
        if self._starts:
            self._start()
        self._report_soon()

    async def aclose(self) -> None:
        """Take no more; what is queued is counted as dropped by `abort`, what still arrives too."""
        self._arrivals.is_closed = True
        await super().aclose()
        self._report_soon()

    def _report_soon(self) -> None:
        if not self._reports and self._link is not None:
            self._reports = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._reports = False
        if self._link is not None and not self._starts:
            self._link.report(self._arrivals.counts())

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a `take`."""
        super().give_back(taken)
        if self._ends.abandoned:
            self._report_soon()

    def close(self) -> None:
        """Leave the link, after a last report. Idempotent."""
        if self._link is not None:
            self._report()
            link, self._link = self._link, None
            link.close()


class LinkDataPort:
    """Both ends of a route whose link has both ends in this process; see `contracts.DataPort`."""

    __slots__ = ("route", "sink", "source")

    def __init__(self, route: Route, sink: LinkSink, source: LinkSource) -> None:
        self.route = route
        self.sink = sink
        self.source = source

    def __repr__(self) -> str:
        return f"<LinkDataPort {self.route.id}>"
