"""The shapes of payloads: names of column types, when one shape fits another, and the Arrow schema of a shape.

Type names follow Apache Arrow: ``int64``, ``string``, ``timestamp[us]``, ``list<int32>``, ``decimal128(10,2)``.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    from flowbridge.plan import SchemaField, SchemaSpec

_ALIASES: Final = {"double": "float64", "float": "float32", "half": "float16", "boolean": "bool", "utf8": "string"}
_SIMPLE: Final = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "string", "large_string", "binary", "large_binary", "date32", "date64"),
    )
)
_UNITS: Final = {
    "timestamp": ("s", "ms", "us", "ns"),
    "duration": ("s", "ms", "us", "ns"),
    "time32": ("s", "ms"),
    "time64": ("us", "ns"),
}
_LIST_DEPTH_MAX: Final = 8
_CHARACTERS_MAX: Final = 256
_WITH_UNIT: Final = re.compile(r"(timestamp|duration|time32|time64)\[(\w+)\]")
_DECIMAL: Final = re.compile(r"decimal128\(\s*([0-9]{1,2})\s*,\s*([0-9]{1,2})\s*\)")

TYPE_WORDS: Final = (
    *sorted(_SIMPLE),
    *_ALIASES,
    *(f"{name}[{unit}]" for name, units in _UNITS.items() for unit in units),
)
"""The type names without parameters, for suggestions."""


class SchemaTypeError(ValueError):
    """A text is not the name of a column type."""


def canonical_type(text: str) -> str:
    """The one spelling of a type name, such as ``float64`` for ``double``; SchemaTypeError when it is none."""
    if len(text) > _CHARACTERS_MAX:
        raise SchemaTypeError(f"type name of {len(text)} characters exceeds the limit of {_CHARACTERS_MAX}")
    lists = 0
    inner = text.strip()
    while inner.startswith("list<") and inner.endswith(">"):
        lists += 1
        inner = inner[5:-1].strip()
    if lists > _LIST_DEPTH_MAX:
        raise SchemaTypeError(f"list within list {lists} deep exceeds the limit of {_LIST_DEPTH_MAX}")
    inner = _ALIASES.get(inner, inner)
    if inner not in _SIMPLE:
        inner = _with_parameters(inner)
    return "list<" * lists + inner + ">" * lists


def _with_parameters(text: str) -> str:
    match = _WITH_UNIT.fullmatch(text)
    if match is not None:
        if match[2] not in _UNITS[match[1]]:
            raise SchemaTypeError(f"{match[1]} has no unit {match[2][:20]}: {', '.join(_UNITS[match[1]])}")
        return text
    match = _DECIMAL.fullmatch(text)
    if match is not None:
        digits, scale = int(match[1]), int(match[2])
        if not 1 <= digits <= 38 or scale > digits:
            raise SchemaTypeError(f"decimal128({digits},{scale}): 1 to 38 digits, of them at most all after the point")
        return f"decimal128({digits},{scale})"
    raise SchemaTypeError(f"{text[:40]!r} is no column type")


def fingerprint(spec: SchemaSpec) -> str:
    """A text that is equal for equal shapes: columns in order, types, nullability, content type. Names do not count."""
    shape = [spec.content_type.value, [[f.name, canonical_type(f.type), f.nullable] for f in spec.fields]]
    return "sha256:" + hashlib.sha256(json.dumps(shape).encode()).hexdigest()


def accepts(target: SchemaSpec, source: SchemaSpec) -> str | None:
    """Why `target` cannot take what `source` gives, naming the column; None when it can.

    A column that the target does not name may be there; the order of columns does not matter.
    """
    given = {field.name: field for field in source.fields}
    for needed in target.fields:
        field = given.get(needed.name)
        if field is None:
            return f"column {needed.name} is missing in {source.ref}"
        reason = _accepts_field(needed, field)
        if reason is not None:
            return reason
    return None


def _accepts_field(needed: SchemaField, given: SchemaField) -> str | None:
    wants, has = canonical_type(needed.type), canonical_type(given.type)
    if wants != has:
        return f"column {needed.name} is {has}, {wants} is needed"
    if given.nullable and not needed.nullable:
        return f"column {needed.name} may be null, but must not be"
    return None


def to_arrow(spec: SchemaSpec) -> pa.Schema:
    """The Arrow schema of a shape. Loads pyarrow."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, _arrow_type(field.type), nullable=field.nullable) for field in spec.fields])


def _arrow_type(text: str) -> Any:
    import pyarrow as pa

    name = canonical_type(text)
    if name.startswith("list<"):
        return pa.list_(_arrow_type(name[5:-1]))
    decimal = _DECIMAL.fullmatch(name)
    if decimal is not None:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    with_unit = _WITH_UNIT.fullmatch(name)
    make: Any
    if with_unit is not None:
        make = getattr(pa, with_unit[1])
        return make(with_unit[2])
    make = getattr(pa, {"bool": "bool_"}.get(name, name))
    return make()
