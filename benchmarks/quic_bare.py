"""The peers of `quic.py`: aioquic or qh3 as it comes, and TLS over TCP, both with the least that the workload needs."""

# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import importlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from ipc_pair import percentiles_us
from quic_pair import (
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

from flowbridge.limits import QUIC_CONNECTION_WINDOW_BYTES, QUIC_DATAGRAM_BYTES, QUIC_STREAM_WINDOW_BYTES
from flowbridge.transports.quic.engine import WRITE_BYTES_HIGH

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from quic_pair import Files, Talk

QUIC: Final = "bare QUIC"
"""What ours is compared with: aioquic, or qh3."""
TLS: Final = "TCP + TLS"
_ALPN: Final = "bench"
_ASK_BYTES: Final = 64


def _configuration(files: Files, name: str, datagram_bytes: int | None, *, is_client: bool) -> Any:
    """With the windows, the size of packets and the congestion control of ours."""
    size_bytes = datagram_bytes or QUIC_DATAGRAM_BYTES
    windows: dict[str, Any] = {"max_data": QUIC_CONNECTION_WINDOW_BYTES, "max_stream_data": QUIC_STREAM_WINDOW_BYTES}
    configuration: Any
    if ENGINE[0] == "qh3":
        from flowbridge.transports.quic.qh3.configuration import PACKET_BYTES_MAX

        made = importlib.import_module("qh3.quic.configuration").QuicConfiguration
        size_bytes = min(size_bytes, PACKET_BYTES_MAX)
        configuration = made(
            alpn_protocols=[_ALPN],
            is_client=is_client,
            max_datagram_size=size_bytes,
            probe_datagram_size=False,
            **windows,
        )
    else:
        configuration = QuicConfiguration(
            alpn_protocols=[_ALPN],
            congestion_control_algorithm="cubic",
            is_client=is_client,
            max_datagram_size=size_bytes,
            **windows,
        )
    if is_client:
        configuration.load_verify_locations(cafile=str(files.ca))
        configuration.server_name = HOST
    else:
        configuration.load_cert_chain(files.certificate(name), files.key(name))
    return configuration


def _of_engine() -> tuple[Any, Any, Any]:
    """What makes a protocol, dials and listens with the engine that was chosen; both libraries are alike."""
    if ENGINE[0] == "qh3":
        from qh3.asyncio.client import connect as connect_qh3
        from qh3.asyncio.server import serve as serve_qh3
        from quic_bare_qh3 import Qh3Protocol

        return Qh3Protocol, connect_qh3, serve_qh3
    return _Quic, connect, serve


class _Quic(QuicConnectionProtocol):
    """One stream of a connection, whose bytes go to `on_bytes`."""

    on_bytes: Callable[[bytes], None]
    on_room: Callable[[], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_bytes = lambda data: None
        self.on_room = lambda: None
        self.stream = 0

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, StreamDataReceived):
            self.on_bytes(event.data)

    def write(self, data: bytes) -> None:
        """Queue bytes; `transmit` sends them."""
        self._quic.send_stream_data(self.stream, data)

    def flush(self) -> None:
        """Send what is queued, once in this turn of the loop."""
        if self._transmit_task is None:
            self._transmit_task = self._loop.call_soon(self.transmit)

    @property
    def is_full(self) -> bool:
        """Whether to stop writing until `on_room`."""
        stream: Any = self._quic._streams.get(self.stream)
        return stream is not None and stream.sender._buffer_stop - stream.sender.highest_offset > WRITE_BYTES_HIGH

    def datagram_received(self, data: Any, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.on_room()

    def packets(self) -> int:
        """How many it has sent."""
        return self._quic._packet_number


class _Tls(asyncio.Protocol):
    """A connection whose bytes go to `on_bytes`."""

    def __init__(self) -> None:
        self.on_bytes: Callable[[bytes], None] = lambda data: None
        self.on_room: Callable[[], None] = lambda: None
        self._is_paused = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.on_bytes(data)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        asyncio.get_running_loop().call_soon(self.on_room)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def flush(self) -> None:
        """Nothing waits."""

    @property
    def is_full(self) -> bool:
        """Whether to stop writing until `on_room`."""
        return self._is_paused

    packets = staticmethod(no_packets)

    def close(self) -> None:
        """Close it."""
        self._transport.close()


async def _listen(name: str, files: Files, datagram_bytes: int | None, made: Callable[[Any], None]) -> tuple[Any, int]:
    """A listener, and its port; each connection is told to `made`."""
    if name == QUIC:
        kind, _, listen = _of_engine()

        def create(*arguments: Any, **options: Any) -> Any:
            protocol = kind(*arguments, **options)
            made(protocol)
            return protocol

        configuration = _configuration(files, FAR, datagram_bytes, is_client=False)
        server: Any = await listen(HOST, 0, configuration=configuration, create_protocol=create)
        return server, server._transport.get_extra_info("sockname")[1]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate(FAR), files.key(FAR))

    def begin() -> _Tls:
        protocol = _Tls()
        made(protocol)
        return protocol

    listener = await asyncio.get_running_loop().create_server(begin, HOST, 0, ssl=context)
    return listener, listener.sockets[0].getsockname()[1]


async def _dial(name: str, files: Files, datagram_bytes: int | None, port: int) -> tuple[Any, Any]:
    """A connection, and what closes it."""
    if name == QUIC:
        configuration = _configuration(files, NEAR, datagram_bytes, is_client=True)
        kind, dial, _ = _of_engine()
        context: AbstractAsyncContextManager[Any] = dial(HOST, port, configuration=configuration, create_protocol=kind)
        protocol: Any = await context.__aenter__()
        protocol.stream = protocol._quic.get_next_available_stream_id()
        return protocol, context
    options = ssl.create_default_context(cafile=str(files.ca))
    _, protocol = await asyncio.get_running_loop().create_connection(_Tls, HOST, port, ssl=options)
    return protocol, None


async def _hang_up(protocol: Any, context: Any) -> None:
    if context is None:
        protocol.close()
    else:
        await context.__aexit__(None, None, None)


def _fixed(handle: Callable[[], None]) -> Callable[[bytes], None]:
    """Call once for each `_ASK_BYTES` that came."""
    held = 0

    def came(data: bytes) -> None:
        nonlocal held
        held += len(data)
        while held >= _ASK_BYTES:
            held -= _ASK_BYTES
            handle()

    return came


def requests(name: str, files: Files, datagram_bytes: int | None, count: int, in_flight: int) -> dict[str, float]:
    """64 bytes there and back, so many under way; answers come in order."""

    async def near(talk: Talk) -> dict[str, Any]:
        protocol, context = await _dial(name, files, datagram_bytes, talk.hear())
        loop, watch, payload = asyncio.get_running_loop(), Stopwatch(), bytes(_ASK_BYTES)
        began: list[int] = []
        state = {"left": 0, "answers": 0}
        done: asyncio.Future[None] = loop.create_future()

        def ask() -> None:
            if state["left"] > 0:
                state["left"] -= 1
                began.append(time.perf_counter_ns())
                protocol.write(payload)
                protocol.flush()

        def answered() -> None:
            watch.since(began.pop(0))
            state["answers"] -= 1
            ask()
            if not state["answers"]:
                done.set_result(None)

        protocol.on_bytes = _fixed(answered)
        for part in (count // 5, count):
            done = loop.create_future()
            state["left"] = state["answers"] = part
            talk.begin(protocol.packets)
            watch.begin()
            for _ in range(in_flight):
                ask()
            await done
        wall_s, spent = watch.wall_s, talk.end()
        await _hang_up(protocol, context)
        return {**spent, "wall_s": wall_s, **percentiles_us(watch.took_ns)}

    async def far(talk: Talk) -> dict[str, Any]:
        def made(protocol: Any) -> None:
            def reply() -> None:
                protocol.write(bytes(_ASK_BYTES))
                protocol.flush()

            protocol.on_bytes = _fixed(reply)
            found.append(protocol)

        found: list[Any] = []
        server, port = await _listen(name, files, datagram_bytes, made)
        done = talk.watch(lambda: sum(protocol.packets() for protocol in found))
        talk.tell(port)
        await done
        server.close()
        return talk.spent()

    asked, answered = run_pair(near, far)
    rtts = {"rtt_p50_us": asked["p50"], "rtt_p99_us": asked["p99"]}
    return {**rtts, "per_s": count / asked["wall_s"], **both(asked, answered, count)}


def bulk(name: str, files: Files, datagram_bytes: int | None, size_bytes: int, total_bytes: int) -> dict[str, float]:
    """Bytes in pieces of one size, one way, until the other end says that all have come."""
    count = total_bytes // size_bytes
    warm = count // 5

    async def near(talk: Talk) -> dict[str, Any]:
        protocol, context = await _dial(name, files, datagram_bytes, talk.hear())
        loop, watch, payload = asyncio.get_running_loop(), Stopwatch(), bytes(size_bytes)
        done: asyncio.Future[None] = loop.create_future()
        left = 0

        def fill() -> None:
            nonlocal left
            while left and not protocol.is_full:
                left -= 1
                protocol.write(payload)
                protocol.flush()

        def all_came(_: bytes) -> None:
            done.set_result(None)

        protocol.on_room = fill
        protocol.on_bytes = all_came
        for part in (warm, count):
            done = loop.create_future()
            left = part
            talk.begin(protocol.packets)
            watch.begin()
            fill()
            await done
        wall_s, spent = watch.wall_s, talk.end()
        await _hang_up(protocol, context)
        return {**spent, "wall_s": wall_s}

    async def far(talk: Talk) -> dict[str, Any]:
        got = 0

        def made(protocol: Any) -> None:
            def came(data: bytes) -> None:
                nonlocal got
                before, got = got, got + len(data)
                for total in (warm * size_bytes, (warm + count) * size_bytes):
                    if before < total <= got:
                        protocol.write(b"!")
                        protocol.flush()

            protocol.on_bytes = came
            found.append(protocol)

        found: list[Any] = []
        server, port = await _listen(name, files, datagram_bytes, made)
        done = talk.watch(lambda: sum(protocol.packets() for protocol in found))
        talk.tell(port)
        await done
        server.close()
        return talk.spent()

    sent, taken = run_pair(near, far)
    return bulk_figures(sent, taken, count, size_bytes)


def idle(files: Files, count: int, at_once: int) -> dict[str, float]:
    """Connections of aioquic on which nothing is said."""

    async def near(talk: Talk) -> dict[str, Any]:
        port, watch = talk.hear(), Stopwatch()
        held: list[tuple[Any, Any]] = []
        left = 4

        async def dial_some() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                held.append(await _dial(QUIC, files, None, port))

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
        for protocol, context in held:
            await _hang_up(protocol, context)
        return {**spent, "bytes": bytes_each, "idle": idle, "wall_s": wall_s}

    async def far(talk: Talk) -> dict[str, Any]:
        held: list[Any] = []
        server, port = await _listen(QUIC, files, None, held.append)
        talk.tell(port)
        await asyncio.to_thread(talk.hear)
        before = resident_bytes()
        await talk.watch(no_packets)
        spent = talk.spent()
        await asyncio.sleep(1.0)
        bytes_each, idle = (resident_bytes() - before) / count, await idle_percent()
        talk.tell("seen")
        await asyncio.to_thread(talk.hear)
        server.close()
        return {**spent, "bytes": bytes_each, "idle": idle}

    dialled, taken = run_pair(near, far)
    return connections(dialled, taken, count)
