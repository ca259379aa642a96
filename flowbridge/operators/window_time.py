"""Event time as whole numbers: which window a time falls into, whatever type its column has."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNIT_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DAY_NS: Final = 86_400 * 10**9


class TimeAxis:
    """The column that holds event time, counted in its own unit; a column of numbers counts nanoseconds.

    Raises: ValueError when the type is no time, or `every` is not a whole number of its units.
    """

    def __init__(self, kind: Any, every_ns: int, lateness_ns: int) -> None:
        self._kind = kind
        unit_ns = self._unit_ns(kind)
        if every_ns % unit_ns:
            raise ValueError(f"every is {every_ns} ns, which is not a whole number of units of {kind}")
        self.every: Final = every_ns // unit_ns
        self.lateness: Final = -(-lateness_ns // unit_ns)

    @staticmethod
    def _unit_ns(kind: Any) -> int:
        if pa.types.is_timestamp(kind):
            return _UNIT_NS[kind.unit]
        if pa.types.is_date32(kind):
            return DAY_NS
        if pa.types.is_date64(kind):
            return 10**6
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return 1
        raise ValueError(f"is {kind}; it must be a timestamp, a date or a number")

    def numbers(self, column: Any) -> tuple[NDArray[np.int64], Any]:
        """The times of the rows that have one, and the mask of those rows or None when that is all."""
        mask: Any = None
        if pa.types.is_floating(self._kind):
            floats = column.to_numpy(zero_copy_only=False)  # null becomes NaN
            finite = np.isfinite(floats)
            if not finite.all():
                mask, floats = finite, floats[finite]
            return np.floor(floats).astype(np.int64), mask
        if column.null_count:
            mask = column.is_valid().to_numpy(zero_copy_only=False)
            column = column.drop_null()
        if pa.types.is_date32(self._kind):
            column = column.view(pa.int32())
        whole = column.cast(pa.int64()) if not pa.types.is_date64(self._kind) else column.view(pa.int64())
        return cast("NDArray[np.int64]", whole.to_numpy(zero_copy_only=False)), mask

    def starts(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The start of each time's window."""
        return times - np.mod(times, self.every)

    def column(self, starts: Any) -> Any:
        """Whole numbers as a column of the type the time came in; ints of any size become int64."""
        if pa.types.is_integer(self._kind):
            return starts
        if pa.types.is_date32(self._kind):
            return starts.cast(pa.int32()).cast(self._kind)
        return starts.cast(self._kind)
