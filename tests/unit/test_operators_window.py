"""window: which rows fall where, when a window goes out, and what is counted."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import datetime as dt
import statistics
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from flowbridge.errors import OperatorError, SchemaMismatchError
from flowbridge.operators import window_aggregate
from flowbridge.operators.fault import ConfigError
from flowbridge.operators.window import Window

SECOND = 10**9


class Recorder:
    """Records the batches of closed windows."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        assert port == "out"
        value.validate(full=True)
        self.batches.append(value)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for batch in self.batches for row in batch.to_pylist()]


class Bench:
    """A window in hand; times are seconds."""

    def __init__(self, aggregate: dict[str, str] | None = None, *, every_s: int = 10, **config: Any) -> None:
        self.out = Recorder()
        self.window = Window(
            time=config.pop("time", "t"), every=every_s * SECOND, aggregate=aggregate or {"n": "count()"}, **config
        )
        self.window.open(cast("Any", SimpleNamespace(node="w", envelope=None)))

    def give(self, kind: Any = None, **columns: Any) -> None:
        arrays: Any = {n: v if isinstance(v, pa.Array) else pa.array(v) for n, v in columns.items()}
        arrays["t"] = (
            arrays["t"] if isinstance(columns["t"], pa.Array) else pa.array(columns["t"], kind or pa.timestamp("s"))
        )
        self.window.process("in", pa.RecordBatch.from_pydict(arrays), cast("Any", self.out))

    def finish(self) -> list[dict[str, Any]]:
        self.window.finish(cast("Any", self.out))
        return self.out.rows


def at(second: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1) + dt.timedelta(seconds=second)


def test_rows_are_counted_per_window() -> None:
    bench = Bench()
    bench.give(t=[0, 9, 10, 35])
    assert bench.finish() == [
        {"window_start": at(0), "window_end": at(10), "n": 2},
        {"window_start": at(10), "window_end": at(20), "n": 1},
        {"window_start": at(30), "window_end": at(40), "n": 1},
    ]


def test_windows_go_out_when_the_watermark_reaches_their_end() -> None:
    bench = Bench()
    bench.give(t=[0, 9])
    assert bench.out.batches == []
    bench.give(t=[10])
    assert [row["n"] for row in bench.out.rows] == [2]
    bench.give(t=[30])
    assert [row["n"] for row in bench.out.rows] == [2, 1]


def test_lateness_holds_the_watermark_back() -> None:
    bench = Bench(lateness=5 * SECOND)
    bench.give(t=[0, 14])
    bench.give(t=[9])
    assert bench.out.batches == []
    bench.give(t=[15])
    assert [row["n"] for row in bench.out.rows] == [2]


def test_late_rows_are_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.give(t=[5, 12, 6, 13])
    bench.give(t=[7, 14])
    assert [row["n"] for row in bench.finish()] == [1, 3]
    assert bench.window.late_rows == 2
    assert "2 late rows" in caplog.text


def test_a_batch_of_late_rows_only_changes_nothing() -> None:
    bench = Bench()
    bench.give(t=[25])
    bench.give(t=[1, 2])
    assert [row["n"] for row in bench.finish()] == [1]
    assert bench.window.late_rows == 2


def test_rows_without_a_time_are_counted_and_left_out() -> None:
    bench = Bench()
    bench.give(t=[1, None, 2])
    bench.give(t=[None])
    assert [row["n"] for row in bench.finish()] == [2]
    assert bench.window.null_times == 2


def test_windows_closed_together_are_one_batch_in_order_of_time_and_keys() -> None:
    bench = Bench(by=["k"], lateness=20 * SECOND)
    bench.give(t=[11, 1, 2, 12, 3], k=["a", "b", "a", "b", None])
    bench.give(t=[50], k=["a"])
    (batch,) = bench.out.batches
    assert [(row["window_start"], row["k"]) for row in batch.to_pylist()] == [
        (at(0), "a"),
        (at(0), "b"),
        (at(0), None),
        (at(10), "a"),
        (at(10), "b"),
    ]


def test_every_aggregate_gives_what_its_name_says() -> None:
    functions = ("sum", "mean", "min", "max", "stddev", "first", "last", "count", "distinct")
    bench = Bench({"n": "count()", **{name: f"{name}(v)" for name in functions}})
    values = [5.0, None, 2.0, 2.0, 9.0]
    bench.give(t=[1, 2, 3, 4, 5], v=values)
    (row,) = bench.finish()
    numbers = [value for value in values if value is not None]
    assert row["n"] == 5
    assert [row[name] for name in functions] == [
        18.0,
        4.5,
        2.0,
        9.0,
        pytest.approx(statistics.stdev(numbers)),
        5.0,
        9.0,
        4,
        3,
    ]


def test_aggregates_over_nothing_are_null_or_zero() -> None:
    functions = ("sum", "mean", "min", "max", "stddev", "first", "last", "count", "distinct")
    bench = Bench({name: f"{name}(v)" for name in functions})
    bench.give(t=[1, 2], v=pa.array([None, None], pa.float64()))
    assert all(bench.finish()[0][name] in (None, 0) for name in functions)


def test_one_value_has_no_standard_deviation() -> None:
    bench = Bench({"sd": "stddev(v)"})
    bench.give(t=[1], v=[5])
    assert bench.finish()[0]["sd"] is None


def test_the_standard_deviation_keeps_its_digits_beside_a_large_mean() -> None:
    bench = Bench({"sd": "stddev(v)"})
    for second in range(10):
        bench.give(t=[second] * 3, v=[1e9 + second, 1e9 + second + 0.5, 1e9 + second + 1.0])
    numbers = [second + part for second in range(10) for part in (0.0, 0.5, 1.0)]
    assert bench.finish()[0]["sd"] == pytest.approx(statistics.stdev(numbers), rel=1e-6)


def test_texts_have_a_least_a_greatest_a_first_and_a_last() -> None:
    bench = Bench({"lo": "min(s)", "hi": "max( s )", "f": "first('s')", "l": 'last("s")', "d": "distinct(s)"})
    bench.give(t=[1, 2, 3], s=["b", "a", "c"])
    bench.give(t=[4], s=["a"])
    (row,) = bench.finish()
    assert [row[name] for name in ("lo", "hi", "f", "l", "d")] == ["a", "c", "b", "a", 3]


@pytest.mark.parametrize(
    ("kind", "times", "every_s", "starts"),
    [
        (pa.timestamp("ms"), [0, 9_999, 10_000], 10, [at(0), at(10)]),
        (pa.timestamp("us"), [0, 9_999_999, 10_000_000], 10, [at(0), at(10)]),
        (pa.timestamp("us"), [-1, 0], 10, [at(-10), at(0)]),
        (pa.date32(), [0, 1, 2, 3], 2 * 86_400, [dt.date(1970, 1, 1), dt.date(1970, 1, 3)]),
        (pa.date64(), [0, 86_400_000], 86_400, [dt.date(1970, 1, 1), dt.date(1970, 1, 2)]),
        (pa.int64(), [0, 9 * SECOND, 10 * SECOND], 10, [0, 10 * SECOND]),
        (pa.int32(), [5, 6], 10, [0]),
        (
            pa.float64(),
            [-1.0, 0.0, float("nan"), float("inf"), 10.0 * SECOND],
            10,
            [-10.0 * SECOND, 0.0, 10.0 * SECOND],
        ),
    ],
)
def test_time_may_be_of_any_type_that_counts(kind: Any, times: list[Any], every_s: int, starts: list[Any]) -> None:
    bench = Bench(every_s=every_s)
    bench.give(kind, t=times)
    assert [row["window_start"] for row in bench.finish()] == starts
    expected = pa.int64() if pa.types.is_integer(kind) else kind
    assert bench.out.batches[0].schema.field("window_start").type == expected


def test_a_zone_is_kept() -> None:
    bench = Bench()
    bench.give(pa.timestamp("us", "America/New_York"), t=[0])
    bench.finish()
    assert bench.out.batches[0].schema.field("window_end").type == pa.timestamp("us", "America/New_York")


def test_dictionaries_that_differ_from_batch_to_batch_are_one_key() -> None:
    bench = Bench({"n": "count()", "d": "distinct(k)"}, by=["k"])
    for values in (["a", "b"], ["b", "c"], ["c", "a"]):
        batch: Any = pa.RecordBatch.from_arrays(
            [pa.array([1, 2], pa.timestamp("s")), pa.array(values).dictionary_encode()], names=["t", "k"]
        )
        bench.window.process("in", batch, cast("Any", bench.out))
    assert [(row["k"], row["n"], row["d"]) for row in bench.finish()] == [("a", 2, 1), ("b", 2, 1), ("c", 2, 1)]


def test_what_is_kept_grows_with_groups_and_not_with_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_aggregate, "PENDING_ROWS_MAX", 20)
    bench = Bench({"n": "count()", "d": "distinct(v)", "sd": "stddev(v)"}, by=["k"])
    for _ in range(500):
        bench.give(t=[1, 2, 3], k=["a", "b", "a"], v=[1, 2, 3])
        assert bench.window.kept_rows <= 50
    assert [(row["k"], row["n"], row["d"]) for row in bench.finish()] == [("a", 1000, 2), ("b", 500, 1)]


def test_columns_may_move_but_not_change_their_type() -> None:
    bench = Bench({"s": "sum(v)"})
    bench.give(t=[1], v=[1])
    bench.give(v=[2], t=[2])
    with pytest.raises(SchemaMismatchError, match="node w, port in: column v is double and was int64"):
        bench.give(t=[3], v=[1.5])
    assert bench.finish()[0]["s"] == 3


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"time": "tt"}, r"no column tt \(did you mean t\?\)"),
        ({"by": ["x"]}, "no column x"),
        ({"aggregate": {"m": "mean(w)"}}, "no column w"),
        ({"aggregate": {"m": "mean(s)"}}, "cannot aggregate these columns"),
        ({"time": "s"}, "column s: is string; it must be a timestamp"),
        ({"every_ns": 5}, r"every is 5 ns, which is not a whole number of units of timestamp\[s\]"),
    ],
)
def test_what_does_not_fit_the_batch_is_named(config: dict[str, Any], part: str) -> None:
    every = config.pop("every_ns", 10 * SECOND)
    made: Any = Window
    window = made(**{"time": "t", "every": every, "aggregate": {"n": "count()"}, **config})
    window.open(cast("Any", SimpleNamespace(node="w", envelope=None)))
    batch: Any = pa.RecordBatch.from_arrays([pa.array([1], pa.timestamp("s")), pa.array(["x"])], names=["t", "s"])
    with pytest.raises(SchemaMismatchError, match=f"node w, port in: .*{part}"):
        window.process("in", batch, cast("Any", Recorder()))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"every": 0}, "every is 0 ns"),
        ({"lateness": -1}, "lateness is -1 ns"),
        ({"aggregate": {}}, "aggregate must be a mapping"),
        ({"aggregate": ["count()"]}, "aggregate must be a mapping"),
        ({"aggregate": {"m": "mean"}}, "aggregate.m: 'mean' is not of the form"),
        ({"aggregate": {"m": 5}}, "aggregate.m: 5 is not of the form"),
        ({"aggregate": {"m": "mean()"}}, "mean needs a column"),
        ({"aggregate": {"m": "meen(v)"}}, r"no aggregate meen \(did you mean mean\?\)"),
        ({"aggregate": {"k": "count()"}, "by": ["k"]}, "two columns of the result would be called k"),
        ({"aggregate": {"window_end": "count()"}}, "two columns of the result would be called window_end"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: dict[str, Any], part: str) -> None:
    made: Any = Window
    with pytest.raises(ConfigError, match=part):
        made(**{"time": "t", "every": SECOND, "aggregate": {"n": "count()"}, **config})


def test_a_value_that_is_no_batch_is_refused() -> None:
    bench = Bench()
    with pytest.raises(SchemaMismatchError, match="not int"):
        bench.window.process("in", 5, cast("Any", bench.out))


def test_without_rows_nothing_goes_out() -> None:
    bench = Bench()
    assert bench.finish() == []
    bench = Bench()
    bench.give(t=[])
    assert bench.finish() == []
    assert bench.out.batches == []


def test_a_time_that_cannot_be_counted_is_an_error_of_ours() -> None:
    bench = Bench()
    with pytest.raises(OperatorError, match=r"node w, port in: .*18446744073709551615"):
        bench.give(t=pa.array([2**64 - 1], pa.uint64()))
