"""Pages that are made from the code are equal to what the code makes, and every page can be found."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import flowbridge
from flowbridge.operators.catalog import BUILTINS
from flowbridge.operators.expression_function import FUNCTIONS
from flowbridge.testing.conformance import SUITES, clauses

if TYPE_CHECKING:
    from types import ModuleType

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    *("README.md", "docs/reference/index.md", "docs/reference/operators.md", "docs/reference/python-api.md"),
    *("docs/reference/cli.md", "docs/reference/rules.md", "docs/reference/metrics.md"),
    "docs/reference/flow.schema.json",
)


@cache
def generator() -> ModuleType:
    """docs/generate.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def section(text: str, head: str) -> str:
    """From a heading to the next of its kind."""
    depth = head.partition(" ")[0]
    return re.split(rf"^{depth} ", text.partition(f"\n{head}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_pages_made_from_the_code_are_those_of_the_generator() -> None:
    assert set(generator().PAGES) == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_made_from_the_code_is_up_to_date(page: str) -> None:
    assert text_of(page) == generator().PAGES[page](), "write it again: python docs/generate.py"


def test_the_generator_writes_what_differs_and_with_check_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Any = generator()
    (tmp_path / "same.md").write_text("new\n")
    (tmp_path / "old.md").write_text("old\n")
    monkeypatch.setattr(made, "ROOT", tmp_path)
    monkeypatch.setattr(made, "PAGES", {"same.md": lambda: "new\n", "old.md": lambda: "new\n"})
    assert made.main(["--check"]) == 1
    assert capsys.readouterr().out == "old.md: differs from the code; run `python docs/generate.py`\n"
    assert (tmp_path / "old.md").read_text() == "old\n"
    assert made.main([]) == 0
    assert capsys.readouterr().out == "old.md: written\n"
    assert (tmp_path / "old.md").read_text() == "new\n"
    assert made.main(["--check"]) == 0


def test_the_readme_has_every_guarantee() -> None:
    readme = text_of("README.md")
    table = readme[readme.index(generator().BEGIN) : readme.index(generator().END)]
    every = [entry for suite in SUITES for entry in clauses(suite)]
    assert [entry.name for entry in every if f"| {entry.name} | {entry.guarantee} |" not in table] == []
    assert table.count("\n| ") == len(every) + 1  # and the head


def test_the_python_page_has_every_public_name_once() -> None:
    page = text_of("docs/reference/python-api.md")
    heads = re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \| `", page, re.MULTILINE)
    named = [*heads, *rows]
    assert sorted(set(named)) == sorted(named)
    assert {name for name in flowbridge.__all__ if name != "__version__"} <= set(named)


def test_the_python_page_shows_signatures_as_a_person_writes_them() -> None:
    page = text_of("docs/reference/python-api.md")
    assert "load(path: str | Path) -> Plan\n" in page
    assert "- `await run(plan: Plan, *, for_ns: int | None = None) -> RunReport`" in section(page, "### `Host`")
    assert "    deadline_ns: int = NO_DEADLINE,\n" in section(page, "### `Envelope`")
    for unwanted in ("<factory>", "<object", "9223372036854775807", "flowbridge.plan.", "lambda"):
        assert unwanted not in page, unwanted


@pytest.mark.parametrize("name", BUILTINS)
def test_the_operators_page_has_each_operator_with_its_configuration(name: str) -> None:
    found = section(text_of("docs/reference/operators.md"), f"### `{name}`")
    assert BUILTINS[name].summary in found
    for field in BUILTINS[name].config:
        assert f"| `{field.name}` | {field.type} | " in found
        assert field.doc.replace("|", "\\|") in found


def test_the_operators_page_has_each_function_of_expressions() -> None:
    found = section(text_of("docs/reference/operators.md"), "## Expressions")
    assert [f.signature for f in FUNCTIONS.values() if f"| `{f.signature}` | {f.doc} |" not in found] == []


def test_every_page_of_the_docs_is_reached_from_the_index() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text_of("docs/index.md")))
    assert pages - linked == set()


def test_every_anchor_of_a_link_is_a_heading() -> None:
    lost: list[str] = []
    for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            heads = {slug(head) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
            if anchor not in heads:
                lost.append(f"{page.name}: {target}#{anchor}")
    assert lost == []


def slug(head: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
