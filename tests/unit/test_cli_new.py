"""`flowbridge new`, and the reference page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowbridge.cli.app import run_app
from flowbridge.cli.new import flow_name
from flowbridge.cli.reference import page

ROOT = Path(__file__).parents[2]


def test_a_new_flow_has_everything_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "My Flow"
    assert run_app(["new", str(target)]) == 0
    assert f"flowbridge run {target}/flow.yaml" in capsys.readouterr().out
    found = sorted(path.name for path in target.iterdir())
    assert found == ["README.md", "flow.yaml", "operators.py", "readings.csv", "test_flow.py"]
    assert "name: my-flow\n" in (target / "flow.yaml").read_text()
    for name in ("operators.py", "test_flow.py"):
        compile((target / name).read_text(), name, "exec")


def test_an_empty_folder_is_taken_and_named_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["new", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all((tmp_path / name).is_file() for name in document["files"])


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run_app(["new", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert run_app(["new", str(tmp_path / "mine.txt")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "name"), [("Flüge 2", "fl-ge-2"), ("___", "___"), ("日本", "flow"), ("a.b", "a-b")])
def test_a_folder_name_becomes_a_flow_name(folder: str, name: str) -> None:
    assert flow_name(Path("/x") / folder) == name


def test_the_reference_page_is_what_the_code_says() -> None:
    written = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert written == page(), "write it again: python -m flowbridge.cli.reference > docs/reference/cli.md"
