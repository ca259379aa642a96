"""Findings, errors and the flows that `check` looks for."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from flowbridge.cli.flow_file import complete_flow, find_flows
from flowbridge.cli.output import WrongUse, finding_lines, paint, report_error, wants_json
from flowbridge.errors import FlowErrors, PlanError
from flowbridge.finding import Finding, Position

if TYPE_CHECKING:
    from pathlib import Path


def finding(line: int, column: int, hint: str = "") -> Finding:
    place = Position(file="flow.yaml", line=line, column=column)
    return Finding(position=place, rule="FB201", message="operator 'fliter' is unknown", hint=hint)


def test_a_finding_shows_its_line_with_a_caret_under_the_column() -> None:
    text = finding_lines(finding(2, 13, "did you mean 'filter'?"), ["nodes:", "  operator: fliter"], io.StringIO())
    assert text.splitlines() == [
        "flow.yaml:2:13: FB201 operator 'fliter' is unknown (did you mean 'filter'?)",
        "      operator: fliter",
        " " * (4 + 12) + "^",
    ]


def test_a_tab_and_control_characters_do_not_shift_the_caret() -> None:
    lines = finding_lines(finding(1, 3), ["\t\x1b[31mred"], io.StringIO()).splitlines()
    assert "\x1b" not in lines[1]
    assert lines[2].index("^") == 4 + 2


def test_a_long_line_is_cut_around_the_column() -> None:
    text = "x" * 500 + "HERE" + "y" * 500
    _, shown, caret = finding_lines(finding(1, 501), [text], io.StringIO()).splitlines()
    assert len(shown) <= 4 + 120
    assert shown[caret.index("^")] == "H"


@pytest.mark.parametrize(("line", "column"), [(99, 1), (0, 1), (2, 5)])
def test_a_place_outside_the_text_or_on_an_empty_line_shows_no_line(line: int, column: int) -> None:
    assert len(finding_lines(finding(line, column), ["text", "   "], io.StringIO()).splitlines()) == 1


def test_a_column_past_the_end_has_its_caret_at_the_end() -> None:
    _, shown, caret = finding_lines(finding(1, 400), ["short"], io.StringIO()).splitlines()
    assert caret.index("^") == len(shown)


def test_colour_is_for_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NO_COLOR", raising=False)
        patch.setenv("TERM", "xterm")
        assert paint("x", "31", Terminal()) == "\x1b[31mx\x1b[0m"
        assert paint("x", "31", io.StringIO()) == "x"
        patch.setenv("NO_COLOR", "1")
        assert paint("x", "31", Terminal()) == "x"


def test_errors_are_one_line_and_refused_flows_show_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(PlanError("plan.json: format 2.0 is not read"), as_json=False) == 1
    assert capsys.readouterr().err == "Error: plan.json: format 2.0 is not read\n"
    assert report_error(FileNotFoundError(2, "No such file or directory", "a.csv"), as_json=False) == 1
    assert capsys.readouterr().err == "Error: a.csv: No such file or directory\n"
    assert report_error(FlowErrors([finding(1, 1), finding(2, 1)]), as_json=False) == 1
    err = capsys.readouterr().err
    assert err.count("FB201") == 2
    assert err.endswith("2 findings\n")


def test_json_is_asked_for_before_the_double_dash_only() -> None:
    assert wants_json(["run", "x", "--json"])
    assert not wants_json(["run", "--", "--json"])


def test_a_folder_is_searched_for_flows_and_only_for_flows(tmp_path: Path) -> None:
    flows = ["b.yaml", "a/flow.yml", "a/deep/flow.yaml"]
    others = {
        ".venv/flow.yaml": "flowbridge: 1\n",
        "values.yaml": "name: flowbridge: no\n",
        "notes.md": "flowbridge: 1\n",
    }
    for name, text in {**dict.fromkeys(flows, "# comment\nflowbridge: 1\n"), **others}.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    expected = sorted(str(tmp_path / name) for name in flows)
    assert sorted(find_flows([str(tmp_path)])) == expected
    assert sorted(find_flows([f"{tmp_path}/..."])) == expected
    assert find_flows([str(tmp_path / "b.yaml"), str(tmp_path / "b.yaml")]) == [str(tmp_path / "b.yaml")]


def test_a_folder_without_flows_and_a_missing_file_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no flow in this folder"):
        find_flows([str(tmp_path)])
    with pytest.raises(WrongUse, match="no such file"):
        find_flows([str(tmp_path / "missing.yaml")])


def test_completion_survives_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert complete_flow(f"{tmp_path}/missing/f") == []
