"""Histograms, by example; the property tests compare with sorted lists."""

from __future__ import annotations

from flowbridge.time.histogram import VECTOR_MIN, Histogram


def test_an_empty_histogram_has_no_percentiles() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.sum, histogram.max) == (0, 0, 0)
    assert histogram.percentile(0.5) is None
    assert list(histogram.buckets()) == []
    histogram.merge(Histogram())
    assert histogram.count == 0


def test_small_values_are_exact() -> None:
    histogram = Histogram()
    histogram.extend(range(1, 21))
    assert [histogram.percentile(fraction) for fraction in (0, 0.05, 0.5, 0.95, 0.951, 1)] == [1, 1, 10, 19, 20, 20]


def test_a_negative_value_counts_as_zero_however_many_there_are() -> None:
    few, many = Histogram(), Histogram()
    few.extend([-3, 5])
    many.extend([-3, 5] * VECTOR_MIN)
    for histogram in (few, many):
        assert (histogram.percentile(0), histogram.percentile(1), histogram.max) == (0, 5, 5)
    assert (few.sum, many.sum) == (5, 5 * VECTOR_MIN)


def test_the_sum_of_very_large_values_does_not_overflow() -> None:
    histogram = Histogram()
    histogram.extend([2**62] * VECTOR_MIN)
    assert histogram.sum == 2**62 * VECTOR_MIN
    assert histogram.percentile(0.5) == 2**62


def test_values_pending_in_another_histogram_are_merged_too() -> None:
    one, other = Histogram(), Histogram()
    one.pending.append(1)
    other.pending.append(3)
    one.merge(other)
    assert (one.count, one.sum, other.count) == (2, 4, 1)
    one.merge(one)
    assert (one.count, one.sum, one.max) == (4, 8, 3)


def test_a_copy_goes_its_own_way() -> None:
    one = Histogram()
    one.extend([5, 6])
    other = one.copy()
    one.record(100)
    other.record(7)
    assert (one.count, one.max, other.count, other.max, other.sum) == (3, 100, 3, 7, 18)
