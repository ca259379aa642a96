"""A thousand routes that are opened, used and closed one after another leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path

import pytest
from link_scene import KINDS, Pair, calm, joined, message
from shm_names import left_since, names

from flowbridge.errors import EndOfStream

CYCLES = 1_000
BLOCKS_MAX = 500  # of memory that Python may hold more after nine tenths of the cycles: less than one for each


def held() -> tuple[int, int, int]:
    """Descriptors, mappings of segments, and the blocks of memory that Python has."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("/dev/shm/"), sys.getallocatedblocks()


async def cycle(pair: Pair, number: int) -> None:
    """Open a route, send a small and a large message over it, and close it in one of three ways."""
    await pair.open()
    for payload in (b"small", b"x" * 5_000):
        await pair.sink.send(message(number, payload))
    if number % 3 == 0:  # in order
        await pair.sink.finish()
        for _ in range(2):
            (await pair.source.receive()).release()
        with pytest.raises(EndOfStream):
            await pair.source.receive()
    else:  # with messages on the way
        await calm(4)
    if number % 3 == 1:
        pair.sink.close()
        await calm(4)
    pair.source.close()
    await calm(4)
    pair.sink.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_routes_leave_nothing_behind(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in (None, "flowbridge"):  # which would keep a thousand warnings
        caplog.set_level(logging.CRITICAL, logger=name)

    async def main() -> None:
        async with asyncio.timeout(60), joined(kind) as pair:
            pair.sink.close()
            pair.source.close()
            before = held()
            for number in range(CYCLES):
                if number == CYCLES // 10:  # by now every cache is full
                    await calm()
                    before = held()
                await cycle(pair, number)
            await calm()
            after = held()
            assert after[0] <= before[0]
            assert after[1] == before[1]
            assert after[2] - before[2] < BLOCKS_MAX
            assert asyncio.all_tasks() == {asyncio.current_task()}

    segments = names()
    asyncio.run(main())
    assert not left_since(segments)
