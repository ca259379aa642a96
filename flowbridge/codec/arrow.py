"""What the fabric itself must know of Arrow: whether a value is a batch, and batches to rows and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

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


def from_rows(rows: Sequence[Any]) -> Any:
    """One batch of rows that are dicts, None when there are none; the columns are those of the first row.

    Raises: TypeError when a row is no dict; pyarrow's own error when the rows do not agree in type.
    """
    if not rows:
        return None
    for row in rows:
        if not isinstance(row, dict):
            raise TypeError(f"a row must be a dict of column to value, not {type(row).__name__}")
    return RECORD_BATCH.from_pylist(list(rows))
