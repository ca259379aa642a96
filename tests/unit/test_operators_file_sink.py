"""The file sinks: a file is there whole or not at all, and errors name it."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import datetime as dt
import decimal
import gc
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from flowbridge.errors import OperatorError, SchemaMismatchError
from flowbridge.operators import file_sink
from flowbridge.operators.fault import ConfigError
from flowbridge.operators.file_sink import CsvSink, JsonlSink, ParquetSink

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES: dict[str, Any] = {"csv": CsvSink, "parquet": ParquetSink, "jsonl": JsonlSink}

each_sink = pytest.mark.parametrize("kind", CLASSES)


def batch_of(rows: int, start: int = 0) -> Any:
    numbers = list(range(start, start + rows))
    return pa.RecordBatch.from_pydict({"n": numbers, "s": [f"row {n}" for n in numbers]})


def opened(kind: str, path: Path, **config: Any) -> Any:
    sink = CLASSES[kind](path=str(path), **config)
    sink.open(SimpleNamespace(node="writer", envelope=None))
    return sink


def read_back(kind: str, path: Path) -> Any:
    if kind == "csv":
        return csv.read_csv(path).to_pydict()
    if kind == "parquet":
        return parquet.read_table(path).to_pydict()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0]}


@each_sink
def test_what_is_written_is_read_back(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "data"
    sink = opened(kind, path)
    sink.process("in", batch_of(3), None)
    sink.process("in", batch_of(2, 3), None)
    sink.finish(None)
    sink.close()
    assert read_back(kind, path) == batch_of(5).to_pydict()
    assert os.listdir(path.parent) == ["data"]


@each_sink
def test_the_file_appears_only_at_the_end_and_replaces_an_older_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    sink = opened(kind, path)
    sink.process("in", batch_of(3), None)
    assert path.read_text() == "old"
    sink.finish(None)
    assert read_back(kind, path) == batch_of(3).to_pydict()


@each_sink
def test_without_finish_nothing_is_left_and_an_older_file_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    sink = opened(kind, path)
    sink.process("in", batch_of(100_000), None)
    sink.close()
    sink.close()
    del sink
    gc.collect()
    assert os.listdir(tmp_path) == ["data"]
    assert path.read_text() == "old"


@each_sink
def test_a_sink_that_is_opened_again_begins_again(kind: str, tmp_path: Path) -> None:
    sink = opened(kind, tmp_path / "data")
    sink.process("in", batch_of(3), None)
    sink.open(SimpleNamespace(node="writer", envelope=None))
    sink.process("in", batch_of(2, 7), None)
    sink.finish(None)
    assert read_back(kind, tmp_path / "data") == batch_of(2, 7).to_pydict()
    assert os.listdir(tmp_path) == ["data"]


@each_sink
def test_a_new_file_has_the_permissions_of_any_other(kind: str, tmp_path: Path) -> None:
    sink = opened(kind, tmp_path / "data")
    sink.process("in", batch_of(1), None)
    sink.finish(None)
    (tmp_path / "other").touch()
    assert (tmp_path / "data").stat().st_mode == (tmp_path / "other").stat().st_mode


@each_sink
def test_a_path_that_is_a_folder_cannot_be_written(kind: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=f"node writer: cannot write {re.escape(str(tmp_path))}: is a directory"):
        opened(kind, tmp_path)


@each_sink
def test_a_path_below_a_file_cannot_be_written(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"a part of the path is not a folder|File exists"):
        opened(kind, tmp_path / "file" / "data")


@each_sink
def test_a_folder_that_may_not_be_written_is_named_before_any_work(kind: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot write /proc/data: "):
        opened(kind, Path("/proc/data"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip() or mounted.returncode}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def noise(rows: int) -> Any:
    """Rows that do not compress."""
    return pa.RecordBatch.from_pydict({"s": [os.urandom(64).hex() for _ in range(rows)]})


def fill(sink: Any) -> None:
    for _ in range(100):
        sink.process("in", noise(1000), None)
    sink.finish(None)


@each_sink
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_no_half(kind: str, small_disk: Path) -> None:
    path = small_disk / "data"
    sink = opened(kind, path)
    with pytest.raises(OperatorError, match=f"node writer: cannot write {re.escape(str(path))}: no space is left"):
        fill(sink)
    assert os.listdir(small_disk) == []
    sink.close()
    del sink
    gc.collect()


@each_sink
def test_a_disk_that_is_full_only_at_the_end_is_an_error_too(kind: str, small_disk: Path) -> None:
    sink = opened(kind, small_disk / "data")
    sink.process("in", noise(5500), None)  # more than the disk, less than the buffers
    with pytest.raises(OperatorError, match="no space is left"):
        sink.finish(None)
    assert os.listdir(small_disk) == []
    sink.close()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_batch_of_another_schema_is_refused(kind: str, tmp_path: Path) -> None:
    sink = opened(kind, tmp_path / "data")
    sink.process("in", batch_of(1), None)
    others: list[tuple[dict[str, list[Any]], str]] = [
        ({"n": [1.5], "s": ["x"]}, "column n is double and was int64"),
        ({"n": [1]}, "column s is missing"),
        ({"n": [1], "s": ["x"], "z": [1]}, "column z is new"),
        ({"s": ["x"], "n": [1]}, "the columns are in another order"),
    ]
    for columns, part in others:
        with pytest.raises(SchemaMismatchError, match=part):
            sink.process("in", pa.RecordBatch.from_pydict(columns), None)
    sink.close()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_value_that_is_no_batch_is_refused(kind: str, tmp_path: Path) -> None:
    sink = opened(kind, tmp_path / "data")
    with pytest.raises(SchemaMismatchError, match=r"node writer, port in: .*not dict"):
        sink.process("in", {"a": 1}, None)
    sink.close()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_without_a_message_a_text_file_is_empty(kind: str, tmp_path: Path) -> None:
    sink = opened(kind, tmp_path / "data")
    sink.finish(None)
    assert (tmp_path / "data").read_text() == ""


def test_without_a_message_there_is_no_parquet_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = opened("parquet", tmp_path / "data")
    sink.finish(None)
    assert os.listdir(tmp_path) == []
    assert "no batch arrived" in caplog.text


@pytest.mark.parametrize("compression", file_sink.COMPRESSIONS)
def test_parquet_is_compressed_as_asked(compression: str, tmp_path: Path) -> None:
    sink = opened("parquet", tmp_path / "data", compression=compression)
    sink.process("in", batch_of(1000), None)
    sink.finish(None)
    column = parquet.ParquetFile(tmp_path / "data").metadata.row_group(0).column(0)
    assert column.compression.lower() == {"none": "uncompressed"}.get(compression, compression)


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ConfigError, match="compression is zip"):
        ParquetSink(path="x", compression="zip")


def test_small_batches_share_a_row_group(tmp_path: Path) -> None:
    sink = opened("parquet", tmp_path / "data")
    for number in range(140):
        sink.process("in", batch_of(1000, number * 1000), None)
    sink.finish(None)
    metadata = parquet.ParquetFile(tmp_path / "data").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [66_000, 66_000, 8_000]
    assert read_back("parquet", tmp_path / "data")["n"] == list(range(140_000))


def test_json_lines_write_what_json_has_no_word_for(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "t": pa.array([dt.datetime(2013, 1, 1, 5)], pa.timestamp("us")),
            "ns": pa.array([1_500], pa.timestamp("ns")),
            "date": pa.array([dt.date(2013, 1, 1)]),
            "nan": [float("nan")],
            "nested": [{"x": [float("inf"), 1.0]}],
            "raw": [b"\x00\xff"],
            "price": [decimal.Decimal("1.50")],
            "took": pa.array([1_500_000], pa.duration("us")),
            "took_ns": pa.array([1_500_000_001], pa.duration("ns")),
            "clock": pa.array([3_600_000_000_001], pa.time64("ns")),
            "text": ["ä\n"],
        }
    )
    sink = opened("jsonl", tmp_path / "data")
    sink.process("in", batch, None)
    sink.finish(None)
    assert json.loads((tmp_path / "data").read_text()) == {
        "t": "2013-01-01T05:00:00",
        "ns": "1970-01-01T00:00:00.000001",
        "date": "2013-01-01",
        "nan": None,
        "nested": {"x": [None, 1.0]},
        "raw": "AP8=",
        "price": "1.50",
        "took": 1.5,
        "took_ns": 1.5,
        "clock": "01:00:00",
        "text": "ä\n",
    }


def test_json_lines_take_other_values_one_a_line(tmp_path: Path) -> None:
    sink = opened("jsonl", tmp_path / "data")
    for value in ({"a": 1}, [1, 2], "x", 5):
        sink.process("in", value, None)
    with pytest.raises(OperatorError, match="a value of type object has no form in JSON"):
        sink.process("in", {"a": object()}, None)
    sink.finish(None)
    assert (tmp_path / "data").read_text() == '{"a": 1}\n[1, 2]\n"x"\n5\n'
