"""map, filter and select."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from flowbridge.errors import FlowbridgeError, SchemaMismatchError
from flowbridge.operators.fault import ConfigError, ExpressionError
from flowbridge.operators.transform import Filter, Map, Select

BATCH: Any = pa.RecordBatch.from_pydict({"a": [1, 2, None], "b": [10.0, 20.0, 30.0], "s": ["x", "y", "z"]})


def opened(operator: Any) -> Any:
    operator.open(SimpleNamespace(node="n", envelope=None))
    return operator


def run(operator: Any, value: Any = BATCH) -> Any:
    return opened(operator).process("in", value, cast("Any", None))


def test_map_appends_new_columns_and_replaces_old_ones_in_their_place() -> None:
    result = run(Map(columns={"b": "b * 2", "c": "a + 1", "one": "1"}))
    assert result.schema.names == ["a", "b", "s", "c", "one"]
    assert result.to_pydict() == {
        "a": [1, 2, None],
        "b": [20.0, 40.0, 60.0],
        "s": ["x", "y", "z"],
        "c": [2, 3, None],
        "one": [1, 1, 1],
    }


def test_map_expressions_see_the_batch_as_it_came_in() -> None:
    result = run(Map(columns={"a": "b", "b": "a"}))
    assert result.column("a").to_pylist() == [10.0, 20.0, 30.0]
    assert result.column("b").to_pylist() == [1, 2, None]


def test_map_leaves_the_columns_it_does_not_touch_where_they_are_in_memory() -> None:
    result = run(Map(columns={"c": "a"}))
    assert result.column("b").buffers()[1].address == BATCH.column("b").buffers()[1].address


def test_map_takes_plain_values_of_yaml_as_literals() -> None:
    result = run(Map(columns=cast("Any", {"n": 5, "yes": True, "nothing": None})))
    assert result.slice(0, 1).select(["n", "yes", "nothing"]).to_pylist() == [{"n": 5, "yes": True, "nothing": None}]


def test_filter_keeps_the_rows_that_are_true() -> None:
    assert run(Filter(where="a >= 2")).to_pylist() == [{"a": 2, "b": 20.0, "s": "y"}]


def test_filter_gives_nothing_when_no_row_is_left() -> None:
    assert run(Filter(where="b > 100")) is None
    assert run(Filter(where="a is None and a > 0")) is None
    assert run(Filter(where="None")) is None
    assert run(Filter(where="True"), BATCH.slice(0, 0)) is None


def test_filter_passes_a_batch_on_untouched_when_every_row_is_true() -> None:
    assert run(Filter(where="b > 0")) is BATCH


def test_filter_needs_a_truth() -> None:
    with pytest.raises(ExpressionError, match="must give true or false, not double"):
        run(Filter(where="b + 1"))


def test_select_keeps_columns_in_the_order_given() -> None:
    assert run(Select(columns=["s", "a"])).schema.names == ["s", "a"]


def test_select_makes_columns_of_expressions_only() -> None:
    assert run(Select(columns={"twice": "b * 2", "s": "upper(s)"})).to_pydict() == {
        "twice": [20.0, 40.0, 60.0],
        "s": ["X", "Y", "Z"],
    }


def test_select_names_a_column_that_is_not_there() -> None:
    with pytest.raises(SchemaMismatchError, match=r"node n, port in: .*no column bb \(did you mean b\?\)"):
        run(Select(columns=["a", "bb"]))


@pytest.mark.parametrize("columns", [[], {}, "a", None, [1], ["a", "a"]])
def test_select_refuses_columns_that_are_none(columns: Any) -> None:
    with pytest.raises(ConfigError):
        Select(columns=columns)


@pytest.mark.parametrize("columns", [{}, [], None, {1: "a"}, {"x": "a +"}])
def test_map_refuses_columns_that_are_none(columns: Any) -> None:
    with pytest.raises(ConfigError):
        Map(columns=columns)


@pytest.mark.parametrize("value", [5, "text", None, {"a": 1}, pa.table({"a": [1]})])
def test_a_value_that_is_no_batch_is_named(value: Any) -> None:
    with pytest.raises(SchemaMismatchError, match=f"node n, port in: .*not {type(value).__name__}"):
        run(Filter(where="a > 1"), value)


def test_a_new_schema_is_bound_anew() -> None:
    operator = opened(Map(columns={"c": "a + 1"}))
    first = operator.process("in", BATCH, None)
    other: Any = pa.RecordBatch.from_pydict({"z": ["q"], "a": [1.5]})
    second = operator.process("in", other, None)
    third = operator.process("in", BATCH, None)
    assert first.equals(third)
    assert second.to_pylist() == [{"z": "q", "a": 1.5, "c": 2.5}]


def test_an_error_while_a_new_schema_is_bound_leaves_the_operator_usable() -> None:
    operator = opened(Filter(where="a > 1"))
    with pytest.raises(FlowbridgeError, match="no column a"):
        operator.process("in", pa.RecordBatch.from_pydict({"z": [1]}), None)
    assert operator.process("in", BATCH, None).num_rows == 1
