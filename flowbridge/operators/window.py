"""window: tumbling windows over event time, closed by a watermark."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flowbridge.errors import OperatorError
from flowbridge.operators.batch import BatchOperator
from flowbridge.operators.fault import LOG, ConfigError, did_you_mean
from flowbridge.operators.window_aggregate import Aggregate, Groups
from flowbridge.operators.window_time import TimeAxis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.contracts import OperatorContext, Outputs

START, END = "window_start", "window_end"


class Window(BatchOperator):
    """Gathers rows into windows of `every` nanoseconds by their event time, and sends each window once.

    The watermark is the greatest event time seen, row by row, less `lateness`. A window is closed once the watermark
    reaches its end; the windows closed by one batch go out as one new batch, in order of time, then of keys. A row
    whose window is closed is late: counted in `late_rows` and left out. A row without a time (null, NaN) is counted in
    `null_times` and left out. What comes out does not depend on how the rows were cut into batches.

    Memory grows with open windows times keys (times values, for ``distinct``), not with rows.
    """

    def __init__(
        self,
        *,
        time: str,
        every: int,
        aggregate: Mapping[str, str],
        by: Sequence[str] = (),
        lateness: int = 0,
    ) -> None:
        super().__init__()
        if every <= 0:
            raise ConfigError(f"every is {every} ns; it must be more than 0")
        if lateness < 0:
            raise ConfigError(f"lateness is {lateness} ns; it must not be negative")
        if not isinstance(aggregate, dict) or not aggregate:
            raise ConfigError("aggregate must be a mapping such as {flights: count()}, and not empty")
        self._time = time
        self._every = every
        self._lateness = lateness
        self._by = list(by)
        self._aggregates = [Aggregate.parse(name, text) for name, text in aggregate.items()]
        names = [START, END, *self._by, *aggregate]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"two columns of the result would be called {twice}")
        self._sources = list(dict.fromkeys(a.column for a in self._aggregates if a.column is not None))
        self._schema: Any = None
        self._types: list[Any] = []
        self._indexes: list[int] = []
        self._axis: TimeAxis
        self._groups: Groups
        self._high: int | None = None
        self._earliest: int | None = None
        self.late_rows = 0
        self.null_times = 0

    # --- hooks ----------------------------------------------------------------------------------------------------

    def open(self, context: OperatorContext) -> None:
        """Load what grouping needs, so that the first message does not have to wait for it."""
        import_module("pyarrow.acero")
        super().open(context)

    def process(self, port: str, value: Any, out: Outputs) -> None:
        """Take in one batch; send the windows it closed."""
        if not isinstance(value, pa.RecordBatch):
            self._refuse(port, value)
        if self._schema is None or not value.schema.equals(self._schema):
            self._bind(value.schema)
        try:
            self._add(value)
            if self._high is not None and self._earliest is not None:
                last = self._high - self._axis.lateness - self._axis.every
                if self._earliest <= last:
                    self._send(last, out)
        except pa.ArrowException as error:
            raise OperatorError(self._node, str(error), port=port, seq=self._seq()) from error

    def finish(self, out: Outputs) -> None:
        """Send every window that is still open."""
        if self._earliest is not None:
            self._send(2**63 - 1, out)
        if self.late_rows or self.null_times:
            LOG.warning(
                "node %s: %d late rows and %d rows without a time were left out",
                self._node,
                self.late_rows,
                self.null_times,
            )

    def snapshot(self) -> dict[str, Any]:
        """The open windows, the watermark and the counts."""
        return {
            "schema": self._schema,
            "groups": None if self._schema is None else self._groups.snapshot(),
            "high": self._high,
            "earliest": self._earliest,
            "late_rows": self.late_rows,
            "null_times": self.null_times,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot."""
        self._schema, self._types = None, []
        if state["schema"] is not None:
            self._bind(state["schema"])
            self._groups.restore(state["groups"])
        self._high = state["high"]
        self._earliest = state["earliest"]
        self.late_rows = state["late_rows"]
        self.null_times = state["null_times"]

    @property
    def kept_rows(self) -> int:
        """How many rows of partial aggregates are in memory."""
        return 0 if self._schema is None else self._groups.kept_rows

    # --- taking in ------------------------------------------------------------------------------------------------

    def _bind(self, schema: pa.Schema) -> None:
        names = [self._time, *self._by, *self._sources]
        indexes = [schema.get_field_index(name) for name in names]
        for name, index in zip(names, indexes, strict=True):
            if index < 0:
                raise self._mismatch("in", f"the batch has no column {name}{did_you_mean(name, list(schema.names))}")
        types = [_plain_type(schema.field(index).type) for index in indexes]
        if not self._types:
            self._begin(types)
        for name, old, new in zip(names, self._types, types, strict=True):
            if not old.equals(new):
                raise self._mismatch("in", f"column {name} is {new} and was {old}")
        self._indexes = indexes
        self._schema = schema

    def _begin(self, types: list[Any]) -> None:
        try:
            self._axis = TimeAxis(types[0], self._every, self._lateness)
        except ValueError as error:
            raise self._mismatch("in", f"column {self._time}: {error}") from error
        columns = [pa.array([], kind) for kind in types[1:]]
        empty = self._table(np.empty(0, np.int64), columns)
        try:
            self._groups = Groups(self._aggregates, self._sources, len(self._by), empty)
            self._groups.close(0)
        except pa.ArrowException as error:
            raise self._mismatch("in", f"cannot aggregate these columns: {error}") from error
        self._types = types

    def _table(self, starts: Any, columns: list[Any]) -> pa.Table:
        keys, sources = len(self._by), len(self._sources)
        names = ["w", *(f"k{index}" for index in range(keys)), *(f"c{index}" for index in range(sources))]
        return pa.Table.from_arrays([pa.array(starts), *columns], names=names)

    def _add(self, batch: pa.RecordBatch) -> None:
        axis = self._axis
        columns: list[Any] = [_plain(batch.column(index)) for index in self._indexes]
        times, mask = axis.numbers(columns.pop(0))
        if mask is not None:
            self.null_times += len(mask) - len(times)
            columns = [column.filter(pa.array(mask)) for column in columns]
        if not len(times):
            return
        starts = axis.starts(times)
        high = int(times.max()) if self._high is None else max(self._high, int(times.max()))
        if int(starts.min()) + axis.every <= high - axis.lateness:
            keep = self._in_time(times, starts)
            self.late_rows += len(keep) - int(keep.sum())
            starts = starts[keep]
            columns = [column.filter(pa.array(keep)) for column in columns]
        self._high = high
        if len(starts):
            self._groups.add(self._table(starts, columns))
            first = int(starts.min())
            self._earliest = first if self._earliest is None else min(self._earliest, first)

    def _in_time(self, times: Any, starts: Any) -> Any:
        """Which rows came before the watermark reached the end of their window, each judged by the rows before it."""
        highest = np.maximum.accumulate(times)
        if self._high is not None:
            highest = np.maximum(highest, self._high)
        return starts + self._axis.every > highest - self._axis.lateness

    # --- giving out -----------------------------------------------------------------------------------------------

    def _send(self, last: int, out: Outputs) -> None:
        keys, values = self._groups.close(last)
        self._earliest = self._groups.first
        starts: Any = keys.column("w")
        ends = pa.chunked_array([pa.array(starts.to_numpy() + self._axis.every)])
        columns: dict[str, Any] = {START: self._axis.column(starts), END: self._axis.column(ends)}
        columns |= {name: keys.column(f"k{index}") for index, name in enumerate(self._by)}
        table = pa.table(columns | values).combine_chunks()
        for batch in table.to_batches():
            out.emit_new(batch)


def _plain_type(kind: Any) -> Any:
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind


def _plain(column: Any) -> Any:
    """Dictionaries differ from batch to batch and cannot be merged, so their values are taken."""
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
