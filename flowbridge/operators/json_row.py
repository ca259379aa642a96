"""Rows of a batch as JSON text: times in ISO 8601, bytes in base64, NaN and infinities as null."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pyarrow as pa


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    if type(value).__name__ in ("Decimal", "UUID"):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(member) for member in value]
    return value


def value_as_json(value: Any) -> str:
    """One value as one line of JSON. TypeError when it holds what JSON cannot."""
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)
    except ValueError:  # NaN or infinity: rare, so looked for only now
        return json.dumps(_finite(value), default=_plain, ensure_ascii=False, allow_nan=False)


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with nanoseconds cut to microseconds, because Python's own times end there."""
    for index, field in enumerate(batch.schema):
        kind: Any = field.type
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            target: Any = pa.timestamp("us", kind.tz)
        elif pa.types.is_duration(kind) and kind.unit == "ns":
            target = pa.duration("us")
        elif pa.types.is_time64(kind) and kind.unit == "ns":
            target = pa.time64("us")
        else:
            continue
        column: Any = batch.column(index)
        batch = batch.set_column(index, pa.field(field.name, target), column.cast(target, safe=False))
    return batch


def rows_as_json(batch: pa.RecordBatch) -> list[str]:
    """One line per row."""
    return [value_as_json(row) for row in readable(batch).to_pylist()]
