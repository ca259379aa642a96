"""Aggregates in two steps: partial ones per batch, merged when enough have gathered; so memory does not grow with rows.

A partial is a table of one row per window and key. The standard deviation is merged from count, mean and squared
distance (Chan, Golub, LeVeque 1979), because a difference of sums would lose its digits.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowbridge.operators.fault import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CALL: Final = re.compile(r"\s*(\w+)\s*\(\s*(.*?)\s*\)\s*", re.DOTALL)
PENDING_ROWS_MAX: Final = 8_192
_ONE: Final[Any] = pa.scalar(1.0)
_NO_FLOAT: Final[Any] = pa.scalar(None, pa.float64())

# function of the language -> (kernel for the rows of one batch, kernel that merges partials), several if it needs them
_PARTIALS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "count": (("count", "sum"),),
    "sum": (("sum", "sum"),),
    "min": (("min", "min"),),
    "max": (("max", "max"),),
    "first": (("first", "first"),),
    "last": (("last", "last"),),
    "mean": (("sum", "sum"), ("count", "sum")),
    "stddev": (("count", "sum"), ("mean", ""), ("variance", "")),
    "distinct": (),
}
FUNCTIONS: Final = tuple(_PARTIALS)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``name: function(column)``; `column` is None for ``count()``."""

    name: str
    function: str
    column: str | None

    @classmethod
    def parse(cls, name: str, text: Any) -> Aggregate:
        """Read ``mean(dep_delay)``. ConfigError when it is no aggregate."""
        match = _CALL.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigError(f"aggregate.{name}: {text!r} is not of the form mean(column)")
        function, column = match[1], match[2].strip("\"'") or None
        if function not in _PARTIALS:
            raise ConfigError(
                f"aggregate.{name}: there is no aggregate {function}{did_you_mean(function, [*FUNCTIONS])}"
            )
        if column is None and function != "count":
            raise ConfigError(f"aggregate.{name}: {function} needs a column")
        return cls(name, function, column)


class _Distinct:
    """The different values of one column, per window and key."""

    def __init__(self, keys: list[str], column: str) -> None:
        self._names = [*keys, column]
        self._keys = keys
        self._column = column
        self._parts: list[pa.Table] = []
        self.rows = 0
        self._compacted = 0

    def add(self, rows: pa.Table) -> None:
        self._parts.append(_unique(rows.select(self._names), self._names))
        self.rows += self._parts[-1].num_rows
        if self.rows > max(PENDING_ROWS_MAX, 2 * self._compacted):
            self.table()

    def table(self) -> pa.Table:
        if len(self._parts) > 1:
            self._parts = [_unique(pa.concat_tables(self._parts), self._names)]
        self.rows = self._compacted = self._parts[0].num_rows
        return self._parts[0]

    def load(self, table: pa.Table) -> None:
        self._parts = [table]
        self.rows = self._compacted = table.num_rows

    def close(self, last: int) -> Any:
        """Take out the windows that start at `last` or before; the counts, in the order of the sorted keys."""
        closed, still = _split(self.table(), last)
        self.load(still)
        counts = closed.group_by(self._keys, use_threads=False).aggregate([(self._column, "count")])
        return _sorted(counts, self._keys).column(f"{self._column}_count")


class Groups:
    """The open windows: add rows, take closed windows out.

    Rows come as a table with the columns ``w`` (start of the window), ``k0``, ``k1``, ... (keys) and ``c0``, ``c1``,
    ... (the columns of `sources`).
    """

    def __init__(
        self, aggregates: Sequence[Aggregate], sources: Sequence[str], key_count: int, empty: pa.Table
    ) -> None:
        self._aggregates = aggregates
        self._keys: list[str] = ["w", *(f"k{index}" for index in range(key_count))]
        self._column = {name: f"c{index}" for index, name in enumerate(sources)}
        self._plan: dict[str, tuple[Any, str, str]] = {}  # partial column -> source, kernel, merging kernel
        self._spread: list[str] = []  # sources whose standard deviation is wanted
        for aggregate in aggregates:
            self._prepare(aggregate)
        wanted = dict.fromkeys(a.column for a in aggregates if a.function == "distinct" and a.column is not None)
        self._distinct = {name: _Distinct(self._keys, self._column[name]) for name in wanted}
        self._parts: list[pa.Table] = []
        self._rows = 0
        self._compacted = 0
        self.add(empty)

    def _prepare(self, aggregate: Aggregate) -> None:
        if aggregate.column is None:
            self._plan["count_all"] = ([], "count_all", "sum")
            return
        column = self._column[aggregate.column]
        for kernel, merge in _PARTIALS[aggregate.function]:
            self._plan[f"{column}_{kernel}"] = (column, kernel, merge)
        if aggregate.function == "stddev" and column not in self._spread:
            self._spread.append(column)

    # --- taking in ------------------------------------------------------------------------------------------------

    def add(self, rows: pa.Table) -> None:
        """Take in the rows of one batch."""
        specs: Any = [(source, kernel) for source, kernel, _ in self._plan.values()]
        part = rows.group_by(self._keys, use_threads=False).aggregate(specs).select([*self._keys, *self._plan])
        for column in self._spread:  # keep the squared distance instead of the variance: it can be added
            count = part.column(f"{column}_count").cast(pa.float64())
            part = _replace(part, f"{column}_variance", pc.multiply(part.column(f"{column}_variance"), count))
        self._parts.append(part)
        self._rows += part.num_rows
        for distinct in self._distinct.values():
            distinct.add(rows)
        if self._rows > max(PENDING_ROWS_MAX, 2 * self._compacted):
            self.table()

    def table(self) -> pa.Table:
        """Everything so far, merged to one row per window and key."""
        if len(self._parts) > 1:
            self._parts = [self._merge(pa.concat_tables(self._parts))]
        self._rows = self._compacted = self._parts[0].num_rows
        return self._parts[0]

    def _merge(self, parts: pa.Table) -> pa.Table:
        simple = {name: merge for name, (_, _, merge) in self._plan.items() if merge}
        specs: Any = list(simple.items())
        numbered = parts.append_column("row", pa.array(np.arange(parts.num_rows)))
        if self._spread:
            specs = [*specs, ("row", "list")]
        merged = numbered.group_by(self._keys, use_threads=False).aggregate(specs)
        columns = {name: merged.column(name) for name in self._keys}
        columns |= {name: merged.column(f"{name}_{merge}") for name, merge in simple.items()}
        for column in self._spread:
            mean, squares = _merge_spread(parts, merged.column("row_list").combine_chunks(), column)
            columns |= {f"{column}_mean": mean, f"{column}_variance": squares}
        return pa.table({name: columns[name] for name in (*self._keys, *self._plan)})

    # --- giving out -----------------------------------------------------------------------------------------------

    @property
    def kept_rows(self) -> int:
        """How many rows are kept; at most about `PENDING_ROWS_MAX` or three times the groups, for each table."""
        return self._rows + sum(distinct.rows for distinct in self._distinct.values())

    @property
    def first(self) -> int | None:
        """The start of the earliest open window, None when there is none."""
        starts = [pc.min(part.column("w")).as_py() for part in self._parts if part.num_rows]
        return min(starts) if starts else None

    def close(self, last: int) -> tuple[pa.Table, dict[str, Any]]:
        """Take out the windows that start at `last` or before.

        The first result has the columns ``w`` and keys, sorted by them; the second the aggregates, by their names.
        """
        closed, still = _split(self.table(), last)
        self._parts = [still]
        self._rows = self._compacted = still.num_rows
        closed = _sorted(closed, self._keys)
        distinct = {name: part.close(last) for name, part in self._distinct.items()}
        return closed.select(self._keys), {a.name: self._value(a, closed, distinct) for a in self._aggregates}

    def _value(self, aggregate: Aggregate, closed: pa.Table, distinct: Mapping[str, Any]) -> Any:
        if aggregate.column is None:
            return closed.column("count_all")
        if aggregate.function == "distinct":
            return distinct[aggregate.column]
        column = self._column[aggregate.column]
        if aggregate.function == "mean":
            count = closed.column(f"{column}_count").cast(pa.float64())
            return pc.divide(closed.column(f"{column}_sum").cast(pa.float64(), safe=False), count)
        if aggregate.function == "stddev":
            count = closed.column(f"{column}_count").cast(pa.float64())
            free = pc.if_else(pc.greater(count, _ONE), pc.subtract(count, _ONE), _NO_FLOAT)
            return pc.sqrt(pc.divide(closed.column(f"{column}_variance"), free))
        return closed.column(f"{column}_{aggregate.function}")

    # --- keeping --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The merged tables."""
        return {"table": self.table(), "distinct": {name: part.table() for name, part in self._distinct.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot of the same aggregates."""
        self._parts = [state["table"]]
        self._rows = self._compacted = self._parts[0].num_rows
        for name, table in state["distinct"].items():
            self._distinct[name].load(table)


def _merge_spread(parts: pa.Table, members: Any, column: str) -> tuple[Any, Any]:
    """Mean and squared distance per group, from those of its members; `members` lists the rows of each group."""
    rows = members.flatten()
    group = pc.list_parent_indices(members).to_numpy()
    groups = len(members)

    def taken(name: str) -> Any:
        values: Any = parts.column(f"{column}_{name}").cast(pa.float64())
        return values.fill_null(0.0).to_numpy()[rows.to_numpy()]

    count, mean, squares = taken("count"), taken("mean"), taken("variance")
    total = np.bincount(group, weights=count, minlength=groups)
    divisor = np.where(total > 0, total, 1.0)
    # Measured from one member's mean, so that a large common part of the values does not eat the digits.
    base = np.zeros(groups)
    used = count > 0
    base[group[used]] = mean[used]
    shift = np.bincount(group, weights=count * (mean - base[group]), minlength=groups) / divisor
    centre = base + shift
    squares = squares + count * (mean - centre[group]) ** 2
    return pa.array(centre), pa.array(np.bincount(group, weights=squares, minlength=groups))


def _unique(rows: pa.Table, names: list[str]) -> pa.Table:
    return rows.group_by(names, use_threads=False).aggregate([]).select(names)


def _split(table: pa.Table, last: int) -> tuple[pa.Table, pa.Table]:
    closed: Any = pc.less_equal(table.column("w"), pa.scalar(last, pa.int64()))
    return table.filter(closed), table.filter(pc.invert(closed))


def _sorted(table: pa.Table, keys: list[str]) -> pa.Table:
    order: Any = [(key, "ascending") for key in keys]
    return table.sort_by(order)


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)
