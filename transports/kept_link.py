"""The ends of a route that outlives its consumer's process without a loss; see `plan.Delivery`.

Rules, beside those of `link_port`.
1. The producer's end keeps what it sent, as bytes, until the consumer's end has settled it. That is within its credit.
2. A successor of the consumer is sent all of that again, in order and with the same numbers. It counts as sent once,
   and as `redelivered` beside the books. What is late by then expires.
3. The consumer's end settles in the order of arrival, and under `effectively_once` only what a snapshot knows that is
   safe. Until then the messages use credit.
4. What it knows already, because it arrived before or a restored snapshot knows it, is settled and not handled again.
   Numbers are compared only within one run of the producer.
5. What the producer's process held is lost with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.envelope import Gap
from flowbridge.limits import LANES
from flowbridge.machines.settlement import Settlement, Unsettled
from flowbridge.plan import Delivery
from flowbridge.transports.link_port import LinkSink
from flowbridge.transports.link_source import PRODUCER_DIED, LinkSource
from flowbridge.transports.settling import Settling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.codec.route_frames import RouteOpen
    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Route
    from flowbridge.transports.route_link import FarLink, NearLink


def make_sink(route: Route, clock: Clock) -> LinkSink:
    """The producer's end that the route asks for."""
    return LinkSink(route, clock) if route.qos.delivery is Delivery.AT_MOST_ONCE else KeepingSink(route, clock)


def make_source(route: Route, clock: Clock) -> LinkSource:
    """The consumer's end that the route asks for."""
    return LinkSource(route, clock) if route.qos.delivery is Delivery.AT_MOST_ONCE else KeepingSource(route, clock)


class KeepingSink(LinkSink):
    """The producer's end that keeps what is not settled."""

    __slots__ = ("_unsettled",)

    def __init__(self, route: Route, clock: Clock) -> None:
        super().__init__(route, clock)
        self._unsettled = Unsettled()

    def _send_plain(self, envelopes: Sequence[Envelope], now_ns: int, *, is_now: bool) -> tuple[int, bytes | None]:
        """None at all: what may have to be sent again is kept as bytes, as its sender may change the object."""
        return 0, None

    def _went(self, envelopes: Sequence[Envelope]) -> None:
        super()._went(envelopes)
        self._unsettled.sent(envelopes)

    def _take_report(self, link: NearLink) -> None:
        super()._take_report(link)
        for lane, (items, _) in enumerate(self._outcomes.unsettled):
            self._unsettled.settle(lane, items)

    def _forget(self) -> int:
        """What the consumer had not settled stands in the queue again, before everything else."""
        if self._is_left:
            return super()._forget()
        self._outcomes.start_over()
        for again in self._unsettled.take_all():
            self._queue.give_back(again)
            self._queue.books.redelivered += len(again)
        return 0


class KeepingSource(Settling, LinkSource):
    """The consumer's end that settles in order."""

    __slots__ = ("_is_resumed", "_known", "_mark", "_seen", "_settlement")

    def __init__(self, route: Route, clock: Clock) -> None:
        self._settlement = Settlement(waits=route.qos.delivery is Delivery.EFFECTIVELY_ONCE)
        self._seen = [-1] * LANES  # the last number that arrived of each lane, or that a snapshot knows
        self._known: Sequence[int] = ()  # by the snapshot that was restored: the producer's run, then as `_seen`
        self._is_resumed = route.qos.delivery is not Delivery.EFFECTIVELY_ONCE
        super().__init__(route, clock)

    def attach(self, link: FarLink, opened: RouteOpen | None = None) -> None:
        """Go on over this link; numbers of another run of the producer mean nothing here."""
        before = self._opened
        super().attach(link, opened)
        if before is not None and opened is not None and before.producer != opened.producer:
            self._seen = [-1] * LANES
            self._settlement.resume(self._seen)
        self._recall()

    def resume(self, known: Sequence[int]) -> None:
        """Begin, with the state of a snapshot that knew this, as `mark` returned it; empty without one."""
        self._known, self._is_resumed = known, True
        self._recall()
        self._start()

    def _recall(self) -> None:
        """Take over what the restored snapshot knows, once it is clear that it is of this run of the producer."""
        if self._opened is None or not self._known:
            return
        (producer, *seen), self._known = self._known, ()
        if producer == self._opened.producer:
            self._seen = seen
            self._settlement.resume(seen)
        else:
            self._expect(Gap(max(seen) + 1, None, PRODUCER_DIED))

    def _start(self) -> None:
        if self._is_resumed:
            super()._start()

    def _arrived(self, envelopes: Sequence[Envelope]) -> None:
        seen, books = self._seen, self._queue.books
        new: list[Envelope] = []
        for envelope in envelopes:
            if envelope.seq > seen[envelope.priority]:
                seen[envelope.priority] = envelope.seq
                new.append(envelope)
            else:
                self._arrivals.arrived(envelope.priority, envelope.size_bytes)
                books.sent += 1
                books.delivered += 1
                books.repeated += 1
        if new:
            super()._arrived(new)
        if len(new) < len(envelopes):
            self._report_soon()

    def mark(self, number: int) -> list[int]:
        """A snapshot is taken now: what `resume` needs to go on from it."""
        return [0 if self._opened is None else self._opened.producer, *self._settlement.mark(number)]
