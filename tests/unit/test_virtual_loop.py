"""Virtual time: jumps, order, hangs, processes that freeze and die, and the same run for the same seed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.errors import LocalProtocolError
from flowbridge.testing.conformance import Clause, clauses
from flowbridge.testing.conformance.clock import ClockBench
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import (
    SimulationFailed,
    SimulationOverrun,
    SimulationStuck,
    VirtualLoop,
    pause,
    run_simulated,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine


def the_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def test_an_hour_passes_in_a_handful_of_turns() -> None:
    async def scenario(_seed: int) -> tuple[float, int]:
        await pause(3_599)
        return the_loop().elapsed_s(), the_loop().turns

    elapsed_s, turns = run_simulated(scenario)
    assert 3_599 <= elapsed_s < 3_599.001
    assert turns < 10


def test_the_clock_moves_in_every_turn() -> None:
    async def scenario(_seed: int) -> list[int]:
        times: list[int] = []
        for _ in range(10):
            times.append(the_loop().time_ns())
            await asyncio.sleep(0)
        return times

    times = run_simulated(scenario)
    assert all(later - earlier >= 1_000 for earlier, later in itertools.pairwise(times))


def test_timers_come_in_order_never_early_and_equal_ones_as_asked() -> None:
    async def scenario(_seed: int) -> list[tuple[int, bool]]:
        loop = the_loop()
        start = loop.time()
        came: list[tuple[int, bool]] = []

        def note(number: int, when: float) -> None:
            came.append((number, loop.time() >= when))

        for number, delay in enumerate((0.3, 0.1, 0.2, 0.1, 0.1 + 1e-7, 0.0)):
            loop.call_at(start + delay, note, number, start + delay)
        loop.call_at(start + 0.15, came.clear).cancel()
        await pause(1)
        return came

    assert run_simulated(scenario) == [(n, True) for n in (5, 1, 3, 4, 2, 0)]


def test_many_cancelled_timers_are_swept_out() -> None:
    async def scenario(_seed: int) -> int:
        loop = the_loop()
        for _ in range(10_000):
            loop.call_later(1_000, print).cancel()
        return loop.timers

    assert run_simulated(scenario) < 1_000


def test_a_hang_names_the_tasks_that_wait() -> None:
    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def scenario(_seed: int) -> None:
        await asyncio.create_task(forgotten(), name="who hangs")

    with pytest.raises(SimulationStuck, match=r"2 tasks wait: simulation .*, who hangs .*forgotten"):
        run_simulated(scenario)


def test_a_run_that_does_not_end_is_ended() -> None:
    async def scenario(_seed: int) -> None:
        while True:
            await pause(1)

    with pytest.raises(SimulationOverrun, match="not over after 5"):
        run_simulated(scenario, until_s=5)


def test_what_nobody_could_catch_fails_the_run() -> None:
    async def scenario(_seed: int) -> None:
        the_loop().call_soon(int, "x")
        await asyncio.sleep(0)

    with pytest.raises(SimulationFailed) as caught:
        run_simulated(scenario)
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_is_left_over_is_cancelled_and_cleans_up() -> None:
    cleaned: list[str] = []

    async def lasting(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(name)

    async def scenario(_seed: int) -> None:
        frozen, killed = the_loop().process("frozen"), the_loop().process("killed")
        tasks = [
            asyncio.create_task(lasting("plain")),
            frozen.start(lasting("frozen")),
            killed.start(lasting("killed")),
        ]
        await asyncio.sleep(0)
        frozen.freeze()
        killed.kill()
        assert not any(task.done() for task in tasks)

    run_simulated(scenario)
    assert cleaned == ["plain", "frozen", "killed"]


REAL: dict[str, Callable[[asyncio.AbstractEventLoop], Any]] = {
    "add_reader": lambda loop: loop.add_reader(0, print),
    "run_in_executor": lambda loop: loop.run_in_executor(None, print),
    "create_connection": lambda loop: loop.create_connection(asyncio.Protocol, "localhost", 1),
    "subprocess_exec": lambda loop: loop.subprocess_exec(asyncio.SubprocessProtocol, "true"),
    "add_signal_handler": lambda loop: loop.add_signal_handler(1, print),
}


@pytest.mark.parametrize("what", REAL)
def test_real_input_and_output_is_refused_by_name(what: str) -> None:
    async def scenario(_seed: int) -> None:
        with pytest.raises(LocalProtocolError, match=f"{what}: a simulated loop"):
            REAL[what](the_loop())

    run_simulated(scenario)


def test_datagrams_need_a_network() -> None:
    async def scenario(_seed: int) -> None:
        with pytest.raises(LocalProtocolError, match="needs a simulated network"):
            await the_loop().create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("10.0.0.1", 1))

    run_simulated(scenario)


def test_a_pause_on_a_real_loop_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="real waiting proves nothing"):
        asyncio.run(pause(1))


def test_a_frozen_process_stands_still_and_catches_up_in_order() -> None:
    async def scenario(_seed: int) -> list[int]:
        process = the_loop().process("one")
        came: list[int] = []

        async def ticks() -> None:
            for n in range(4):
                await pause(1)
                came.append(n)

        task = process.start(ticks())
        await pause(1.5)
        process.freeze()
        await pause(10)
        assert came == [0]
        process.thaw()
        await task
        assert the_loop().elapsed_s() < 14
        return came

    assert run_simulated(scenario) == [0, 1, 2, 3]


def test_what_a_frozen_process_started_and_set_stands_still_too() -> None:
    async def scenario(_seed: int) -> list[str]:
        process = the_loop().process("one")
        came: list[str] = []

        async def child() -> None:
            await pause(1)
            came.append("child")

        async def parent() -> None:
            the_loop().call_later(1, came.append, "second")
            the_loop().call_later(0.5, came.append, "first")
            await asyncio.create_task(child())

        task = process.start(parent())
        await pause(0.1)
        process.freeze()
        await pause(5)
        assert came == []
        process.thaw()
        await task
        return came

    assert run_simulated(scenario) == ["first", "second", "child"]


def test_a_killed_process_never_runs_again_and_takes_nothing_new() -> None:
    async def scenario(_seed: int) -> list[str]:
        process = the_loop().process("one")
        came: list[str] = []

        async def lasting() -> None:
            try:
                await pause(1)
            finally:
                came.append("cleaned up")

        process.start(lasting())
        await pause(0.5)
        process.kill()
        await pause(5)
        with pytest.raises(LocalProtocolError, match="one: was killed"):
            process.start(lasting())
        return list(came)

    assert run_simulated(scenario) == []


def test_a_killed_process_is_forgotten_with_the_last_of_it() -> None:
    async def scenario(_seed: int) -> list[str]:
        cleaned_up: list[str] = []

        async def lasting(name: str) -> None:
            try:
                await pause(1)
            finally:
                cleaned_up.append(name)

        for name, seconds in (("at work", 0.5), ("done", 2.0)):
            process = the_loop().process(name)
            process.start(lasting(name))
            await pause(seconds)
            process.kill()
        del process
        gc.collect()
        assert [process.name for process in the_loop()._processes.values()] == ["at work"]
        return cleaned_up  # those that are at work when the simulation ends clean up then

    assert run_simulated(scenario) == ["done", "at work"]


def test_chance_is_the_same_for_the_same_seed_and_as_before_afterwards() -> None:
    async def scenario(_seed: int) -> tuple[bytes, bytes, float]:
        return os.urandom(8), secrets.token_bytes(8), random.random()

    state, urandom = random.getstate(), os.urandom
    once, twice, other = (
        run_simulated(scenario, seed=1),
        run_simulated(scenario, seed=1),
        run_simulated(scenario, seed=2),
    )
    assert once == twice
    assert all(one != two for one, two in zip(once, other, strict=True))
    assert random.getstate() == state
    assert os.urandom is urandom


# --- the clock of a host ------------------------------------------------------------------------------------------


def test_clocks_are_apart_by_skew_and_drift() -> None:
    async def scenario(_seed: int) -> tuple[int, int]:
        true = VirtualClock()
        fast = VirtualClock(skew_ns=5 * 10**9, drift_ppm=200)
        before_ns = fast.now_ns() - true.now_ns()
        await pause(1_000)
        return before_ns, fast.now_ns() - true.now_ns()

    before_ns, after_ns = run_simulated(scenario)
    assert before_ns == 5 * 10**9
    assert after_ns - before_ns == pytest.approx(200_000_000, rel=1e-6)


def bench_of(skew_ns: int, drift_ppm: int) -> Callable[[], Any]:
    @asynccontextmanager
    async def make() -> AsyncGenerator[ClockBench]:
        clock = VirtualClock(skew_ns=skew_ns, drift_ppm=drift_ppm)

        async def let_pass(ns: int) -> None:
            await clock.sleep_until(clock.now_ns() + ns)

        yield ClockBench(clock, let_pass, clock.pending)

    return make


def on_virtual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    run_simulated(lambda _seed: coroutine)


@pytest.mark.parametrize(("skew_ns", "drift_ppm"), [(0, 0), (5 * 10**9, 200), (-5 * 10**9, -200)])
@pytest.mark.parametrize("clause", clauses("clock"), ids=lambda clause: str(clause.name).replace(" ", "_"))
def test_a_virtual_clock_keeps_the_promises_of_clocks(clause: Clause, skew_ns: int, drift_ppm: int) -> None:
    clause.check(bench_of(skew_ns, drift_ppm), on_virtual_time)
