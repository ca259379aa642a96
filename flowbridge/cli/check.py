"""``flowbridge check``: every finding of one or many flows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption, complete_flow, find_flows, load_plan
from flowbridge.cli.units import count_text
from flowbridge.errors import FlowbridgeError, FlowErrors
from flowbridge.finding import Finding, Position

if TYPE_CHECKING:
    from collections.abc import Sequence


def check(
    flows: Annotated[
        list[str],
        typer.Argument(
            metavar="FLOW...", help="Flow files, or folders to search for them.", autocompletion=complete_flow
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Check flows and show every finding with its place."""
    files = find_flows(flows)
    results = [(file, *_examine(file)) for file in files]
    clean = all(digest for _, digest, _ in results)
    if json:
        output.print_json({"files": [_document(*result) for result in results], "ok": clean})
    else:
        for _, _, findings in results:
            output.print_findings(findings, sys.stdout)
        sys.stdout.write(_closing_line([findings for _, _, findings in results]) + "\n")
    raise typer.Exit(output.DONE if clean else output.FAILED)


def _examine(file: str) -> tuple[str | None, Sequence[Finding]]:
    """The digest of a sound flow, or its findings."""
    try:
        return load_plan(file).digest, ()
    except FlowErrors as error:
        return None, error.findings
    except (FlowbridgeError, OSError) as error:
        # A damaged plan or an unreadable file must not hide the findings of the other files.
        place = Position(file=file, line=1, column=1)
        return None, (Finding(position=place, rule=type(error).__name__, message=str(error)),)


def _document(file: str, digest: str | None, findings: Sequence[Finding]) -> dict[str, Any]:
    document: dict[str, Any] = {"file": file, "ok": digest is not None}
    if digest is not None:
        document["digest"] = digest
    document["findings"] = [finding.to_json() for finding in findings]
    return document


def _closing_line(results: Sequence[Sequence[Finding]]) -> str:
    total = sum(map(len, results))
    bad = sum(1 for findings in results if findings)
    checked = f"{count_text(len(results), 'flow')} checked"
    if not total:
        return output.paint(f"{checked}, no findings", "32", sys.stdout)
    where = f" in {bad} of them" if len(results) > 1 else ""
    return output.paint(f"{checked}, {count_text(total, 'finding')}{where}", "31", sys.stdout)
