"""Trees of plain values: the same comes back, anything else is refused by its path."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import sys
import uuid
import zoneinfo
from typing import Any

import cbor2
import numpy as np
import pytest

from flowbridge.codec.tree import tree_from_bytes, tree_to_bytes
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import PAYLOAD_DECIMAL_CHARACTERS_MAX, PAYLOAD_DEPTH_MAX

EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))


class Colour(enum.IntEnum):
    """A number with a name."""

    RED = 1


@dataclasses.dataclass
class Reading:
    """A value with a unit."""

    volts: float


class Name(str):
    """A text that is more."""

    __slots__ = ()


def nested(kind: str, depth: int) -> Any:
    """Containers within containers."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value} if kind == "dict" else (value,)
        if kind == "int keys":
            value = {1: value[0]}
    return value


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down; NaN equals NaN and -0.0 is not 0.0."""
    return type(left) is type(right) and repr(left) == repr(right)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**63, 2**64, -(2**64) - 1, 10**300, 0.0, -0.0, 1e-320, float("inf"), float("nan")),
        *("", "grün", "\0", b"", b"\xff", [], {}, (), [[]], [()], {"": {}}),
        {"z": 1, "a": [1, 2.5, {"b": None}], "t": (1, ("x", [b"y"]))},
        {1: "one", -1: "minus", "two": 2, b"three": {2**63 - 1: ()}},
        {b"raw": 1},
        [dt.datetime(2020, 1, 2, 3, 4, 5, 6, dt.UTC), dt.datetime(2020, 1, 2, tzinfo=EAST), dt.datetime(1, 1, 1)],
        [dt.date(9999, 12, 31), dt.datetime.max],
        [decimal.Decimal(text) for text in ("1.10", "-0", "-0.00", "1E+5", "NaN", "-Infinity", "sNaN", "0E-99")],
        {"id": uuid.UUID(int=7)},
    ],
)
def test_a_plain_value_comes_back_the_same(value: Any) -> None:
    data = tree_to_bytes(value)
    assert same(tree_from_bytes(data), value)
    assert same(tree_from_bytes(memoryview(bytearray(data))), value)


def test_the_order_of_a_dict_is_kept() -> None:
    assert list(tree_from_bytes(tree_to_bytes({"b": 1, "a": 2}))) == ["b", "a"]
    assert list(tree_from_bytes(tree_to_bytes({9: 1, "a": 2, 3: 3}))) == [9, "a", 3]


def test_a_tree_without_tags_is_what_any_cbor_reader_reads() -> None:
    value = {"a": [1, 2.5, None, True, b"x"], "b": {"c": "d"}}
    assert cbor2.loads(tree_to_bytes(value)) == value
    assert cbor2.loads(tree_to_bytes(dt.datetime(2020, 1, 2, tzinfo=dt.UTC))) == dt.datetime(2020, 1, 2, tzinfo=dt.UTC)


REFUSED: list[Any] = [
    ({"rows": [0, 1, 2, {"when": {3}}]}, "value.rows[3].when: a set", "sorted list"),
    ({"a b": (1, bytearray(b"x"))}, "value['a b'][1]: a bytearray", "bytes"),
    ({1: object()}, "value[1]: an object", "plain values"),
    ({"x": np.float64(1.5)}, "value.x: a numpy float64", ".item()"),
    ([np.int64(1)], "value[0]: a numpy int64", ".item()"),
    ([np.bool_(True)], "value[0]: a numpy bool", ".item()"),
    ({"x": np.zeros(2)}, "value.x: a numpy ndarray", "pyarrow.RecordBatch"),
    (range(3), "value: a range", "list"),
    ([dt.timedelta(1)], "value[0]: a timedelta", "total_seconds"),
    ([1j], "value[0]: a complex", "two floats"),
    ({"c": Colour.RED}, "value.c: a Colour", ".value"),
    ({"r": Reading(1.0)}, "value.r: a Reading", "asdict"),
    ([Name("x")], "value[0]: a Name", "str(...)"),
    ({"n": collections.OrderedDict(a=1)}, "value.n: an OrderedDict", "dict(...)"),
    ({Name("x"): 1}, "value: a key is of type Name", "only str"),
    ({True: 1}, "value: a key is of type bool", "only str"),
    ({"a": {(1, 2): 3}}, "value.a: a key is of type tuple", "only str"),
    ({"a": {2**63: 3}}, "value.a: a key of 64 bits", "64-bit"),
    ({"a": ["ok", "\ud800"]}, "value.a[1]: text with a lone surrogate", "UTF-8"),
    ({"\ud800": 1}, "value: text with a lone surrogate", "UTF-8"),
    ({1: {"\ud800": 1}}, "value[1]: text with a lone surrogate", "UTF-8"),
    (
        [dt.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC"))],
        "value[0]: a datetime needs a zone",
        "fixed offset",
    ),
    ([dt.datetime(2020, 1, 2, fold=1)], "value[0]: a datetime needs a zone", "fixed offset"),
    ([cbor2.CBORTag(0, "x")], "value[0]: a CBORTag", "plain values"),
    ([cbor2.undefined], "value[0]: a Undefined", "plain values"),
]


@pytest.mark.parametrize(("value", "path", "hint"), REFUSED)
def test_what_would_not_come_back_is_refused_by_its_path(value: Any, path: str, hint: str) -> None:
    with pytest.raises(EncodeError) as caught:
        tree_to_bytes(value)
    assert str(caught.value).startswith(path)
    assert hint in str(caught.value)


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "int keys"])
def test_the_depth_is_bounded_and_what_is_within_it_comes_back(kind: str) -> None:
    deepest = nested(kind, PAYLOAD_DEPTH_MAX)
    assert same(tree_from_bytes(tree_to_bytes(deepest)), deepest)
    with pytest.raises(EncodeError, match=f"exceed {PAYLOAD_DEPTH_MAX}"):
        tree_to_bytes(nested(kind, PAYLOAD_DEPTH_MAX + 1))


def test_a_container_within_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError, match="contain themselves"):
        tree_to_bytes(loop)


def test_a_long_decimal_is_refused_at_both_ends() -> None:
    digits = "1" * PAYLOAD_DECIMAL_CHARACTERS_MAX
    assert tree_from_bytes(tree_to_bytes(decimal.Decimal(digits))) == decimal.Decimal(digits)
    with pytest.raises(EncodeError, match=r"value\[0\]: a Decimal exceeds"):
        tree_to_bytes([decimal.Decimal(digits + "1")])
    with pytest.raises(DecodeError):
        tree_from_bytes(cbor2.dumps(cbor2.CBORTag(0x666C6F64, digits + "1")))


def test_a_large_int_is_no_matter_of_decimal_digits() -> None:
    value = {"n": 1 << (sys.get_int_max_str_digits() * 8)}
    assert tree_from_bytes(tree_to_bytes(value)) == value


@pytest.mark.parametrize("tail", [b"\0", b"\xf6", b"\x1b" + bytes(8), b"\xff", b"\x82"])
def test_bytes_that_follow_are_refused(tail: bytes) -> None:
    with pytest.raises(DecodeError):
        tree_from_bytes(tree_to_bytes({"a": 1}) + tail)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "ff",
            "82",
            "8201",
            "61",
            "5820",
            "bf6161 01ff",
            "9f01ff",
            "7f6161ff",
            "5f4161ff",
        ),  # ends early, or has no end
        *("a2616101616102", "a10101", "a1f401", "a1f601", "a1c24101 01"),  # twice the same key; keys that are no text
        *("f7", "e0", "f820", "81f7", "a16161e1"),  # simple values
        *("c101", "c482 2001", "c58202 03", "d81c80", "d81d00", "d81e820102", "d82361 61", "d9010280"),  # tags
        *("d90100 81 6161", "d9d9f701", "d8641901", "da00010000 01", "d9a7f8 80"),
        *("c063616263", "c001", "da666c6f6e 01", "da666c6f6e 74323032302d30312d30325430303a30303a30305a"),  # times
        *("c0 73323032302d30312d30325430303a30303a3030", "d903ec6161", "d903ec01"),
        *("da666c6f74 01", "da666c6f74 a0", "da666c6f70 8101", "da666c6f70 a0", "da666c6f70 82f4 01"),
        *("da666c6f70 8401010102", "da666c6f70 82c24900ffffffffffffffff00 01", "da666c6f70 828001"),
        *(
            "da666c6f64 6161",
            "da666c6f64 01",
            "d825 4101",
            "d825 01",
            "c2 01",
            "61ff",
            "5b7fffffffffffffff",
            "9b00ffffffffffffff",
        ),
    ],
)
def test_what_is_not_agreed_on_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        tree_from_bytes(bytes.fromhex(text))


def test_nesting_without_end_is_refused() -> None:
    for head in (b"\x81", b"\xa1\x61a", bytes.fromhex("da666c6f7481"), b"\xc2", b"\xd9\xd9\xf7"):
        with pytest.raises(DecodeError):
            tree_from_bytes(head * 100_000 + b"\x01")


def test_keys_that_collide_never_meet_in_a_dict() -> None:
    period = 2**61 - 1  # of the hash of an int
    keys = [cbor2.dumps(period * i) for i in range(1, 2_000)]
    data = bytes.fromhex("da666c6f70") + cbor2.dumps([0] * (2 * len(keys)))[:3] + b"\x01".join(keys) + b"\x01"
    with pytest.raises(DecodeError, match="64 bits"):
        tree_from_bytes(data)


@pytest.mark.parametrize("odd", [np.float64(1.5), Colour.RED, {1}, bytearray(b"x"), object()])
@pytest.mark.parametrize("count", [1, 5, 12, 13, 14, 200])
def test_one_odd_item_is_found_wherever_it_is_in_short_and_long_containers(odd: Any, count: int) -> None:
    for place in {0, count // 2, count - 1}:
        items: list[Any] = [float(i) for i in range(count)]
        items[place] = odd
        for value in (items, {str(i): item for i, item in enumerate(items)}, {"a": [[1], items]}, [{"b": items}]):
            with pytest.raises(EncodeError, match=str(place)):
                tree_to_bytes(value)


@pytest.mark.parametrize("count", [1, 5, 12, 13, 14, 200])
def test_containers_of_any_length_come_back_with_the_types_of_their_items(count: int) -> None:
    for last in (True, 1, (1, 2), [1], {1: "x"}, {"y": b"z"}, dt.date(2020, 1, 2)):
        items: list[Any] = [*range(count - 1), last]
        keyed = {str(i): item for i, item in enumerate(items)}
        mixed: dict[Any, Any] = {**keyed, 7: last, b"k": 1}
        for value in (items, keyed, mixed, [keyed, items]):
            back = tree_from_bytes(tree_to_bytes(value))
            assert repr(back) == repr(value)
