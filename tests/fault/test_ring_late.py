"""Wake-ups of a ring that are lost: found, counted and told, on either side and under both event loops."""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from link_scene import joined, message
from shm_scene import ShmSpec
from uds_scene import LOOPS

from flowbridge.plan import Policy, Qos
from flowbridge.report import EdgeReport
from flowbridge.time.ledger import EdgeBooks
from flowbridge.transports.uds import late

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DATA_WAIT, SPACE_WAIT = 0x2080, 0x1180  # where a sleeping consumer, or producer, says that it sleeps
QOS = Qos(policy=Policy.BLOCK, capacity_items=4, high_items=4, low_items=2, capacity_bytes=1 << 30)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look a hundred times in a second."""
    monkeypatch.setattr(late, "RING_LOOK_NS", 10_000_000)


def run(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on a loop of that kind, for 20 s at most."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main(), 20))


def forget(place: int) -> None:
    """Let the peer of a sleeping end believe that it is awake, as if its store had come too late."""
    for name in os.listdir("/proc/self/fd"):
        if ".channel." in os.readlink(f"/proc/self/fd/{name}"):
            with mmap.mmap(int(name), ShmSpec().channel_bytes) as memory:
                assert struct.unpack_from("<I", memory, place) != (0,), "it does not sleep"
                struct.pack_into("<I", memory, place, 0)
            return
    raise AssertionError("there is no ring")


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; `run` ends a wait for nothing."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_consumer_that_is_not_woken_finds_what_came_and_counts_that(loop: str) -> None:
    async def main() -> None:
        async with joined("ring", QOS) as pair:
            for number in range(2):
                await asyncio.sleep(0.02)
                forget(DATA_WAIT)
                await pair.sink.send(message(number, b"unheard"))
                await until(pair.take_all)
                await until(lambda expected=number + 1: pair.source.books.late_wakes == expected)  # type: ignore[misc]
            assert not pair.sink.books.late_wakes
            assert pair.source.books.balances

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_producer_that_is_not_woken_finds_its_credit_and_counts_that(loop: str) -> None:
    async def main() -> None:
        async with joined("ring", QOS) as pair:
            assert pair.sink.send_many_nowait([message(number, b"x") for number in range(9)]) == 4
            waiting = asyncio.create_task(pair.sink.wait_writable())
            await asyncio.sleep(0.02)
            forget(SPACE_WAIT)
            assert len(pair.take_all()) == 4
            await waiting
            await until(lambda: pair.sink.books.late_wakes == 1)
            assert pair.sink.books.balances

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_no_wake_up_is_late_that_came_while_the_loop_was_held(loop: str) -> None:
    async def main() -> None:
        async with joined("ring", QOS) as pair:
            for number in range(20):
                await pair.sink.send(message(number, b"heard"))
                await asyncio.sleep(0.001 * (number % 12))
                late_s = asyncio.get_running_loop().time() + 0.02
                while asyncio.get_running_loop().time() < late_s:
                    pass
                await until(pair.take_all)
            await asyncio.sleep(0.03)
            assert not pair.source.books.late_wakes + pair.sink.books.late_wakes

    run(loop, main)


def test_the_report_says_it_only_when_there_is_something_to_say() -> None:
    books = EdgeBooks()
    assert not {"late_wakes", "without_ring"} & EdgeReport("a/out->b/in", "ipc", books).to_json().keys()
    books.late_wakes, books.without_ring = 3, 1
    assert EdgeBooks.from_plain(books.to_plain()).late_wakes == 3
    books.merge(EdgeBooks.from_plain(books.to_plain()))
    report = EdgeReport("a/out->b/in", "ipc", books).to_json()
    assert (report["late_wakes"], report["without_ring"]) == (6, 2)
