"""Two processes joined by a route: either may be killed or stopped at any moment, and the other finds out.

The other process is this file, started with the role it has to play and its end of the socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))  # when this runs as the other process

from link_scene import KINDS, message, route_of

from flowbridge.errors import BrokenError, EndOfStream
from flowbridge.plan import Policy, Qos
from flowbridge.runtime.clock import SystemClock
from flowbridge.transports.uds import UdsTransport

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from flowbridge.transports.link_port import LinkSink, LinkSource

QOS: Final = Qos(policy=Policy.BLOCK, capacity_items=64, high_items=64, low_items=16, capacity_bytes=1 << 40)
SIZES: Final = (10, 3_000, 200_000, 10, 10, 18_000_000)  # in the ring, in a slot, on the socket
GUARD_S: Final = 20


def payload(seq: int) -> bytes:
    """Made of its number, so that a torn one would show."""
    return (b"%08d" % seq) * (SIZES[seq % len(SIZES)] // 8)


async def produce(transport: UdsTransport, end: socket.socket, count: int) -> None:
    """Send so many messages."""
    sink = await transport.open_sink(route_of(QOS), end)
    for seq in range(count):
        await sink.send(message(seq, payload(seq), size_bytes=8))
    await sink.finish()
    await sink.flushed()


async def consume(transport: UdsTransport, end: socket.socket) -> None:
    """Take what comes."""
    source = await transport.open_source(route_of(QOS), end)
    while True:
        try:
            (await source.receive()).release()
        except EndOfStream:
            return


async def play(role: str, descriptor: int) -> None:
    """What the other process does."""
    async with UdsTransport(SystemClock()) as transport:
        end = socket.socket(fileno=descriptor)
        await (produce(transport, end, 100_000) if role == "produce" else consume(transport, end))


NATIVE: Final = "flowbridge.transports.uds.transport.native_problem"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Generator[str]:
    """How messages travel."""
    with using(request.param):
        yield request.param


def using(kind: str) -> AbstractContextManager[Any]:
    """Let messages travel like this."""
    return patch(NATIVE, lambda: "switched off") if kind == "socket" else nullcontext()


@contextmanager
def other(role: str, kind: str) -> Generator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Another process at the other end of a socket."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, role, kind, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    try:
        yield process, mine
    finally:
        process.kill()
        process.wait()


async def settled(sink: LinkSink) -> None:
    """Wait until it is known of every message how it ended."""
    while sink.books.in_flight:  # noqa: ASYNC110 - books tell nobody
        await asyncio.sleep(0.001)


async def take_until(source: LinkSource, until: int, process: subprocess.Popen[bytes]) -> int:
    """Check message after message, and kill the producer after so many; returns how many came."""
    expected = 0
    try:
        while True:
            with await source.receive() as envelope:
                assert envelope.seq == expected
                assert envelope.payload == payload(expected)
            expected += 1
            if expected == until:
                process.kill()
    except BrokenError:
        return expected


async def send_until(sink: LinkSink, until: int, process: subprocess.Popen[bytes]) -> None:
    """Send message after message, and kill the consumer after so many. Raises: BrokenError."""
    for seq in range(100_000):
        if seq == until:
            process.kill()
        await sink.send(message(seq, payload(seq), size_bytes=8))


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, and wait until it stands."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize("seed", range(4))
def test_everything_up_to_the_death_of_the_producer_arrives_whole(kind: str, seed: int) -> None:
    async def main() -> None:
        random = Random(seed)
        async with asyncio.timeout(GUARD_S), UdsTransport(SystemClock()) as transport:
            with other("produce", kind) as (process, end):
                source = await transport.open_source(route_of(QOS), end)
                until = random.randrange(1, 60)
                expected = await take_until(source, until, process)
                with pytest.raises(BrokenError):
                    source.take(1)
                assert source.books.balances
                assert source.books.in_flight == 0
                assert source.books.delivered == expected >= until

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_a_producer_learns_of_the_death_of_its_consumer(kind: str, seed: int) -> None:

    async def main() -> None:
        random = Random(seed)
        async with asyncio.timeout(GUARD_S), UdsTransport(SystemClock()) as transport:
            with other("consume", kind) as (process, end):
                sink = await transport.open_sink(route_of(QOS), end)
                until = random.randrange(1, 300)
                with pytest.raises(BrokenError):
                    await send_until(sink, until, process)
                await sink.flushed()
                await sink.wait_writable()
                books = sink.books
                assert books.balances
                assert books.in_flight == 0
                assert books.sent == books.delivered + books.dropped.get("lost", 0)

    asyncio.run(main())


def test_a_consumer_that_stands_still_costs_nothing_but_time(kind: str) -> None:

    async def main() -> None:
        async with asyncio.timeout(GUARD_S), UdsTransport(SystemClock()) as transport:
            with other("consume", kind) as (process, end):
                sink = await transport.open_sink(route_of(QOS), end)
                await sink.send(message(0, b"first", size_bytes=8))
                await settled(sink)
                stopped(process)
                sent = sink.send_many_nowait([message(seq, b"x" * 500, size_bytes=8) for seq in range(1, 200)])
                assert sent == QOS.capacity_items
                waiting = asyncio.create_task(sink.wait_writable())
                process.send_signal(signal.SIGCONT)
                await waiting
                await sink.finish()
                await sink.flushed()
                await settled(sink)
                assert sink.books.delivered == sent + 1
                assert sink.books.balances
                sink.close()

    asyncio.run(main())


def test_a_sink_goes_on_with_the_successor_of_a_dead_consumer(kind: str) -> None:

    async def main() -> None:
        lost: list[Any] = []
        sending = True
        async with asyncio.timeout(GUARD_S), UdsTransport(SystemClock()) as transport:
            with other("consume", kind) as (process, end), other("consume", kind) as (_, next_end):
                sink = await transport.open_sink(route_of(QOS), end)

                def go_on(error: Exception) -> None:
                    if sending:  # told once more when the successor leaves, behind the end
                        lost.append(error)
                        transport.rejoin_sink(sink, route_of(QOS), next_end)

                sink.on_lost = go_on
                for seq in range(600):
                    if seq == 100:
                        process.kill()
                    await sink.send(message(seq, payload(seq % 5), size_bytes=8))
                sending = False
                await sink.finish()
                await sink.flushed()
                await settled(sink)
                books = sink.books
                assert len(lost) == 1
                assert books.balances
                assert books.sent == 600 == books.delivered + books.dropped.get("lost", 0)

    asyncio.run(main())


if __name__ == "__main__":
    with using(sys.argv[2]):
        asyncio.run(play(sys.argv[1], int(sys.argv[3])))
