"""``flowbridge list``: what a flow may name on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.operator_spec import ConfigField, OperatorSpec
    from flowbridge.plan import Port

app = typer.Typer(help="List what is installed.", rich_markup_mode=None, no_args_is_help=True)


def complete_operator(incomplete: str) -> list[str]:
    """Operators whose names continue what is typed."""
    from flowbridge import registry

    return [name for name in registry.catalog().names() if name.startswith(incomplete)]


@app.command()
def operators(
    name: Annotated[
        str | None, typer.Argument(help="Show one operator with its configuration.", autocompletion=complete_operator)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Operators that a flow may name by one word."""
    specs = _specs(name)
    if json:
        output.print_json({"operators": [_document(spec) for spec in specs]})
    elif name is not None:
        _print_one(specs[0])
    else:
        _print_table(("operator", "inputs", "outputs", "what it does"), [_row(spec) for spec in specs])


@app.command()
def transports(json: JsonOption = False) -> None:
    """Tiers that are installed."""
    from flowbridge import registry

    _names("transports", registry.transports(), json)


@app.command()
def adapters(json: JsonOption = False) -> None:
    """Dialects of flows that are understood."""
    from flowbridge import registry

    _names("adapters", registry.adapters(), json)


def _names(what: str, names: Sequence[str], json: bool) -> None:
    if json:
        output.print_json({what: [*names]})
    else:
        sys.stdout.write("".join(f"{name}\n" for name in names))


def _specs(name: str | None) -> list[OperatorSpec]:
    from flowbridge import registry

    catalog = registry.catalog()
    wanted = catalog.names() if name is None else (name,)
    specs = [spec for spec in map(catalog.get, wanted) if spec is not None]
    if name is not None and not specs:
        from difflib import get_close_matches

        near = get_close_matches(name, catalog.names(), 1)
        raise output.WrongUse(f"No such operator {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    return specs


def _row(spec: OperatorSpec) -> tuple[str, ...]:
    inputs = " ".join(port.name for port in spec.inputs) + (" ..." if spec.any_inputs else "")
    outputs = " ".join(port.name for port in spec.outputs) + (" ..." if spec.any_outputs else "")
    return (spec.name, inputs or "-", outputs or "-", spec.summary)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for number, row in enumerate([titles, *rows]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        sys.stdout.write((output.paint(line, "1", sys.stdout) if number == 0 else line) + "\n")


def _print_one(spec: OperatorSpec) -> None:
    sys.stdout.write(f"{output.paint(spec.name, '1', sys.stdout)}: {spec.summary}\n")
    for title, ports in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        if ports:
            sys.stdout.write(f"{title}: {', '.join(f'{p.name} ({p.content_type.value})' for p in ports)}\n")
    if spec.extra:
        sys.stdout.write(f"needs: pip install 'flowbridge[{spec.extra}]'\n")
    if spec.config:
        sys.stdout.write("\n")
        rows = [(field.name, field.type, _default(field), _field_doc(field)) for field in spec.config]
        _print_table(("with", "type", "default", "meaning"), rows)


def _is_required(field: ConfigField) -> bool:
    from flowbridge.operator_spec import REQUIRED

    return field.default is REQUIRED


def _default(field: ConfigField) -> str:
    if _is_required(field):
        return "(required)"
    return "-" if field.default is None else str(field.default)


def _field_doc(field: ConfigField) -> str:
    return f"{field.doc} [{' | '.join(field.choices)}]" if field.choices else field.doc


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "content_type": port.content_type.value}


def _document(spec: OperatorSpec) -> dict[str, Any]:
    config: list[dict[str, Any]] = []
    for field in spec.config:
        entry: dict[str, Any] = {"name": field.name, "type": field.type, "doc": field.doc}
        entry["required"] = _is_required(field)
        if not _is_required(field):
            entry["default"] = field.default
        if field.choices:
            entry["choices"] = list(field.choices)
        config.append(entry)
    return {
        "name": spec.name,
        "summary": spec.summary,
        "category": spec.category.value,
        "inputs": [_port(port) for port in spec.inputs],
        "outputs": [_port(port) for port in spec.outputs],
        "any_inputs": spec.any_inputs,
        "any_outputs": spec.any_outputs,
        "config": config,
        "extra": spec.extra or None,
    }
