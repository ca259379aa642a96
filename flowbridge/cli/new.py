"""``flowbridge new``: a small flow that runs as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation
from flowbridge.limits import NAME_CHARACTERS_MAX


def new(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder that does not exist yet, or is empty.")],
    json: JsonOption = False,
) -> None:
    """Write a small flow with an operator, a test and a README."""
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise output.WrongUse(f"{folder}: is a file; name a folder")
    if target.is_dir() and any(target.iterdir()):
        raise output.WrongUse(f"{folder}: the folder is not empty")
    from flowbridge.cli.new_files import files

    name = flow_name(target)
    written = files(name)
    for path, text in written.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    if json:
        output.print_json({"folder": folder, "flow": name, "files": [*written]})
        return
    typer.echo(f"{folder}: {', '.join(written)}")
    typer.echo(f"\n  flowbridge check {target / 'flow.yaml'}\n  flowbridge run {target / 'flow.yaml'}")


def flow_name(folder: Path) -> str:
    """The folder's name in the characters that a flow's name may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-")
    return name[:NAME_CHARACTERS_MAX] or "flow"
