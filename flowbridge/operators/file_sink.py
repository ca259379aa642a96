"""The sinks that write files: CSV, Parquet and JSON lines; each file appears whole when the flow ends."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flowbridge.operators.atomic_file import AtomicFile
from flowbridge.operators.batch import BatchOperator, schema_change
from flowbridge.operators.fault import LOG, ConfigError, file_errors
from flowbridge.operators.json_row import rows_as_json, value_as_json

if TYPE_CHECKING:
    from collections.abc import Generator

    from flowbridge.contracts import OperatorContext, Outputs

COMPRESSIONS: Final = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")
ROW_GROUP_ROWS: Final = 65_536
ROW_GROUP_BYTES: Final = 16 << 20


class _FileSink(BatchOperator):
    """Writes to a part file from the first moment, so that a path that cannot be written fails before any work.

    A restart of the node begins the file again.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._file: AtomicFile | None = None
        self._writer: Any = None
        self._schema: Any = None

    def open(self, context: OperatorContext) -> None:
        """Make the folder and open the part file."""
        super().open(context)
        self.close()
        self._schema = None
        with file_errors(self._node, self._path, "write"):
            self._file = AtomicFile(self._path)

    def process(self, port: str, value: Any, out: Outputs) -> None:
        """Append one batch."""
        if not isinstance(value, pa.RecordBatch):
            self._refuse(port, value)
        schema = value.schema
        if self._schema is None:
            with self._writing():
                self._writer = self._begin(schema)
            self._schema = schema
        elif not schema.equals(self._schema):
            raise self._mismatch(port, f"cannot write {self._path}: {schema_change(self._schema, schema)}")
        with self._writing():
            self._write(value)

    def finish(self, out: Outputs) -> None:
        """Complete the file and give it its name."""
        file = self._file
        if file is None:
            return
        with self._writing():
            if self._writer is not None:
                self._writer.close()
            self._writer = None
            file.commit()
        self._file = None

    def close(self) -> None:
        """Without `finish`, leave nothing behind. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._abandon(writer)
        file, self._file = self._file, None
        if file is not None:
            file.discard()

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Map errors as `file_errors` does; one that did happen leaves no part file behind."""
        try:
            with file_errors(self._node, self._path, "write"):
                yield
        except BaseException:
            self.close()
            raise

    def _begin(self, schema: pa.Schema) -> Any:
        """The writer for a schema; None for a sink that needs none."""
        return None

    def _write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def _abandon(self, writer: Any) -> None:
        """Let go of a writer that must not write any more."""

    @property
    def _stream(self) -> Any:
        assert self._file is not None, "the runner opens an operator before it gives it messages"
        return self._file.file


class CsvSink(_FileSink):
    """Writes CSV with a header line; without a message the file is empty."""

    def __init__(self, *, path: str) -> None:
        super().__init__(path)

    def _begin(self, schema: pa.Schema) -> Any:
        from pyarrow import csv

        return csv.CSVWriter(self._stream, schema)


class ParquetSink(_FileSink):
    """Writes Parquet in row groups of about `ROW_GROUP_ROWS`; without a message there is no schema and no file."""

    def __init__(self, *, path: str, compression: str = "zstd") -> None:
        super().__init__(path)
        if compression not in COMPRESSIONS:
            raise ConfigError(f"compression is {compression}; it must be one of {', '.join(COMPRESSIONS)}")
        self._compression = compression

    def finish(self, out: Outputs) -> None:
        """Complete the file and give it its name; nothing is written when nothing came."""
        if self._schema is None and self._file is not None:
            LOG.warning("node %s: no batch arrived, so %s is not written", self._node, self._path)
            self.close()
        super().finish(out)

    def _begin(self, schema: pa.Schema) -> Any:
        from pyarrow import parquet

        compression: Any = self._compression
        return _RowGroups(parquet.ParquetWriter(self._stream, schema, compression=compression))

    def _abandon(self, writer: Any) -> None:
        writer.abandon()


class _RowGroups:
    """Gathers batches, because a row group per batch makes a large file that is slow to read."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Keep the batch, or write it together with those that wait."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing more, also not when the writer is collected."""
        self._writer.is_open = False

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=max(self._rows, 1))
        self._waiting, self._rows, self._bytes = [], 0, 0


class JsonlSink(_FileSink):
    """Writes one JSON object per row; a value that is no batch becomes one line as it is."""

    def __init__(self, *, path: str) -> None:
        super().__init__(path)

    def process(self, port: str, value: Any, out: Outputs) -> None:
        """Append the rows of a batch, or one value."""
        try:
            lines = rows_as_json(value) if isinstance(value, pa.RecordBatch) else [value_as_json(value)]
        except (TypeError, ValueError) as error:
            raise self._mismatch(port, f"cannot write {self._path}: {error}") from error
        with self._writing():
            for line in lines:
                self._stream.write(line.encode())
                self._stream.write(b"\n")
