"""The pages that tell a reader what to type: everything on them is typed, from top to bottom, in an empty folder.

What a fenced block means:

```yaml title="flow.yaml"     the file is written; with the word `append` it is continued
```python title="x.py"       so is this
```python                    the code is run by itself, in the same folder
```console                   after ``$ `` stands a command, below it what it prints

In what is printed, ``...`` stands for anything in a line, and alone in a line for any number of lines. The width of
columns does not count. A line ``# exit code N`` below a command is the exit code that it must have, 0 unless told.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    "README.md",
    "docs/tutorial.md",
    "docs/how-to/write-an-operator.md",
    "docs/how-to/write-a-transport.md",
    "docs/how-to/embed.md",
)
BLOCK: Final = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE: Final = re.compile(r'title="([^"]+)"')
GUARD_S: Final = 120.0
"""Only ends hangs; nothing is measured by it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    append: bool
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks of a page that do something."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        language, words, body = found.groups()
        title = TITLE.search(words)
        name = title[1] if title else ""
        if name or language in {"console", "python"}:
            line = text.count("\n", 0, found.start()) + 1
            yield Block(page, line, language, name, "append" in words.split(), body)


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = command[:-1] + more.strip()
        yield command, shown


def agrees(shown: str, printed: str) -> bool:
    """Whether what a command printed is what the page shows."""
    pattern = ""
    for line in tidy(shown).splitlines():
        pattern += r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
    return re.fullmatch(pattern, tidy(printed)) is not None


def tidy(text: str) -> str:
    """The text without what the width of a column changes, and without empty lines around it."""
    lines = (re.sub(r"([ ─━═])\1+", r"\1", line).strip() for line in text.strip().splitlines())
    return "".join(f"{line}\n" for line in lines)


class Reader:
    """Somebody who types what a page says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.folder = self.home
        tools = folder / "bin"
        tools.mkdir()
        flowbridge = f'exec "{sys.executable}" -c "import sys; from flowbridge.cli import main; sys.exit(main())" "$@"'
        site = folder / "site"
        install = f'exec "{sys.executable}" -m pip "$@" --quiet --no-deps --no-build-isolation --target "{site}"'
        scripts = {"flowbridge": flowbridge, "python": f'exec "{sys.executable}" "$@"', "pip": install}
        for name, line in scripts.items():
            (tools / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
            (tools / name).chmod(0o755)
        self.environment: Mapping[str, str] = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("FLOWBRIDGE", "OTEL", "PYTEST"))},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(site),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def follow(self, block: Block) -> None:
        """Do what one block says."""
        if block.title:
            place = self.folder / block.title
            place.parent.mkdir(parents=True, exist_ok=True)
            assert place.exists() or not block.append, f"{block}: {block.title} is not there yet"
            with place.open("a" if block.append else "w", encoding="utf-8") as file:
                file.write(block.text)
        elif block.language == "python":
            done = self.run([sys.executable, "-W", "error", "-"], block.text)
            assert done.returncode == 0, f"{block}:\n{done.stdout}"
        else:
            for command, shown in commands_of(block.text):
                self.type(block, command, shown)

    def type(self, block: Block, command: str, shown: str) -> None:
        """Type one command and compare."""
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ").strip()).resolve()
            assert self.folder.is_relative_to(self.home), f"{block}: {command}"
            return
        code = re.search(r"^# exit code (\d+)\n?", shown, re.MULTILINE)
        wanted = shown.replace(code[0], "") if code else shown
        done = self.run(["bash", "-c", command])
        told = f"{block}: $ {command}\n--- printed, exit code {done.returncode}\n{done.stdout}--- shown\n{wanted}"
        assert done.returncode == (int(code[1]) if code else 0), told
        assert agrees(wanted, done.stdout), told

    def run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program; what it prints on either stream comes in order."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=GUARD_S,
        )


@pytest.mark.parametrize("page", PAGES)
def test_a_reader_who_types_what_the_page_says_sees_what_it_shows(page: str, tmp_path: Path) -> None:
    blocks = list(blocks_of(page))
    assert blocks, f"{page} shows nothing that runs"
    reader = Reader(tmp_path)
    for block in blocks:
        reader.follow(block)


@pytest.mark.parametrize("name", ["flights", "prices", "embed"])
def test_every_example_is_named_on_a_page(name: str) -> None:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, "docs/index.md")]
    assert any(f"examples/{name}" in text for text in texts)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  b", "a b\n", True),
        ("a 1 ms", "a 2 ms\n", False),
        ("a ... ms", "a 2 ms\n", True),
        ("a\n...\nc", "a\nb\nb\nc\n", True),
        ("a\n...\nc", "a\nb\n", False),
        ("", "a\n", False),
        ("a", "a\nb\n", False),
        ("━━┳━━", "━━━━┳━\n", True),
        ("f(x)", "f(x)\n", True),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(shown: str, printed: str, *, same: bool) -> None:
    assert agrees(shown, printed) is same
