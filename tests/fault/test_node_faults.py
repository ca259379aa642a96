"""Nodes and hosts on real sockets that are killed, stopped, cut off, or that do not read."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from node_processes import NodeProcess, RunProcess, balance, certificates, flow, free_port, lost
from quic_certs import LOCAL

from flowbridge.limits import (
    HEARTBEAT_NS,
    QUEUE_ITEMS_DEFAULT,
    REPLAY_BYTES_MAX,
    REPORT_SHARE,
    SUCCEEDED_LEASE_MS,
    SUSPECT_BEATS,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

EDGE = "place: {host: edge-1}"
JSON = "outputs: {out: {type: json}}"
AGAIN = "restart: {when: on-failure, delay: 100ms, max: 5}"
LINES = "id: k, operator: jsonl_sink, with: {path: out.jsonl}"
BEAT_S = HEARTBEAT_NS / 1e9
SUSPECT_S = (SUSPECT_BEATS + 1) * BEAT_S
"""Silence that is noticed for sure: it is looked at once per heartbeat."""
SLACK_S = 5.0  # for a machine that has other things to do


def numbers(folder: Path) -> list[int]:
    """What the sink wrote."""
    return [int(line) for line in (folder / "out.jsonl").read_text().split()]


def source(count: int, *more: str) -> str:
    return ", ".join([f"id: a, operator: sequence, with: {{count: {count}, every: 1ms}}", JSON, *more])


# --- death ----------------------------------------------------------------------------------------------------------


def test_a_node_that_is_killed_and_started_again_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    port, count = free_port(), 6_000
    flow(tmp_path, source(count, EDGE, AGAIN, "snapshot: 20ms"), f"{LINES}, inputs: {{in: a/out}}")
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(1)
        killed_at = node.send(signal.SIGKILL)
        node.wait()
        away_at = run.hears("node edge-1", "is away")
        time.sleep(1)
        with NodeProcess(tmp_path, port) as again:
            lost_at = run.hears("was lost: STATE_LOST (0x803)", "the part starts again in")
            back_at = run.hears("the part runs again", "its nodes: a")
            report = run.report()
            assert again.kinds[:3] == ["listening", "host_connected", "part_started"]
            heard_s = again.listens_at
    print(
        f"suspected after {away_at - killed_at:.2f} s; after it listened: known to be lost {lost_at - heard_s:.2f} s, "
    )
    print(f"running {back_at - heard_s:.2f} s")
    assert away_at - killed_at < SUSPECT_S + SLACK_S
    assert back_at - heard_s < SLACK_S
    assert (report["status"], report["errors"]) == ("done", [])
    assert report["nodes"]["a"]["restarts"] == 1
    balance(report)
    values = numbers(tmp_path)
    assert values[-1] == count - 1
    assert values.count(0) == 1, "it began anew"
    assert len(values) == report["edges"]["a/out->k/in"]["delivered"]


def test_what_a_killed_node_held_is_counted_as_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    port, count = free_port(), 6_000
    middle = f"id: b, operator: map, with: {{columns: {{twice: value * 2}}}}, inputs: {{in: a/out}}, {EDGE}, {AGAIN}"
    batches = "id: a, operator: sequence, with: {count: 6000, every: 2ms, batch_rows: 2}"
    flow(tmp_path, batches, middle, f"{LINES}, inputs: {{in: b/out}}")
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(1)
        node.send(signal.SIGKILL)
        node.wait()
        run.hears("node edge-1", "is away")
        with NodeProcess(tmp_path, port):
            report = run.report()
    assert (report["status"], report["errors"]) == ("done", [])
    balance(report)
    values = [int(found[1]) for found in re.finditer(r'"value": (\d+)', (tmp_path / "out.jsonl").read_text())]
    assert values == sorted(set(values)), "nothing twice, nothing out of order"
    assert values[-1] == count - 1
    missing = (count - len(values)) // 2
    print(f"{missing} of {count // 2} batches were lost, and {lost(report) - missing} were done but not reported")
    assert missing <= lost(report) <= missing + QUEUE_ITEMS_DEFAULT // REPORT_SHARE


def test_a_node_that_does_not_come_back_is_lost_with_its_lease_and_tried_as_often_as_its_nodes_allow(
    tmp_path: Path,
) -> None:
    port = free_port()
    patient = "restart: {when: on-failure, delay: 50ms, max: 2}"
    flow(tmp_path, source(10**6, EDGE, patient), f"{LINES}, inputs: {{in: a/out}}")
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.5)
        killed_at = node.send(signal.SIGKILL)
        node.wait()
        lost_at = run.hears("was lost: not heard for 30000 ms", "the part starts again in 50 ms")
        run.hears("nobody listens there", "the next try comes in 100 ms")
        report = run.report(1)
    print(f"lost after {lost_at - killed_at:.1f} s")
    assert report["status"] == "failed"
    assert "nobody listens there (connection refused)" in report["errors"][0]
    assert report["nodes"]["a"]["restarts"] == 2
    balance(report)


def test_a_host_that_is_killed_gives_way_to_the_next_one_at_once(tmp_path: Path) -> None:
    port = free_port()
    flow(tmp_path, source(10**6, EDGE), f"{LINES}, inputs: {{in: a/out}}")
    flow(tmp_path, source(2_000, EDGE), f"{LINES}, inputs: {{in: a/out}}", name="next.yaml")
    with NodeProcess(tmp_path, port) as node:
        with RunProcess(tmp_path, port) as run:
            node.hears_event("part_started")
            time.sleep(0.5)
            killed_at = run.send(signal.SIGKILL)
        with RunProcess(tmp_path, port, "next.yaml") as run:
            report = run.report()
            node.until(lambda: node.kinds.count("host_left") == 2, "the part of the dead host goes on")
            freed_at = node.out.read[-1][0]
        node.send(signal.SIGTERM)
        assert node.wait() == 0
    print(f"the part of the dead host ended after {freed_at - killed_at:.2f} s")
    assert freed_at - killed_at < SUCCEEDED_LEASE_MS / 1000 + 2 * SUSPECT_S + 2 * SLACK_S
    assert report["status"] == "done"
    assert numbers(tmp_path)[-1] == 1_999


def test_two_live_hosts_of_one_name_let_each_other_be(tmp_path: Path) -> None:
    port = free_port()
    flow(tmp_path, source(4_000, EDGE), f"{LINES}, inputs: {{in: a/out}}")
    flow(tmp_path, source(500, EDGE), 'id: k, operator: "null", inputs: {in: a/out}', name="next.yaml")
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as first:
        node.hears_event("part_started")
        with RunProcess(tmp_path, port, "next.yaml") as second:
            assert second.report()["status"] == "done"
        assert first.report()["status"] == "done"
    assert numbers(tmp_path) == list(range(4_000))


# --- standing still -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0.5, 3.0])
@pytest.mark.parametrize("who", ["node", "host"])
def test_a_process_that_stands_still_for_a_while_loses_nothing(tmp_path: Path, who: str, pause_s: float) -> None:
    port, count = free_port(), 5_000
    flow(tmp_path, source(count, EDGE), f"{LINES}, inputs: {{in: a/out}}")
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.5)
        stopped = node if who == "node" else run
        stopped.send(signal.SIGSTOP)
        time.sleep(pause_s)
        stopped.send(signal.SIGCONT)
        if who == "node" and pause_s > SUSPECT_S:
            run.hears("node edge-1", "is back", "nothing was lost")
        report = run.report()
        node.hears_event("host_left")
        assert node.kinds.count("host_connected") == 1
    assert (report["status"], report["errors"], lost(report)) == ("done", [], 0)
    assert report["nodes"]["a"]["restarts"] == 0
    balance(report)
    assert numbers(tmp_path) == list(range(count))


# --- memory ---------------------------------------------------------------------------------------------------------

BIG = '''
import asyncio
import os

BYTES = 1 << 18


async def chunks(count=1024):
    for _ in range(count):
        yield os.urandom(8) + bytes(BYTES - 8)


class Stalls:
    """Takes nothing until a file is there."""

    def __init__(self, gate):
        self.gate, self.bytes = gate, 0

    async def process(self, value):
        while not os.path.exists(self.gate):
            await asyncio.sleep(0.05)
        self.bytes += len(value)
'''


def test_a_consumer_that_takes_nothing_costs_neither_side_more_than_its_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big_ops.py").write_text(BIG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "policy.yaml").write_text(
        "flowbridge-node: 1\noperators:\n  - {ref: 'python:big_ops:Stalls'}\n"
        "rules:\n  - {allow: [port.read, port.write], peers: ['*'], to: ['*']}\n"
    )
    port, gate = free_port(), tmp_path / "gate"
    credit = "queue: {size: 16}"
    inputs = f"inputs: {{in: {{from: a/out, {credit}}}}}"
    flow(
        tmp_path,
        'id: a, operator: "python:big_ops:chunks", outputs: {out: {type: bytes}}',
        f'id: k, operator: "python:big_ops:Stalls", with: {{gate: {gate}}}, {inputs}, {EDGE}',
    )
    with NodeProcess(tmp_path, port, "--policy", "policy.yaml") as node:
        before_kib = node.rss_kib
        with RunProcess(tmp_path, port) as run:
            node.hears_event("part_started")
            time.sleep(0.2)
            first_kib = run.rss_kib
            time.sleep(5)  # 256 MiB are offered
            grown_kib = {"host": run.rss_kib - first_kib, "node": node.rss_kib - before_kib}
            gate.touch()
            run.send(signal.SIGTERM)  # what is under way goes through
            report = run.report(130)
    print(f"grown by {grown_kib} KiB")
    # The credit of 4 MiB stands at the producer or the consumer; QUIC and the session each keep one window of it.
    allowed_kib = (4 * 4 * 1024 * 1024 + REPLAY_BYTES_MAX) / 1024 + 24 * 1024
    assert grown_kib["host"] < allowed_kib
    assert grown_kib["node"] < allowed_kib + 64 * 1024  # and the modules that a part imports
    assert (report["status"], report["errors"], lost(report)) == ("interrupted", [], 0)
    edge = report["edges"]["a/out->k/in"]
    assert edge["delivered"] == edge["sent"] >= 16
    balance(report)


# --- the network ----------------------------------------------------------------------------------------------------


def _why_no_namespaces() -> str:
    """Why there can be no two network namespaces with a wire here; empty when there can."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return "needs root and ip(8)"
    name = f"fbprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    try:
        wire = ["ip", "-n", name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]
        made = subprocess.run(wire, capture_output=True, text=True, check=False)
        return f"no veth: {made.stderr.strip()}" if made.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Wire:
    """Two network namespaces and a veth pair between them (ip-netns(8), veth(4))."""

    near_address, far_address = "10.201.77.1", "10.201.77.2"

    def __init__(self) -> None:
        self.near, self.far = (f"fb{side}{os.getpid()}" for side in ("near", "far"))
        self.near_end, self.far_end = "fbnear", "fbfar"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)

    def must(self, *command: str) -> None:
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def up(self) -> None:
        for name in (self.near, self.far):
            self.must("ip", "netns", "add", name)
        self.must(
            *("ip", "-n", self.near, "link", "add", self.near_end, "type", "veth"),
            *("peer", "name", self.far_end, "netns", self.far),
        )
        ends = ((self.near, self.near_end, self.near_address), (self.far, self.far_end, self.far_address))
        for name, end, address in ends:
            self.must("ip", "-n", name, "addr", "add", f"{address}/24", "dev", end)
            self.must("ip", "-n", name, "link", "set", "lo", "up")
            self.must("ip", "-n", name, "link", "set", end, "up")

    def down(self) -> None:
        for name in (self.near, self.far):
            self.run("ip", "netns", "del", name)

    def cut(self) -> None:
        """The far end's address is gone to the wire: packets vanish, nobody says so."""
        self.must("ip", "-n", self.far, "link", "set", self.far_end, "arp", "off")
        self.must("ip", "-n", self.far, "link", "set", self.far_end, "down")

    def mend(self) -> None:
        self.must("ip", "-n", self.far, "link", "set", self.far_end, "up")
        self.must("ip", "-n", self.far, "link", "set", self.far_end, "arp", "on")

    def lossy(self, percent: int) -> str:
        """Lose packets both ways; why that cannot be, else empty."""
        if shutil.which("tc") is None:
            return "no netem: needs tc(8)"
        for name, end in ((self.near, self.near_end), (self.far, self.far_end)):
            made = ("tc", "-n", name, "qdisc", "add", "dev", end, "root", "netem")
            done = self.run(*made, "loss", f"{percent}%", "delay", "10ms")
            if done.returncode:
                return f"no netem: {done.stderr.strip()}"
        return ""

    def within(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", name)


@contextmanager
def wired() -> Generator[Wire]:
    why = _why_no_namespaces()
    if why:
        pytest.skip(why)
    wire = Wire()
    try:
        wire.up()
        yield wire
    finally:
        wire.down()


@contextmanager
def apart(folder: Path, wire: Wire) -> Generator[tuple[NodeProcess, RunProcess]]:
    """A node and a host, each on its own side of a wire."""
    hosts = (*LOCAL, wire.far_address)
    options = certificates(folder, "edge-1", hosts=hosts)
    listens = NodeProcess(folder, 4433, options=options, host=wire.far_address, prefix=wire.within(wire.far))
    with listens as node, RunProcess(folder, 4433, host=wire.far_address, prefix=wire.within(wire.near)) as run:
        yield node, run


@pytest.mark.parametrize("cut_s", [1.0, 4.0, 12.0])
def test_a_link_that_is_cut_for_a_while_loses_nothing(tmp_path: Path, cut_s: float) -> None:
    count = 5_000 + round(cut_s * 200)
    flow(tmp_path, source(count, EDGE), f"{LINES}, inputs: {{in: a/out}}")
    with wired() as wire, apart(tmp_path, wire) as (node, run):
        node.hears_event("part_started")
        time.sleep(1)
        cut_at = time.monotonic()
        wire.cut()
        time.sleep(cut_s)
        wire.mend()
        mended_at = time.monotonic()
        if cut_s > SUSPECT_S:
            back_at = run.hears("node edge-1", "is back", "nothing was lost")
            away_at = run.hears("node edge-1", "is away")
            print(f"away after {away_at - cut_at:.2f} s, back {back_at - mended_at:.2f} s after the link was")
            assert back_at - mended_at < SLACK_S
        report = run.report()
    assert (report["status"], report["errors"], lost(report)) == ("done", [], 0)
    assert report["nodes"]["a"]["restarts"] == 0
    balance(report)
    assert numbers(tmp_path) == list(range(count))


@pytest.mark.parametrize("percent", [1, 5])
def test_a_lossy_link_loses_no_message(tmp_path: Path, percent: int) -> None:
    flow(tmp_path, source(2_000, EDGE), f"{LINES}, inputs: {{in: a/out}}")
    with wired() as wire:
        why = wire.lossy(percent)
        if why:
            pytest.skip(why)
        with apart(tmp_path, wire) as (_, run):
            report = run.report()
    assert (report["status"], report["errors"], lost(report)) == ("done", [], 0)
    assert numbers(tmp_path) == list(range(2_000))
