"""Column types, when one shape fits another, and Arrow schemas."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from flowbridge.plan import ContentType, SchemaField, SchemaSpec
from flowbridge.schema import TYPE_WORDS, SchemaTypeError, accepts, canonical_type, fingerprint, to_arrow


def spec(name: str = "s", **columns: str) -> SchemaSpec:
    fields = tuple(
        SchemaField(name=column, type=text.rstrip("!"), nullable=not text.endswith("!"))
        for column, text in columns.items()
    )
    return SchemaSpec(ref=f"{name}@1", name=name, version=1, content_type=ContentType.ARROW, fields=fields)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("double", "float64"),
        ("float", "float32"),
        ("list<double>", "list<float64>"),
        ("list< list<int8> >", "list<list<int8>>"),
        ("decimal128(10, 2)", "decimal128(10,2)"),
        ("timestamp[us]", "timestamp[us]"),
    ],
)
def test_a_type_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_type(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "in64", "list<>", "list<x>", "list<int8", "timestamp", "timestamp[h]", "time64[s]", "decimal128(0,0)",
     "decimal128(39,0)", "decimal128(3,4)", "list<" * 9 + "int8" + ">" * 9],
)  # fmt: skip
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(SchemaTypeError):
        canonical_type(text)


@pytest.mark.parametrize("word", [*TYPE_WORDS, "decimal128(10,2)", "list<list<string>>", "list<timestamp[ns]>"])
def test_every_type_is_one_of_arrow(word: str) -> None:
    text = str(to_arrow(spec(x=word + "!")))
    assert text.startswith("x: ")
    assert "not null" in text


def test_the_arrow_schema_has_the_types_that_were_meant() -> None:
    schema = to_arrow(spec(a="double", b="timestamp[us]", c="list<int32>!", d="decimal128(10,2)", e="bool"))
    wanted: list[pa.Field[Any]] = [
        pa.field("a", pa.float64()),
        pa.field("b", pa.timestamp("us")),
        pa.field("c", pa.list_(pa.int32()), nullable=False),
        pa.field("d", pa.decimal128(10, 2)),
        pa.field("e", pa.bool_()),
    ]
    assert schema == pa.schema(wanted)


def test_a_target_takes_columns_in_any_order_and_leaves_others() -> None:
    assert accepts(spec(b="double", a="int8"), spec(a="int8!", x="string", b="float64")) is None


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        (spec(a="int8"), spec(b="int8"), "column a is missing in s@1"),
        (spec(a="int8"), spec(a="int16"), "column a is int16, int8 is needed"),
        (spec(a="int8!"), spec(a="int8"), "column a may be null, but must not be"),
    ],
)
def test_a_mismatch_names_the_column(target: SchemaSpec, source: SchemaSpec, reason: str) -> None:
    assert accepts(target, source) == reason


def test_fingerprints_are_equal_for_equal_shapes_only() -> None:
    assert fingerprint(spec("x", a="double")) == fingerprint(spec("y", a="float64"))
    assert fingerprint(spec(a="double")) != fingerprint(spec(a="double!"))
    assert fingerprint(spec(a="int8", b="int8")) != fingerprint(spec(b="int8", a="int8"))
