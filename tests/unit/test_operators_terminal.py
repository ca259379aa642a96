"""console and null."""

from __future__ import annotations

import datetime as dt
import io
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from flowbridge.operators.fault import ConfigError
from flowbridge.operators.terminal import Console, Null

NO_OUT = cast("Any", None)


def printed(values: list[Any], **config: Any) -> str:
    stream = io.StringIO()
    console = Console(**config)
    console.open(cast("Any", SimpleNamespace(node="table", stdout=stream)))
    for value in values:
        console.process("in", value, NO_OUT)
    console.finish(NO_OUT)
    return stream.getvalue()


def batch_of(numbers: list[int]) -> Any:
    return pa.RecordBatch.from_pydict({"n": numbers, "s": [f"row-{n}" for n in numbers]})


def test_a_table_shows_columns_rows_and_how_many_there_were() -> None:
    text = printed([batch_of([1, 2]), batch_of([3])], title="Rows")
    assert "Rows" in text
    assert [f"row-{n}" in text for n in (1, 2, 3)] == [True] * 3
    assert "all 3 rows" in text


def test_only_the_last_rows_are_kept() -> None:
    text = printed([batch_of(list(range(n * 10, n * 10 + 10))) for n in range(50)], limit=12)
    shown = [n for n in range(500) if f"row-{n} " in text]
    assert shown == list(range(488, 500))
    assert "the last 12 of 500 rows" in text


@pytest.mark.parametrize("sizes", [[1] * 30, [30], [7, 7, 7, 9], [25, 1, 4], [0, 30, 0]])
def test_which_rows_are_last_does_not_depend_on_the_batches(sizes: list[int]) -> None:
    values: list[Any] = []
    start = 0
    for size in sizes:
        values.append(batch_of(list(range(start, start + size))))
        start += size
    text = printed(values, limit=5)
    assert [n for n in range(30) if f"row-{n} " in text] == [25, 26, 27, 28, 29]


def test_other_values_are_rows_too() -> None:
    text = printed([1, {"value": 2, "why": "because"}, "[bold]three[/bold]"])
    assert "because" in text
    assert "[bold]three[/bold]" in text


def test_times_bytes_and_long_texts_can_be_shown() -> None:
    batch: Any = pa.RecordBatch.from_pydict(
        {
            "t": pa.array([dt.datetime(2013, 1, 1)], pa.timestamp("ns", "UTC")),
            "x": [1234.5678],
            "long": ["y" * 500],
            "none": pa.array([None], pa.string()),
        }
    )
    text = printed([batch])
    assert "2013-01-01" in text
    assert "1,234.57" in text
    assert "yyy..." in text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (dt.datetime(2013, 1, 1, 5), "│ 2013-01-01 05:00 │"),
        (dt.datetime(2013, 1, 1, 5, 0, 7), "│ 2013-01-01 05:00:07 │"),
        (dt.datetime(2013, 1, 1, 5, 0, 7, 25), "│ 2013-01-01 05:00:07.000025 │"),
        (dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC), "│ 2013-01-01 05:00 UTC │"),
    ],
)
def test_a_time_is_shown_as_short_as_it_can_be(time: dt.datetime, text: str) -> None:
    assert text in printed([{"time": time}])


def test_many_columns_are_cut_and_counted() -> None:
    text = printed([pa.RecordBatch.from_pydict({f"c{n}": [n] for n in range(30)})])
    assert "18 more columns" in text


def test_nothing_at_all_can_be_shown() -> None:
    assert "all 0 rows" in printed([])


def test_without_a_stream_in_the_context_it_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.open(cast("Any", SimpleNamespace(node="table")))
    console.process("in", 42, NO_OUT)
    console.finish(NO_OUT)
    assert "42" in capsys.readouterr().out


def test_a_reader_that_went_away_is_no_error() -> None:
    code = (
        "from types import SimpleNamespace as N\n"
        "from flowbridge.operators.terminal import Console\n"
        "c = Console(); c.open(N(node='n'))\n"
        "c.process('in', 1, None); c.finish(None); print('after')\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_the_letters_gets_question_marks() -> None:
    raw = io.BytesIO()
    console = Console()
    console.open(cast("Any", SimpleNamespace(node="table", stdout=io.TextIOWrapper(raw, encoding="ascii"))))
    console.process("in", "Zürich", NO_OUT)
    console.finish(NO_OUT)
    assert b"Z?rich" in raw.getvalue()


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit is 0"):
        Console(limit=0)


def test_null_takes_anything() -> None:
    null = Null()
    for value in (1, None, object(), batch_of([1])):
        null.process("in", value, NO_OUT)
