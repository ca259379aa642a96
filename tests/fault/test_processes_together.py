"""Worker processes of one flow that die together, in each other's restart, or with subscriptions to the bus."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from process_scene import Sink, run_placed, until, workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow

JSON = "outputs: {out: {type: json}}"
KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"
COUNT = 400


def source(delay: str) -> str:
    """A node in a process of its own."""
    return (
        f'id: a, operator: "python:./ops.py:Numbers", {JSON}, with: {{count: {COUNT}, pause_ms: 2}}, '
        f"place: {{process: one}}, snapshot: 5ms, {again(delay)}"
    )


def doubler(delay: str) -> str:
    """Its consumer, in another."""
    return (
        f'id: b, operator: "python:./ops.py:double", inputs: {{in: a/out}}, {JSON}, '
        f"place: {{process: two}}, {again(delay)}"
    )


def again(delay: str) -> str:
    """How a node starts again."""
    return f"restart: {{when: on-failure, delay: {delay}, max: 9}}"


def checked(report: RunReport, sink: Sink, restarts: list[int]) -> None:
    """Both went on to the end, without a start in vain; a source repeats what came after its snapshot."""
    assert (report.status, report.errors) == ("done", [])
    assert [report.nodes[node].restarts for node in "ab"] == restarts
    assert sink.values[-1] == 2 * (COUNT - 1)
    assert set(sink.values) <= {2 * number for number in range(COUNT)}
    assert report.edges["b/out->k/in"].books.delivered == len(sink.values)


@pytest.mark.parametrize("delays", [("1ms", "1ms"), ("1ms", "2s"), ("2s", "1ms")])
def test_two_workers_that_die_at_once_are_joined_again(tmp_path: Path, delays: tuple[str, str]) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 50, "nothing arrived")
        for pid in workers():
            os.kill(pid, signal.SIGKILL)

    report = run_placed(tmp_path, source(delays[0]), doubler(delays[1]), KEEP, operators={"keep": sink}, drive=drive)
    checked(report, sink, [1, 1])


@pytest.mark.parametrize("first", [0, 1])
def test_a_worker_that_dies_while_another_starts_again_is_joined_again(tmp_path: Path, first: int) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 50, "nothing arrived")
        pids = sorted(workers())  # in the order of their start
        os.kill(pids[first], signal.SIGKILL)
        await until(lambda: workers() - {*pids}, "it was not started again")
        os.kill(pids[1 - first], signal.SIGKILL)

    report = run_placed(tmp_path, source("1ms"), doubler("1ms"), KEEP, operators={"keep": sink}, drive=drive)
    checked(report, sink, [1, 1])


def test_a_worker_that_dies_in_its_own_restart_is_joined_to_one_that_waits_for_it(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 50, "nothing arrived")
        before = workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: workers() - before, "none was started again")
        (pid,) = workers() - before  # of the source: the other one waits
        os.kill(pid, signal.SIGKILL)

    report = run_placed(tmp_path, source("1ms"), doubler("3s"), KEEP, operators={"keep": sink}, drive=drive)
    checked(report, sink, [2, 1])


def test_subscriptions_of_a_worker_are_made_again_with_it(tmp_path: Path) -> None:
    heard, has_killed, count = Sink(), False, 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal count
        while not has_killed:
            yield count
            count += 1
            await asyncio.sleep(0.01)

    async def hear_more() -> None:
        more = len(heard.values) + 20
        await until(lambda: len(heard.values) > more, "nothing was heard")

    async def drive(flow: RunningFlow) -> None:
        nonlocal has_killed
        for _ in range(2):
            await hear_more()
            (pid,) = workers()
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: pid not in workers(), "it lives")  # type: ignore[misc]
        await hear_more()
        has_killed = True

    report = run_placed(
        tmp_path,
        "id: a, operator: host:numbers, outputs: {out: {type: json, topic: numbers}}",
        f'id: b, operator: "python:./ops.py:double", inputs: {{in: bus/numbers}}, {JSON}, '
        f"place: {{process: two}}, {again('1ms')}",
        KEEP,
        operators={"keep": heard, "numbers": numbers},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["b"].restarts == 2
    books = report.edges["bus/numbers->b/in"].books
    assert heard.values == sorted(set(heard.values)), "nothing twice, nothing out of order"
    assert heard.values[-1] == 2 * (count - 1)
    assert books.balances
    assert books.in_flight == 0
    # What is published while nobody subscribes counts nowhere; what died with a process is `lost`.
    assert len(heard.values) <= books.delivered <= books.sent <= count
    assert set(books.dropped) <= {"lost"}
    assert report.edges["b/out->k/in"].books.delivered == len(heard.values)


ENDED = f'id: a, operator: "python:./ops.py:Numbers", {JSON}, with: {{count: 100}}, place: {{process: one}}'
SLOW = f'operator: "python:./ops.py:slowly", {JSON}, place: {{process: two}}, {again("1ms")}'


@pytest.mark.parametrize("queue", ["block", "block, size: 4"])
def test_what_a_producer_sent_before_it_ended_reaches_the_successor_of_its_consumer(tmp_path: Path, queue: str) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 97 - (4 if "size" in queue else 90), "nothing arrived")
        os.kill(max(workers()), signal.SIGKILL)

    report = run_placed(
        tmp_path,
        ENDED,
        f"id: b, {SLOW}, inputs: {{in: {{from: a/out, queue: {{policy: {queue}}}}}}}",
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert [report.nodes[node].restarts for node in "ab"] == [0, 1]
    books = report.edges["a/out->b/in"].books
    assert books.sent == 100
    assert books.delivered + books.dropped["lost"] == 100
    assert sink.values == sorted(set(sink.values))


def test_a_consumer_sees_the_end_of_a_producer_whose_process_is_gone_too(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: flow.report().nodes["a"].state == "done" and len(sink.values) > 9, "nothing arrived")
        first, second = sorted(workers())
        os.kill(first, signal.SIGKILL)
        await until(lambda: first not in workers(), "it lives")
        os.kill(second, signal.SIGKILL)

    report = run_placed(
        tmp_path,
        f"{ENDED}, {again('1ms')}",
        f"id: b, {SLOW}, inputs: {{in: a/out}}",
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert [report.nodes[node].restarts for node in "ab"] == [0, 1]
    books = report.edges["a/out->b/in"].books
    assert books.sent == 100 == books.delivered + books.dropped["lost"]
    assert sink.values == list(range(len(sink.values)))
