"""Nodes in worker processes: the same results, reports and endings as in one process."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import told
from process_scene import Sink, refusal, run_placed, until, workers

if TYPE_CHECKING:
    from pathlib import Path

    from flowbridge.runtime.flow import RunningFlow

JSON = "outputs: {out: {type: json}}"
SOURCE = f'id: a, operator: "python:./ops.py:Numbers", {JSON}'


def work(operator: str, *more: str) -> str:
    """The node in the middle."""
    return ", ".join([f'id: b, operator: "python:./ops.py:{operator}", inputs: {{in: a/out}}, {JSON}', *more])


def place(process: str) -> str:
    return f"place: {{process: {process}}}"


KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"


def test_a_node_in_another_process_gives_what_it_gives_here(tmp_path: Path) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path, f"{SOURCE}, with: {{count: 2000}}", work("with_pid", place("w")), KEEP, operators={"keep": sink}
    )
    assert (report.status, report.errors) == ("done", [])
    assert [value["n"] for value in sink.values] == list(range(2000))
    assert os.getpid() not in {value["pid"] for value in sink.values}
    assert [report.nodes[node].process for node in "abk"] == [None, "w", None]
    assert [report.nodes[node].processed for node in "abk"] == [2000] * 3
    assert {edge.tier for edge in report.edges.values()} == {"ipc"}
    assert all(edge.books.delivered == 2000 == edge.books.latency.count for edge in report.edges.values())
    assert [(path.nodes, path.delivered) for path in report.paths] == [(("a", "b", "k"), 2000)]


def test_three_processes_and_a_route_within_one_of_them(tmp_path: Path) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 500}}, {place('first')}",
        work("double", place("second")),
        f'id: c, operator: "python:./ops.py:double", inputs: {{in: b/out}}, {JSON}, {place("second")}',
        f'id: d, operator: "python:./ops.py:with_pid", inputs: {{in: c/out}}, {JSON}, {place("third")}',
        "id: k, operator: host:keep, inputs: {in: d/out}",
        operators={"keep": sink},
    )
    assert (report.status, report.errors) == ("done", [])
    assert [value["n"] for value in sink.values] == [4 * n for n in range(500)]
    assert [edge.tier for edge in report.edges.values()] == ["ipc", "inproc", "ipc", "ipc"]
    assert [edge.books.delivered for edge in report.edges.values()] == [500] * 4
    assert [(path.nodes, path.delivered) for path in report.paths] == [(("a", "b", "c", "d", "k"), 500)]


def test_a_whole_flow_in_workers(tmp_path: Path) -> None:
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 300}}, {place('one')}",
        work("double", place("two")),
        f'id: k, operator: "null", inputs: {{in: b/out}}, {place("one")}',
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["k"].processed == 300
    assert [(path.nodes, path.delivered) for path in report.paths] == [(("a", "b", "k"), 300)]


@pytest.mark.parametrize("policy", ["drop_oldest, size: 2", "drop_newest, size: 2", "latest"])
def test_what_a_policy_drops_between_two_processes_is_counted_once(tmp_path: Path, policy: str) -> None:
    slow = f"inputs: {{in: {{from: a/out, queue: {{policy: {policy}}}}}}}"
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 3000}}, {place('one')}",
        f'id: b, operator: "python:./ops.py:double", {slow}, {JSON}, {place("two")}',
        'id: k, operator: "null", inputs: {in: b/out}',
    )
    books = report.edges["a/out->b/in"].books
    assert report.status == "done"
    assert books.sent == 3000
    assert set(books.dropped) <= {policy.partition(",")[0]}
    assert report.nodes["b"].processed == books.delivered == report.edges["b/out->k/in"].books.sent


def test_an_error_in_a_worker_is_told_as_one_here(tmp_path: Path) -> None:
    nodes = f"{SOURCE}, with: {{count: 100}}", work("fails_at_7", place("w")), KEEP
    there = run_placed(tmp_path, *nodes, operators={"keep": Sink()})
    here = run_placed(tmp_path, nodes[0], work("fails_at_7"), KEEP, operators={"keep": Sink()})
    assert there.status == here.status == "failed"
    assert told(there) == told(here)
    assert there.nodes["b"].state == "failed"
    assert there.nodes["b"].errors == 1
    assert there.nodes["b"].error == there.errors[0]


def test_a_node_restarts_within_its_worker(tmp_path: Path) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        f"{SOURCE}, with: {{count: 100}}",
        work("fails_at_7", place("w"), "restart: {when: on-failure, delay: 1ms}"),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.errors) == ("done", [])
    assert report.nodes["b"].restarts == 1
    assert sink.values == [n for n in range(100) if n != 7]


def test_a_drain_lets_through_what_is_under_way(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 20, "nothing arrived")
        flow.drain()

    report = run_placed(
        tmp_path,
        f'id: a, operator: "python:./ops.py:endless", {JSON}, {place("one")}',
        work("double", place("two")),
        KEEP,
        operators={"keep": sink},
        drive=drive,
    )
    assert (report.status, report.errors) == ("interrupted", [])
    assert {node.state for node in report.nodes.values()} == {"done"}
    assert sink.values == [2 * n for n in range(len(sink.values))]
    assert report.edges["a/out->b/in"].books.sent == len(sink.values)


def test_an_abort_ends_workers_at_once(tmp_path: Path) -> None:
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 20, "nothing arrived")
        flow.abort()

    nodes = f'id: a, operator: "python:./ops.py:endless", {JSON}, {place("one")}', work("double", place("two")), KEEP
    report = run_placed(tmp_path, *nodes, operators={"keep": sink}, drive=drive)
    assert (report.status, report.errors) == ("interrupted", [])
    assert {node.state for node in report.nodes.values()} == {"aborted"}


def test_a_timer_ticks_in_a_worker(tmp_path: Path) -> None:
    async def drive(flow: RunningFlow) -> None:
        await until(lambda: flow.report().nodes["t"].processed > 3, "no tick")
        flow.drain("done")

    report = run_placed(
        tmp_path, f'id: t, operator: "python:./ops.py:with_pid", inputs: {{tick: timer/5ms}}, {place("w")}', drive=drive
    )
    assert (report.status, report.errors) == ("done", [])


def test_state_goes_to_a_worker_and_back_though_its_class_is_unknown_here(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}
    sink = Sink()

    async def drive(flow: RunningFlow) -> None:
        await until(lambda: len(sink.values) > 10, "nothing arrived")
        kept.update(await flow.snapshot())
        flow.abort()

    nodes = f"{SOURCE}, with: {{count: 100000, pause_ms: 1}}, {place('w')}", work("double"), KEEP
    run_placed(tmp_path, *nodes, operators={"keep": sink}, drive=drive)
    assert set(kept) == {"a"}
    first, again = len(sink.values), Sink()

    async def once_more(flow: RunningFlow) -> None:
        await until(lambda: again.values, "nothing arrived")
        flow.abort()

    run_placed(tmp_path, *nodes, operators={"keep": again}, drive=once_more, state=kept)
    assert 0 < again.values[0] <= 2 * (first + 1000)


def test_everything_that_cannot_be_loaded_anywhere_is_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = refusal(
        tmp_path,
        f'id: a, operator: "python:./ops.py:nothing", {JSON}, {place("one")}',
        f'id: b, operator: "python:./missing.py:f", inputs: {{in: a/out}}, {JSON}',
        f'id: c, operator: "python:fb_no_such:f", inputs: {{in: b/out}}, {JSON}, {place("two")}',
        f'id: d, operator: "python:./ops.py:DiesOnce", with: {{mork: 1}}, inputs: {{in: c/out}}, {place("one")}',
    )
    assert [line.partition(" ")[0].split(":")[1] for line in found] == ["4", "5", "6", "7"]
    texts = {"a": "has no nothing", "b": "no such file", "c": "fb_no_such", "d": "no setting 'mork'"}
    for line, (node, text) in zip(found, texts.items(), strict=True):
        assert f"node {node}: " in line
        assert text in line


def test_an_object_of_the_host_cannot_be_placed(tmp_path: Path) -> None:
    (found,) = refusal(tmp_path, SOURCE, work("double"), f"{KEEP}, {place('w')}", operators={"keep": Sink()})
    assert found.startswith("flow.yaml:6:")
    assert "node k is placed in process w, but its operator host:keep is an object of this process" in found


def test_the_bus_reaches_every_process(tmp_path: Path) -> None:
    told_here, sink = Sink(), Sink()
    report = run_placed(
        tmp_path,
        f'id: a, operator: "python:./ops.py:Numbers", outputs: {{out: {{type: json, topic: numbers}}}}, {place("one")}',
        f'id: b, operator: "python:./ops.py:Tells", inputs: {{in: a/out}}, {JSON}, {place("two")}',
        f'id: c, operator: "python:./ops.py:double", inputs: {{in: bus/numbers}}, {JSON}, {place("two")}',
        "id: k, operator: host:keep, inputs: {in: c/out}",
        "id: m, operator: host:hear, inputs: {in: bus/told}",
        'id: n, operator: "null", inputs: {in: b/out}',
        operators={"keep": sink, "hear": told_here},
    )
    assert (report.status, report.errors) == ("done", [])
    assert told_here.values == list(range(100))
    assert sink.values == [2 * n for n in range(100)]
    books = report.edges["bus/numbers->c/in"].books
    assert books.sent == books.delivered == books.latency.count == 100
    assert report.edges["bus/told->m/in"].books.delivered == 100


def test_a_name_is_one_process_per_flow_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    before = workers()
    seen: list[set[int]] = []

    async def drive(flow: RunningFlow) -> None:
        seen.append(workers() - before)

    run_placed(
        tmp_path,
        f"{SOURCE}, {place('w')}",
        work("double", place("w")),
        f'id: k, operator: "null", inputs: {{in: b/out}}, {place("v")}',
        drive=drive,
    )
    assert len(seen[0]) == 2
