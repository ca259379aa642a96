"""The verbs that do not run a flow, and `new` and `bench`, on real flows."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from flowbridge.cli.app import run_app

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
flowbridge: 1
name: good
defaults: {deadline: 500ms}
nodes:
  - {id: numbers, operator: sequence, with: {count: 10, batch_rows: 5}}
  - id: few
    operator: filter
    with: {where: "value > 3"}
    inputs: {in: {from: numbers/out, priority: high, queue: {policy: drop_oldest, size: 8}}}
    budget: 2ms
  - {id: sink, operator: "null", inputs: {in: few/out}}
"""
BAD = """\
flowbridge: 1
name: bad
nodes:
  - id: a
    operator: sequense
  - {id: b, operator: console, inputs: {in: c/out}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict[str, Any]:
    """The one document of a command with ``--json``."""
    assert run_app([*args, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("folder")
def test_check_tells_good_from_bad(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["check", "good.yaml"]) == 0
    assert capsys.readouterr().out == "1 flow checked, no findings\n"
    assert run_app(["check", "good.yaml", "bad.yaml"]) == 1
    out = capsys.readouterr().out
    assert "bad.yaml:5:15: FB" in out
    assert "    operator: sequense\n" in out
    assert out.splitlines()[-1].startswith("2 flows checked, ")


@pytest.mark.usefixtures("folder")
def test_check_of_a_folder_finds_both(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "check", ".", code=1)
    assert not found["ok"]
    files = {entry["file"]: entry for entry in found["files"]}
    assert files["good.yaml"]["ok"]
    assert files["good.yaml"]["findings"] == []
    assert files["good.yaml"]["digest"]
    assert not files["bad.yaml"]["ok"]
    assert "digest" not in files["bad.yaml"]
    assert {finding["line"] for finding in files["bad.yaml"]["findings"]} == {5, 6}


def test_compile_writes_the_same_plan_in_both_forms(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["compile", "good.yaml"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["name"] == "good"
    written = answer(capsys, "compile", "good.yaml", "-o", "plan.cbor")
    assert written["digest"] == plan["digest"]
    assert written["bytes"] == (folder / "plan.cbor").stat().st_size
    from flowbridge.loading import load

    assert load("plan.cbor").digest == plan["digest"]
    assert run_app(["compile", "good.yaml", "-o", "no/such/folder.json"]) == 1
    assert "no/such/folder.json" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_explain_says_tier_reason_and_slack(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", "good.yaml")
    edge = found["edges"]["numbers/out->few/in"]
    assert edge["tier"] == "inproc"
    assert edge["why"] == "both ends are in the same process"
    assert edge["queue"]["policy"] == "drop_oldest"
    assert edge["priority"] == "high"
    path = next(path for path in found["paths"] if path["nodes"] == ["numbers", "few", "sink"])
    assert path["deadline_ns"] == 500_000_000
    assert path["declared_ns"] == 2_000_000
    assert path["slack_ns"] == 498_000_000
    assert run_app(["explain", "good.yaml"]) == 0
    out = capsys.readouterr().out
    assert "drop_oldest 8" in out
    assert "498 ms" in out


@pytest.mark.parametrize(
    ("form", "start"), [("mermaid", "flowchart LR"), ("dot", "digraph"), ("html", "<!doctype html>")]
)
def test_graph_draws_in_every_format(folder: Path, form: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["graph", "good.yaml", "--format", form]) == 0
    text = capsys.readouterr().out
    assert text.startswith(start)
    assert "drop_oldest 8 · high" in text.replace("#183;", "·")
    found = answer(capsys, "graph", "good.yaml", "-f", form, "-o", "picture")
    assert found["file"] == "picture"
    assert (folder / "picture").read_text(encoding="utf-8") == text
    assert len(found["nodes"]) == 3


def test_graph_takes_the_format_from_the_suffix(folder: Path) -> None:
    assert run_app(["graph", "good.yaml", "-o", "good.svg"]) == 0
    ET.fromstring((folder / "good.svg").read_text(encoding="utf-8"))


def test_operators_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    names = [spec["name"] for spec in answer(capsys, "list", "operators")["operators"]]
    assert {"csv_source", "sequence", "filter", "console", "null"} <= set(names)
    assert run_app(["list", "operators"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1
    assert run_app(["list", "operators", "csv_source"]) == 0
    assert "(required)" in capsys.readouterr().out
    assert run_app(["list", "operators", "csv_sourze"]) == 2
    assert "Did you mean 'csv_source'?" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["flow", "rtt", "data"])
def test_a_benchmark_delivers_what_it_was_asked_to(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "bench", what, "--size", "64,1KiB", "--count", "500")
    assert found["bench"] == what
    assert found["cpus"] >= 1
    for result, size_bytes in zip(found["results"], (64, 1024), strict=True):
        assert result["size_bytes"] == size_bytes
        assert result["delivered"] == result["count"] == 500
        assert result["deadline_missed"] == 0
        assert result["messages_per_second"] > 0
        latency = result["latency_us"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]


@pytest.mark.parametrize("what", ["flow", "rtt", "data"])
def test_a_benchmark_with_an_impossible_deadline_counts_every_miss(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "bench", what, "--size", "64", "--count", "100", "--deadline", "1ns")
    assert found["results"][0]["deadline_missed"] == 100


def test_a_new_flow_passes_its_check_and_its_own_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "fresh"
    assert run_app(["new", str(target)]) == 0
    capsys.readouterr()
    assert answer(capsys, "check", str(target))["ok"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_flow.py"]
    result = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
