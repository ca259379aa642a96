"""`flowbridge run` of flows with worker processes: the flights example in three of them, signals, and a dead host."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest
from cli_scene import COMMAND
from process_scene import OPERATORS, PATIENCE_S

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
PLACES = {
    "flights": None,
    "enrich": "analytics",
    "flown": "analytics",
    "hourly": "analytics",
    "severe": "analytics",
    "audit": "analytics",
    "hours": "sinks",
    "alerts": "sinks",
    "audits": "sinks",
    "table": "sinks",  # and prints where the host says
}
FLOW = """
flowbridge: 1
name: ticks
nodes:
  - {id: a, operator: "python:./ops.py:endless", outputs: {out: {type: json}}, place: {process: one}}
  - {id: b, operator: "python:./ops.py:NAME", inputs: {in: a/out}, outputs: {out: {type: json}}, place: {process: two}}
  - {id: c, operator: jsonl_sink, with: {path: out.jsonl}, inputs: {in: b/out}}
"""


def flights(folder: Path, *, placed: bool) -> Path:
    """A copy of the example with deadlines that no slow machine misses and, if asked, places."""
    shutil.copytree(FLIGHTS, folder, ignore=shutil.ignore_patterns("out", "__pycache__"))
    flow = folder / "flow.yaml"
    text = flow.read_text().replace("deadline: 2s", "deadline: 1h").replace("deadline: 500ms", "deadline: 1h")
    for node, process in PLACES.items():
        assert f"  - id: {node}\n" in text
        if placed and process is not None:
            text = text.replace(f"  - id: {node}\n", f"  - id: {node}\n    place: {{process: {process}}}\n")
    flow.write_text(text)
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    """The document of a run that is done."""
    done = subprocess.run(
        [*COMMAND, "run", "flow.yaml", "--json"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["status"], found["errors"]) == ("done", [])
    for name, edge in found["edges"].items():
        out = edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]
        assert edge["sent"] == out, name
        assert edge["in_flight"] == 0, name
    return {**found, "printed": done.stderr}


def test_the_flights_are_the_same_to_the_byte_in_three_processes(tmp_path: Path) -> None:
    here, there = flights(tmp_path / "here", placed=False), flights(tmp_path / "there", placed=True)
    alone, spread = report_of(here), report_of(there)
    for name in ("delays-by-hour.parquet", "alerts.jsonl"):
        assert (here / "out" / name).read_bytes() == (there / "out" / name).read_bytes(), name
    assert {name: node["process"] for name, node in spread["nodes"].items() if node["process"]} == {
        name: process for name, process in PLACES.items() if process
    }
    # What the branch that cannot keep up dropped differs from run to run; everything else does not.
    assert "Delays by hour" in spread["printed"]
    steady = [edge for edge in alone["edges"] if "audit" not in edge]
    for edge in steady:
        assert spread["edges"][edge]["delivered"] == alone["edges"][edge]["delivered"], edge
    assert {edge["tier"] for edge in spread["edges"].values()} == {"inproc", "ipc"}
    audits = spread["edges"]["enrich/out->audit/in"]
    assert spread["nodes"]["audits"]["processed"] == audits["delivered"]


def children(pid: int) -> set[int]:
    """The children of a process, by what the kernel says of every process."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.add(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait(condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
    """Return once something is so."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


class Running:
    """The command line in a session of its own, with a flow that has begun."""

    def __init__(self, folder: Path, operator: str) -> None:
        (folder / "ops.py").write_text(OPERATORS)
        (folder / "flow.yaml").write_text(FLOW.replace("NAME", operator))
        self.process = subprocess.Popen(
            [*COMMAND, "run", "flow.yaml", "--json"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.workers: set[int] = set()
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in self.workers:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def has_begun(self) -> bool:
        """Both workers run."""
        self.workers = children(self.process.pid)
        return len(self.workers) == 2

    def is_under_way(self) -> bool:
        """Twenty values came as far as the second worker."""
        return (self.folder / "begun").exists()


def test_ctrl_c_goes_to_the_whole_group_and_drains(tmp_path: Path) -> None:
    with Running(tmp_path, "marks") as run:
        wait(run.has_begun, "the workers did not start")
        wait(run.is_under_way, "nothing arrived")
        os.killpg(run.process.pid, signal.SIGINT)
        out, errors = run.process.communicate(timeout=PATIENCE_S)
        assert run.process.returncode == 130, errors
        assert errors == "SIGINT: draining, the sources stop and the rest goes through; once more aborts\n"
        report = json.loads(out)
        assert (report["status"], report["errors"]) == ("interrupted", [])
        assert {node["state"] for node in report["nodes"].values()} == {"done"}
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert len(rows) == report["edges"]["b/out->c/in"]["delivered"] == report["edges"]["a/out->b/in"]["sent"] > 0
        assert not any(map(alive, run.workers))


@pytest.mark.parametrize("operator", ["marks", "marks_and_blocks"])
def test_a_host_that_is_killed_leaves_no_worker(tmp_path: Path, operator: str) -> None:
    with Running(tmp_path, operator) as run:
        wait(run.has_begun, "the workers did not start")
        wait(run.is_under_way, "nothing arrived")
        run.process.kill()
        run.process.wait()
        wait(lambda: not any(map(alive, run.workers)), "a worker outlived its host", 10.0)


def test_a_host_that_is_killed_while_its_workers_start_leaves_none(tmp_path: Path) -> None:
    with Running(tmp_path, "double") as run:
        wait(run.has_begun, "the workers did not start")
        run.process.kill()
        run.process.wait()
        wait(lambda: not any(map(alive, run.workers)), "a worker outlived its host", 10.0)
