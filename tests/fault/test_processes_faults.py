"""Worker processes that die, hang or never start; and a host that dies."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from process_scene import S, Sink, refusal, run_placed, until, workers

from flowbridge.envelope import Gap
from flowbridge.runtime import remote_part

if TYPE_CHECKING:
    from pathlib import Path

    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow

JSON = "outputs: {out: {type: json}}"
AGAIN = "restart: {when: on-failure, delay: 1ms, max: 3}"
ENDLESS = f'id: a, operator: "python:./ops.py:endless", {JSON}'
SOURCE = f'id: a, operator: "python:./ops.py:Numbers", {JSON}'
KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"


def work(operator: str, *more: str) -> str:
    return ", ".join([f'id: b, operator: "python:./ops.py:{operator}", inputs: {{in: a/out}}, {JSON}', *more])


def lost(report: RunReport) -> int:
    """Messages that went down with a process."""
    return sum(edge.books.dropped.get("lost", 0) for edge in report.edges.values())


@pytest.mark.parametrize(
    ("operator", "how"), [("dies_at_50", "was killed by SIGKILL"), ("exits_at_50", "exited with code 9")]
)
def test_a_worker_that_dies_fails_the_flow_by_name(tmp_path: Path, operator: str, how: str) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        f"{ENDLESS}, place: {{process: one}}",
        work(operator, "place: {process: two}"),
        KEEP,
        operators={"keep": sink},
    )
    assert report.status == "failed"
    (error,) = report.errors
    assert re.fullmatch(rf"flow\.yaml:5:\d+: process two \(pid \d+\) {how}; its nodes: b", error)
    assert report.nodes["b"].state == "failed"
    assert report.nodes["b"].error == error
    assert report.nodes["a"].state == "aborted"
    assert sink.values == list(range(len(sink.values)))


@pytest.mark.parametrize("place", ["", "place: {process: one}"])
def test_a_worker_that_dies_is_started_again_and_joined_again(tmp_path: Path, place: str) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 400, pause_ms: 2}}{', ' if place else ''}{place}",
        work("DiesOnce", f"with: {{mark: '{tmp_path}/mark'}}", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["b"].restarts == 1
    assert sink.values == sorted(set(sink.values)), "nothing twice, nothing out of order"
    assert sink.values[-1] == 399
    assert lost(report) == 400 - len(sink.values)
    assert 0 < lost(report) < 300


def test_a_worker_that_waits_for_its_ring_dies_and_is_started_again(tmp_path: Path) -> None:
    """Messages follow each other quickly, so its node takes them without its loop; see runtime/pump.py."""
    sink = Sink()
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 600, pause_ms: 1}}, place: {{process: one}}",
        work("DiesOnce", f"with: {{mark: '{tmp_path}/mark', at: 200}}", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["b"].restarts == 1
    assert sink.values == sorted(set(sink.values)), "nothing twice, nothing out of order"
    assert sink.values[-1] == 599
    assert lost(report) == 600 - len(sink.values)
    assert 0 < lost(report) < 400


class HearsOfGaps(Sink):
    """Keeps values and gaps in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Any] = []

    def process(self, value: Any) -> None:
        self.met.append(value)
        self.values.append(value)

    def on_gap(self, port: str, gap: Gap) -> None:
        assert port == "in"
        self.met.append(gap)


def test_operators_on_both_sides_of_a_worker_that_died_are_told_of_the_gap(tmp_path: Path) -> None:
    sink = HearsOfGaps()
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 300, pause_ms: 1}}, place: {{process: one}}",
        work("TellsGaps", f"with: {{mark: '{tmp_path}/mark'}}", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.errors) == ("done", [])
    told = [entry for entry in sink.values if isinstance(entry, list)]
    before, after = report.edges["a/out->b/in"].books, report.edges["b/out->k/in"].books
    assert (before.gaps, after.gaps) == (1, 1)
    ((first, last, count),) = told
    assert count == last - first + 1 == before.dropped["lost"]
    place = sink.met.index(told[0])
    gap = sink.met[place - 1]
    assert isinstance(gap, Gap)
    assert gap.to_seq is None
    held, others = sink.values[: place - 1], sink.values[place:]
    assert held == list(range(len(held)))
    assert first <= len(held) <= last, "some may have been handled and not reported"
    assert others == list(range(last + 1, 300))


def test_a_source_that_dies_goes_on_from_its_last_snapshot(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 300, "nothing arrived")
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)

    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 1500, pause_ms: 1}}, place: {{process: one}}, snapshot: 10ms, {AGAIN}",
        work("double"),
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["a"].restarts == 1
    assert sink.values[-1] == 2 * 1499


def test_a_node_that_had_ended_is_not_run_again_and_its_consumer_sees_the_end(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: flow.report().nodes["a"].state == "done" and len(sink.values) > 9, "nothing arrived")
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)

    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 100}}, place: {{process: two}}, {AGAIN}",
        work("slowly", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert [report.nodes[node].restarts for node in "ab"] == [0, 1]
    assert report.nodes["a"].processed == report.edges["a/out->b/in"].books.sent == 100
    assert 100 - len(sink.values) <= lost(report) <= 100  # within its process, by its last report
    assert sink.values == list(range(len(sink.values)))


def test_a_worker_that_does_not_become_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_part, "WORKER_START_NS", 8 * S)
    (tmp_path / "slow.py").write_text("import time; time.sleep(3600)\n")
    (found,) = refusal(
        tmp_path,
        SOURCE,
        'id: c, operator: "python:./slow.py:f", inputs: {in: a/out}, place: {process: two}',
    )
    expected = r"flow\.yaml:5:\d+: node c: process two \(pid \d+\) was not ready within 8 s while it loaded python:.*"
    assert re.fullmatch(expected, found)


def test_a_worker_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    report = run_placed(
        tmp_path,
        ENDLESS,
        work("DiesOnce", "with: {mark: /nowhere/mark, at: 0}", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": Sink()},
    )
    assert report.status == "failed"
    assert report.nodes["b"].state == "failed"


def test_one_node_that_may_not_restart_keeps_its_process_from_it(tmp_path: Path) -> None:
    report = run_placed(
        tmp_path,
        ENDLESS,
        work("dies_at_50", "place: {process: two}", AGAIN),
        'id: c, operator: "null", inputs: {in: b/out}, place: {process: two}',
        operators={},
    )
    assert report.status == "failed"
    assert "its nodes: b, c" in report.errors[0]
    assert len(report.errors) == 1


def test_a_stopped_worker_does_not_outlive_the_drain(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 20, "nothing arrived")
        (pid,) = workers()
        os.kill(pid, signal.SIGSTOP)
        flow.drain()

    report = run_placed(
        tmp_path,
        ENDLESS,
        work("double", "place: {process: two}"),
        KEEP,
        operators={"keep": sink},
        drive=drive,
        drain_ns=S // 5,
    )
    assert report.status == "failed"
    assert "the drain took longer than 0.2 s, so it was aborted; still busy: " in report.errors[0]
    assert re.search(r"process two \(pid \d+\) was killed, because its nodes did not stop", report.errors[1])
    assert report.nodes["b"].state == "aborted"


def test_an_operator_that_holds_its_worker_does_not_hold_the_flow(tmp_path: Path) -> None:
    async def drive(flow: RunningFlow) -> None:
        await until(lambda: flow.report().edges["a/out->b/in"].books.sent > 10, "nothing was sent")
        flow.abort()

    report = run_placed(
        tmp_path, ENDLESS, work("blocks", "place: {process: two}"), KEEP, operators={"keep": Sink()}, drive=drive
    )
    assert report.status == "failed"
    assert re.search(
        r"process two \(pid \d+\) was killed, because its nodes did not stop .*; busy: b$", report.errors[0]
    )
    assert report.nodes["b"].state == "aborted"


def test_sigterm_to_a_worker_drains_the_flow(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 20, "nothing arrived")
        (pid,) = workers()
        os.kill(pid, signal.SIGINT)  # is ignored
        os.kill(pid, signal.SIGTERM)

    report = run_placed(
        tmp_path, ENDLESS, work("double", "place: {process: two}"), KEEP, operators={"keep": sink}, drive=drive
    )
    assert (report.status, report.errors) == ("interrupted", [])
    assert {node.state for node in report.nodes.values()} == {"done"}


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("import os; os._exit(4)", "exited with code 4"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
    ],
)
def test_a_worker_that_dies_while_it_imports_is_one_line(tmp_path: Path, text: str, how: str) -> None:
    (tmp_path / "fatal.py").write_text(text + "\n")
    (found,) = refusal(
        tmp_path,
        SOURCE,
        work("double", "place: {process: two}"),
        'id: c, operator: "python:./fatal.py:f", inputs: {in: b/out}, place: {process: two}',
    )
    expected = rf"flow\.yaml:6:\d+: node c: process two \(pid \d+\) {how} while it loaded python:\./fatal\.py:f"
    assert re.fullmatch(expected, found)


STOPPED_S = 10  # the very time that users were promised; nothing shorter shows that no time limit is near


def test_a_worker_that_stands_still_for_ten_seconds_loses_nothing(tmp_path: Path) -> None:
    """Takes eleven seconds: the clock that must not strike is the real one of another process."""
    sink = Sink()
    count = 5_000

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 500, "nothing arrived")
        (pid,) = workers()
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it stands at once
        try:
            await asyncio.sleep(1)
            stood = flow.report().edges["a/out->b/in"].books.sent, len(sink.values)
            await asyncio.sleep(STOPPED_S - 1)
            books = flow.report().edges["a/out->b/in"].books
            assert (books.sent, len(sink.values)) == stood, "the source waits for credit, and nothing else happens"
            assert books.in_flight > 0
            assert books.balances
            assert {node.state for node in flow.report().nodes.values()} == {"running"}
        finally:
            os.kill(pid, signal.SIGCONT)

    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: {count}}}",
        work("double", "place: {process: two}", AGAIN),
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["b"].restarts == 0
    assert sink.values == [2 * number for number in range(count)]
    assert all(edge.books.delivered == count for edge in report.edges.values())
    assert not any(edge.books.late_wakes for edge in report.edges.values())
