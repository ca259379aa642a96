"""`flowbridge run` as a process: exit codes, one JSON document, signals, closed pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cli_scene import COMMAND, OPERATORS, call, started

if TYPE_CHECKING:
    from pathlib import Path

COUNTED = """
flowbridge: 1
name: counted
nodes:
  - {id: numbers, operator: sequence, with: {count: 1000}}
  - {id: sink, operator: "null", inputs: {in: numbers/out}}
"""


def flow(*nodes: str) -> str:
    """A chain of nodes: each reads the one before."""
    lines = ["flowbridge: 1", "name: chain", "nodes:"]
    for i, operator in enumerate(nodes):
        inputs = f", inputs: {{in: n{i - 1}/out}}" if i else ""
        lines.append(f'  - {{id: n{i}, operator: "{operator}"{inputs}}}')
    return "\n".join(lines) + "\n"


def python(name: str) -> str:
    return f"python:./operators.py:{name}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with flows and the operators they name."""
    (tmp_path / "operators.py").write_text(OPERATORS)
    flows = {
        "counted": COUNTED,
        "endless": flow(python("endless"), "null"),
        "failing": flow("sequence", python("boom"), "null"),
        "stuck": flow(python("endless"), python("stuck")),
        "lines": flow(python("endless"), python("line")),
        "broken": "flowbridge: 1\nname: broken\nnodes:\n  - {id: a, operator: sequense}\n",
        "unloadable": flow(python("endless"), python("missing")),
    }
    for name, text in flows.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def document(text: str) -> dict[str, Any]:
    """The one JSON document of stdout; more or less than one is an error."""
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_flow_that_ends_is_done_and_every_message_is_accounted_for(folder: Path) -> None:
    result = call(folder, "run", "counted.yaml", "--json")
    assert result.returncode == 0, result.stderr
    report = document(result.stdout)
    assert report["status"] == "done"
    assert report["errors"] == []
    edge = report["edges"]["numbers/out->sink/in"]
    assert edge["sent"] == edge["delivered"] == 1000
    assert report["nodes"]["sink"]["processed"] == 1000


def test_what_operators_print_does_not_get_beside_the_document(folder: Path) -> None:
    (folder / "talking.py").write_text("def talk(value):\n    print('got', value)\n    return value\n")
    talk = "python:./talking.py:talk"
    nodes = flow("sequence", talk, talk).replace('"sequence"', "sequence, with: {count: 2}")
    (folder / "talking.yaml").write_text(nodes.replace("n1/out}}", "n1/out}, place: {process: other}}"))
    result = call(folder, "run", "talking.yaml", "--json")
    assert document(result.stdout)["status"] == "done"
    assert sorted(result.stderr.splitlines()) == ["got 0", "got 0", "got 1", "got 1"]
    people = call(folder, "run", "talking.yaml")
    assert people.stdout.count("got") == 4


def test_the_summary_for_people_has_nodes_edges_and_paths(folder: Path) -> None:
    result = call(folder, "run", "counted.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("counted: done after ")
    for word in ("Nodes", "Edges", "Paths", "numbers/out->sink/in", "numbers → sink"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout


def test_a_failing_operator_is_exit_code_1_and_named(folder: Path) -> None:
    result = call(folder, "run", "failing.yaml", "--json")
    assert result.returncode == 1
    report = document(result.stdout)
    assert report["status"] == "failed"
    assert any("n1" in error and "seven" in error for error in report["errors"])
    assert "Traceback" not in result.stderr
    people = call(folder, "run", "failing.yaml")
    assert people.returncode == 1
    assert "error: " in people.stdout


def test_a_refused_flow_shows_its_findings(folder: Path) -> None:
    result = call(folder, "run", "broken.yaml")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "broken.yaml:4:" in result.stderr
    assert "sequence" in result.stderr
    assert "^" in result.stderr
    found = document(call(folder, "run", "broken.yaml", "--json").stdout)["error"]["findings"]
    assert found[0]["line"] == 4


def test_an_operator_that_cannot_be_loaded_is_one_error_with_its_place(folder: Path) -> None:
    result = call(folder, "run", "unloadable.yaml")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "missing" in result.stderr
    assert "unloadable.yaml:" in result.stderr
    error = document(call(folder, "run", "unloadable.yaml", "--json").stdout)["error"]
    assert error["exit_code"] == 1


@pytest.mark.parametrize(("name", "code"), [("missing.yaml", 2), (".", 2), ("binary.yaml", 1), ("empty.yaml", 1)])
def test_what_is_no_flow_is_refused_without_a_traceback(folder: Path, name: str, code: int) -> None:
    (folder / "binary.yaml").write_bytes(bytes(range(256)) * 4)
    (folder / "empty.yaml").write_bytes(b"")
    result = call(folder, "run", name)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    result = call(folder, "run", name, "--json")
    assert result.returncode == code
    assert document(result.stdout)["error"]["message"]


def test_a_run_for_some_time_is_drained_and_done(folder: Path) -> None:
    result = call(folder, "run", "endless.yaml", "--for", "200ms", "--json")
    assert result.returncode == 0, result.stderr
    report = document(result.stdout)
    assert report["status"] == "done"
    edge = report["edges"]["n0/out->n1/in"]
    assert edge["sent"] == edge["delivered"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(folder: Path, number: signal.Signals) -> None:
    with started(folder, "run", "endless.yaml", "--json") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{number.name}: draining" in err
    report = document(out)
    assert report["status"] == "interrupted"
    edge = report["edges"]["n0/out->n1/in"]
    assert edge["sent"] == edge["delivered"] > 0
    assert edge["in_flight"] == 0


def test_the_second_signal_aborts_and_counts_what_was_under_way(folder: Path) -> None:
    with started(folder, "run", "stuck.yaml", "--json") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert "draining" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "aborting" in err
    edge = document(out)["edges"]["n0/out->n1/in"]
    assert edge["dropped"]["abort"] > 0
    assert edge["sent"] == edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]


def test_a_drain_that_takes_too_long_becomes_an_abort(folder: Path) -> None:
    with started(folder, "run", "stuck.yaml", "--drain-timeout", "50ms", "--json") as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert any("drain" in error for error in document(out)["errors"])


def test_a_reader_that_goes_away_ends_the_run_quietly(folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", "lines.yaml"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "value 0\n"
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert err in ("", "started\n"), "the source may be stopped before it says so"


def test_a_summary_that_nobody_reads_is_no_error(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [*COMMAND, "run", "counted.yaml"],
            cwd=folder,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert result.returncode == 141
    assert result.stderr == ""


def test_what_operators_print_does_not_spoil_the_document(folder: Path) -> None:
    result = call(folder, "run", "lines.yaml", "--for", "100ms", "--json")
    assert result.returncode == 0, result.stderr
    assert document(result.stdout)["status"] == "done"
    assert "value 0\n" in result.stderr


def test_a_compiled_plan_runs_like_its_flow(folder: Path) -> None:
    for target in ("plan.json", "plan.cbor"):
        made = call(folder, "compile", "counted.yaml", "-o", target)
        assert made.returncode == 0, made.stderr
        result = call(folder, "run", target, "--json")
        assert result.returncode == 0, result.stderr
        assert document(result.stdout)["nodes"]["sink"]["processed"] == 1000


def test_metrics_are_served_while_a_flow_runs(folder: Path) -> None:
    from urllib.request import urlopen

    with subprocess.Popen(
        [*COMMAND, "run", "endless.yaml", "--metrics-port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            lines = {process.stderr.readline(), process.stderr.readline()}
            url = next(line for line in lines if line.startswith("metrics: ")).split()[1]
            with urlopen(url, timeout=30) as answer:
                assert "flowbridge" in answer.read().decode()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 130
        finally:
            process.kill()
