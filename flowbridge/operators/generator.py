"""Sources without a file: numbers, and ticks of the clock."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.operators.fault import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from flowbridge.contracts import Clock, OperatorContext


def _check_count(count: int | None) -> None:
    if count is not None and count < 0:
        raise ConfigError(f"count is {count}; it must not be negative")


def _check_every(every: int | None) -> None:
    if every is not None and every <= 0:
        raise ConfigError(f"every is {every} ns; it must be more than 0")


class TimerSource:
    """Sends the number of the tick, from 0, every so many nanoseconds.

    Tick n is due at start + n * every, however long the others took, so the period does not drift. A tick whose time
    passed together with the next one's is skipped: the numbers then have a gap.
    """

    def __init__(self, *, every: int, count: int | None = None) -> None:
        _check_every(every)
        _check_count(count)
        self._every = every
        self._count = count
        self._clock: Clock

    def open(self, context: OperatorContext) -> None:
        """Take the clock."""
        self._clock = context.clock

    async def produce(self) -> AsyncIterator[int]:
        """Tick numbers; `count` of them if that is given."""
        clock, every = self._clock, self._every
        start_ns = clock.now_ns()
        tick = sent = 0
        while self._count is None or sent < self._count:
            await clock.sleep_until(start_ns + tick * every)
            tick = max(tick, (clock.now_ns() - start_ns) // every)
            yield tick
            sent += 1
            tick += 1


class Sequence:
    """Sends start, start + step, ...: single ints, or Arrow batches with a column ``value``.

    A snapshot is how many numbers were sent.
    """

    def __init__(
        self,
        *,
        count: int | None = None,
        start: int = 0,
        step: int = 1,
        batch_rows: int = 1,
        every: int | None = None,
    ) -> None:
        _check_count(count)
        _check_every(every)
        if batch_rows < 1:
            raise ConfigError(f"batch_rows is {batch_rows}; it must be at least 1")
        self._count = count
        self._start = start
        self._step = step
        self._batch_rows = batch_rows
        self._every = every
        self._sent = 0
        self._clock: Clock | None = None

    def open(self, context: OperatorContext) -> None:
        """Take the clock, and begin at the start."""
        self._clock = context.clock
        self._sent = 0

    def snapshot(self) -> int:
        """How many numbers were sent."""
        return self._sent

    def restore(self, state: int) -> None:
        """Go on behind so many numbers."""
        self._sent = state

    def produce(self) -> Iterator[Any] | AsyncIterator[Any]:
        """An iterator, or an asynchronous one when `every` is given."""
        values = self._numbers() if self._batch_rows == 1 else self._batches()
        return values if self._every is None else self._paced(values, self._every)

    def _left(self, most: int) -> int:
        """How many may still be sent, at most so many."""
        return most if self._count is None else min(most, self._count - self._sent)

    def _numbers(self) -> Iterator[int]:
        while self._left(1) > 0:
            self._sent += 1
            yield self._start + self._step * (self._sent - 1)

    def _batches(self) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        while (rows := self._left(self._batch_rows)) > 0:
            numbers = self._start + self._step * np.arange(self._sent, self._sent + rows, dtype=np.int64)
            self._sent += rows
            yield pa.RecordBatch.from_arrays([pa.array(numbers)], names=["value"])

    async def _paced(self, values: Iterator[Any], every: int) -> AsyncIterator[Any]:
        """One value per period; after a delay the following ones come as fast as they are taken, none is left out."""
        assert self._clock is not None, "the runner opens an operator before it asks for values"
        due_ns = self._clock.now_ns()
        for value in values:
            await self._clock.sleep_until(due_ns)
            yield value
            due_ns += every
