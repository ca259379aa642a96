"""JSON lines read block by block, so that a file may be larger than memory and errors know their line."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flowbridge.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 64 << 20


class JsonlBlocks:
    """Whole lines of about a MiB at a time, each made a batch with the schema of the first."""

    def __init__(self, node: str, path: str, block_bytes: int = BLOCK_BYTES) -> None:
        self._node = node
        self._path = path
        self._block_bytes = block_bytes
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._schema: Any = None
        self._lines = 0

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of each block. OperatorError names the line that does not fit."""
        for block in self._blocks():
            if block.strip():
                table = self._table(block)
                yield from table.to_batches()
            self._lines += block.count(b"\n")

    def _blocks(self) -> Iterator[bytes]:
        rest = b""
        while chunk := self._file.read(self._block_bytes):
            text = rest + chunk
            end = text.rfind(b"\n") + 1
            rest = text[end:]
            if len(rest) > LINE_BYTES_MAX:
                line = self._lines + text[:end].count(b"\n") + 1
                raise self._error(line, f"is longer than {LINE_BYTES_MAX} bytes")
            if end:
                yield text[:end]
        if rest:
            yield rest

    def _parse(self, block: bytes) -> pa.Table:
        from pyarrow import json as arrow_json

        parse: Any = None
        if self._schema is not None:
            parse = arrow_json.ParseOptions(explicit_schema=self._schema, unexpected_field_behavior="error")
        read = arrow_json.ReadOptions(use_threads=False, block_size=max(len(block) + 1, 1024))
        source: Any = pa.BufferReader(block)
        return arrow_json.read_json(source, read_options=read, parse_options=parse)

    def _table(self, block: bytes) -> pa.Table:
        try:
            table = self._parse(block)
        except pa.ArrowInvalid as error:
            raise self._locate(block, error) from error
        if self._schema is None:
            self._schema = table.schema
        return table

    def _locate(self, block: bytes, error: Exception) -> OperatorError:
        """Find the first line that fails by halving; a longer beginning of a bad block stays bad."""
        lines = block.splitlines(keepends=True)
        good, bad = 0, len(lines)
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._parse(b"".join(lines[:middle]) or b"\n")
            except pa.ArrowInvalid as found:
                if "Empty JSON" in str(found):  # only blank lines so far
                    good = middle
                    continue
                bad, error = middle, found
            else:
                good = middle
        return self._error(self._lines + bad, self._why(lines[bad - 1], error))

    def _why(self, line: bytes, error: Exception) -> str:
        try:
            value = json.loads(line)
        except ValueError as unreadable:
            return f"is not JSON: {unreadable}"
        if not isinstance(value, dict):
            return f"holds {type(value).__name__}, not an object"
        new = [key for key in value if self._schema is not None and key not in self._schema.names]
        if new:
            return f"has the field {new[0]}, which the beginning of the file does not have"
        said = str(error).removeprefix("JSON parse error: ").partition(" in row ")[0]
        return f"does not fit what came before: {said}"

    def _error(self, line: int, message: str) -> OperatorError:
        return OperatorError(self._node, f"cannot read {self._path}: line {line} {message}")
