"""The files that ``flowbridge new`` writes."""

from __future__ import annotations

from typing import Final

_FLOW: Final = """\
flowbridge: 1
name: {name}
description: Readings from a CSV file, in degrees Fahrenheit, the warm ones on the console

defaults:
  deadline: 1s

nodes:
  - id: readings
    operator: csv_source
    with: {{path: readings.csv}}

  - id: convert
    operator: python:./operators.py:add_fahrenheit
    inputs: {{in: readings/out}}
    outputs: {{out: {{type: arrow}}}}
    per: record
    budget: 10ms

  - id: warm
    operator: filter
    with: {{where: "celsius > 25"}}
    inputs: {{in: convert/out}}

  - id: show
    operator: console
    with: {{title: Warm readings}}
    inputs: {{in: {{from: warm/out, queue: {{policy: block, size: 16}}}}}}
"""

_OPERATORS: Final = '''\
"""The operators of this flow."""


def add_fahrenheit(record: dict) -> dict:
    """One row in, one row out: `per: record` in the flow turns the batches into rows and back."""
    return {**record, "fahrenheit": round(record["celsius"] * 9 / 5 + 32, 1)}
'''

_READINGS: Final = """\
place,celsius
cellar,14.5
kitchen,22.0
attic,31.5
balcony,27.25
bath,24.0
greenhouse,35.0
"""

_TEST: Final = '''\
"""Run with: python -m pytest"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_reading_gets_its_fahrenheit():
    spec = importlib.util.spec_from_file_location("operators", HERE / "operators.py")
    operators = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(operators)
    assert operators.add_fahrenheit({"place": "x", "celsius": 100.0})["fahrenheit"] == 212.0


def test_the_flow_runs_to_its_end():
    command = [sys.executable, "-c", "import sys; from flowbridge.cli import main; sys.exit(main())"]
    result = subprocess.run([*command, "run", str(HERE / "flow.yaml"), "--json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)["nodes"]["show"]["processed"] >= 1
'''

_README: Final = """\
# {name}

    flowbridge check flow.yaml     # every finding, with its place
    flowbridge run flow.yaml       # run it and see what happened to every message
    flowbridge graph flow.yaml --format html -o flow.html
    python -m pytest               # the test of this flow

- `flow.yaml`: the nodes and how they are joined
- `operators.py`: what is not built in; `flowbridge list operators` shows what is
- `readings.csv`: something to read
- `test_flow.py`: tests
"""


def files(name: str) -> dict[str, str]:
    """Path to text, relative to the new folder."""
    return {
        "flow.yaml": _FLOW.format(name=name),
        "operators.py": _OPERATORS,
        "readings.csv": _READINGS,
        "test_flow.py": _TEST,
        "README.md": _README.format(name=name),
    }
