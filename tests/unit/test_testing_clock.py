"""The manual clock and `quiet`: an hour at once, in order, on any loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge.errors import FlowbridgeError
from flowbridge.testing import quiet as quiet_module
from flowbridge.testing.clock import START_NS, UNIX_START_NS, ManualClock
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HOUR_NS = 3600 * 10**9
on_every_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


@on_every_loop
def test_an_hour_passes_at_once_and_stops_at_every_deadline(run: Callable[..., Any]) -> None:
    async def main() -> None:
        clock = ManualClock()
        ticks: list[tuple[str, int]] = []

        async def tick(name: str, period_ns: int) -> None:
            for _ in range(3):
                await clock.sleep_until(clock.now_ns() + period_ns)
                ticks.append((name, clock.now_ns() - START_NS))

        tasks = [asyncio.create_task(tick("a", 20)), asyncio.create_task(tick("b", 30))]
        await clock.advance(HOUR_NS)
        await asyncio.gather(*tasks)
        assert ticks == [("a", 20), ("b", 30), ("a", 40), ("b", 60), ("a", 60), ("b", 90)]
        assert clock.now_ns() == START_NS + HOUR_NS
        assert clock.pending() == ()

    run(main())


@on_every_loop
def test_long_chains_of_tasks_finish_before_time_goes_on(run: Callable[..., Any]) -> None:
    async def main() -> None:
        clock = ManualClock()
        seen: list[int] = []

        async def deep(levels: int) -> None:
            if levels:
                await asyncio.sleep(0)
                await asyncio.create_task(deep(levels - 1))
            else:
                seen.append(clock.now_ns())

        async def sleeper() -> None:
            await clock.sleep_until(START_NS + 5)
            await deep(50)

        task = asyncio.create_task(sleeper())
        await clock.advance(1000)
        await task
        assert seen == [START_NS + 5]

    run(main())


def test_advance_stops_short_of_what_is_later() -> None:
    async def main() -> None:
        clock = ManualClock()
        task = asyncio.create_task(clock.sleep_until(START_NS + 100))
        await clock.advance(99)
        assert not task.done()
        assert clock.pending() == (START_NS + 100,)
        await clock.set(START_NS + 100)
        assert task.done()

    asyncio.run(main())


def test_set_does_not_go_back_and_advance_takes_no_negative_time() -> None:
    async def main() -> None:
        clock = ManualClock()
        with pytest.raises(ValueError, match="never goes back"):
            await clock.set(START_NS - 1)
        with pytest.raises(ValueError, match="must not be negative: -1"):
            await clock.advance(-1)
        await clock.set(START_NS)
        assert clock.now_ns() == START_NS

    asyncio.run(main())


def test_the_time_for_people_goes_with_it() -> None:
    async def main() -> None:
        clock = ManualClock(5, unix_start_ns=UNIX_START_NS)
        await clock.advance(7)
        assert (clock.now_ns(), clock.unix_ns()) == (12, UNIX_START_NS + 7)
        assert repr(clock) == "<ManualClock 12, 0 pending>"

    asyncio.run(main())


def test_pending_leaves_out_what_was_cancelled() -> None:
    async def main() -> None:
        clock = ManualClock(0)
        first, second = clock.call_at(10, lambda: None), clock.call_at(5, lambda: None)
        assert clock.pending() == (5, 10)
        second.cancel()
        assert clock.pending() == (10,)
        assert repr(first) == "<ManualAlarm at 10>"
        assert repr(second) == "<ManualAlarm over>"

    asyncio.run(main())


def test_two_runs_of_the_same_script_are_the_same() -> None:
    async def script() -> list[tuple[int, int]]:
        clock = ManualClock(0)
        log: list[tuple[int, int]] = []

        async def worker(number: int) -> None:
            for step in range(10):
                await clock.sleep_until(clock.now_ns() + (number * 7 + step * 3) % 11)
                log.append((clock.now_ns(), number))

        tasks = [asyncio.create_task(worker(number)) for number in range(8)]
        await clock.advance(1000)
        await asyncio.gather(*tasks)
        return log

    assert asyncio.run(script()) == asyncio.run(script()) == uvloop.run(script())


@on_every_loop
def test_quiet_waits_for_everything_that_can_run(run: Callable[..., Any]) -> None:
    async def main() -> None:
        done: list[str] = []
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def works() -> None:
            for _ in range(100):
                await asyncio.sleep(0)
            future.set_result(None)
            done.append("works")

        async def waits() -> None:
            await future
            done.append("waits")

        async def for_ever() -> None:
            await asyncio.get_running_loop().create_future()

        tasks = [asyncio.create_task(coroutine) for coroutine in (waits(), works(), for_ever())]
        await quiet()
        assert sorted(done) == ["waits", "works"]
        tasks[2].cancel()

    run(main())


@on_every_loop
def test_quiet_within_quiet_ends(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def main() -> None:
        async def inner() -> None:
            await quiet()
            inside.append(True)

        inside: list[bool] = []
        tasks = [asyncio.create_task(inner()) for _ in range(3)]
        await quiet()
        assert inside == [True] * 3
        await asyncio.gather(*tasks)

    run(main())


def test_what_runs_in_circles_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet_module, "TURNS_MAX", 50)

    async def main() -> None:
        async def circles() -> None:
            for _ in range(10_000):
                await asyncio.sleep(0)

        task = asyncio.create_task(circles())
        with pytest.raises(FlowbridgeError, match="not quiet after 50 turns"):
            await quiet()
        task.cancel()

    asyncio.run(main())
