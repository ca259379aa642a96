"""Folds log-linear histograms into the fixed bounds that Prometheus wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.time.histogram import Histogram

BOUNDS_NS: Final = (
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000),
    *(1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 30_000_000_000, 60_000_000_000),
)
"""1 us to 60 s. The bounds never change with the data: a moving bound would break every sum over time."""


def fold(histogram: Histogram, bounds: Sequence[int] = BOUNDS_NS) -> list[int]:
    """How many values are at or below each bound, and at last how many there are.

    A fine bucket that a bound cuts counts for the bound above it, so a duration is never shown shorter than it was; a
    value less than 3.2 % below a bound may be counted one bound higher.
    """
    result: list[int] = []
    seen = 0
    place = 0
    for _, high, count in histogram.buckets():
        while place < len(bounds) and bounds[place] < high - 1:
            result.append(seen)
            place += 1
        seen += count
    result.extend([seen] * (len(bounds) - place + 1))
    return result
