"""The tier of one machine: ports and buses between its processes; see `contracts.Transport`."""

from __future__ import annotations

import logging
import os
import weakref
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self

from flowbridge.codec.route_frames import OPEN, RouteOpen, TrailReader, read_open, write_open
from flowbridge.errors import (
    BrokenError,
    CodecError,
    FlowbridgeError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceError,
    ShmFullError,
)
from flowbridge.limits import SHM_POOL_PORTS_MAX
from flowbridge.plan import ContentType
from flowbridge.shm import native_problem
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.kept_link import make_sink, make_source
from flowbridge.transports.link_port import LinkDataPort, LinkSink, LinkSource
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink
from flowbridge.transports.uds.stream import UdsStream
from flowbridge.transports.uds.workers import meet_host, pair, start_worker

if TYPE_CHECKING:
    import socket

    from flowbridge.contracts import Clock, EventBus
    from flowbridge.plan import Placement, Route
    from flowbridge.shm.port import ShmProducer, SlotPool
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.bus_server import BusServer
    from flowbridge.transports.uds.bus import BusPair
    from flowbridge.transports.uds.ring_far import RingFarLink
    from flowbridge.transports.uds.ring_link import RingNearLink
    from flowbridge.transports.uds.workers import LocalWorker, SocketPartLink

_log: Final = logging.getLogger("flowbridge.transports")
_warned: list[str] = []


class _Near:
    """The producer's end of a route's socket: opens the route and feeds the near link."""

    def __init__(
        self, route: Route, sock: socket.socket, producer: ShmProducer | None, opening: RouteOpen, notes: EdgeBooks
    ) -> None:
        self._half: StreamNearLink | RingNearLink
        link = FramedLink(
            connector(UdsStream, sock, peer=f"route {route.id}"), on_frame=self._frame, on_lost=self._lost
        )
        descriptors: tuple[int, ...] = ()
        if producer is None:
            self._half = StreamNearLink(link)
        else:
            from flowbridge.transports.uds.ring_link import RingNearLink

            descriptors = producer.descriptors()
            self._half = RingNearLink(producer, link, notes)
        try:
            opened = opening._replace(descriptors=len(descriptors))
            link.send(OPEN, write_open(route.id, opened), b"", descriptors)
        except BrokenError:
            pass  # the consumer's process is gone already, which `_lost` is told
        except BaseException:
            self._half.close()
            raise

    @property
    def half(self) -> StreamNearLink | RingNearLink:
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
        self._half: StreamFarLink | RingFarLink | None = None
        connect = connector(UdsStream, sock, peer=f"route {route.id}")
        self._link = FramedLink(connect, on_frame=self._frame, on_lost=self._lost, descriptors=True)

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
        self._link.stream.descriptors = False
        if not opened.descriptors:
            self._half = StreamFarLink(self._link, self._trails)
        else:
            self._half = self._join_ring(self._link.take_descriptors(opened.descriptors))
        self._source.attach(self._half, opened)

    def _join_ring(self, descriptors: tuple[int, ...]) -> RingFarLink:
        try:
            problem = native_problem()
            if problem is not None:
                raise RemoteProtocolError(f"route {self._route.id}: the producer has a ring, but here {problem}")
            from flowbridge.shm.port import ShmConsumer
            from flowbridge.transports.uds.ring_far import RingFarLink

            consumer = ShmConsumer.attach(descriptors, name=self._route.id)
            return RingFarLink(consumer, self._link, self._trails, self._source.books)
        except (LocalProtocolError, ResourceError) as error:  # it has a consumer already, or cannot be mapped
            raise RemoteProtocolError(f"route {self._route.id}: the ring cannot be joined: {error}") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _lost(self, error: Exception | None) -> None:
        if self._half is not None:
            self._half.lost(error)
        else:
            self._link.close()
            if not isinstance(error, FlowbridgeError):  # such as for want of descriptors
                what = error or "the producer vanished before it opened the route"
                error = BrokenError(f"route {self._route.id}: {what}")
            self._source.on_lost(error)

    def close(self) -> None:
        """Close the socket of a route that was never opened."""
        if self._half is None:
            self._link.close()


def _warm_up(route: Route) -> None:
    """Load now what the first batch would have to wait for: a third of a second in a process that has just started."""
    if route.content_type is ContentType.ARROW:
        import_module("flowbridge.codec.batch")


class UdsTransport:
    """Makes ports whose ends may be in two processes of this machine."""

    tier = "ipc"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._trails = TrailReader()
        self._sinks: list[LinkSink] = []
        self._sources: list[tuple[LinkSource, _Far]] = []
        self._pools: list[tuple[SlotPool, list[ShmProducer]]] = []  # with those that use it
        self._left: list[weakref.ref[ShmProducer]] = []  # closed; those that live have slots out
        self._bus: BusPair | None = None
        self._bus_servers: list[BusServer] = []

    async def open_port(self, route: Route) -> LinkDataPort:
        """Both ends of a route in this process, joined as two processes are."""
        near, far = pair()
        source = LinkSource(route, self._clock)
        try:
            sink = self._open_sink(route, near, source.books)
        except BaseException:
            far.close()
            raise
        self._join(source, route, far)
        return LinkDataPort(route, sink, source)

    async def open_bus(self) -> EventBus:
        """A bus whose owner is at the other end of a socket, in this process too; every call gives the same one."""
        if self._bus is None:
            from flowbridge.transports.uds.bus import connected_bus

            self._bus = await connected_bus(self._clock)
        return self._bus.client

    async def open_sink(self, route: Route, sock: socket.socket) -> LinkSink:
        """The producer's end; the other end of the connected socket is given to `open_source`, here or elsewhere.

        The socket is this object's from here on, also when it raises: BrokenError, ResourceError.
        That the other end is gone is no error yet: the sink's `on_lost` is told.
        """
        return self._open_sink(route, sock)

    def _open_sink(self, route: Route, sock: socket.socket, notes: EdgeBooks | None = None) -> LinkSink:
        """A sink that notes in these books, or its own, what the link has to say for itself."""
        _warm_up(route)
        sink = make_sink(route, self._clock)
        sink.attach(self._near(route, sock, sink.opening, sink.books if notes is None else notes))
        self._sinks = [other for other in self._sinks if not other.is_left]
        self._sinks.append(sink)
        return sink

    async def open_source(self, route: Route, sock: socket.socket) -> LinkSource:
        """The consumer's end of the connected socket, which is this object's from here on."""
        _warm_up(route)
        source = make_source(route, self._clock)
        self._join(source, route, sock)
        return source

    def rejoin_sink(self, sink: LinkSink, route: Route, sock: socket.socket) -> None:
        """Let a sink whose consumer vanished go on with another one."""
        sink.attach(self._near(route, sock, sink.opening, sink.books))

    def rejoin_source(self, source: LinkSource, route: Route, sock: socket.socket) -> None:
        """Let a source whose producer vanished go on with another one."""
        self._join(source, route, sock)

    def _join(self, source: LinkSource, route: Route, sock: socket.socket) -> None:
        kept: list[tuple[LinkSource, _Far]] = []
        for entry in self._sources:
            if entry[0] is source or entry[0].is_left:
                entry[1].close()
            else:
                kept.append(entry)
        kept.append((source, _Far(route, sock, source, self._trails)))
        self._sources = kept

    async def join(self, route: Route, near: Placement, far: Placement) -> tuple[socket.socket, socket.socket]:
        """The two ends of a new connection for a route: the producer's and the consumer's, wherever they are here."""
        return pair()

    def serve_bus(self, bus: EventBus, place: Placement) -> socket.socket:
        """Let one more process use a bus of this one."""
        from flowbridge.transports.bus_server import BusServer
        from flowbridge.transports.uds.bus import serve_client

        server = next((server for server in self._bus_servers if server.bus is bus), None)
        if server is None:
            server = BusServer(bus, self._clock)
            self._bus_servers.append(server)
        near, far = pair()
        serve_client(server, near)
        return far

    async def open_far_bus(self, end: socket.socket) -> EventBus:
        """The bus at the other end of a connection."""
        from flowbridge.transports.uds.bus import UdsEventBus

        return await UdsEventBus.connect(end, self._clock, peer="event bus of the host")

    async def start_worker(self, place: Placement) -> LocalWorker:
        """Start the process of a place on this machine."""
        return start_worker(place)

    async def meet_host(self, address: str) -> SocketPartLink:
        """In a worker: the connection to the host that started it."""
        return meet_host(address)

    def _near(
        self, route: Route, sock: socket.socket, opening: RouteOpen, notes: EdgeBooks
    ) -> StreamNearLink | RingNearLink:
        producer = None
        try:
            producer = self._producer(route)
            notes.without_ring += producer is None
            return _Near(route, sock, producer, opening, notes).half
        except BaseException:
            if producer is not None:
                producer.close()
            sock.close()
            raise

    def _producer(self, route: Route) -> ShmProducer | None:
        """A ring of this process's pool, None where the native module or memory for one is missing."""
        problem = native_problem()
        if problem is not None:
            if not _warned:
                _warned.append(problem)
                _log.warning("%s: routes of tier ipc go over sockets, which copy more", problem)
            return None
        try:
            return self._new_producer(route)
        except ShmFullError as error:
            _log.warning("%s: goes over its socket, which copies more, for want of shared memory: %s", route.id, error)
            return None

    def _new_producer(self, route: Route) -> ShmProducer:
        from flowbridge.shm.port import ShmSpec, SlotPool

        for pool, users in self._pools:
            _ = pool.free_slots  # which looks after the returns of rings that are closed
            self._left += [weakref.ref(user) for user in users if user.closed]
            users[:] = [user for user in users if not user.closed]
        self._left = [left for left in self._left if (user := left()) is not None and not user.reclaim_from_dead()]
        for pool, users in self._pools:
            if len(users) < SHM_POOL_PORTS_MAX:
                with suppress(LocalProtocolError):  # its last places wait for slots of rings that are closed
                    users.append(pool.producer(name=route.id))
                    return users[-1]
        pool = SlotPool(ShmSpec(), name="slots")
        try:
            producer = pool.producer(name=route.id)
        except BaseException:
            pool.close()
            raise
        self._pools.append((pool, [producer]))
        return producer

    async def aclose(self) -> None:
        """Close every end. Idempotent."""
        servers, self._bus_servers = self._bus_servers, []
        for server in servers:
            await server.aclose()
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
