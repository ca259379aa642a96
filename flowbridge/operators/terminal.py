"""Sinks that end a flow without a file: the console, and nothing at all."""

from __future__ import annotations

import os
import sys
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from flowbridge.operators.batch import is_batch
from flowbridge.operators.fault import ConfigError

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorContext, Outputs

COLUMNS_MAX: Final = 12
CELL_CHARACTERS_MAX: Final = 60


class Null:
    """Takes everything and does nothing with it."""

    def process(self, port: str, value: Any, out: Outputs) -> None:
        """Forget the value."""


class Console:
    """Prints a table of the last `limit` rows when the flow ends.

    It writes to ``context.stdout`` when the runner offers that, else to standard output. A reader that went away is no
    error. A batch gives its rows; any other value is one row.
    """

    def __init__(self, *, limit: int = 20, title: str | None = None) -> None:
        if limit < 1:
            raise ConfigError(f"limit is {limit}; it must be at least 1")
        self._title = title
        self._limit = limit
        self._kept: deque[Any] = deque()
        self._kept_rows = 0
        self._seen_rows = 0
        self._node = ""
        self._stdout: TextIO | None = None

    def open(self, context: OperatorContext) -> None:
        """Learn where to print."""
        self._node = context.node
        self._stdout = getattr(context, "stdout", None)

    def process(self, port: str, value: Any, out: Outputs) -> None:
        """Keep the last rows; they are made text only at the end."""
        batch = is_batch(value)
        rows: int = value.num_rows if batch else 1
        if rows == 0:
            return
        self._seen_rows += rows
        self._kept.append(value.slice(max(0, rows - self._limit)) if batch else value)
        self._kept_rows += min(rows, self._limit)
        while self._kept_rows - _rows_of(self._kept[0]) >= self._limit:
            self._kept_rows -= _rows_of(self._kept.popleft())

    def finish(self, out: Outputs) -> None:
        """Print the table."""
        stream = self._stdout or sys.stdout
        text = self._render(stream)
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            if stream is sys.stdout:  # else the interpreter complains when it flushes at exit
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)

    def _render(self, stream: TextIO) -> str:
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        rows = self._rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        shown, hidden = names[:COLUMNS_MAX], len(names) - COLUMNS_MAX
        table = Table()
        for name in shown:
            number = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(_cell(row.get(name))) for name in shown))
        console = RichConsole(file=stream, width=None if stream.isatty() else 120, highlight=False)
        with console.capture() as captured:  # to write by ourselves: rich ends the process when a pipe breaks
            console.print(Text(self._title or self._node, style="bold"))
            if names:
                console.print(table)
            console.print(Text(self._caption(len(rows), hidden)))
        encoding = getattr(stream, "encoding", None) or "utf-8"
        return captured.get().encode(encoding, "replace").decode(encoding)

    def _caption(self, rows: int, hidden: int) -> str:
        more = f", {hidden} more columns" if hidden > 0 else ""
        return f"{'all' if rows == self._seen_rows else f'the last {rows} of'} {self._seen_rows} rows{more}"

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for value in self._kept:
            if is_batch(value):
                from flowbridge.operators.json_row import readable

                rows.extend(readable(value).to_pylist())
            else:
                rows.append(cast("dict[str, Any]", value) if isinstance(value, dict) else {"value": value})
        return rows[-self._limit :]


def _rows_of(value: Any) -> int:
    return int(value.num_rows) if is_batch(value) else 1


def _time(value: datetime) -> str:
    text = value.strftime("%Y-%m-%d %H:%M:%S" if value.second or value.microsecond else "%Y-%m-%d %H:%M")
    text += f".{value.microsecond:06}" if value.microsecond else ""
    return f"{text} {value.tzname()}" if value.tzinfo is not None else text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:,.2f}"
    elif isinstance(value, datetime):
        text = _time(value)
    else:
        text = str(value)
    text = " ".join(text.split("\n"))
    return text if len(text) <= CELL_CHARACTERS_MAX else text[: CELL_CHARACTERS_MAX - 3] + "..."
