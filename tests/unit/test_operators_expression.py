"""The expression language: what it means, what it refuses, and where its errors point."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from flowbridge.operators.expression import CHARACTERS_MAX, Expression
from flowbridge.operators.expression_function import FUNCTIONS
from flowbridge.operators.fault import ExpressionError

HALF_PAST_FIVE = dt.datetime(2013, 1, 1, 5, 30)

BATCH: Any = pa.RecordBatch.from_pydict(
    {
        "a": [7, -7, None, 5],
        "b": [2, 2, 1, 0],
        "f": [1.5, None, -2.0, 0.0],
        "s": ["ab", "Cd", None, "x1"],
        "p": [True, False, None, True],
        "t": pa.array([HALF_PAST_FIVE] * 4, pa.timestamp("us")),
        "two words": [1, 2, 3, 4],
        "d": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "raw": [b"abc", b"", None, b"z"],
        "l": [[1, 2], [], None, [3]],
    }
)


def values(text: str) -> list[Any]:
    return list(Expression(text).bind(BATCH.schema)(BATCH).to_pylist())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b", [9, -5, None, 5]),
        ("a - b * 2", [3, -11, None, 5]),
        ("a / b", [3.5, -3.5, None, None]),
        ("a // b", [3, -4, None, None]),
        ("a % b", [1, 1, None, None]),
        ("a // -2", [-4, 3, None, -3]),
        ("a % -2", [-1, -1, None, -1]),
        ("f // 2", [0.0, None, -1.0, 0.0]),
        ("f % 2", [1.5, None, 0.0, 0.0]),
        ("f / 0", [None] * 4),
        ("-a", [-7, 7, None, -5]),
        ("+a", [7, -7, None, 5]),
        ("1 + 2 * 3", [7] * 4),
        ('s + "!"', ["ab!", "Cd!", None, "x1!"]),
        ("a == 7", [True, False, None, False]),
        ("1 < a <= 7", [True, False, None, True]),
        ("not p", [False, True, None, False]),
        ("p and a > 0", [True, False, None, True]),
        ("p or f is None", [True, True, None, True]),
        ("p and False", [False] * 4),
        ("p or True", [True] * 4),
        ("a is not None", [True, True, False, True]),
        ('s in ("ab", "zz")', [True, False, False, False]),
        ('s in ["ab", None]', [True, False, True, False]),
        ("a not in (7, -7)", [False, False, True, True]),
        ('d in ("x",)', [True, False, True, False]),
        ('d == "x"', [True, False, True, None]),
        ("a if p else b", [7, 2, None, 5]),
        ("None", [None] * 4),
        ('col("two words") * 2', [2, 4, 6, 8]),
        ("a  # what follows is a remark", [7, -7, None, 5]),
        ("a\n  + b", [9, -5, None, 5]),
        ('t >= "2013-01-01"', [True] * 4),
        ('"2013-01-01T06:00:00" > t', [True] * 4),
        ('date(t) == "2013-01-01"', [True] * 4),
    ],
)
def test_an_expression_means_what_it_says(text: str, expected: list[Any]) -> None:
    assert values(text) == expected


FUNCTION_CASES: dict[str, tuple[str, Any]] = {
    "abs": ("abs(a)", [7, 7, None, 5]),
    "round": ("round(f)", [2.0, None, -2.0, 0.0]),
    "floor": ("floor(f)", [1.0, None, -2.0, 0.0]),
    "ceil": ("ceil(f)", [2.0, None, -2.0, 0.0]),
    "min": ("min(a, b)", [2, -7, 1, 0]),
    "max": ("max(a, b, 3)", [7, 3, 3, 5]),
    "sqrt": ("sqrt(abs(b) * 2)", [2.0, 2.0, pytest.approx(1.41421356), 0.0]),
    "log": ("log(exp(b))", [pytest.approx(2), pytest.approx(2), pytest.approx(1), 0.0]),
    "exp": ("exp(f * 0)", [1.0, None, 1.0, 1.0]),
    "power": ("power(b, 3)", [8, 8, 1, 0]),
    "sin": ("sin(b * 0)", [0.0] * 4),
    "cos": ("cos(b * 0)", [1.0] * 4),
    "lower": ("lower(s)", ["ab", "cd", None, "x1"]),
    "upper": ("upper(s)", ["AB", "CD", None, "X1"]),
    "length": ("length(s)", [2, 2, None, 2]),
    "starts_with": ('starts_with(s, "a")', [True, False, None, False]),
    "ends_with": ('ends_with(s, "d")', [False, True, None, False]),
    "contains": ('contains(s, "b")', [True, False, None, False]),
    "matches": (r'matches(s, "^[a-z]\d$")', [False, False, None, True]),
    "substring": ("substring(s, 1, 2)", ["b", "d", None, "1"]),
    "cast": ('cast(a, "string")', ["7", "-7", None, "5"]),
    "coalesce": ("coalesce(a, b)", [7, -7, 1, 5]),
    "if_null": ("if_null(a, 0)", [7, -7, 0, 5]),
    "year": ("year(t)", [2013] * 4),
    "month": ("month(t)", [1] * 4),
    "day": ("day(t)", [1] * 4),
    "hour": ("hour(t)", [5] * 4),
    "minute": ("minute(t)", [30] * 4),
    "day_of_week": ("day_of_week(t)", [1] * 4),
    "date": ("date(t)", [dt.date(2013, 1, 1)] * 4),
    "to_timestamp": ('to_timestamp("2013-01-01T05:30:00")', [HALF_PAST_FIVE] * 4),
}


def test_every_function_has_a_case_here() -> None:
    assert set(FUNCTION_CASES) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_its_line_says(name: str) -> None:
    text, expected = FUNCTION_CASES[name]
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("round(f + 0.26, 1)", [1.8, None, -1.7, 0.3]),
        ("length(raw)", [3, 0, None, 1]),
        ("length(l)", [2, 0, None, 1]),
        ("substring(s, 1)", ["b", "d", None, "1"]),
        ('cast(f, "int64")', [1, None, -2, 0]),
        ('to_timestamp(b, "s")', [dt.datetime(1970, 1, 1, 0, 0, n) for n in (2, 2, 1, 0)]),
        ('to_timestamp("1.2.2013", "%d.%m.%Y")', [dt.datetime(2013, 2, 1)] * 4),
    ],
)
def test_functions_follow_the_types_of_their_arguments(text: str, expected: list[Any]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("a.b", 1, "attribute"),
        ("1 + a[0]", 5, "indexing"),
        ("foo(a)", 1, "no function foo"),
        ("b + flor(a)", 5, "did you mean floor?"),
        ("a ** 2", 1, "power(a, b)"),
        ("a +", 3, "cannot be read"),
        ("a == None", 6, "is None"),
        ("lambda: 1", 1, "lambda"),
        ('f"x"', 1, "f-string"),
        ("1j", 1, "complex"),
        ('"é" + a.b', 7, "attribute"),
        ("99999999999999999999", 1, "64 bits"),
        ("round(1, 2, 3)", 1, "round(x, digits=0)"),
        ("round(a, digits=1)", 17, "named arguments"),
        ("a & b", 1, "write and"),
        ("a is 1", 6, "write =="),
        ("s in a", 6, "list of literals"),
        ("a in [x]", 7, "only literals"),
        ("abs(*a)", 5, "starred"),
        ("a > 1 in (1,)", 1, "chain"),
        ("''.join(s)", 1, "only functions of the language"),
        ('__import__("os")', 1, "no function __import__"),
        ("col(a)", 1, 'write col("'),
        ("a; b", 2, "cannot be read"),
        ("a) + (b", 2, "cannot be read"),
        ("[a for a in s]", 1, "not part of the language"),
        ("(yield)", 2, "not part of the language"),
    ],
)
def test_what_is_not_of_the_language_is_refused_with_its_place(text: str, column: int, part: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(text)
    assert part in str(caught.value)
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("aa + 1", 1, "no column aa (did you mean a?)"),
        ("1 + zzzzz", 5, "there are a, b, f"),
        ("a and p", 1, "`and` needs true or false, not int64"),
        ("s > 1", 1, "cannot compare string and int64"),
        ("s * 2", 1, "cannot multiply string and int64"),
        ("starts_with(s, s)", 16, "literal str"),
        ('cast(a, "nope")', 9, "no type nope"),
        ('t > "noon"', 5, "'noon' is no timestamp[us]"),
        ("9223372036854775807 + 1", 1, "overflow"),
        ('a in ("x",)', 6, "does not fit a column of type int64"),
        ("to_timestamp(a)", 1, "needs its unit"),
        ("1 if a else 2", 6, "`if` needs true or false"),
    ],
)
def test_what_does_not_fit_the_batch_is_refused_with_its_place(text: str, column: int, part: str) -> None:
    expression = Expression(text)
    with pytest.raises(ExpressionError) as caught:
        expression.bind(BATCH.schema)
    assert part in str(caught.value)
    assert caught.value.column == column


def test_an_overflow_in_the_data_is_an_error_that_names_the_expression() -> None:
    batch: Any = pa.RecordBatch.from_pydict({"a": [2**63 - 1]})
    bound = Expression("a + 1").bind(batch.schema)
    with pytest.raises(ExpressionError, match=r"expression 'a \+ 1': overflow"):
        bound(batch)


@pytest.mark.parametrize(
    "text", ["(" * 1000 + "a" + ")" * 1000, "1+" * 400 + "1", "not " * 500 + "p", "a+" * CHARACTERS_MAX]
)
def test_an_expression_built_to_exhaust_the_reader_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(text).bind(BATCH.schema)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("given", ["", "   ", 5, None, ["a"]])
def test_only_text_is_an_expression(given: Any) -> None:
    with pytest.raises(ExpressionError):
        Expression(given)


def test_two_columns_of_one_name_cannot_be_named() -> None:
    batch: Any = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ExpressionError, match="more than one column a"):
        Expression("a").bind(batch.schema)


def test_the_columns_of_an_expression_are_known_without_a_batch() -> None:
    assert Expression('b + a * b + col("two words")').columns == ("b", "a", "two words")


def test_no_rows_give_no_rows() -> None:
    empty = BATCH.slice(0, 0)
    assert len(Expression("a + 1").bind(BATCH.schema)(empty)) == 0
    assert len(Expression("1").bind(BATCH.schema)(empty)) == 0
