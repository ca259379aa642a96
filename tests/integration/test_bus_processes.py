"""One bus, two real processes: a worker that uses the bus of this process, and what happens when either is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from flowbridge import registry
from flowbridge.envelope import Envelope
from flowbridge.errors import DeadlineExceeded, NoResponderError, WouldBlock
from flowbridge.plan import Policy, Qos
from flowbridge.runtime.clock import SystemClock
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import serve_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from flowbridge.contracts import EventBus

S = 10**9

WORKER = """
import asyncio, socket, sys
from flowbridge.envelope import Envelope
from flowbridge.errors import BrokenError
from flowbridge.runtime.clock import SystemClock
from flowbridge.transports.uds.bus import UdsEventBus

async def main():
    bus = await UdsEventBus.connect(socket.socket(fileno=int(sys.argv[1])), SystemClock())
    try:
        async with bus.subscribe("double") as requests, bus.subscribe("idle", edge="idle"):
            await bus.publish("ready", Envelope(b""))
            while True:
                with await requests.receive() as request:
                    reply = Envelope({"twice": request.payload["number"] * 2, "deadline_ns": request.deadline_ns})
                    await bus.reply(request, reply)
    except BrokenError as error:
        print("broken:", error.effect.value)
    finally:
        await bus.aclose()

asyncio.run(main())
"""


def start(sock: socket.socket) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-c", WORKER, str(sock.fileno())), pass_fds=(sock.fileno(),), stdout=subprocess.PIPE, text=True
    )


@asynccontextmanager
async def worker() -> AsyncGenerator[tuple[EventBus, BusServer, subprocess.Popen[str]]]:
    """A host in this process and a worker in another that answers ``double``."""
    clock = SystemClock()
    transport = registry.transport("inproc", clock)
    bus = await transport.open_bus()
    server = BusServer(bus, clock)
    ours, theirs = socket.socketpair()
    async with bus.subscribe("ready") as ready:
        serve_client(server, ours)
        with theirs:
            process = start(theirs)
        try:
            async with asyncio.timeout(30):
                (await ready.receive()).release()
            yield bus, server, process
        finally:
            process.kill()
            process.communicate()
            await server.aclose()
            await transport.aclose()


async def until_gone(server: BusServer) -> None:
    async with asyncio.timeout(30):
        while server.peers:  # noqa: ASYNC110 - a vanished peer is no event
            await asyncio.sleep(0.01)


def test_a_worker_answers_requests_with_the_very_deadline_of_the_host() -> None:
    async def run() -> None:
        async with worker() as (bus, _, _):
            for number in range(50):
                reply = await bus.request("double", Envelope({"number": number}), timeout_ns=20 * S)
                assert reply.payload == {"twice": 2 * number, "deadline_ns": reply.deadline_ns}
            assert all(books.balances for books in bus.books().values())

    asyncio.run(run())


def test_a_killed_worker_leaves_nobody_waiting() -> None:
    async def run() -> None:
        async with worker() as (bus, server, process):
            process.kill()
            await until_gone(server)
            with pytest.raises(NoResponderError):
                await bus.request("double", Envelope({"number": 1}), timeout_ns=20 * S)
            assert all(books.balances and not books.in_flight for books in bus.books().values())

    asyncio.run(run())


def test_a_stopped_worker_costs_a_deadline_and_goes_on_when_continued() -> None:
    async def run() -> None:
        async with worker() as (bus, _, process):
            os.kill(process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(DeadlineExceeded):
                    await bus.request("double", Envelope({"number": 1}), timeout_ns=S // 20)
            finally:
                os.kill(process.pid, signal.SIGCONT)
            reply = await bus.request("double", Envelope({"number": 2}), timeout_ns=20 * S)
            assert reply.payload["twice"] == 4
            assert all(books.balances for books in bus.books().values())

    asyncio.run(run())


def test_a_vanished_host_is_broken_to_its_worker() -> None:
    async def run() -> None:
        async with worker() as (_, server, process):
            await server.aclose()
            out, _ = await asyncio.to_thread(process.communicate, timeout=30)
            assert out == "broken: maybe\n"
            assert process.returncode == 0

    asyncio.run(run())


def test_a_stopped_worker_does_not_make_the_host_grow() -> None:
    async def run() -> None:
        async with worker() as (bus, _, process):
            os.kill(process.pid, signal.SIGSTOP)
            body = b"x" * 100_000
            try:
                for _ in range(2_000):  # 200 MB into a queue whose policy is to wait
                    with suppress(WouldBlock):
                        bus.publish_nowait("idle", Envelope(body, size_bytes=len(body)))
                books = bus.books()["idle"]
                assert books.sent <= Qos().capacity_items
                assert Qos().policy is Policy.BLOCK
                assert books.balances
            finally:
                os.kill(process.pid, signal.SIGCONT)

    asyncio.run(run())
