"""The sources that read files: CSV, Parquet and JSON lines, in batches of exactly the rows asked for."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from flowbridge.errors import OperatorError
from flowbridge.operators.fault import LOG, ConfigError, did_you_mean, file_errors
from flowbridge.operators.jsonl_block import JsonlBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flowbridge.contracts import OperatorContext

BATCH_ROWS_MAX: Final = 10_000_000


_concat: Final[Any] = getattr(pa, "concat_batches")  # noqa: B009 - newer than the stubs


def rebatch(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `rows` each, the last one excepted.

    Slices share the memory they come from; only a batch that lies across two incoming ones is copied.
    """
    pending: list[pa.RecordBatch] = []
    waiting = 0
    for batch in batches:
        offset = 0
        while batch.num_rows - offset + waiting >= rows:
            piece = batch.slice(offset, rows - waiting)
            offset += piece.num_rows
            yield _concat([*pending, piece]) if pending else piece
            pending, waiting = [], 0
        if offset < batch.num_rows:
            pending.append(batch.slice(offset))
            waiting += batch.num_rows - offset
    if pending:
        yield _concat(pending) if len(pending) > 1 else pending[0]


class _FileSource:
    """Opens the file in `open`, so that a missing one ends the run before it begins."""

    def __init__(self, path: str, batch_rows: int) -> None:
        if not 1 <= batch_rows <= BATCH_ROWS_MAX:
            raise ConfigError(f"batch_rows is {batch_rows}; it must be from 1 to {BATCH_ROWS_MAX}")
        self._path = path
        self._batch_rows = batch_rows
        self._node = ""
        self._reader: Any = None

    def open(self, context: OperatorContext) -> None:
        """Open the file and read what its beginning tells."""
        self._node = context.node
        self.close()
        with file_errors(self._node, self._path, "read"):
            if os.path.isdir(self._path):
                raise IsADirectoryError(21, "Is a directory", self._path)
            if os.stat(self._path).st_size == 0:
                raise OperatorError(self._node, f"cannot read {self._path}: the file is empty")
            self._reader = self._open()

    def produce(self) -> Iterator[pa.RecordBatch]:
        """Batches of `batch_rows` rows, in the order of the file."""
        batches = rebatch(self._batches(), self._batch_rows)
        while True:
            with file_errors(self._node, self._path, "read"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def close(self) -> None:
        """Close the file. Idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _open(self) -> Any:
        raise NotImplementedError

    def _batches(self) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class CsvSource(_FileSource):
    """Reads a CSV file with a header line; the types of the columns are inferred from the first block."""

    def __init__(
        self,
        *,
        path: str,
        batch_rows: int = 1000,
        columns: Sequence[str] | None = None,
        on_ragged: str = "fail",
    ) -> None:
        super().__init__(path, batch_rows)
        if on_ragged not in ("fail", "skip"):
            raise ConfigError(f"on_ragged is {on_ragged}; it must be fail or skip")
        self._columns = columns
        self._skips = on_ragged == "skip"
        self.skipped_rows = 0
        """How many rows with too many or too few columns were left out."""

    def _open(self) -> Any:
        from pyarrow import csv

        self.skipped_rows = 0
        options: Any = csv.ConvertOptions(include_columns=list(self._columns) if self._columns else None)
        try:
            return csv.open_csv(
                self._path,
                read_options=csv.ReadOptions(use_threads=False),  # with threads, errors have no row number
                parse_options=csv.ParseOptions(invalid_row_handler=self._ragged),
                convert_options=options,
            )
        except pa.ArrowInvalid as error:
            raise self._said(error) from error

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._reader
        except pa.ArrowInvalid as error:
            raise self._said(error) from error
        if self.skipped_rows:
            LOG.warning("node %s: %d ragged rows of %s were left out", self._node, self.skipped_rows, self._path)

    def _ragged(self, row: Any) -> Literal["skip", "error"]:
        if self._skips:
            self.skipped_rows += 1
            return "skip"
        return "error"

    def _said(self, error: Exception) -> OperatorError:
        said = str(error).removeprefix("CSV parse error: ")
        if "straddles two block" in said:
            said = "a row is longer than 1 MiB"
        elif "conversion error" in said:
            said += " (the types were inferred from the beginning of the file)"
        return OperatorError(self._node, f"cannot read {self._path}: {said}")


class ParquetSource(_FileSource):
    """Reads a Parquet file."""

    def __init__(self, *, path: str, batch_rows: int = 1000, columns: Sequence[str] | None = None) -> None:
        super().__init__(path, batch_rows)
        self._columns = list(columns) if columns else None

    def _open(self) -> Any:
        from pyarrow import parquet

        reader = parquet.ParquetFile(self._path)
        names = list(reader.schema_arrow.names)
        for name in self._columns or ():
            if name not in names:  # Arrow would pass over it in silence
                reader.close()
                raise OperatorError(
                    self._node, f"cannot read {self._path}: it has no column {name}{did_you_mean(name, names)}"
                )
        return reader

    def _batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._reader.iter_batches(batch_size=self._batch_rows, columns=self._columns, use_threads=False)


class JsonlSource(_FileSource):
    """Reads a file with one JSON object per line; the types of the columns are inferred from the first block."""

    def __init__(self, *, path: str, batch_rows: int = 1000) -> None:
        super().__init__(path, batch_rows)

    def _open(self) -> Any:
        return JsonlBlocks(self._node, self._path)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._reader.batches()
