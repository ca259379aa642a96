"""A node that is killed under a route whose messages have an effect once, on real processes and sockets."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

from node_processes import NodeProcess, RunProcess, balance, flow, free_port, lost

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPERATOR = """
class Gathers:
    def __init__(self):
        self.seen = []

    def process(self, value):
        self.seen.append(value)

    def finish(self, out):
        out.emit(self.seen)

    def snapshot(self):
        return self.seen

    def restore(self, state):
        self.seen = state
"""
POLICY = """\
flowbridge-node: 1
operators:
  - {ref: 'python:gather_ops:Gathers'}
rules:
  - {allow: [port.read, port.write], peers: ['*'], to: ['*']}
"""


def test_the_state_of_a_node_that_is_killed_has_every_message_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gather_ops.py").write_text(OPERATOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "policy.yaml").write_text(POLICY)
    port, count = free_port(), 2_000
    joined = "inputs: {in: {from: a/out, delivery: effectively_once, queue: {size: 256}}}, outputs: {out: {type: json}}"
    again = "restart: {when: on-failure, delay: 100ms, max: 5}"
    flow(
        tmp_path,
        f"id: a, operator: sequence, with: {{count: {count}, every: 1ms}}, outputs: {{out: {{type: json}}}}",
        f'id: b, operator: "python:gather_ops:Gathers", {joined}, snapshot: 50ms, place: {{host: edge-1}}, {again}',
        "id: k, operator: jsonl_sink, with: {path: out.jsonl}, inputs: {in: b/out}",
    )
    with NodeProcess(tmp_path, port, "--policy", "policy.yaml") as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.7)
        node.send(signal.SIGKILL)
        node.wait()
        with NodeProcess(tmp_path, port, "--policy", "policy.yaml"):
            report = run.report()
    assert (report["status"], report["errors"], lost(report)) == ("done", [], 0)
    assert report["nodes"]["b"]["restarts"] == 1
    balance(report)
    edge = report["edges"]["a/out->b/in"]
    print(f"{edge['redelivered']} sent again, {edge['repeated']} of them known from a snapshot")
    assert (edge["sent"], edge["delivered"]) == (count, count)
    (gathered,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert gathered == list(range(count))
