"""Tables in one style. Rich is imported with this module, so verbs import it only when they print one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from flowbridge.cli.units import count_text

if TYPE_CHECKING:
    from rich.console import Console

_FOLDED: Final = 16
"""A name may be folded to so many columns of the terminal, not to fewer."""


def table(title: str, *columns: str) -> Table:
    """An empty table; a column whose name starts with ``>`` is set to the right. Its cells are str or Text."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


def print_table(console: Console, rows: Table) -> None:
    """The table after an empty line, without blanks at the ends of its lines.

    A number that is broken in two is none: where there is little width only names are folded, and where that is not
    enough each row becomes a few lines.
    """
    natural = Measurement.get(console, console.options.update(width=10_000), rows).maximum
    with console.capture() as capture:
        if natural <= console.width or _squeeze(rows) <= console.width:
            console.print(rows)
        else:
            _print_lines(console, rows)
    console.file.write("\n" + "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _squeeze(rows: Table) -> int:
    """Set numbers to the width that they need, and columns close together; returns the least width of it all."""
    rows.padding = (0, 0)
    least = len(rows.columns) - 1
    for column in rows.columns:
        words = map(cell_len, str(column.header).split())
        width = max([*words, *(text.cell_len for text in _texts(column))], default=0)
        if column.justify == "right":
            column.width = width
        least += width if column.justify == "right" else min(width, _FOLDED)
    return least


def _print_lines(console: Console, rows: Table) -> None:
    """Each row as its first cell, and below it the others behind their titles."""
    console.print(Text(str(rows.title), "bold"))
    titles = [str(column.header) for column in rows.columns]
    for name, *cells in zip(*map(_texts, rows.columns), strict=True):
        console.print(name)
        line = Text()
        for title, cell in zip(titles[1:], cells, strict=True):
            pair = Text(f"  {title} ").append_text(cell)
            if line and line.cell_len + pair.cell_len > console.width:
                console.print(line)
                line = Text()
            line.append_text(pair)
        console.print(line)


def _texts(column: Column) -> list[Text]:
    return [cell if isinstance(cell, Text) else Text.from_markup(cast("str", cell)) for cell in column.cells]


def print_rest(console: Console, total: int, shown: int, thing: str) -> None:
    """Say how many rows were left out."""
    if total > shown:
        console.print(f"[dim]... and {count_text(total - shown, thing)} more; --json has them all[/dim]")
