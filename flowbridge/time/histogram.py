"""Log-linear histograms of durations: 32 buckets per power of two, so a percentile is right within 3.2 %.

Recording is one list append; the buckets are filled when somebody looks or when `PENDING_MAX` values wait. The layout
is the same everywhere, so merging is adding. (HdrHistogram's idea: https://hdrhistogram.org.)
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUB_BITS: Final = 5
SUBS: Final = 1 << SUB_BITS
BUCKETS: Final = (64 - SUB_BITS) * SUBS
PENDING_MAX: Final = 4_096
VECTOR_MIN: Final = 512  # from so many values on numpy is quicker than a loop, once it is loaded


def bucket_of(value: int) -> int:
    """The bucket of a value of 0..2**63-1; values below 32 have one each."""
    if value < SUBS:
        return max(value, 0)
    shift = value.bit_length() - 1 - SUB_BITS
    return (shift << SUB_BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """The lowest value of a bucket and the lowest of the next."""
    if bucket < SUBS:
        return bucket, bucket + 1
    shift = (bucket >> SUB_BITS) - 1
    low = ((bucket & (SUBS - 1)) + SUBS) << shift
    return low, low + (1 << shift)


def _tally(values: list[int]) -> tuple[int, int, int, list[tuple[int, int]]]:
    """(sum, min, max, [(bucket, count)]) of many values at once; the arithmetic of `bucket_of` on arrays."""
    import numpy as np

    array = np.maximum(np.array(values, dtype=np.int64), 0)
    # frexp's exponent of v is v.bit_length(). Above 2**53 a v just below a power of two may be rounded up to it: then
    # the shift is one too large and v >> shift is SUBS - 1, which names the same bucket.
    shift = np.maximum(np.frexp(array.astype(np.float64))[1].astype(np.int64) - 1 - SUB_BITS, 0)
    counts = np.bincount((shift << SUB_BITS) + (array >> shift))
    found = np.nonzero(counts)[0]
    counted = list(zip(found.tolist(), counts[found].tolist(), strict=True))
    high = int(array.max())
    total = int(array.sum()) if high * len(values) < 1 << 63 else sum(array.tolist())
    return total, int(array.min()), high, counted


class Histogram:
    """A distribution of non-negative integers (nanoseconds, here)."""

    __slots__ = ("_counts", "_max", "_min", "_sum", "pending")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._sum = 0
        self._min: int | None = None
        self._max = 0
        self.pending: list[int] = []
        """Values not yet sorted into buckets. A hot loop may extend it and then call `settle`."""

    def record(self, value: int) -> None:
        """Add one value; a negative one counts as 0."""
        self.pending.append(value)
        self.settle()

    def extend(self, values: Iterable[int]) -> None:
        """Add many values at once."""
        self.pending.extend(values)
        self.settle()

    def settle(self) -> None:
        """Call after extending `pending` by hand: sort it into buckets when there is enough of it."""
        if len(self.pending) >= PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Sort what is pending into buckets."""
        values = self.pending
        if not values:
            return
        self.pending = []
        if len(values) >= VECTOR_MIN:
            total, low, high, counted = _tally(values)
        else:
            values = [max(value, 0) for value in values]
            total, low, high = sum(values), min(values), max(values)
            counted = [(bucket_of(value), 1) for value in values]
        self._sum += total
        self._min = low if self._min is None else min(self._min, low)
        self._max = max(self._max, high)
        counts = self._counts
        for bucket, count in counted:
            counts[bucket] = counts.get(bucket, 0) + count

    def merge(self, other: Histogram) -> None:
        """Add every value of another histogram."""
        self.flush()
        other.flush()
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self._sum += other._sum
        self._max = max(self._max, other._max)
        if other._min is not None:
            self._min = other._min if self._min is None else min(self._min, other._min)

    def to_plain(self) -> list[Any]:
        """``[sum, min or None, max, [bucket, count, bucket, count ...]]``: what travels between processes."""
        self.flush()
        return [self._sum, self._min, self._max, list(chain.from_iterable(self._counts.items()))]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> Histogram:
        """What `to_plain` gave. Raises: ValueError, TypeError when it did not."""
        made = cls()
        total, low, high, flat = plain
        counts = {int(bucket): int(count) for bucket, count in zip(flat[::2], flat[1::2], strict=True)}
        if any(not 0 <= bucket < BUCKETS or count < 1 for bucket, count in counts.items()):
            raise ValueError("a histogram has a bucket that there is not, or an empty one")
        if (low is None) != (not counts) or min(int(total), int(high), int(low or 0)) < 0:
            raise ValueError("a histogram's sum, minimum and maximum do not fit its buckets")
        made._sum, made._min, made._max = int(total), None if low is None else int(low), int(high)
        made._counts = counts
        return made

    def copy(self) -> Histogram:
        """The same values, apart from this one. Sorts nothing, so it is cheap for the thread that records."""
        twin = Histogram()
        twin._counts = self._counts.copy()
        twin._sum, twin._min, twin._max = self._sum, self._min, self._max
        twin.pending = self.pending.copy()
        return twin

    @property
    def count(self) -> int:
        """How many values."""
        self.flush()
        return sum(self._counts.values())

    @property
    def sum(self) -> int:
        """Their sum."""
        self.flush()
        return self._sum

    @property
    def max(self) -> int:
        """The largest, exactly; 0 when empty."""
        self.flush()
        return self._max

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """(low, high, count) of every bucket in use, ascending; high is exclusive."""
        self.flush()
        for bucket in sorted(self._counts):
            low, high = bounds_of(bucket)
            yield low, high, self._counts[bucket]

    def percentile(self, fraction: float) -> int | None:
        """The value below or at which `fraction` (0..1) of the values lie, within 3.2 %; None when empty.

        The answer never lies outside the values recorded.
        """
        total = self.count
        if total == 0:
            return None
        rank = max(1, -(-int(fraction * total * 1_000_000) // 1_000_000))
        seen = 0
        for low, high, count in self.buckets():
            seen += count
            if seen >= rank:
                middle = (low + high - 1) // 2
                return min(max(middle, self._min or 0), self._max)
        return self._max
