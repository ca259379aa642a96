"""Tables in one style. Rich is imported with this module, so verbs import it only when they print one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from flowbridge.cli.units import count_text

if TYPE_CHECKING:
    from rich.console import Console


def table(title: str, *columns: str) -> Table:
    """An empty table; a column whose name starts with ``>`` is set to the right."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


def print_table(console: Console, rows: Table) -> None:
    """The table after an empty line, without blanks at the ends of its lines."""
    with console.capture() as capture:
        console.print(rows)
    console.file.write("\n" + "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def print_rest(console: Console, total: int, shown: int, thing: str) -> None:
    """Say how many rows were left out."""
    if total > shown:
        console.print(f"[dim]... and {count_text(total - shown, thing)} more; --json has them all[/dim]")
