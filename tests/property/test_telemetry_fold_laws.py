"""Folding never loses a value and never shows a duration shorter than it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.telemetry.fold import BOUNDS_NS, fold
from flowbridge.time.histogram import Histogram

VALUES = st.lists(
    st.one_of(st.integers(0, 2**62), st.sampled_from(BOUNDS_NS), st.sampled_from(BOUNDS_NS).map(lambda b: b + 1)),
    max_size=60,
)


@given(VALUES)
def test_folded_counts_stay_between_the_exact_ones(values: list[int]) -> None:
    histogram = Histogram()
    histogram.extend(values)
    counts = fold(histogram)
    assert len(counts) == len(BOUNDS_NS) + 1
    assert counts == sorted(counts)
    assert counts[-1] == len(values)
    for bound, count in zip(BOUNDS_NS, counts, strict=False):
        exact = sum(value <= bound for value in values)
        surely = sum(value <= bound * (1 - 1 / 32) for value in values)
        assert surely <= count <= exact


@given(VALUES, VALUES)
def test_a_copy_is_equal_and_apart(values: list[int], later: list[int]) -> None:
    histogram = Histogram()
    histogram.extend(values)
    if len(values) % 2:
        histogram.flush()
    twin = histogram.copy()
    histogram.extend(later)
    histogram.flush()
    assert twin.count == len(values)
    assert twin.sum == sum(values)
    assert twin.max == max(values, default=0)
    assert fold(twin)[-1] == len(values)
    assert histogram.count == len(values) + len(later)
