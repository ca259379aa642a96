"""What the fabric itself must know of Arrow: whether a value is a batch, and batches to rows and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flowbridge.errors import EncodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD_BATCH: Final = pa.RecordBatch


def is_batch(value: Any) -> bool:
    """Whether a value is an Arrow record batch."""
    return isinstance(value, RECORD_BATCH)


def to_rows(batch: Any) -> list[dict[str, Any]]:
    """Each row as a dict of Python values."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def from_rows(rows: Sequence[Any], schema: Any = None) -> Any:
    """One batch of rows that are dicts, None when there are none; the columns are those of the schema or the first row.

    Raises: EncodeError when a row is no dict, does not fit the schema, or does not agree in type with the others.
    """
    if not rows:
        return None
    for row in rows:
        if not isinstance(row, dict):
            raise EncodeError(f"a row must be a dict of column to value, not {type(row).__name__}")
    if schema is not None:
        columns = set(schema.names)
        further = {str(name) for row in rows for name in row if name not in columns}
        if further:
            raise EncodeError(f"a row has columns that are not declared: {', '.join(sorted(further))}")
    try:
        return RECORD_BATCH.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise EncodeError(f"the rows do not fit: {error}") from error
