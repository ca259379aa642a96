"""The consumer's end of a route that comes over a link; see `link_port` for the rules."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from flowbridge.envelope import Gap
from flowbridge.errors import ClosedError
from flowbridge.machines.outcome import Arrivals
from flowbridge.transports.route_link import BlockingLink
from flowbridge.transports.route_queue import QueueSource, RouteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.codec.route_frames import RouteOpen
    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Route
    from flowbridge.transports.route_link import FarLink

_log: Final = logging.getLogger("flowbridge.transports")
PRODUCER_DIED: Final = "the producer died; another one counts from 0"


class LinkSource(QueueSource):
    """The consumer's end; see `contracts.DataSource`."""

    __slots__ = (
        *("_arrivals", "_blocking", "_gap", "_is_scheduled", "_is_started", "_last_seq", "_later", "_link", "_loop"),
        *("_opened", "_owes_report", "on_gap", "on_lost"),
    )

    def __init__(self, route: Route, clock: Clock, link: FarLink | None = None) -> None:
        super().__init__(RouteQueue(route.id, route.qos, clock))
        self._loop = asyncio.get_running_loop()
        self._arrivals = Arrivals(self._queue)
        self._link: FarLink | None = None
        self._blocking: BlockingLink | None = None  # the same, if it can be waited for without the loop
        self._is_started = False  # the link brings messages
        self._owes_report = False
        self._is_scheduled = False  # the loop will report in its next turn
        self._later: asyncio.TimerHandle | None = None  # ... or after a while
        self._opened: RouteOpen | None = None  # by the producer that sends, or sent last
        self._gap: Gap | None = None  # before what the link brings next
        self._last_seq: int | None = None
        self.on_gap: Callable[[Gap], None] | None = None
        """Hears that messages are missing, before those that follow arrive."""
        self.on_lost: Callable[[Exception], None] = self.break_off
        """What to do when the link is lost before the end; by default the route is broken."""
        if link is not None:
            self.attach(link)

    def attach(self, link: FarLink, opened: RouteOpen | None = None) -> None:
        """Go on over this link, once everything that came over the last one is settled; `opened` is what it said."""
        last, self._link = self._link, link
        if last is not None:
            last.close()
        self._blocking = link if isinstance(link, BlockingLink) else None
        self._is_started = False
        link.on_messages = self._arrived
        self._expect(None if opened is None else self._missing(opened))
        link.on_end = self._finished
        link.on_missed = self._missed
        link.on_lost = partial(self._lost, link)
        self._start()

    def _missing(self, opened: RouteOpen) -> Gap | None:
        """What is missing between the last message and the next one, as far as is known by now."""
        before, self._opened = self._opened, opened
        if before is not None and before.producer != opened.producer:
            last, self._last_seq = self._last_seq, None
            first = 0 if last is None else last + 1
            return Gap(first, None, PRODUCER_DIED)
        if opened.lost:
            return Gap(None, None, "the consumer died", opened.lost)
        return self._gap

    def _expect(self, gap: Gap | None) -> None:
        """Tell this before what the link brings first."""
        link, self._gap = self._link, gap
        if gap is not None and link is not None:
            link.on_messages = partial(self._arrived_after, link)

    def _arrived_after(self, link: FarLink, envelopes: Sequence[Envelope]) -> None:
        """The first messages after a gap."""
        link.on_messages = self._arrived
        gap = self._gap
        if gap is not None and gap.count is not None:
            to_seq = max(0, envelopes[0].seq - 1)
            gap = replace(gap, from_seq=max(0, to_seq - gap.count + 1), to_seq=to_seq)
        self._tell_gap(gap)
        self._arrived(envelopes)

    def _tell_gap(self, gap: Gap | None) -> None:
        self._gap = None
        if gap is None:
            return
        self.books.gaps += 1
        _log.warning("%s: %s", self._ends.edge, gap, extra={"edge": self._ends.edge})
        if self.on_gap is not None:
            self.on_gap(gap)

    def _start(self) -> None:
        """Start the link if nothing of an earlier one is held."""
        link = self._link
        if link is None or self._is_started or any(lane.items for lane in self._queue.lanes):
            return
        self._is_started = True
        self._arrivals.rebase()
        link.start()
        if self._arrivals.is_closed:
            self._report_soon()

    def break_off(self, why: Exception) -> None:
        """The producer will not come back: BrokenError once everything that arrived was taken."""
        if not self._queue.finished:
            self._ends.break_off(why)

    def _arrived(self, envelopes: Sequence[Envelope]) -> None:
        queue, arrivals = self._queue, self._arrivals
        self._last_seq = envelopes[-1].seq
        dropped = queue.books.dropped_total if queue.drops else 0
        size_bytes = queue.arrive_plain(envelopes)
        if size_bytes >= 0:
            arrivals.arrived(envelopes[0].priority, size_bytes, len(envelopes))
            envelopes = ()
        try:
            for envelope in envelopes:
                queue.arrive(envelope)
                arrivals.arrived(envelope.priority, envelope.size_bytes)
        finally:
            if self._ends.abandoned:
                queue.abort()
                self._report_soon()
            else:
                if queue.drops and queue.books.dropped_total != dropped:
                    self._report_soon()
                self._tell()

    def _missed(self, priority: int, size_bytes: int, is_stale: bool) -> None:
        self._queue.miss(is_stale)
        self._arrivals.arrived(priority, size_bytes)
        self._report_soon()

    def _tell(self) -> None:
        try:
            self._ends.tell()
        except Exception as error:  # the listener's mistake, which must not stop the link
            what = f"{self._ends.edge}: who was told of news failed"
            self._loop.call_exception_handler({"message": what, "exception": error})

    def _finished(self) -> None:
        self._tell_gap(self._gap)
        self._queue.finished = self._ends.guarded = True
        self._report_soon()
        self._tell()
        self._ends.wake_receiver()

    def _lost(self, link: FarLink, error: Exception) -> None:
        if link is not self._link:
            return
        self._link = self._blocking = None
        self._wait_no_more()
        link.close()
        if not self._queue.finished:
            self.on_lost(error)

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """Return what `take` lent.

        The producer's end hears of it in the next turn of the loop; where that costs something and it can go on
        without, after `report_delay_s`.
        """
        self._queue.settle(taken, expired)
        link = self._link
        if link is not None and link.report_delay_s and self._may_wait(taken):
            self._report_later(link.report_delay_s)
        else:
            self._freed()

    def _may_wait(self, taken: Sequence[Envelope]) -> bool:
        """Whether nobody is likely to need the credit of these before long."""
        if not taken or not self._is_started or self._queue.finished or self._ends.abandoned:
            return False
        return not self._arrivals.owes_much(taken[0].priority)

    async def aclose(self) -> None:
        """Take no more; what is queued is counted as dropped by `abort`, what still arrives too."""
        self._arrivals.is_closed = True
        await super().aclose()
        self._freed()

    def _freed(self) -> None:
        """Less is held."""
        if self._is_started:
            self._report_soon()
        else:
            self._start()

    def _report_soon(self) -> None:
        if self._link is not None:
            self._owes_report = True
            if not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon(self._report_owed)

    def _report_later(self, delay_s: float) -> None:
        self._owes_report = True
        if not self._is_scheduled and self._later is None:
            self._later = self._loop.call_later(delay_s, self._report_owed)

    def _report_owed(self) -> None:
        self._is_scheduled = False
        self._wait_no_more()
        if self._owes_report:
            self._report()

    def _wait_no_more(self) -> None:
        later, self._later = self._later, None
        if later is not None:
            later.cancel()

    def _report(self) -> None:
        self._owes_report = False
        if self._link is not None and self._is_started:
            self._link.report(self._arrivals.counts())

    @property
    def owes_report(self) -> bool:
        """Whether something has ended that the producer's end was not told of."""
        return self._owes_report

    def wait_blocking(self, timeout_ns: int) -> bool:
        """Bring what has arrived without the loop; see `contracts.BlockingSource`."""
        link = self._blocking
        if link is None or not self._is_started:
            return False
        if self._owes_report:  # the producer may wait for just this credit
            self._report()
        return link.wait(timeout_ns)

    def leave_to_loop(self) -> None:
        """Let the loop bring what arrives."""
        if self._blocking is not None:
            self._blocking.leave_to_loop()

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a `take`."""
        super().give_back(taken)
        if self._ends.abandoned:
            self._freed()

    @property
    def is_left(self) -> bool:
        """Whether it was closed, and has no link."""
        return self._ends.ended and self._link is None

    def close(self) -> None:
        """Leave the link, after a last report. What arrived can still be taken. Idempotent."""
        if self._link is not None:
            self._report()
            self._wait_no_more()
            link, self._link, self._blocking = self._link, None, None
            link.close()
        if not self._ends.ended:  # nobody may wait for ever
            self._ends.break_off(ClosedError(f"{self._ends.edge}: closed"))
