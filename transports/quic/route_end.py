"""The two ends of a route on a session stream: who opens it says which route it is."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from flowbridge.codec.route_frames import OPEN, RouteOpen, TrailReader, read_open, write_open
from flowbridge.errors import BrokenError, CodecError, RemoteProtocolError
from flowbridge.plan import Policy
from flowbridge.transports.framed import FramedLink
from flowbridge.transports.quic.course import RouteCourse
from flowbridge.transports.quic.single_link import SingleFarLink, SingleNearLink
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import Clock
    from flowbridge.plan import Qos, Route
    from flowbridge.time.far import Times
    from flowbridge.transports.link_port import LinkSource
    from flowbridge.transports.quic.stream import SessionStream


class Singly(enum.Enum):
    """Why messages of a route travel each on its own."""

    NEWEST = "newest"  # `latest`: what is overtaken is not wanted
    TIMELY = "timely"  # it may drop, and has a deadline: what is late is not wanted; the rest comes in order


def kind_of(qos: Qos) -> Singly | None:
    """Whether messages of a route travel each on its own; None when one behind the other."""
    if qos.policy is Policy.LATEST:
        return Singly.NEWEST
    if qos.policy in (Policy.DROP_OLDEST, Policy.DROP_NEWEST) and qos.deadline_ns is not None:
        return Singly.TIMELY
    return None


class NearEnd:
    """The producer's end: opens the route and feeds the near link `half`."""

    def __init__(self, route: Route, stream: SessionStream, times: Times, clock: Clock, opening: RouteOpen) -> None:
        link = FramedLink(stream.connect, on_frame=self._frame, on_lost=self._lost)
        course = RouteCourse(stream, clock)
        kind = kind_of(route.qos)
        self.half: StreamNearLink
        if kind is None:
            self.half = StreamNearLink(link, times, course)
        else:
            self.half = SingleNearLink(link, stream, times, course, clock, is_newest=kind is Singly.NEWEST)
        link.send(OPEN, write_open(route.id, opening))

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        self.half.frame(kind, header, body)

    def _lost(self, error: Exception | None) -> None:
        self.half.lost(error)


class FarEnd:
    """The consumer's end: waits for the producer to open the route, then feeds the far link."""

    def __init__(
        self, route: Route, stream: SessionStream, source: LinkSource, trails: TrailReader, times: Times
    ) -> None:
        self._route = route
        self._source = source
        kind = kind_of(route.qos)
        self._make: Callable[[FramedLink], StreamFarLink]
        if kind is None:
            self._make = lambda link: StreamFarLink(link, trails, times)
        else:
            self._make = lambda link: SingleFarLink(link, stream, trails, times, is_newest=kind is Singly.NEWEST)
        self._half: StreamFarLink | None = None
        self._link = FramedLink(stream.connect, on_frame=self._frame, on_lost=self._lost)

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        if self._half is not None:
            self._half.frame(kind, header, body)
            return
        if kind != OPEN:
            raise RemoteProtocolError(f"route {self._route.id}: frame {kind:#x} before it is open")
        try:
            opened = read_open(header, self._route.id)
        except CodecError as error:
            raise RemoteProtocolError(f"route {self._route.id}: {error}") from error
        if opened.descriptors:
            count = opened.descriptors
            raise RemoteProtocolError(f"route {self._route.id}: {count} descriptors cannot come from another machine")
        self._half = self._make(self._link)
        self._source.attach(self._half, opened)

    def _lost(self, error: Exception | None) -> None:
        if self._half is not None:
            self._half.lost(error)
        else:
            self._link.close()
            why = error or BrokenError(f"route {self._route.id}: the producer vanished before it opened the route")
            self._source.on_lost(why)

    def close(self) -> None:
        """Close the stream of a route that was never opened."""
        if self._half is None:
            self._link.close()
