"""The command line and bad input: an exit code, the place, and never a traceback."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_scene import COMMAND, call, started
from cli_scene import OPERATORS as OPERATORS_OF_RUN

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

OPERATORS = (
    OPERATORS_OF_RUN
    + """

def leaves(value):
    sys.exit(3)


def batches():
    import pyarrow as pa
    for n in range(2000):
        yield pa.record_batch({"x": [f"{n}-{i}-{hash((n, i))}" for i in range(500)]})
"""
)


def flow(*nodes: str) -> str:
    """A flow of nodes, each in YAML's flow style."""
    return "\n".join(["flowbridge: 1", "name: bad", "nodes:", *(f"  - {{{node}}}" for node in nodes)]) + "\n"


def refused(folder: Path, name: str, *says: str, code: int = 1, verbs: tuple[str, ...] = ("check", "run")) -> None:
    """Refused by these verbs, with words that say what and where; and once more as one JSON document."""
    for verb in verbs:
        done = call(folder, verb, name)
        both = done.stdout + done.stderr
        assert done.returncode == code, both[-2000:]
        assert "Traceback" not in both
        for word in says:
            assert word in both, f"{word!r} is not in {both[-2000:]}"
    done = call(folder, "run", name, "--json")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    error = document["error"]
    found = [f"{f['file']}:{f['line']}:{f['column']}: {f['rule']} {f['message']}" for f in error.get("findings", ())]
    text = "\n".join([error["message"], *found])
    assert error["exit_code"] == code
    for word in says:
        assert word in text, f"{word!r} is not in {text[-2000:]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "operators.py").write_text(OPERATORS)
    return tmp_path


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_wrong_use(folder: Path) -> None:
    refused(folder, "nothing.yaml", "nothing.yaml", "no such file", code=2)
    (folder / "sub.yaml").mkdir()
    refused(folder, "sub.yaml", "sub.yaml", code=2, verbs=("run",))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.yaml", b"", "empty.yaml:1:1"),
        ("blank.yaml", b" \n\n", "blank.yaml:1:1"),
        ("binary.yaml", bytes(range(256)) * 8, "binary.yaml:1:1"),
        ("latin.yaml", "flowbridge: 1\nname: caf\u00e9\n".encode("latin-1"), "not UTF-8"),
        ("list.yaml", b"- a\n- b\n", "list.yaml:1:1"),
        ("open.yaml", b"flowbridge: 1\nname: {a: [\n", "open.yaml:"),
        ("plan.json", b'{"format": [1, 0]}', "plan.json"),
        ("cut.json", b'{"format": [1,', "cut.json"),
        ("plan.cbor", b"\xff\x00\x9f", "plan.cbor"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and ":" not in value else "",
)
def test_what_is_no_flow_is_refused_with_its_place(folder: Path, name: str, data: bytes, says: str) -> None:
    (folder / name).write_bytes(data)
    refused(folder, name, says, verbs=("run",))


def test_a_huge_file_is_refused_before_it_is_read(folder: Path) -> None:
    path = folder / "huge.yaml"
    with path.open("wb") as file:
        file.write(b"flowbridge: 1\n")
        file.truncate(100 * 1024 * 1024)
    refused(folder, "huge.yaml", "huge.yaml:1:1", "104857600")


def test_ten_thousand_nodes_pass(folder: Path) -> None:
    nodes = ["id: n0, operator: sequence, with: {count: 1}"]
    nodes += [f'id: n{i}, operator: "null", inputs: {{in: n0/out}}' for i in range(1, 10_000)]
    (folder / "large.yaml").write_text(flow(*nodes))
    done = call(folder, "check", "large.yaml")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("what", ["lists", "maps", "block"])
def test_a_nesting_bomb_is_a_finding(folder: Path, what: str) -> None:
    deep = {
        "lists": "x: " + "[" * 50_000 + "]" * 50_000,
        "maps": "x: " + "{a: " * 50_000 + "}" * 50_000,
        "block": "\n".join(" " * i + "a:" for i in range(1_500)),
    }[what]
    (folder / "deep.yaml").write_text(f"flowbridge: 1\nname: deep\n{deep}\n")
    refused(folder, "deep.yaml", "deep.yaml:3:" if what != "block" else "deep.yaml:", "FB109")


def test_an_anchor_bomb_is_a_finding(folder: Path) -> None:
    lines = ["flowbridge: 1", "name: bomb", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (folder / "bomb.yaml").write_text("\n".join(lines) + "\n")
    refused(folder, "bomb.yaml", "bomb.yaml:", "FB110")


# --- data -----------------------------------------------------------------------------------------------------------


def failed(folder: Path, text: str, *says: str) -> dict[str, Any]:
    """A run that fails with words that say what and where; returns its document."""
    (folder / "flow.yaml").write_text(text)
    done = call(folder, "run", "flow.yaml")
    both = done.stdout + done.stderr
    assert done.returncode == 1, both[-2000:]
    assert "Traceback" not in both
    flat = " ".join(both.split())
    for word in says:
        assert word in flat, f"{word!r} is not in {flat[-2000:]}"
    done = call(folder, "run", "flow.yaml", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    if "error" not in document:
        assert document["status"] == "failed"
        for edge in document["edges"].values():
            out = edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]
            assert edge["sent"] == out + edge["in_flight"]
            assert edge["in_flight"] == 0
    return document


def test_a_ragged_row_is_named_by_file_and_line(folder: Path) -> None:
    (folder / "in.csv").write_text("a,b\n1,2\n3,4,5\n6,7\n")
    text = flow("id: s, operator: csv_source, with: {path: in.csv}", 'id: k, operator: "null", inputs: {in: s/out}')
    failed(folder, text, "flow.yaml:4:", "node s", "in.csv", "3")


@pytest.mark.parametrize("kept", [0, 3, 200, -10])
def test_a_truncated_parquet_file_is_named(folder: Path, kept: int) -> None:
    pq.write_table(pa.table({"x": list(range(10_000))}), folder / "in.parquet")
    data = (folder / "in.parquet").read_bytes()
    (folder / "in.parquet").write_bytes(data[:kept])
    text = flow(
        "id: s, operator: parquet_source, with: {path: in.parquet}", 'id: k, operator: "null", inputs: {in: s/out}'
    )
    failed(folder, text, "flow.yaml:4:", "node s", "in.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_missing_input_file_is_named(folder: Path, kind: str) -> None:
    text = flow(
        f"id: s, operator: {kind}_source, with: {{path: no.{kind}}}", 'id: k, operator: "null", inputs: {in: s/out}'
    )
    failed(folder, text, "flow.yaml:4:", "node s", f"no.{kind}", "no such file")


def test_broken_json_lines_are_named_by_line(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"a": 1}\n{"a": \n')
    text = flow("id: s, operator: jsonl_source, with: {path: in.jsonl}", 'id: k, operator: "null", inputs: {in: s/out}')
    failed(folder, text, "flow.yaml:4:", "node s", "in.jsonl", "2")


SINKS = ("csv_sink", "parquet_sink", "jsonl_sink")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("sink", SINKS)
def test_a_full_disk_is_named_and_leaves_no_half_file(folder: Path, tiny_disk: Path, sink: str) -> None:
    text = flow(
        "id: s, operator: python:./operators.py:batches, outputs: {out: {type: arrow}}",
        f"id: k, operator: {sink}, with: {{path: {tiny_disk}/out.dat}}, inputs: {{in: s/out}}",
    )
    failed(folder, text, "flow.yaml:5:", "node k", "out.dat", "no space is left")
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("sink", SINKS)
def test_a_folder_that_cannot_be_written_to_is_named(folder: Path, sink: str) -> None:
    place = folder / "plain"
    place.write_text("a file where a folder should be")
    text = flow(
        "id: s, operator: sequence, with: {count: 100, batch_rows: 10}",
        f"id: k, operator: {sink}, with: {{path: plain/out.dat}}, inputs: {{in: s/out}}",
    )
    failed(folder, text, "flow.yaml:5:", "node k", "plain/out.dat")
    if os.geteuid() != 0:
        locked = folder / "locked"
        locked.mkdir(mode=0o500)
        failed(folder, text.replace("plain/", "locked/"), "node k", "permission denied")


# --- operators ------------------------------------------------------------------------------------------------------


def test_an_operator_that_raises_is_named_by_place_node_port_and_message(folder: Path) -> None:
    text = flow(
        "id: s, operator: sequence, with: {count: 20}",
        "id: b, operator: python:./operators.py:boom, inputs: {in: s/out}",
        'id: k, operator: "null", inputs: {in: b/out}',
    )
    failed(folder, text, "flow.yaml:5:", "node b, port in, message 7: ValueError: seven")


def test_an_operator_that_calls_exit_fails_the_run(folder: Path) -> None:
    text = flow(
        "id: s, operator: sequence, with: {count: 20}",
        "id: b, operator: python:./operators.py:leaves, inputs: {in: s/out}",
    )
    failed(folder, text, "flow.yaml:5:", "node b", "SystemExit: 3")


@pytest.mark.parametrize("thread", ["false", "true"])
def test_an_operator_of_the_wrong_type_fails_the_run(folder: Path, thread: str) -> None:
    text = flow(
        "id: s, operator: sequence, with: {count: 20}",
        "id: b, operator: python:./operators.py:boom, inputs: {in: s/out}, outputs: {out: {type: json}}, "
        f"thread: {thread}",
        "id: w, operator: python:./operators.py:boom, inputs: {in: b/out}, outputs: {out: {type: bytes}}",
        "id: k, operator: python:./operators.py:boom, inputs: {in: w/out}",
    )
    failed(folder, text, "flow.yaml:6:", "node w, port out", "int")


# --- signals and pipes ----------------------------------------------------------------------------------------------

STUCK = flow(
    "id: s, operator: python:./operators.py:endless",
    "id: k, operator: python:./operators.py:stuck, inputs: {in: s/out}",
)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_two_signals_abort_a_flow_that_does_not_drain(folder: Path, numbers: tuple[signal.Signals, ...]) -> None:
    (folder / "flow.yaml").write_text(STUCK)
    with started(folder, "run", "flow.yaml", "--json") as process:
        assert process.stderr is not None
        process.send_signal(numbers[0])
        assert "draining" in process.stderr.readline()
        process.send_signal(numbers[1])
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    document = json.loads(out)
    assert document["status"] == "interrupted"
    (edge,) = document["edges"].values()
    assert edge["in_flight"] == 0
    assert edge["dropped"]["abort"] > 0


def test_sigterm_drains_a_flow_that_can(folder: Path) -> None:
    (folder / "flow.yaml").write_text(
        flow("id: s, operator: python:./operators.py:endless", 'id: k, operator: "null", inputs: {in: s/out}')
    )
    with started(folder, "run", "flow.yaml", "--json") as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    (edge,) = json.loads(out)["edges"].values()
    assert edge["sent"] == edge["delivered"] > 0


def test_head_takes_one_line_and_the_run_ends_without_a_word(folder: Path) -> None:
    (folder / "flow.yaml").write_text(
        flow(
            "id: s, operator: sequence, with: {count: 200000}",
            "id: p, operator: python:./operators.py:line, inputs: {in: s/out}",
        )
    )
    shell = f"set -o pipefail; {sys.executable} -c '{COMMAND[2]}' run flow.yaml | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "value 0\n"
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_refused_flow_with_nobody_reading_is_quiet(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "run", "nothing.yaml", "--json"],
            cwd=folder,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert not re.search("Traceback|Exception ignored", done.stderr)
