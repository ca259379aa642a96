"""Clauses of Clock: never back, never early, in order, and nothing left behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import ClauseFailed, equal, holds
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias

    from flowbridge.contracts import Clock

    ClockMaker: TypeAlias = "Callable[[], AbstractAsyncContextManager[ClockBench]]"

STEP_NS: Final = 200_000
"""Small, because the clock may be a real one."""
STEPS_MAX: Final = 2_000
"""Far more than any clause asks for: this only ends what would never end."""


@dataclass(frozen=True, slots=True)
class ClockBench:
    """A clock, what makes at least so many nanoseconds pass on it, and how many deadlines are still waited for."""

    clock: Clock
    let_pass: Callable[[int], Awaitable[None]]
    pending: Callable[[], int]


async def _until(bench: ClockBench, come: Callable[[], bool], what: str) -> None:
    """Let time pass until something has come."""
    for _ in range(STEPS_MAX):
        await quiet()
        if come():
            return
        await bench.let_pass(STEP_NS)
    raise ClauseFailed(f"{what}: not after {STEPS_MAX * STEP_NS} ns")


async def _finished(bench: ClockBench, tasks: list[asyncio.Task[None]]) -> None:
    """Let time pass until all are done."""
    await _until(bench, lambda: all(task.done() for task in tasks), "the sleepers wake up")
    await asyncio.gather(*tasks)


@clause("clock")
async def never_goes_back(maker: ClockMaker) -> None:
    """`now_ns` never decreases, and increases when time passes; both times are whole numbers."""
    async with maker() as bench:
        last_ns = bench.clock.now_ns()
        for step in range(1000):
            if step % 200 == 0:
                await bench.let_pass(STEP_NS)
                holds(bench.clock.now_ns() >= last_ns + STEP_NS, "time passed unseen")
            now_ns = bench.clock.now_ns()
            holds(now_ns >= last_ns, f"went back from {last_ns} to {now_ns}")
            last_ns = now_ns
        equal({type(last_ns), type(bench.clock.unix_ns())}, {int}, "the types of the times")


@clause("clock")
async def sleeping_never_ends_early(maker: ClockMaker) -> None:
    """`sleep_until` returns when `now_ns() >= deadline_ns`, never before."""
    async with maker() as bench:
        for factor in (1, 2, 3, 7):
            for offset in (-1, 0, 1):
                deadline_ns = bench.clock.now_ns() + factor * STEP_NS + offset

                async def sleeper(deadline_ns: int = deadline_ns) -> None:
                    await bench.clock.sleep_until(deadline_ns)
                    holds(bench.clock.now_ns() >= deadline_ns, "woke up before the deadline")

                await _finished(bench, [asyncio.create_task(sleeper())])
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def a_past_deadline_returns_at_once(maker: ClockMaker) -> None:
    """`sleep_until` a moment that is not in the future returns without any wait."""
    async with maker() as bench:
        now_ns = bench.clock.now_ns()
        for deadline_ns in (now_ns, now_ns - 1, 0, -1):
            task = asyncio.create_task(bench.clock.sleep_until(deadline_ns))
            await quiet()
            holds(task.done(), f"waits for {deadline_ns - now_ns} ns")
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def sleepers_wake_in_the_order_of_their_deadlines(maker: ClockMaker) -> None:
    """Who waits for an earlier deadline wakes first; equal deadlines wake in the order they were asked for."""
    async with maker() as bench:
        woken: list[int] = []
        start_ns = bench.clock.now_ns() + 10 * STEP_NS

        async def sleeper(number: int, deadline_ns: int) -> None:
            await bench.clock.sleep_until(deadline_ns)
            woken.append(number)

        steps = (5, 1, 4, 1, 3, 2, 2, 0)
        tasks = [asyncio.create_task(sleeper(n, start_ns + step * STEP_NS)) for n, step in enumerate(steps)]
        await _finished(bench, tasks)
        equal(woken, [7, 1, 3, 5, 6, 4, 2, 0], "the order")
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def a_cancelled_sleep_leaves_nothing_pending(maker: ClockMaker) -> None:
    """Cancelling `sleep_until` ends it at once, forgets its deadline and disturbs no other."""
    async with maker() as bench:
        far_ns = bench.clock.now_ns() + 10**15
        cancelled = [asyncio.create_task(bench.clock.sleep_until(far_ns + n)) for n in range(200)]
        soon = asyncio.create_task(bench.clock.sleep_until(bench.clock.now_ns() + 5 * STEP_NS))
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        holds(all(task.cancelled() for task in cancelled), "a sleep was not cancelled")
        await _finished(bench, [soon])
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def an_alarm_comes_once_and_not_early(maker: ClockMaker) -> None:
    """`call_at` calls once, not before the deadline and never from within; a past deadline at the next turn."""
    async with maker() as bench:
        calls: list[int] = []

        def called(deadline_ns: int) -> None:
            early.append(bench.clock.now_ns() < deadline_ns)
            calls.append(deadline_ns)

        early: list[bool] = []
        deadlines = [bench.clock.now_ns() + step * STEP_NS for step in (6, -1, 2, 4)]
        for deadline_ns in deadlines:
            bench.clock.call_at(deadline_ns, partial(called, deadline_ns))
            equal(calls, [], "calls from within call_at")
        await _until(bench, lambda: len(calls) >= len(deadlines), "every alarm comes")
        holds(not any(early), "called before the deadline")
        equal(calls, sorted(deadlines), "the order of the calls")
        await bench.let_pass(STEP_NS)
        equal(len(calls), len(deadlines), "calls")
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def a_cancelled_alarm_does_not_come(maker: ClockMaker) -> None:
    """`Alarm.cancel` lets the call not come, also from an alarm of the same moment; afterwards it does nothing."""
    async with maker() as bench:
        calls: list[str] = []
        deadline_ns = bench.clock.now_ns() + 2 * STEP_NS

        def call_first() -> None:
            calls.append("first")
            second.cancel()

        first = bench.clock.call_at(deadline_ns, call_first)
        second = bench.clock.call_at(deadline_ns, lambda: calls.append("second"))
        third = bench.clock.call_at(bench.clock.now_ns(), lambda: calls.append("third"))
        third.cancel()
        last = bench.clock.call_at(deadline_ns + STEP_NS, lambda: calls.append("last"))
        await _until(bench, lambda: "last" in calls, "the last alarm comes")
        equal(calls, ["first", "last"], "calls")
        for alarm in (first, second, third, last):
            alarm.cancel()
        equal(bench.pending(), 0, "deadlines left behind")


@clause("clock")
async def a_callback_may_ask_again(maker: ClockMaker) -> None:
    """A callback may call `call_at`; what it asks for comes in a later turn, also when that is past."""
    async with maker() as bench:
        calls: list[int] = []

        def again() -> None:
            before = len(calls)
            calls.append(bench.clock.now_ns())
            if before < 3:
                bench.clock.call_at(bench.clock.now_ns() + (before % 2) * STEP_NS, again)
                equal(len(calls), before + 1, "calls from within call_at")

        bench.clock.call_at(bench.clock.now_ns() + STEP_NS, again)
        await _until(bench, lambda: len(calls) >= 4, "every alarm comes")
        equal(bench.pending(), 0, "deadlines left behind")
