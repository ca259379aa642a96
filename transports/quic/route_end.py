"""The two ends of a route on a session stream: who opens it says which route it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.codec.route_frames import OPEN, RouteOpen, TrailReader, read_open, write_open
from flowbridge.errors import BrokenError, CodecError, RemoteProtocolError
from flowbridge.transports.framed import FramedLink
from flowbridge.transports.quic.course import RouteCourse
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import Clock
    from flowbridge.plan import Route
    from flowbridge.time.far import Times
    from flowbridge.transports.framed import ByteStream
    from flowbridge.transports.link_port import LinkSource
    from flowbridge.transports.quic.stream import SessionStream


class NearEnd:
    """The producer's end: opens the route and feeds the near link `half`."""

    def __init__(self, route: Route, stream: SessionStream, times: Times, clock: Clock, opening: RouteOpen) -> None:
        link = FramedLink(stream.connect, on_frame=self._frame, on_lost=self._lost)
        self.half = StreamNearLink(link, times, RouteCourse(stream, clock))
        link.send(OPEN, write_open(route.id, opening))

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        self.half.frame(kind, header, body)

    def _lost(self, error: Exception | None) -> None:
        self.half.lost(error)


class FarEnd:
    """The consumer's end: waits for the producer to open the route, then feeds the far link."""

    def __init__(
        self, route: Route, connect: Callable[..., ByteStream], source: LinkSource, trails: TrailReader, times: Times
    ) -> None:
        self._route = route
        self._source = source
        self._make: Any = lambda link: StreamFarLink(link, trails, times)
        self._half: StreamFarLink | None = None
        self._link = FramedLink(connect, on_frame=self._frame, on_lost=self._lost)

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
