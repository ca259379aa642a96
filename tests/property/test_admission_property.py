"""Laws of admission, and the rank of a stream against a list of all that waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.machines.admission import Pressing, Rank, admit

SIZES = st.integers(0, 2**40)
TIMES = st.integers(-(10**12), 10**12)
RANKS = st.tuples(st.integers(0, 4), st.integers(0, 5))


@given(SIZES, TIMES, SIZES, SIZES, st.integers(0, 10**11))
def test_less_to_send_and_more_time_never_lose_admission(
    size: int, remaining: int, queued: int, window: int, srtt: int
) -> None:
    if admit(size, remaining, queued, window, srtt):
        assert admit(size // 2, remaining, queued, window, srtt)
        assert admit(size, remaining + 1_000, queued, window, srtt)
        assert admit(size, remaining, queued // 2, window, srtt)
        if window:
            assert admit(size, remaining, queued, window * 2, srtt)
        assert admit(size, remaining, queued, window, srtt // 2)


@given(SIZES, st.integers(1, 10**12), st.integers(1, 2**40), st.integers(1, 2**40), st.integers(1, 10**11))
def test_it_is_admitted_exactly_when_sending_takes_at_most_four_fifths_of_the_time(
    size: int, remaining: int, queued: int, window: int, srtt: int
) -> None:
    assert admit(size, remaining, queued, window, srtt) == (5 * (queued + size) * srtt <= 4 * remaining * window)


@given(st.lists(st.one_of(st.tuples(st.integers(1, 100), RANKS), st.integers(0, 300))))
def test_the_rank_is_the_least_of_all_that_waits(steps: list[tuple[int, Rank] | int]) -> None:
    stream, waiting, end, gone = Pressing(), list[tuple[int, Rank]](), 0, 0
    for step in steps:
        if isinstance(step, int):
            gone = min(gone + step, end)
            stream.left(gone)
            waiting = [entry for entry in waiting if entry[0] > gone]
        else:
            end += step[0]
            stream.wrote(end, step[1])
            waiting.append((end, step[1]))
        assert stream.rank == min((rank for _, rank in waiting), default=None)
        assert len(stream) <= len(waiting)
