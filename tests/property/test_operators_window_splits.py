"""What a window gives does not depend on how its rows are cut into batches, nor on a restart in between."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import pickle
import statistics
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbridge.operators import window_aggregate
from flowbridge.operators.window import Window

EVERY = 10
AGGREGATE = {
    "n": "count()",
    "some": "count(v)",
    "sum": "sum(v)",
    "mean": "mean(v)",
    "lo": "min(v)",
    "hi": "max(v)",
    "sd": "stddev(v)",
    "first": "first(v)",
    "last": "last(v)",
    "different": "distinct(v)",
}
CLOSE = {"mean", "sd"}

rows_of_events = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-50, 120)),
        st.sampled_from(["a", "b", None]),
        st.one_of(st.none(), st.integers(-1000, 1000)),
    ),
    max_size=60,
)

Event = tuple[int | None, str | None, int | None]


class Recorder:
    """Records the rows of closed windows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        self.rows.extend(value.to_pylist())


def batch_of(events: list[Event]) -> Any:
    times, keys, values = zip(*events, strict=True) if events else ((), (), ())
    return pa.RecordBatch.from_arrays(
        [pa.array(times, pa.int64()), pa.array(keys, pa.string()), pa.array(values, pa.int64())], names=["t", "k", "v"]
    )


def made(lateness: int) -> Window:
    window = Window(time="t", every=EVERY, aggregate=AGGREGATE, by=["k"], lateness=lateness)
    window.open(cast("Any", SimpleNamespace(node="w", envelope=None)))
    return window


def run(parts: list[list[Event]], lateness: int, restarts: set[int]) -> tuple[list[dict[str, Any]], int, int]:
    window, out = made(lateness), Recorder()
    for number, part in enumerate(parts):
        window.process("in", batch_of(part), cast("Any", out))
        if number in restarts:
            state = pickle.loads(pickle.dumps(window.snapshot()))
            window = made(lateness)
            window.restore(state)
    window.finish(cast("Any", out))
    return out.rows, window.late_rows, window.null_times


def expected(events: list[Event], lateness: int) -> tuple[list[dict[str, Any]], int, int]:
    """The same by hand, one row at a time."""
    groups: dict[tuple[int, str | None], list[int | None]] = {}
    high: int | None = None
    late = nulls = 0
    for time, key, value in events:
        if time is None:
            nulls += 1
            continue
        high = time if high is None else max(high, time)
        start = time // EVERY * EVERY
        if start + EVERY <= high - lateness:
            late += 1
        else:
            groups.setdefault((start, key), []).append(value)
    order = sorted(groups, key=lambda group: (group[0], group[1] is None, group[1] or ""))
    return [by_hand(start, key, groups[start, key]) for start, key in order], late, nulls


def by_hand(start: int, key: str | None, values: list[int | None]) -> dict[str, Any]:
    some = [value for value in values if value is not None]
    return {
        "window_start": start,
        "window_end": start + EVERY,
        "k": key,
        "n": len(values),
        "some": len(some),
        "sum": sum(some) if some else None,
        "mean": sum(some) / len(some) if some else None,
        "lo": min(some, default=None),
        "hi": max(some, default=None),
        "sd": statistics.stdev(some) if len(some) > 1 else None,
        "first": some[0] if some else None,
        "last": some[-1] if some else None,
        "different": len(set(some)),
    }


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]], set[int]]:
    events: list[Event] = draw(rows_of_events)
    at = sorted(draw(st.lists(st.integers(0, len(events)), max_size=8)))
    parts = [events[start:end] for start, end in zip([0, *at], [*at, len(events)], strict=True)]
    return events, parts, draw(st.sets(st.integers(0, len(parts) - 1), max_size=3))


@settings(deadline=None)
@given(cut=cuts(), lateness=st.sampled_from([0, 7, 30]), pending=st.sampled_from([1, 8192]))
def test_any_cut_and_any_restart_give_what_one_row_at_a_time_gives(
    cut: tuple[list[Event], list[list[Event]], set[int]], lateness: int, pending: int
) -> None:
    events, parts, restarts = cut
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_aggregate, "PENDING_ROWS_MAX", pending)
        rows, late, nulls = run(parts, lateness, restarts)
    want, want_late, want_nulls = expected(events, lateness)
    assert (late, nulls) == (want_late, want_nulls)
    assert len(rows) == len(want)
    for row, other in zip(rows, want, strict=True):
        for name, value in other.items():
            if name in CLOSE and value is not None:
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-6)
            else:
                assert row[name] == value, name
