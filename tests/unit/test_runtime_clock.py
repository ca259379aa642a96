"""The system clock: its descriptors, its heap, and what a bad callback does. The clauses of a clock run elsewhere."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge.runtime import clock as clock_module
from flowbridge.runtime import timerfd
from flowbridge.runtime.clock import CANCELLED_MAX, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")
FAR_NS = 10**15


def timerfds() -> int:
    """How many timerfds this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += "timerfd" in os.readlink(f"/proc/self/fd/{name}")
    return count


async def wait_ns(clock: SystemClock, ns: int = 100_000) -> None:
    await clock.sleep_until(clock.now_ns() + ns)


@linux
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_descriptor_is_closed_with_its_loop(run: Callable[..., Any]) -> None:
    gc.collect()
    before = timerfds()
    clock = SystemClock()

    async def main() -> None:
        await wait_ns(clock)
        assert timerfds() == before + 1

    for _ in range(3):
        run(main())
        assert timerfds() == before


@linux
def test_close_closes_the_descriptor_and_the_clock_can_be_used_again() -> None:
    gc.collect()
    before = timerfds()
    clock = SystemClock()

    async def main() -> None:
        for _ in range(3):
            await wait_ns(clock)
            assert timerfds() == before + 1
            clock.close()
            clock.close()
            assert timerfds() == before

    asyncio.run(main())


@linux
def test_a_loop_that_is_only_closed_leaves_no_descriptor_either() -> None:
    gc.collect()
    before = timerfds()
    clock = SystemClock()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait_ns(clock))
    loop.close()
    del loop
    gc.collect()
    assert timerfds() == before


@linux
def test_many_deadlines_share_one_descriptor() -> None:
    gc.collect()
    before = timerfds()
    clock = SystemClock()

    async def main() -> None:
        await asyncio.gather(*(wait_ns(clock, 1000 * number) for number in range(300)))
        assert timerfds() == before + 1
        assert clock.pending() == 0

    asyncio.run(main())


@linux
def test_the_timerfd_is_used_where_there_is_one() -> None:
    assert timerfd.exists()
    assert repr(SystemClock()) == "<SystemClock timerfd>"
    assert repr(SystemClock(precise=False)) == "<SystemClock call_at>"


def test_a_system_without_timerfd_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_timerfd_exists", lambda: False)
    clock = SystemClock()
    assert repr(clock) == "<SystemClock call_at>"

    async def main() -> None:
        deadline_ns = clock.now_ns() + 300_000
        await clock.sleep_until(deadline_ns)
        assert clock.now_ns() >= deadline_ns

    asyncio.run(main())


def test_a_platform_other_than_linux_has_no_timerfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    timerfd.libc.cache_clear()
    assert not timerfd.exists()
    monkeypatch.undo()
    timerfd.libc.cache_clear()


def test_now_is_the_builtin_itself() -> None:
    import time

    assert SystemClock().now_ns is time.monotonic_ns


@pytest.mark.parametrize("precise", [True, False])
def test_a_callback_that_raises_does_not_keep_the_others_from_coming(precise: bool) -> None:
    clock = SystemClock(precise=precise)
    told: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(str(context.get("exception"))))
        done = loop.create_future()
        deadline_ns = clock.now_ns() + 200_000

        def fails() -> None:
            raise ValueError("a bad callback")

        clock.call_at(deadline_ns, fails)
        clock.call_at(deadline_ns, lambda: done.set_result(None))
        await done
        assert clock.pending() == 0

    asyncio.run(main())
    assert told == ["a bad callback"]


@pytest.mark.parametrize("precise", [True, False])
def test_cancelled_deadlines_do_not_pile_up(precise: bool) -> None:
    clock = SystemClock(precise=precise)

    async def main() -> None:
        kept = clock.call_at(clock.now_ns() + FAR_NS, lambda: None)
        for number in range(10_000):
            clock.call_at(clock.now_ns() + FAR_NS + number, lambda: None).cancel()
        assert clock.pending() == 1
        timer = clock._timer()  # pyright: ignore[reportPrivateUsage] - how much it holds is nobody's business but ours
        assert len(timer.alarms) <= 2 * CANCELLED_MAX
        kept.cancel()
        kept.cancel()
        assert clock.pending() == 0

    asyncio.run(main())


@pytest.mark.parametrize("precise", [True, False])
def test_an_earlier_deadline_that_comes_later_goes_first(precise: bool) -> None:
    clock = SystemClock(precise=precise)
    order: list[str] = []

    async def main() -> None:
        done = asyncio.get_running_loop().create_future()
        start_ns = clock.now_ns()

        def last() -> None:
            order.append("late")
            done.set_result(None)

        clock.call_at(start_ns + 900_000, last)
        clock.call_at(start_ns + 200_000, lambda: order.append("soon")).cancel()
        clock.call_at(start_ns + 300_000, lambda: order.append("middle"))
        clock.call_at(start_ns - 1, lambda: order.append("past"))
        await done

    asyncio.run(main())
    assert order == ["past", "middle", "late"]


def test_alarms_say_what_they_are() -> None:
    clock = SystemClock()

    async def main() -> None:
        alarm = clock.call_at(FAR_NS, lambda: None)
        assert repr(alarm) == f"<SystemAlarm at {FAR_NS}>"
        alarm.cancel()
        assert repr(alarm) == "<SystemAlarm over>"

    asyncio.run(main())


def test_sleepers_of_a_loop_that_ends_are_cancelled_without_a_warning() -> None:
    clock = SystemClock()

    async def main() -> None:
        sleeper = asyncio.create_task(clock.sleep_until(clock.now_ns() + FAR_NS))
        await asyncio.sleep(0)
        assert not sleeper.done()

    asyncio.run(main())
    gc.collect()


@linux
def test_one_clock_serves_loops_in_several_threads() -> None:
    import threading

    gc.collect()
    before = timerfds()
    clock = SystemClock()
    woken: list[int] = []

    async def main(number: int) -> None:
        for _ in range(5):
            await wait_ns(clock)
        woken.append(number)

    def serve(number: int) -> None:
        asyncio.run(main(number))

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(woken) == [0, 1, 2, 3]
    assert timerfds() == before
