"""Requests and their replies between two processes: the bus of the other one, and what a small program would do."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import cbor2
from ipc_pair import Bar, cpu_ns, percentiles_us, run_group
from ipc_peers import library

from flowbridge.envelope import Envelope
from flowbridge.runtime.clock import SystemClock
from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import UdsEventBus, serve_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TOPIC: Final = "control"
TIMEOUT_NS: Final = 5_000_000_000
_LENGTH: Final = struct.Struct(">I")


def _loop_of(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    import uvloop

    async def main() -> dict[str, Any]:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def _ask(once: Callable[[], Awaitable[bytes]], expected: bytes, count: int, under_way: int) -> dict[str, Any]:
    """Times of `count` requests, after a tenth more that are not counted; so many are under way at a time."""
    took: list[int] = []

    async def asks(number: int) -> None:
        for _ in range(number):
            start = time.monotonic_ns()
            if await once() != expected:
                raise ValueError("another reply came than was sent")
            took.append(time.monotonic_ns() - start)

    await asyncio.gather(*(asks(max(1, count // 10 // under_way)) for _ in range(under_way)))
    took.clear()
    cpu = cpu_ns()
    await asyncio.gather(*(asks(count // under_way) for _ in range(under_way)))
    return {"cpu_ns": cpu_ns() - cpu, "requests": len(took), **percentiles_us(took)}


def _result(found: list[dict[str, Any]], count: int) -> dict[str, float]:
    """Of the processor time of whoever answers, the part that its warm-up had is taken off."""
    asked, answered = found
    cpu_us = asked["cpu_ns"] / 1e3 / asked["requests"] + answered["cpu_ns"] / 1e3 / (count + count // 10)
    return {"rtt_p50_us": asked["p50"], "rtt_p99_us": asked["p99"], "cpu_us": cpu_us}


def bus(size_bytes: int, count: int, under_way: int) -> dict[str, float]:
    """A client's requests to the bus of the other process, answered there by a subscriber; both on uvloop."""
    pair = socket.socketpair()
    payload = bytes(size_bytes)

    def asks(bar: Bar, rank: int) -> dict[str, Any]:
        pair[1].close()

        async def work() -> dict[str, Any]:
            client = await UdsEventBus.connect(pair[0], SystemClock())
            bar.wait(rank)  # the subscriber is there

            async def once() -> bytes:
                reply = await client.request(TOPIC, Envelope(payload), timeout_ns=TIMEOUT_NS)
                got: bytes = reply.payload
                return got

            answer = await _ask(once, payload, count, under_way)
            await client.aclose()
            return answer

        return _loop_of(work())

    def answers(bar: Bar, rank: int) -> dict[str, Any]:
        pair[0].close()

        async def work() -> dict[str, Any]:
            clock = SystemClock()
            local = LocalEventBus(clock)
            server = BusServer(local, clock)
            serve_client(server, pair[1])
            async with local.subscribe(TOPIC) as subscription:
                await asyncio.sleep(0.1)  # the client is greeted
                bar.wait(rank)
                cpu = cpu_ns()
                responder = asyncio.ensure_future(_respond(local, subscription))
                while server.peers:  # noqa: ASYNC110 - nobody tells when the last client leaves
                    await asyncio.sleep(0.05)
                cpu = cpu_ns() - cpu
                responder.cancel()
                with suppress(asyncio.CancelledError):
                    await responder
            await server.aclose()
            await local.aclose()
            return {"cpu_ns": cpu}

        return _loop_of(work())

    return _result(run_group([asks, answers]), count)


async def _respond(local: LocalEventBus, subscription: Any) -> None:
    while True:
        with await subscription.receive() as request:
            await local.reply(request, Envelope(request.payload))


# --- what a small program would do ------------------------------------------------------------------------------------


def _map(number: int, payload: bytes) -> bytes:
    """A request as a map, with what ours carries too."""
    return cbor2.dumps({"id": number, "topic": TOPIC, "deadline": time.monotonic_ns() + TIMEOUT_NS, "body": payload})


def _reply_to(data: bytes) -> bytes:
    request = cbor2.loads(data)
    return cbor2.dumps({"id": request["id"], "body": request["body"]})


def blocking(size_bytes: int, count: int, under_way: int = 1) -> dict[str, float]:
    """A Unix socket and a cbor2 map there and back, a length in front; both block."""
    pair = socket.socketpair()
    payload = bytes(size_bytes)

    def receive(sock: socket.socket) -> bytes:
        head = sock.recv(_LENGTH.size, socket.MSG_WAITALL)
        return sock.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL) if head else b""

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(_LENGTH.pack(len(data)) + data)

    return _blocking(
        lambda data: send(pair[0], data),
        lambda: receive(pair[0]),
        lambda: receive(pair[1]),
        lambda data: send(pair[1], data),
        payload,
        count,
        lambda rank: pair[1 - rank].close(),
    )


def _blocking(
    ask: Callable[[bytes], object],
    hear: Callable[[], bytes],
    take: Callable[[], bytes],
    give: Callable[[bytes], object],
    payload: bytes,
    count: int,
    begin: Callable[[int], object],
) -> dict[str, float]:
    warm = count // 10

    def asks(bar: Bar, rank: int) -> dict[str, Any]:
        begin(rank)
        bar.wait(rank)
        took: list[int] = []
        cpu = 0
        for number in range(warm + count):
            if number == warm:
                took.clear()
                cpu = cpu_ns()
            start = time.monotonic_ns()
            ask(_map(number, payload))
            reply = cbor2.loads(hear())
            if reply["id"] != number or reply["body"] != payload:
                raise ValueError("another reply came than was sent")
            took.append(time.monotonic_ns() - start)
        cpu = cpu_ns() - cpu
        bar.wait(rank)
        return {"cpu_ns": cpu, "requests": count, **percentiles_us(took)}

    def answers(bar: Bar, rank: int) -> dict[str, Any]:
        begin(rank)
        bar.wait(rank)
        cpu = cpu_ns()
        for _ in range(warm + count):
            give(_reply_to(take()))
        cpu = cpu_ns() - cpu
        bar.wait(rank)
        return {"cpu_ns": cpu}

    return _result(run_group([asks, answers]), count)


def zmq(size_bytes: int, count: int, under_way: int = 1) -> dict[str, float]:
    """pyzmq REQ and REP over ipc with the same maps."""
    address, payload = f"ipc://@flowbridge-{uuid.uuid4().hex}", bytes(size_bytes)
    ends: list[Any] = []

    def begin(rank: int) -> None:
        peer = library("zmq")
        end = peer.Context().socket(peer.REP if rank else peer.REQ)
        end.linger = 0
        (end.bind if rank else end.connect)(address)
        ends.append(end)

    def send(data: bytes) -> None:
        ends[0].send(data)

    def receive() -> bytes:
        data: bytes = ends[0].recv()
        return data

    return _blocking(
        send,
        receive,
        receive,
        send,
        payload,
        count,
        begin,
    )


class _Framed(asyncio.Protocol):
    """Maps with a length in front, on a uvloop transport."""

    def __init__(self, came: Callable[[_Framed, bytes], None]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came = came
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, data: bytes) -> None:
        self.transport.write(_LENGTH.pack(len(data)) + data)

    def data_received(self, data: bytes) -> None:
        data = self._held + data if self._held else data
        at, end = 0, len(data)
        while end - at >= _LENGTH.size:
            stop = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            if stop > end:
                break
            self._came(self, data[at + _LENGTH.size : stop])
            at = stop
        self._held = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


def looped(size_bytes: int, count: int, under_way: int) -> dict[str, float]:
    """A Unix socket and a cbor2 map there and back on uvloop, a future for each request and no deadline."""
    pair = socket.socketpair()
    payload = bytes(size_bytes)

    def asks(bar: Bar, rank: int) -> dict[str, Any]:
        pair[1].close()

        async def work() -> dict[str, Any]:
            loop = asyncio.get_running_loop()
            waiting: dict[int, asyncio.Future[bytes]] = {}
            number = 0

            def came(_: _Framed, data: bytes) -> None:
                reply = cbor2.loads(data)
                waiting.pop(reply["id"]).set_result(reply["body"])

            _, end = await loop.create_unix_connection(lambda: _Framed(came), sock=pair[0])

            async def once() -> bytes:
                nonlocal number
                number += 1
                future: asyncio.Future[bytes] = loop.create_future()
                waiting[number] = future
                end.send(_map(number, payload))
                return await future

            bar.wait(rank)
            answer = await _ask(once, payload, count, under_way)
            end.transport.write_eof()  # the parent has a copy of the socket, so closing ours ends nothing
            end.transport.close()
            return answer

        return _loop_of(work())

    def answers(bar: Bar, rank: int) -> dict[str, Any]:
        pair[0].close()

        async def work() -> dict[str, Any]:
            def came(end: _Framed, data: bytes) -> None:
                end.send(_reply_to(data))

            loop = asyncio.get_running_loop()
            _, end = await loop.create_unix_connection(lambda: _Framed(came), sock=pair[1])
            bar.wait(rank)
            cpu = cpu_ns()
            await end.lost
            return {"cpu_ns": cpu_ns() - cpu}

        return _loop_of(work())

    return _result(run_group([asks, answers]), count)
