"""The ends of flowbridge for `quic.py`: a node that listens and a host that dials it, as in a flow."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ipc_pair import percentiles_us
from quic_pair import (
    CROWD,
    ENGINE,
    FAR,
    HOST,
    NEAR,
    Stopwatch,
    both,
    bulk_figures,
    connections,
    idle_percent,
    no_packets,
    resident_bytes,
    run_pair,
)

from flowbridge.addresses import NodeAddress, TlsFiles
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import WouldBlock
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.placing import Ticket
from flowbridge.plan import ContentType, Placement, Plane, Qos, Route
from flowbridge.runtime.clock import SystemClock
from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.settings import QuicSettings
from flowbridge.transports.quic.tokens import make_token
from flowbridge.transports.quic.transport import QuicTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from quic_pair import Files, Talk

    from flowbridge.contracts import DataSink, DataSource, EventBus

NAME: Final = "flowbridge"
_TOPIC: Final = "bench.echo"
_SECOND_NS: Final = 10**9


def _with_token(files: Files, name: str, datagram_bytes: int | None, peer: str) -> dict[str, Any]:
    """As `_identity` with qh3, whose servers ask for no certificate: who dials shows a token."""
    if not peer:
        tls = TlsFiles(str(files.certificate(name)), str(files.key(name)), str(files.ca), token_keys=str(files.ca))
        settings = replace(_settings_of(files, name), client_certificates="none")
    else:
        key = files.ca.with_suffix(".key")
        token = files.ca.with_name(f"{name}.token")
        token.write_text(make_token(key, fabric="bench", node=name, audience=peer, now=time.time()), encoding="ascii")
        tls = TlsFiles("", "", str(files.ca), token=str(token))
        settings = QuicSettings(ca=files.ca)
    if datagram_bytes is None:
        return {"tls": tls, "engine": "qh3"}
    return {"tls": tls, "settings": replace(settings, engine="qh3", datagram_bytes=datagram_bytes)}


def _settings_of(files: Files, name: str) -> QuicSettings:
    return QuicSettings(certificate=files.certificate(name), key=files.key(name), ca=files.ca)


def _identity(files: Files, name: str, datagram_bytes: int | None, peer: str = "") -> dict[str, Any]:
    """What a transport is told of who it is, and whom it dials; without a size of datagrams it chooses one."""
    if ENGINE[0] == "qh3":
        return _with_token(files, name, datagram_bytes, peer)
    if datagram_bytes is None:
        return {"tls": TlsFiles(str(files.certificate(name)), str(files.key(name)), str(files.ca))}
    return {"settings": replace(_settings_of(files, name), datagram_bytes=datagram_bytes)}


def _route(name: str) -> Route:
    return Route(
        id=f"{name}/out->{name}/in",
        plane=Plane.DATA,
        source_node=name,
        source_port="out",
        target_node=name,
        target_port="in",
        qos=Qos(),
        content_type=ContentType.BYTES,
    )


def _packets(transport: QuicTransport) -> Callable[[], int]:
    """How many packets the sessions of a transport have sent, on their present connections."""
    peers: Any = transport._peers

    def count() -> int:
        sessions = [found.result()[1] for found in peers._dialers.values()]
        sessions += [session for node in peers._nodes for session in node._server.sessions]
        engines = [session._connection._engine for session in sessions if session._connection is not None]
        return sum(engine.stats().packets_sent for engine in engines)

    return count


@asynccontextmanager
async def _node(files: Files, name: str, talk: Talk, datagram_bytes: int | None) -> AsyncGenerator[QuicTransport]:
    """The end that listens, and has said where."""
    async with QuicTransport(SystemClock(), **_identity(files, name, datagram_bytes)) as transport:
        links: list[Any] = []
        node = await transport.serve_node(NodeAddress(HOST, 0), name, lambda link, _: links.append(link))
        talk.tell(node.address.port)
        yield transport


@asynccontextmanager
async def _host(
    files: Files, name: str, peer: str, talk: Talk, datagram_bytes: int | None
) -> AsyncGenerator[QuicTransport]:
    """The end that dials."""
    address = NodeAddress(HOST, talk.hear())
    options = _identity(files, name, datagram_bytes, peer)
    async with QuicTransport(SystemClock(), nodes={peer: address}, **options) as transport:
        await transport.start_worker(Placement(host=peer))
        yield transport


# --- requests over the bus --------------------------------------------------------------------------------------------


async def _ask(bus: EventBus, count: int, in_flight: int, watch: Stopwatch) -> None:
    payload, left = bytes(64), count

    async def one_after_the_other() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began_ns = time.perf_counter_ns()
            await bus.request(_TOPIC, Envelope(payload, size_bytes=64), timeout_ns=10 * _SECOND_NS)
            watch.since(began_ns)

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))


def requests(files: Files, datagram_bytes: int | None, count: int, in_flight: int) -> dict[str, float]:
    """A node asks the bus of its host, with so many requests under way."""

    async def near(talk: Talk) -> dict[str, Any]:
        async with _node(files, NEAR, talk, datagram_bytes) as transport:
            ticket = Ticket(bytes.fromhex(await asyncio.to_thread(talk.hear)))
            bus, watch = await transport.open_far_bus(ticket), Stopwatch()
            await _ask(bus, count // 5, in_flight, watch)
            talk.begin(_packets(transport))
            watch.begin()
            await _ask(bus, count, in_flight, watch)
            wall_s, spent = watch.wall_s, talk.end()
            await bus.aclose()
        return {**spent, "wall_s": wall_s, **percentiles_us(watch.took_ns)}

    async def far(talk: Talk) -> dict[str, Any]:
        async with _host(files, FAR, NEAR, talk, datagram_bytes) as transport:
            bus = LocalEventBus(SystemClock())
            async with bus.subscribe(_TOPIC, edge="bench") as subscription:
                answering = asyncio.create_task(_answer(bus, subscription))
                done = talk.watch(_packets(transport))
                talk.tell(transport.serve_bus(bus, Placement(host=NEAR)).data.hex())
                await done
                answering.cancel()
            spent = talk.spent()
        await bus.aclose()
        return spent

    asked, answered = run_pair(near, far)
    rtts = {"rtt_p50_us": asked["p50"], "rtt_p99_us": asked["p99"]}
    return {**rtts, "per_s": count / asked["wall_s"], **both(asked, answered, count)}


async def _answer(bus: EventBus, subscription: DataSource) -> None:
    while True:
        with await subscription.receive() as request:
            await bus.reply(request, Envelope(request.payload, size_bytes=request.size_bytes))


# --- data ports -------------------------------------------------------------------------------------------------------


async def _send(sink: DataSink, payload: bytes) -> None:
    envelope = Envelope(payload, Priority.NORMAL, NO_DEADLINE, time.monotonic_ns(), size_bytes=len(payload))
    try:
        sink.send_nowait(envelope)
    except WouldBlock:
        await sink.send(envelope)


class _Taker:
    """Waits for what a source brings."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._news = asyncio.Event()
        source.on_news(self._news.set)

    async def take(self) -> list[Envelope]:
        """What came, which is settled; empty at the end."""
        source = self._source
        while True:
            self._news.clear()
            taken = source.take(SLICE_ITEMS_MAX)
            if taken or source.ended:
                source.settle(taken)
                return list(taken)
            await self._news.wait()


def ports(files: Files, datagram_bytes: int | None, count: int) -> dict[str, float]:
    """64 bytes through one data port, and back through another."""

    async def near(talk: Talk) -> dict[str, Any]:
        async with _host(files, NEAR, FAR, talk, datagram_bytes) as transport:
            here, place, there, back = Placement(), Placement(host=FAR), _route("there"), _route("back")
            own, its = await transport.join(there, here, place)
            source_of_its, own_source = await transport.join(back, place, here)
            talk.tell([its.data.hex(), source_of_its.data.hex()])
            sink = await transport.open_sink(there, own)
            taker, payload, watch = _Taker(await transport.open_source(back, own_source)), bytes(64), Stopwatch()
            for number in range(count // 5 + count):
                if number == count // 5:
                    talk.begin(_packets(transport))
                    watch.begin()
                began_ns = time.perf_counter_ns()
                await _send(sink, payload)
                await taker.take()
                watch.since(began_ns)
            wall_s, spent = watch.wall_s, talk.end()
            await sink.finish()
        return {**spent, "wall_s": wall_s, **percentiles_us(watch.took_ns)}

    async def far(talk: Talk) -> dict[str, Any]:
        async with _node(files, FAR, talk, datagram_bytes) as transport:
            there, back = (Ticket(bytes.fromhex(text)) for text in await asyncio.to_thread(talk.hear))
            done = talk.watch(_packets(transport))
            source, sink = await asyncio.gather(
                transport.open_source(_route("there"), there), transport.open_sink(_route("back"), back)
            )
            taker = _Taker(source)
            while taken := await taker.take():
                for envelope in taken:
                    await _send(sink, envelope.payload)
            await done
            return talk.spent()

    asked, answered = run_pair(near, far)
    rtts = {"rtt_p50_us": asked["p50"], "rtt_p99_us": asked["p99"]}
    return {**rtts, "per_s": count / asked["wall_s"], **both(asked, answered, count)}


def bulk(files: Files, datagram_bytes: int | None, size_bytes: int, total_bytes: int) -> dict[str, float]:
    """Messages of one size through a data port with a full queue."""
    count = total_bytes // size_bytes

    async def near(talk: Talk) -> dict[str, Any]:
        async with _host(files, NEAR, FAR, talk, datagram_bytes) as transport:
            route = _route("bulk")
            own, its = await transport.join(route, Placement(), Placement(host=FAR))
            talk.tell(its.data.hex())
            sink, payload, watch = await transport.open_sink(route, own), bytes(size_bytes), Stopwatch()
            for number in range(count // 5 + count):
                if number == count // 5:
                    talk.begin(_packets(transport))
                    watch.begin()
                await _send(sink, payload)
            await sink.finish()
            await sink.flushed()
            return {"wall_s": watch.wall_s, **talk.end()}

    async def far(talk: Talk) -> dict[str, Any]:
        async with _node(files, FAR, talk, datagram_bytes) as transport:
            ticket = Ticket(bytes.fromhex(await asyncio.to_thread(talk.hear)))
            done = talk.watch(_packets(transport))
            taker = _Taker(await transport.open_source(_route("bulk"), ticket))
            while await taker.take():
                pass
            await done
            return talk.spent()

    sent, taken = run_pair(near, far)
    return bulk_figures(sent, taken, count, size_bytes)


# --- connections ------------------------------------------------------------------------------------------------------


def idle(files: Files, count: int, at_once: int) -> dict[str, float]:
    """Sessions that say nothing but that they are there."""

    async def near(talk: Talk) -> dict[str, Any]:
        settings = [replace(_settings_of(files, name), server_name=HOST) for name in CROWD]
        own, port = [Own(name, SystemClock()) for name in CROWD], talk.hear()
        dialers: list[Dialer] = []
        before, left, watch = 0, 0, Stopwatch()

        async def dial_some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                who = len(dialers) % len(CROWD)
                dialer = Dialer((HOST, port), partial(make_client, settings[who]), own[who], peer="far")
                dialers.append(dialer)
                await dialer.connect(lambda stream: None)

        left = 4
        await dial_some()
        talk.tell("warm")
        before, left = resident_bytes(), count
        talk.begin(no_packets)
        watch.begin()
        await asyncio.gather(*(dial_some() for _ in range(at_once)))
        wall_s, spent = watch.wall_s, talk.end()
        await asyncio.sleep(1.0)
        bytes_each, idle = (resident_bytes() - before) / count, await idle_percent()
        await asyncio.to_thread(talk.hear)
        talk.tell("all")
        await asyncio.gather(*(dialer.aclose(0.1) for dialer in dialers))
        return {**spent, "bytes": bytes_each, "idle": idle, "wall_s": wall_s}

    async def far(talk: Talk) -> dict[str, Any]:
        settings = replace(
            _settings_of(files, FAR),
            connections=count + 8,
            connections_per_host=count + 8,
            half_open=count + 8,
            handshakes_per_second=1_000_000,
        )
        server = SessionServer(Own(FAR, SystemClock()), lambda session, identity, hello: lambda stream: None)
        listener = await listen((HOST, 0), make_acceptor(settings), on_wire=server.take)
        talk.tell(listener.address[1])
        await asyncio.to_thread(talk.hear)
        before = resident_bytes()
        await talk.watch(no_packets)
        spent = talk.spent()
        await asyncio.sleep(1.0)
        bytes_each, idle = (resident_bytes() - before) / count, await idle_percent()
        talk.tell("seen")
        await asyncio.to_thread(talk.hear)
        await server.aclose(0.1)
        await listener.aclose()
        return {**spent, "bytes": bytes_each, "idle": idle}

    dialled, taken = run_pair(near, far)
    return connections(dialled, taken, count)
