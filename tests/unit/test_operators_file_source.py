"""The file sources: exact batches, and errors that name file, line and cause."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from flowbridge.errors import OperatorError
from flowbridge.operators import jsonl_block
from flowbridge.operators.fault import ConfigError
from flowbridge.operators.file_source import CsvSource, JsonlSource, ParquetSource

CLASSES: dict[str, Any] = {"csv": CsvSource, "parquet": ParquetSource, "jsonl": JsonlSource}


def read(source: Any) -> list[Any]:
    source.open(SimpleNamespace(node="reader"))
    try:
        return list(source.produce())
    finally:
        source.close()


def write(path: Path, kind: str, rows: int) -> str:
    table = pa.table({"n": list(range(rows)), "s": [f"row {n}" for n in range(rows)]})
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=max(rows // 3, 1))
    elif kind == "csv":
        path.write_text("n,s\n" + "".join(f"{n},row {n}\n" for n in range(rows)))
    else:
        path.write_text("".join(f'{{"n": {n}, "s": "row {n}"}}\n' for n in range(rows)))
    return str(path)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(("rows", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_batches_have_the_rows_asked_for(tmp_path: Path, kind: str, rows: int, sizes: list[int]) -> None:
    batches = read(CLASSES[kind](path=write(tmp_path / "data", kind, rows), batch_rows=4))
    assert [batch.num_rows for batch in batches] == sizes
    assert pa.Table.from_batches(batches).column("n").to_pylist() == list(range(rows))
    assert pa.Table.from_batches(batches).column("s").to_pylist() == [f"row {n}" for n in range(rows)]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_file_of_several_blocks_comes_whole_and_in_order(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "data", kind, 100_000)
    batches = read(CLASSES[kind](path=path, batch_rows=999))
    assert {batch.num_rows for batch in batches[:-1]} == {999}
    assert pa.Table.from_batches(batches).column("n").to_pylist() == list(range(100_000))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_are_read_in_the_order_given(tmp_path: Path, kind: str) -> None:
    (batch,) = read(CLASSES[kind](path=write(tmp_path / "data", kind, 2), columns=["s"]))
    assert batch.schema.names == ["s"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OperatorError, match=r"node reader: cannot read .*data: .*\bzz\b"):
        read(CLASSES[kind](path=write(tmp_path / "data", kind, 2), columns=["n", "zz"]))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_missing_file_is_named(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "nowhere")
    with pytest.raises(OperatorError, match=f"node reader: cannot read {re.escape(path)}: there is no such file"):
        read(CLASSES[kind](path=path))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_directory_is_not_a_file(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OperatorError, match="is a directory, not a file"):
        read(CLASSES[kind](path=str(tmp_path)))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_empty_file_is_an_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(OperatorError, match=r"data: the file is empty"):
        read(CLASSES[kind](path=str(tmp_path / "data")))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("rows", [0, -1, 10**8])
def test_batch_rows_has_bounds(kind: str, rows: int) -> None:
    with pytest.raises(ConfigError, match="batch_rows"):
        CLASSES[kind](path="x", batch_rows=rows)


def test_on_ragged_is_one_of_two_words() -> None:
    with pytest.raises(ConfigError, match="on_ragged is ignore"):
        CsvSource(path="x", on_ragged="ignore")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_parquet_file_is_an_error(tmp_path: Path, kept: float) -> None:
    path = Path(write(tmp_path / "data", "parquet", 1000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(OperatorError, match=f"node reader: cannot read {re.escape(str(path))}: "):
        read(ParquetSource(path=str(path)))


def test_a_parquet_file_with_a_damaged_page_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data"
    parquet.write_table(pa.table({"s": [f"value {n}" for n in range(5000)]}), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    whole[200:1200] = b"\xff" * 1000
    path.write_bytes(whole)
    with pytest.raises(OperatorError, match="cannot read"):
        read(ParquetSource(path=str(path)))


@pytest.mark.parametrize("before", [1, 200_000])
def test_a_ragged_row_is_named_with_its_number_and_both_counts(tmp_path: Path, before: int) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "1,2\n" * before + "3,4,5\n6,7\n")
    with pytest.raises(OperatorError, match=rf"data\.csv: Row #{before + 2}: Expected 2 columns, got 3"):
        read(CsvSource(path=str(path)))


def test_ragged_rows_can_be_skipped_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n1,2\n3,4,5\n6\n" + "6,7\n" * 200_000 + "8\n9,9\n")
    source = CsvSource(path=str(path), on_ragged="skip")
    with caplog.at_level(logging.WARNING):
        assert sum(batch.num_rows for batch in read(source)) == 200_002
    assert source.skipped_rows == 3
    assert "3 ragged rows" in caplog.text


def test_a_type_that_changes_in_a_later_block_is_an_error_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n" + "1,2\n" * 400_000 + "x,4\n")
    with pytest.raises(OperatorError, match=r"Row #400002: CSV conversion error to int64: invalid value 'x'.*inferred"):
        read(CsvSource(path=str(path)))


def test_a_csv_row_longer_than_a_block_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('a,b\n1,2\n1,"' + "x" * (3 << 20) + '"\n')
    with pytest.raises(OperatorError, match=r"data\.csv: a row is longer than 1 MiB"):
        read(CsvSource(path=str(path)))


def test_a_csv_file_with_a_header_only_has_no_batch(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n")
    assert read(CsvSource(path=str(path))) == []


BAD_LINES = {
    '{"n": "text", "s": "y"}': "does not fit what came before",
    '{"n": 1, "s": ': "is not JSON",
    "[1, 2]": "holds list, not an object",
}
BAD_LATER_LINES = {
    '{"n": 1.5, "s": "y"}': "does not fit what came before",
    '{"n": 1, "s": "y", "new": 2}': "has the field new",
}


@pytest.mark.parametrize(
    ("before", "line", "part"),
    [(3, *case) for case in BAD_LINES.items()] + [(100_000, *case) for case in (BAD_LINES | BAD_LATER_LINES).items()],
)
def test_a_bad_json_line_is_named(tmp_path: Path, before: int, line: str, part: str) -> None:
    path = tmp_path / "data.jsonl"
    good = '{"n": 1, "s": "y"}\n'
    path.write_text(good * before + "\n" + line + "\n" + good * 3)
    with pytest.raises(OperatorError, match=rf"data\.jsonl: line {before + 2} .*{part}"):
        read(JsonlSource(path=str(path)))


def test_within_the_first_block_the_lines_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"n": 1}}\n{line}\n' for line in BAD_LATER_LINES))
    (batch,) = read(JsonlSource(path=str(path)))
    assert batch.to_pydict()["n"] == [1.0, 1.5, 1.0, 1.0]


def test_blank_lines_count_when_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n" * 10 + "{oops}\n")
    with pytest.raises(OperatorError, match=r"line 11 is not JSON"):
        read(JsonlSource(path=str(path)))


def test_a_json_file_of_blank_lines_has_no_batch(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n \n\n")
    assert read(JsonlSource(path=str(path))) == []


def test_a_json_field_may_be_missing_or_null(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"n": 1, "s": "y"}\n{"n": null}\n\n{"s": "z"}')
    (batch,) = read(JsonlSource(path=str(path)))
    assert batch.to_pydict() == {"n": [1, None, None], "s": ["y", None, "z"]}


def test_lines_of_any_length_are_put_together_from_blocks(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"s": "{"x" * n}"}}\n' for n in range(200)))
    blocks = jsonl_block.JsonlBlocks("reader", str(path), block_bytes=64)
    lengths = [len(str(text)) for batch in blocks.batches() for text in batch.column("s").to_pylist()]
    blocks.close()
    assert lengths == list(range(200))


def test_an_endless_json_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_block, "LINE_BYTES_MAX", 1000)
    path = tmp_path / "data.jsonl"
    path.write_text('{"s": "y"}\n{"s": "' + "x" * (3 << 20))
    with pytest.raises(OperatorError, match=r"line 2 is longer than 1000 bytes"):
        read(JsonlSource(path=str(path)))


def test_a_source_that_is_opened_again_begins_again(tmp_path: Path) -> None:
    source = CsvSource(path=write(tmp_path / "data", "csv", 5))
    assert sum(batch.num_rows for batch in read(source)) == 5
    assert sum(batch.num_rows for batch in read(source)) == 5


def test_reading_may_stop_in_the_middle(tmp_path: Path) -> None:
    source: Any = CsvSource(path=write(tmp_path / "data", "csv", 50), batch_rows=10)
    source.open(SimpleNamespace(node="reader"))
    produced = source.produce()
    assert next(produced).num_rows == 10
    produced.close()
    source.close()
    source.close()
