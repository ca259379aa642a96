"""The tier of one machine: ports and buses between its processes; see `contracts.Transport`."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self

from flowbridge.codec.route_frames import OPEN, TrailReader, read_open, write_open
from flowbridge.errors import BrokenError, CodecError, RemoteProtocolError
from flowbridge.limits import SHM_POOL_PORTS_MAX
from flowbridge.shm import native_problem
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.link_port import LinkDataPort, LinkSink, LinkSource
from flowbridge.transports.uds.socket_link import SocketFarLink, SocketNearLink
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from flowbridge.contracts import Clock, EventBus
    from flowbridge.plan import Route
    from flowbridge.shm.port import ShmProducer, SlotPool
    from flowbridge.transports.uds.bus import BusPair
    from flowbridge.transports.uds.ring_link import RingFarLink, RingNearLink

_log: Final = logging.getLogger("flowbridge.transports")
_warned: list[str] = []


class _Near:
    """The producer's end of a route's socket: opens the route and feeds the near link."""

    def __init__(self, route: Route, sock: socket.socket, producer: ShmProducer | None) -> None:
        peer = f"route {route.id}"
        self._half: SocketNearLink | RingNearLink
        link = FramedLink(connector(UdsStream, sock, peer=peer), on_frame=self._frame, on_lost=self._lost)
        if producer is None:
            link.send(OPEN, write_open(route.id, 0))
            self._half = SocketNearLink(link)
        else:
            from flowbridge.transports.uds.ring_link import RingNearLink

            descriptors = producer.descriptors()
            link.send(OPEN, write_open(route.id, len(descriptors)), b"", descriptors)
            self._half = RingNearLink(producer, link)

    @property
    def half(self) -> SocketNearLink | RingNearLink:
        """What a sink is attached to."""
        return self._half

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        self._half.frame(kind, header, body)

    def _lost(self, error: Exception | None) -> None:
        self._half.lost(error)


class _Far:
    """The consumer's end of a route's socket: waits for the producer to open the route, then feeds the far link."""

    def __init__(self, route: Route, sock: socket.socket, source: LinkSource, trails: TrailReader) -> None:
        self._route = route
        self._source = source
        self._trails = trails
        self._half: SocketFarLink | RingFarLink | None = None
        connect = connector(UdsStream, sock, peer=f"route {route.id}")
        self._link = FramedLink(connect, on_frame=self._frame, on_lost=self._lost, descriptors=True)

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        if self._half is not None:
            self._half.frame(kind, header, body)
            return
        if kind != OPEN:
            raise RemoteProtocolError(f"route {self._route.id}: frame {kind:#x} before it is open")
        try:
            count = read_open(header, self._route.id)
        except CodecError as error:
            raise RemoteProtocolError(f"route {self._route.id}: {error}") from error
        self._link.stream.descriptors = False
        if not count:
            self._half = SocketFarLink(self._link, self._trails)
        else:
            self._half = self._join_ring(self._link.take_descriptors(count))
        self._source.attach(self._half)

    def _join_ring(self, descriptors: tuple[int, ...]) -> RingFarLink:
        try:
            problem = native_problem()
            if problem is not None:
                raise RemoteProtocolError(f"route {self._route.id}: the producer has a ring, but here {problem}")
            from flowbridge.shm.port import ShmConsumer
            from flowbridge.transports.uds.ring_link import RingFarLink

            consumer = ShmConsumer.attach(descriptors, name=self._route.id)
            return RingFarLink(consumer, self._link, self._trails)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _lost(self, error: Exception | None) -> None:
        if self._half is not None:
            self._half.lost(error)
        else:
            why = error or BrokenError(f"route {self._route.id}: the producer vanished before it opened the route")
            self._source.on_lost(why)

    def close(self) -> None:
        """Close the socket of a route that was never opened."""
        if self._half is None:
            self._link.close()


class UdsTransport:
    """Makes ports whose ends may be in two processes of this machine."""

    tier = "ipc"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._trails = TrailReader()
        self._sinks: list[LinkSink] = []
        self._sources: list[tuple[LinkSource, _Far]] = []
        self._pools: list[tuple[SlotPool, int]] = []
        self._bus: BusPair | None = None

    async def open_port(self, route: Route) -> LinkDataPort:
        """Both ends of a route in this process, joined as two processes are."""
        near, far = socket.socketpair()
        source = await self.open_source(route, far)
        return LinkDataPort(route, await self.open_sink(route, near), source)

    async def open_bus(self) -> EventBus:
        """A bus whose owner is at the other end of a socket, in this process too; every call gives the same one."""
        if self._bus is None:
            from flowbridge.transports.uds.bus import connected_bus

            self._bus = await connected_bus(self._clock)
        return self._bus.client

    async def open_sink(self, route: Route, sock: socket.socket) -> LinkSink:
        """The producer's end; the other end of the connected socket is given to `open_source`, here or elsewhere."""
        sink = LinkSink(route, self._clock, self._near(route, sock))
        self._sinks.append(sink)
        return sink

    async def open_source(self, route: Route, sock: socket.socket) -> LinkSource:
        """The consumer's end of the connected socket."""
        source = LinkSource(route, self._clock)
        self._sources.append((source, _Far(route, sock, source, self._trails)))
        return source

    def rejoin_sink(self, sink: LinkSink, route: Route, sock: socket.socket) -> None:
        """Let a sink whose consumer vanished go on with another one."""
        sink.attach(self._near(route, sock))

    def rejoin_source(self, source: LinkSource, route: Route, sock: socket.socket) -> None:
        """Let a source whose producer vanished go on with another one."""
        self._sources = [entry for entry in self._sources if entry[0] is not source]
        self._sources.append((source, _Far(route, sock, source, self._trails)))

    def _near(self, route: Route, sock: socket.socket) -> SocketNearLink | RingNearLink:
        return _Near(route, sock, self._producer(route)).half

    def _producer(self, route: Route) -> ShmProducer | None:
        """A ring of this process's pool, None where the native module is missing."""
        problem = native_problem()
        if problem is not None:
            if not _warned:
                _warned.append(problem)
                _log.warning("%s: routes of tier ipc go over sockets, which copy more", problem)
            return None
        from flowbridge.shm.port import ShmSpec, SlotPool

        if not self._pools or self._pools[-1][1] >= SHM_POOL_PORTS_MAX:
            self._pools.append((SlotPool(ShmSpec(), name="slots"), 0))
        pool, used = self._pools[-1]
        self._pools[-1] = (pool, used + 1)
        return pool.producer(name=route.id)

    async def aclose(self) -> None:
        """Close every end. Idempotent."""
        sources, self._sources = self._sources, []
        sinks, self._sinks = self._sinks, []
        for source, far in sources:
            await source.aclose()
            source.close()
            far.close()
        for sink in sinks:
            sink.close()
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.aclose()
        pools, self._pools = self._pools, []
        for pool, _ in pools:
            pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
