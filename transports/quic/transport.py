"""The tier between machines: ports, buses and parts over sessions; see `placing.NodeTransport`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from flowbridge.addresses import NodeAddress, PeerIdentity, check_node_name, parse_address
from flowbridge.codec.arrays import read_array, write_array
from flowbridge.codec.route_frames import TrailReader
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import AuthError, CodecError, LocalProtocolError, RemoteProtocolError, ResourceError
from flowbridge.limits import PART_UNSENT_BYTES_MAX, SETTLE_NS
from flowbridge.placing import Ticket
from flowbridge.plan import Placement
from flowbridge.time.far import FarTimes
from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.bus_client import BusClient
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.kept_link import make_sink, make_source
from flowbridge.transports.link_port import LinkDataPort, LinkSink, LinkSource
from flowbridge.transports.quic.meeting import Meeting
from flowbridge.transports.quic.part_link import NodeWorker, StreamPartLink
from flowbridge.transports.quic.peers import Peers
from flowbridge.transports.quic.route_end import FarEnd, NearEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbridge.addresses import TlsFiles
    from flowbridge.contracts import Clock, EventBus
    from flowbridge.placing import NodeListener, PartLink
    from flowbridge.plan import Route
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.settings import EngineName, QuicSettings
    from flowbridge.transports.quic.stream import SessionStream

_HERE: Final = Placement()
_KEY_BYTES: Final = 16
_AWAIT: Final = 0
_DIAL: Final = 1


@dataclass(frozen=True, slots=True)
class Opening:
    """This process's end of a stream that it is to open to a node."""

    node: str
    address: NodeAddress
    key: bytes

    def close(self) -> None:
        """Nothing is open yet."""


class QuicTransport:
    """Makes ports whose ends are on two machines. `nodes` are the addresses of hosts by name.

    `settings` replaces `tls` and `engine` for those who need more than names of files.
    """

    tier = "quic"

    def __init__(
        self,
        clock: Clock,
        *,
        nodes: Mapping[str, NodeAddress] | None = None,
        tls: TlsFiles | None = None,
        settings: QuicSettings | None = None,
        engine: EngineName = "auto",
    ) -> None:
        self._clock = clock
        self._nodes = dict(nodes or {})
        self._meeting = Meeting()
        self._peers = Peers(clock, self._meeting, tls=tls, settings=settings, engine=engine)
        self._trails = TrailReader()
        self._sinks: list[LinkSink] = []
        self._sources: list[tuple[LinkSource, FarEnd]] = []
        self._bus_servers: list[BusServer] = []
        self._own_bus: tuple[LocalEventBus, BusClient] | None = None
        self._joining: set[asyncio.Task[None]] = set()

    @property
    def is_under_way(self) -> bool:
        """Whether bytes are between two sessions that this process has with itself: written, and not handed on."""
        found: dict[bytes, Session] = {}
        for session in self._peers.sessions:
            other = found.setdefault(session.identifier, session)
            if other is not session and not session.is_level_with(other):
                return True
        return False

    # --- ports ------------------------------------------------------------------------------------------------------

    async def open_port(self, route: Route) -> LinkDataPort:
        """Both ends of a route in this process, joined as two machines are."""
        near, far = await self._both_here()
        sink = await self.open_sink(route, near)
        return LinkDataPort(route, sink, await self.open_source(route, far))

    async def _both_here(self) -> tuple[Opening, Ticket]:
        address = await self._peers.listen_to_self()
        key = os.urandom(_KEY_BYTES)
        return Opening(self._peers.own_name, address, key), _awaiting(key)

    async def open_sink(self, route: Route, end: Any) -> LinkSink:
        """The producer's end. Raises: BrokenError, AuthError, RemoteProtocolError."""
        stream, times = await self._stream(end, StreamKind.ROUTE, route.id)
        sink = make_sink(route, self._clock)
        sink.attach(NearEnd(route, stream, times, self._clock, sink.opening).half)
        self._sinks = [other for other in self._sinks if not other.is_left]
        self._sinks.append(sink)
        return sink

    async def open_source(self, route: Route, end: Any) -> LinkSource:
        """The consumer's end. Raises: BrokenError, AuthError, RemoteProtocolError."""
        stream, times = await self._stream(end, StreamKind.ROUTE, route.id)
        source = make_source(route, self._clock)
        self._attach_source(source, route, stream, times)
        return source

    def _attach_source(self, source: LinkSource, route: Route, stream: SessionStream, times: FarTimes) -> None:
        kept: list[tuple[LinkSource, FarEnd]] = []
        for entry in self._sources:
            if entry[0] is source or entry[0].is_left:
                entry[1].close()
            else:
                kept.append(entry)
        kept.append((source, FarEnd(route, stream, source, self._trails, times)))
        self._sources = kept

    def rejoin_sink(self, sink: LinkSink, route: Route, end: Any) -> None:
        """Let a sink whose consumer vanished go on with another one."""

        async def rejoin() -> None:
            stream, times = await self._stream(end, StreamKind.ROUTE, route.id)
            sink.attach(NearEnd(route, stream, times, self._clock, sink.opening).half)

        self._join_soon(rejoin(), sink)

    def rejoin_source(self, source: LinkSource, route: Route, end: Any) -> None:
        """Let a source whose producer vanished go on with another one."""

        async def rejoin() -> None:
            stream, times = await self._stream(end, StreamKind.ROUTE, route.id)
            self._attach_source(source, route, stream, times)

        self._join_soon(rejoin(), source)

    def _join_soon(self, rejoin: Any, port: LinkSink | LinkSource) -> None:
        async def run() -> None:
            try:
                await rejoin
            except (ResourceError, AuthError, RemoteProtocolError) as error:
                port.on_lost(error)

        task = asyncio.get_running_loop().create_task(run())
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _stream(self, end: Any, kind: StreamKind, label: str) -> tuple[SessionStream, FarTimes]:
        """The session stream that an end stands for, opened or awaited."""
        if isinstance(end, Ticket):
            end = _read_ticket(end)
        if isinstance(end, Opening):
            session = await self._peers.session(end.node, end.address)
            stream = session.open(kind, label, end.key)
        else:
            stream = await self._meeting.expect(end, label)
            if (stream.kind, stream.label) != (kind, label):
                error = RemoteProtocolError(f"{stream.peer}: opened {stream.label!r}, where {label!r} was expected")
                stream.fail(error)
                raise error
        return stream, FarTimes(self._clock, stream.offset)

    # --- places -----------------------------------------------------------------------------------------------------

    async def start_worker(self, place: Placement) -> NodeWorker:
        """Meet the node of a place. Raises: ResourceError, AuthError, RemoteProtocolError."""
        assert place.host is not None, f"{place} names no host"
        session = await self._peers.session(place.host, self._address(place.host))
        stream = session.open(StreamKind.PART, "")
        return NodeWorker(session.peer, stream)

    async def meet_host(self, address: str) -> PartLink:
        """Nodes are met, they do not meet hosts."""
        raise LocalProtocolError(f"a node does not connect to its host ({address})")

    def _address(self, host: str) -> NodeAddress:
        address = self._nodes.get(host)
        if address is None:
            known = ", ".join(sorted(self._nodes)) or "none"
            raise ResourceError(f"host {host} has no address; give --node {host}=quic://HOST:PORT (known: {known})")
        return address

    async def join(self, route: Route, near: Placement, far: Placement) -> tuple[Any, Any]:
        """The ends of a connection for a route. Whoever is on no node dials; between two nodes the producer does."""
        del route
        key = os.urandom(_KEY_BYTES)
        if far.host is not None:
            return self._dialling(near, far.host, key), _awaiting(key)
        assert near.host is not None, f"neither {near} nor {far} is on another host"
        return _awaiting(key), self._dialling(far, near.host, key)

    def _dialling(self, place: Placement, host: str, key: bytes) -> Opening | Ticket:
        address = self._address(host)
        if place == _HERE:
            return Opening(host, address, key)
        return Ticket(write_array((_DIAL, key, host, address.host, address.port)))

    async def serve_node(
        self, listen: NodeAddress, name: str, on_host: Callable[[PartLink, PeerIdentity], None]
    ) -> NodeListener:
        """Listen as the node of this name; see `placing.NodeTransport`."""

        def on_part(stream: SessionStream, identity: PeerIdentity) -> None:
            on_host(StreamPartLink(stream, unsent_bytes_max=PART_UNSENT_BYTES_MAX), identity)

        return await self._peers.serve(listen, name, on_part)

    # --- buses ------------------------------------------------------------------------------------------------------

    async def open_bus(self) -> EventBus:
        """A bus whose owner is at the other end of a session, in this process too; every call gives the same one."""
        if self._own_bus is None:
            bus = LocalEventBus(self._clock)
            near, far = await self._both_here()
            client = asyncio.ensure_future(self.open_far_bus(near))
            stream, times = await self._stream(far, StreamKind.BUS, "bus")
            self._server(bus).attach(stream.connect, times)
            self._own_bus = bus, await client
        return self._own_bus[1]

    def _server(self, bus: EventBus) -> BusServer:
        server = next((server for server in self._bus_servers if server.bus is bus), None)
        if server is None:
            server = BusServer(bus, self._clock)
            self._bus_servers.append(server)
        return server

    def serve_bus(self, bus: EventBus, place: Placement) -> Ticket:
        """Let a node use a bus of this process."""
        assert place.host is not None, f"{place} names no host"
        key = os.urandom(_KEY_BYTES)
        session = self._peers.met(place.host)
        stream = session.open(StreamKind.BUS, "bus", key)
        identity = session.identity
        who = str(PeerIdentity(identity.fabric, identity.node)) if identity is not None else place.host
        self._server(bus).attach(stream.connect, FarTimes(self._clock, session.offset), who)
        return _awaiting(key)

    async def open_far_bus(self, end: Any) -> BusClient:
        """The bus at the other end of a connection."""
        stream, times = await self._stream(end, StreamKind.BUS, "bus")
        client = BusClient(stream.connect, self._clock, times)
        try:
            await client.greet()
        except BaseException:
            await client.aclose()
            raise
        return client

    # --- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close every end and every session. Idempotent."""
        for task in tuple(self._joining):
            task.cancel()
        own, self._own_bus = self._own_bus, None
        if own is not None:
            await own[1].aclose()
        servers, self._bus_servers = self._bus_servers, []
        for server in servers:
            await server.aclose()
        if own is not None:
            await own[0].aclose()
        sources, self._sources = self._sources, []
        sinks, self._sinks = self._sinks, []
        for source, far in sources:
            await source.aclose()
            source.close()
            far.close()
        for sink in sinks:
            sink.close()
        self._meeting.close()
        await self._peers.aclose(SETTLE_NS / 1e9)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def _awaiting(key: bytes) -> Ticket:
    return Ticket(write_array((_AWAIT, key)))


def _read_ticket(ticket: Ticket) -> Opening | bytes:
    """What a ticket says: a stream to open, or the key of one that comes. Raises: RemoteProtocolError."""
    try:
        items = read_array(ticket.data, None)
        match items:
            case [0, bytes(key)] if len(key) == _KEY_BYTES:
                return key
            case [1, bytes(key), str(node), str(host), int(port)] if len(key) == _KEY_BYTES:
                check_node_name(node)
                return Opening(node, parse_address(str(NodeAddress(host, port))), key)
            case _:
                pass
    except (CodecError, LocalProtocolError) as error:
        raise RemoteProtocolError(f"a ticket cannot be read: {error}") from error
    raise RemoteProtocolError("a ticket says neither to await a stream nor to open one")
