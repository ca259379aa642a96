"""Flow files named on the command line: found, completed and loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowbridge.cli.output import WrongUse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowbridge.plan import Plan

FLOW_SUFFIXES: Final = (".yaml", ".yml")
_PLAN_SUFFIXES: Final = (".json", ".cbor")
_TOP_KEY: Final = re.compile(r"^flowbridge[ \t]*:", re.MULTILINE)
_NOT_LOOKED_INTO: Final = frozenset({"node_modules", "__pycache__"})


def complete_flow(incomplete: str) -> list[str]:
    """Flow files and folders that continue what is typed."""
    folder, _, start = incomplete.rpartition("/")
    prefix = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        entries = sorted(Path(prefix or ".").iterdir())
    except OSError:
        return []
    found: list[str] = []
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        if entry.is_dir():
            found.append(f"{prefix}{entry.name}/")
        elif entry.suffix in FLOW_SUFFIXES + _PLAN_SUFFIXES:
            found.append(f"{prefix}{entry.name}")
    return found


FlowArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="FLOW", help="A flow (.yaml) or a compiled plan (.json, .cbor).", autocompletion=complete_flow
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]


def load_plan(flow: str) -> Plan:
    """The plan of a file. WrongUse when there is no such file, FlowErrors or PlanError when it is refused."""
    path = Path(flow)
    if not path.exists():
        raise WrongUse(f"{flow}: no such file")
    if path.is_dir():
        raise WrongUse(f"{flow}: is a folder; name a flow file in it")
    from flowbridge.loading import load

    return load(flow)


def find_flows(names: Sequence[str]) -> list[str]:
    """The files themselves, and every flow in the folders (``DIR`` or ``DIR/...``); each once, in order."""
    found: dict[str, None] = {}
    for name in names:
        bare = name.removesuffix("...")
        path = Path(bare or ".")
        if path.is_dir():
            below = [str(flow) for flow in _flows_below(path)]
            if not below:
                raise WrongUse(f"{name}: no flow in this folder (a .yaml file with a top-level `flowbridge:`)")
            found.update(dict.fromkeys(below))
        elif path.exists():
            found[name] = None
        else:
            raise WrongUse(f"{name}: no such file or folder")
    return [*found]


def _flows_below(folder: Path) -> Iterator[Path]:
    """Flow files under a folder, in order of their names; hidden folders and links to folders are passed over."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in _NOT_LOOKED_INTO:
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _flows_below(entry)
        elif entry.suffix in FLOW_SUFFIXES and _TOP_KEY.search(entry.read_text(encoding="utf-8", errors="replace")):
            yield entry
