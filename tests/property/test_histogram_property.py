"""Histogram against a sorted list."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowbridge.time.histogram import BUCKETS, PENDING_MAX, VECTOR_MIN, Histogram, bounds_of, bucket_of

VALUE_MAX: Final = 2**62
EDGES: Final = sorted({max(0, 2**power + step) for power in range(63) for step in (-1, 0, 1)} - {2**62 + 1})
VALUE = st.one_of(st.integers(0, 2_000), st.integers(0, VALUE_MAX), st.sampled_from(EDGES))
FRACTION = st.one_of(
    st.integers(0, 1_000).map(lambda n: n / 1_000),
    st.integers(0, 10_000).map(lambda n: n / 10_000),
    st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]),
)


def exact(values: list[int], fraction: float) -> int:
    """The smallest value such that at least `fraction`, read as a decimal number, of all are at or below it."""
    rank = -(-Fraction(repr(fraction)) * len(values) // 1)
    return sorted(values)[max(1, int(rank)) - 1]


def content(histogram: Histogram) -> tuple[object, ...]:
    """Everything a histogram knows."""
    ends = (histogram.percentile(0), histogram.percentile(1))
    return histogram.count, histogram.sum, histogram.max, ends, list(histogram.buckets())


@given(st.lists(VALUE, min_size=1, max_size=200), st.lists(FRACTION, min_size=1, max_size=8))
def test_a_percentile_is_within_3_2_percent_and_inside_what_was_recorded(
    values: list[int], fractions: list[float]
) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    for fraction in fractions:
        found, wanted = histogram.percentile(fraction), exact(values, fraction)
        assert found is not None
        assert min(values) <= found <= max(values)
        assert abs(found - wanted) * 1_000 <= wanted * 32
        assert bucket_of(found) == bucket_of(wanted)


@example(100, 0.07)
@example(1_000, 0.057)
@example(20, 0.95)
@given(st.one_of(st.integers(1, 3_000), st.sampled_from([100, 200, 1_000, 3_000])), FRACTION)
def test_the_rank_of_a_percentile_is_exact(total: int, fraction: float) -> None:
    """One value in each of the 32 exact buckets would be too few, so a step is put right at the wanted rank."""
    rank = max(1, int(-(-Fraction(repr(fraction)) * total // 1)))
    at_rank, below = Histogram(), Histogram()
    at_rank.extend([0] * (rank - 1) + [1] * (total - rank + 1))
    below.extend([0] * rank + [1] * (total - rank))
    assert at_rank.percentile(fraction) == 1
    assert below.percentile(fraction) == 0


@settings(deadline=None)
@given(parts=st.lists(st.lists(VALUE, max_size=40), max_size=6), look=st.booleans())
def test_merging_equals_recording_all(*, parts: list[list[int]], look: bool) -> None:
    merged, whole = Histogram(), Histogram()
    for part in parts:
        other = Histogram()
        other.extend(part)
        if look:
            assert other.count == len(part)
        merged.merge(other)
        whole.extend(part)
    assert content(merged) == content(whole)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(VALUE, st.integers(-5, -1)), min_size=1, max_size=60))
def test_many_at_once_equal_one_at_a_time(values: list[int]) -> None:
    many = (values * (VECTOR_MIN // len(values) + 1))[: VECTOR_MIN + 3]
    at_once, one_by_one = Histogram(), Histogram()
    at_once.extend(many)
    at_once.flush()
    for value in many:
        one_by_one.pending.append(value)
        one_by_one.flush()
    assert content(at_once) == content(one_by_one)
    assert at_once.sum == sum(max(0, value) for value in many)


def test_many_at_once_equal_one_at_a_time_at_every_power_of_two() -> None:
    assert len(EDGES) < VECTOR_MIN
    for value in EDGES:
        at_once, one_by_one = Histogram(), Histogram()
        at_once.extend([value] * VECTOR_MIN)
        for _ in range(VECTOR_MIN):
            one_by_one.pending.append(value)
            one_by_one.flush()
        assert content(at_once) == content(one_by_one), value


@given(st.integers(0, 2**63 - 1))
def test_each_value_lies_in_its_bucket(value: int) -> None:
    bucket = bucket_of(value)
    low, high = bounds_of(bucket)
    assert low <= value < high
    assert 0 <= bucket < BUCKETS
    assert (high - low - 1) * 32 <= low


def test_the_buckets_leave_no_gap_and_do_not_overlap() -> None:
    bounds = [bounds_of(bucket) for bucket in range(BUCKETS)]
    assert [low for low, _ in bounds[1:]] == [high for _, high in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, 2**63)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUE, st.sampled_from(["", "count", "percentile", "buckets", "settle"])), max_size=80))
def test_looking_while_recording_changes_nothing(steps: list[tuple[int, str]]) -> None:
    histogram = Histogram()
    seen: list[int] = []
    for value, look in steps:
        histogram.pending.append(value)
        seen.append(value)
        if look == "count":
            assert histogram.count == len(seen)
        elif look == "percentile":
            assert histogram.percentile(0.5) is not None
        elif look == "buckets":
            buckets = histogram.buckets()
            next(buckets)
            histogram.record(value)  # in the middle of an iteration
            seen.append(value)
            assert sum(count for _, _, count in buckets) <= len(seen)
        elif look == "settle":
            histogram.settle()
    assert (histogram.count, histogram.sum, histogram.max) == (len(seen), sum(seen), max(seen, default=0))


def test_what_is_pending_is_bounded() -> None:
    histogram = Histogram()
    for number in range(3 * PENDING_MAX):
        histogram.record(number)
        assert len(histogram.pending) < PENDING_MAX
    assert histogram.count == 3 * PENDING_MAX
