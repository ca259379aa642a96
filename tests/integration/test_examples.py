"""The examples run as they are shipped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_scene import COMMAND

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of all examples."""
    return shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))


@pytest.mark.parametrize("name", ["flights", "prices", "embed"])
def test_every_example_passes_check(examples: Path, name: str) -> None:
    run(examples / name, *COMMAND, "check", "flow.yaml")


def test_prices_answers_its_requests(examples: Path) -> None:
    done = run(examples / "prices", *COMMAND, "run", "flow.yaml", "--for", "1s", "--json")
    report = json.loads(done.stdout)
    assert report["status"] == "done"
    assert report["errors"] == []
    for name, edge in report["edges"].items():
        out = edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]
        assert edge["sent"] == out, name
        assert edge["in_flight"] == 0, name
    asked = report["edges"]["bus/price.get->desk/ask"]
    told = report["edges"]["client/out->tape/in"]
    assert asked["delivered"] >= told["sent"] > 0
    # What operators print goes to stderr here, so that stdout is one document.
    quotes = re.findall(r"^tick +\d+  (AAL|DAL|UAL)  \d+\.\d\d$", done.stderr, re.MULTILINE)
    assert len(quotes) == told["delivered"]
    assert {node["state"] for node in report["nodes"].values()} == {"done"}


def test_prices_for_people_prints_each_quote_and_a_summary(examples: Path) -> None:
    done = run(examples, *COMMAND, "run", "prices/flow.yaml", "--for", "1s")
    # Which ticks are in time is the machine's affair.
    assert re.search(r"^tick +\d+  (AAL|DAL|UAL)  \d+\.\d\d$", done.stdout, re.MULTILINE)
    assert re.search(r"^(AAL|DAL|UAL): \d+ quotes, mean \d+\.\d+$", done.stdout, re.MULTILINE)
    assert "prices: done after" in done.stdout


def test_embed_runs_a_flow_inside_a_program(examples: Path) -> None:
    done = run(examples.parent, sys.executable, "-X", "dev", "-W", "error", "examples/embed/embed.py")
    assert re.search(r"^embed: done in \d+\.\d\d s$", done.stdout, re.MULTILINE)
    sensors = re.findall(r"^  sensor (\d): (\S+) F at most$", done.stdout, re.MULTILINE)
    assert [number for number, _ in sensors] == list("0123456")
    # The most that sensor n ever says is 15 + 9.9 + n degrees Celsius.
    assert [value for _, value in sensors] == [f"{(24.9 + n) * 9 / 5 + 32:.1f}" for n in range(7)]
    for sent, delivered, expired in re.findall(r"(\d+) sent, (\d+) delivered, (\d+) expired", done.stdout):
        assert int(sent) == int(delivered) + int(expired) == 20_000
