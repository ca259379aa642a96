"""Arguments, exit codes and where things are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.cli.app import run_app

if TYPE_CHECKING:
    from pathlib import Path


def document(text: str) -> dict[str, Any]:
    """The one JSON document of stdout."""
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_mistyped_verb_is_answered_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["chek"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "No such command 'chek'. Did you mean 'check'?" in err


@pytest.mark.parametrize(
    "args",
    [
        ["chek"],
        ["run"],
        ["run", "missing.yaml"],
        ["run", "."],
        ["run", "missing.yaml", "--for", "10"],
        ["run", "missing.yaml", "--drain-timeout", "soon"],
        ["run", "missing.yaml", "--metrics-port", "70000"],
        ["run", "missing.yaml", "--trace-ratio", "1.5"],
        ["check"],
        ["check", "missing.yaml"],
        ["graph", "missing.yaml", "--format", "png"],
        ["bench", "data", "--size", "64,big"],
        ["bench", "data", "--size", "2GiB"],
        ["bench", "rtt", "--count", "0"],
        ["bench", "flow", "--deadline", "5"],
        ["list", "everything"],
    ],
)
def test_wrong_use_is_exit_code_2_and_with_json_one_document(
    args: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err != ""
    assert "Traceback" not in err
    assert run_app([*args, "--json"]) == 2
    out, err = capsys.readouterr()
    error = document(out)["error"]
    assert error["exit_code"] == 2
    assert error["message"]


def test_help_and_version_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flowbridge ")
    assert run_app(["run", "--help"]) == 0
    out, err = capsys.readouterr()
    assert "--drain-timeout" in out
    assert err == ""


def test_installed_transports_and_adapters_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["list", "transports"]) == 0
    assert "inproc" in capsys.readouterr().out.splitlines()
    assert run_app(["list", "adapters", "--json"]) == 0
    assert "yaml" in document(capsys.readouterr().out)["adapters"]


def test_a_tier_that_is_not_installed_is_an_error_that_names_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["bench", "data", "--tier", "pigeon", "--count", "1", "--json"]) == 1
    message = document(capsys.readouterr().out)["error"]["message"]
    assert "pigeon" in message
    assert "inproc" in message


def test_the_help_imports_nothing_heavy() -> None:
    heavy = "pyarrow numpy yaml pydantic opentelemetry rich asyncio uvloop wasmtime aioquic cbor2"
    code = (
        "import sys; from flowbridge.cli.app import run_app; assert run_app(['--help']) == 0; "
        f"print([name for name in '{heavy}'.split() if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_completion_knows_the_verbs_the_flows_and_the_tiers(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text("flowbridge: 1\n")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "flows").mkdir()

    def complete(words: str) -> list[str]:
        code = "import sys; from flowbridge.cli import main; sys.exit(main())"
        environment = {**os.environ, "_FLOWBRIDGE_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.stderr == ""
        return result.stdout.split()

    assert complete("flowbridge che") == ["check"]
    assert complete("flowbridge run fl") == ["flow.yaml", "flows/"]
    assert complete("flowbridge bench data --tier in") == ["inproc"]
