"""Expressions over columns mean what the same text means in Python, row by row."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbridge.operators.expression import Expression
from flowbridge.operators.fault import ExpressionError

INTS = st.integers(-1000, 1000)
TEXTS = st.sampled_from(["", "a", "B", "ab", "ä"])


def joined(operators: list[str], inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(inner, st.sampled_from(operators), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")


numbers = st.recursive(
    st.one_of(st.sampled_from(["a", "b"]), INTS.map(str)),
    lambda inner: st.one_of(
        joined(["+", "-", "//", "%", "*"], inner),
        inner.map(lambda x: f"(-{x})"),
        inner.map(lambda x: f"abs({x})"),
        st.tuples(inner, inner).map(lambda p: f"min({p[0]}, {p[1]})"),
    ),
    max_leaves=4,
)
texts = st.one_of(
    st.just("s"), TEXTS.map(repr), st.just('(s + "!")'), st.just("lower(s)"), st.just("(s if a > 0 else 'else')")
)
truths = st.recursive(
    st.one_of(
        joined(["<", "<=", ">", ">=", "==", "!="], numbers),
        joined(["<", "==", "!="], texts),
        st.tuples(numbers, numbers, numbers).map(lambda p: f"({p[0]} <= {p[1]} < {p[2]})"),
        st.lists(INTS, min_size=1, max_size=3).map(lambda members: f"(a in {members})"),
        st.just("p"),
    ),
    lambda inner: st.one_of(joined(["and", "or"], inner), inner.map(lambda x: f"(not {x})")),
    max_leaves=4,
)
rows_given = st.lists(st.tuples(INTS, INTS, st.booleans(), TEXTS), min_size=1, max_size=8)

PYTHON: dict[str, Any] = {"__builtins__": {}, "abs": abs, "min": min, "lower": str.lower}


def by_python(text: str, rows: list[tuple[int, int, bool, str]]) -> list[Any]:
    results: list[Any] = []
    for row in rows:
        try:
            results.append(eval(text, PYTHON, dict(zip("abps", row, strict=True))))
        except ZeroDivisionError:
            results.append(None)
    return results


def batch_of(rows: list[tuple[Any, ...]]) -> Any:
    kinds = (pa.int64(), pa.int64(), pa.bool_(), pa.string())
    columns = [pa.array([row[index] for row in rows], kind) for index, kind in enumerate(kinds)]
    return pa.RecordBatch.from_arrays(columns, names=["a", "b", "p", "s"])


def by_columns(text: str, rows: list[tuple[Any, ...]]) -> list[Any]:
    batch = batch_of(rows)
    return list(Expression(text).bind(batch.schema)(batch).to_pylist())


@settings(deadline=None)
@given(text=numbers, rows=rows_given)
def test_arithmetic_of_ints_is_pythons(text: str, rows: list[tuple[int, int, bool, str]]) -> None:
    want = by_python(text, rows)
    got = by_columns(text, rows)
    for one, other in zip(got, want, strict=True):
        # Where Python stops at a division by zero, a null travels on; min() passes over it.
        assert one == other or (other is None and "min" in text)


@settings(deadline=None)
@given(text=truths, rows=rows_given)
def test_truths_are_pythons_where_nothing_is_null(text: str, rows: list[tuple[int, int, bool, str]]) -> None:
    for one, other in zip(by_columns(text, rows), by_python(text, rows), strict=True):
        assert one == other or other is None


@settings(deadline=None)
@given(left=INTS, right=INTS)
def test_true_division_is_pythons(left: int, right: int) -> None:
    (got,) = by_columns("a / b", [(left, right, True, "")])
    assert got == (left / right if right else None)


@settings(deadline=None)
@given(left=st.floats(-1e6, 1e6), right=st.floats(0.001, 1e3))
def test_whole_division_and_remainder_of_floats_fit_together(left: float, right: float) -> None:
    batch: Any = pa.RecordBatch.from_pydict({"x": [left], "y": [right]})
    whole, rest = (Expression(text).bind(batch.schema)(batch)[0].as_py() for text in ("x // y", "x % y"))
    assert whole == math.floor(left / right)
    assert math.isclose(whole * right + rest, left, rel_tol=1e-9, abs_tol=1e-6)


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from([True, False, None]), min_size=2, max_size=2),
    word=st.sampled_from(["and", "or"]),
)
def test_and_and_or_with_null_are_kleenes(values: list[bool | None], word: str) -> None:
    batch: Any = pa.RecordBatch.from_arrays([pa.array([v], pa.bool_()) for v in values], names=["x", "y"])
    (got,) = Expression(f"x {word} y").bind(batch.schema)(batch).to_pylist()
    deciding = word == "or"
    assert got == (deciding if deciding in values else None if None in values else not deciding)


@settings(deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=40), st.text(alphabet="ab+-*/%()<>=! notandri,.\"'[]{}:#\\\n0123456789", max_size=40)
    )
)
def test_any_text_is_an_expression_or_an_error_of_ours(text: str) -> None:
    batch = batch_of([(1, 2, True, "x"), (None, None, None, None)])
    outcome: Any = None
    try:
        outcome = Expression(text).bind(batch.schema)(batch)
    except ExpressionError as error:
        outcome = error
    if isinstance(outcome, ExpressionError):
        assert 0 <= outcome.column <= max(len(outcome.text), 1)
    else:
        assert len(outcome) == 2
