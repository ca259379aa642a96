"""A thousand routes that are opened, used and closed one after another leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from pathlib import Path

import pytest
from link_scene import KINDS, Pair, joined, message, until

from flowbridge.errors import EndOfStream

CYCLES = 1_000
GROWTH_BYTES_MAX = 64 * 1024  # of what Python holds, over nine tenths of the cycles; an envelope alone is 200 bytes


def held() -> tuple[int, set[str], int, int]:
    """Descriptors, names in /dev/shm, mappings of segments, and the bytes that Python has."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    descriptors = len(os.listdir("/proc/self/fd"))
    return descriptors, set(os.listdir("/dev/shm")), maps.count("/dev/shm/"), tracemalloc.get_traced_memory()[0]


async def cycle(pair: Pair, number: int) -> None:
    """Open a route, send a small and a large message over it, and close it in one of three ways."""
    await pair.open()
    for payload in (b"small", b"x" * 5_000):
        await pair.sink.send(message(number, payload))
    if number % 3 == 0:  # in order
        await pair.sink.finish()
        await until(lambda: len(pair.take_all()) or True)
        with pytest.raises(EndOfStream):
            while True:
                (await pair.source.receive()).release()
    elif number % 3 == 1:  # the consumer first, with messages on the way
        await pair.source.aclose()
    await pair.source.aclose()
    pair.sink.close()
    pair.source.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_routes_leave_nothing_behind(kind: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), joined(kind) as pair:
            pair.sink.close()
            pair.source.close()
            before = held()
            for number in range(CYCLES):
                if number == CYCLES // 10:  # by now every cache is full
                    await asyncio.sleep(0)
                    before = held()
                await cycle(pair, number)
            await asyncio.sleep(0.01)
            after = held()
            assert after[1:3] == before[1:3]
            assert after[0] <= before[0]
            assert after[3] - before[3] < GROWTH_BYTES_MAX
            assert asyncio.all_tasks() == {asyncio.current_task()}

    tracemalloc.start()
    try:
        asyncio.run(main())
    finally:
        tracemalloc.stop()
