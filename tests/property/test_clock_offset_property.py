"""What is known of a peer's clock is true within what is said of it, however clocks drift and networks delay."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.testing.clock import ManualClock
from flowbridge.time.far import FarTimes
from flowbridge.time.offset import DRIFT_PPM, ClockOffset

SECOND: Final = 10**9
START: Final = 40 * 24 * 3600 * SECOND
DELAY = st.integers(0, SECOND // 2)
EXCHANGES = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), DELAY, st.integers(0, SECOND // 10), DELAY), min_size=1, max_size=40
)
SKEW = st.integers(-START // 2, START // 2)
DRIFT = st.integers(-DRIFT_PPM, DRIFT_PPM)


class Peer:
    """A clock that is some time off and goes a little faster or slower than ours."""

    def __init__(self, skew_ns: int, drift_ppm: int) -> None:
        self.skew_ns = skew_ns
        self.drift_ppm = drift_ppm

    def at(self, ours_ns: int) -> int:
        """What it shows when ours shows this."""
        return ours_ns + self.skew_ns + (ours_ns - START) * self.drift_ppm // 1_000_000


def learned(peer: Peer, exchanges: list[tuple[int, int, int, int]]) -> tuple[ClockOffset, int]:
    """An offset after some exchanges, and when the last was over."""
    offset = ClockOffset()
    now = START
    for pause, there, stay, back in exchanges:
        t1 = now + pause
        t2, t3 = t1 + there, t1 + there + stay
        now = t3 + back
        offset.add(t1, peer.at(t2), peer.at(t3), now)
    return offset, now


@given(SKEW, DRIFT, EXCHANGES, st.integers(0, 600 * SECOND))
def test_the_offset_is_within_its_error(
    skew_ns: int, drift_ppm: int, exchanges: list[tuple[int, int, int, int]], later_ns: int
) -> None:
    peer = Peer(skew_ns, drift_ppm)
    offset, now = learned(peer, exchanges)
    now += later_ns
    best = offset.best()
    if best is None:  # so short a way that the drift made it negative
        assert all(there + back <= 10_000 + stay * DRIFT_PPM for _, there, stay, back in exchanges)
        return
    assert abs(best.theta_ns - (peer.at(now) - now)) <= best.error_ns(now)


@given(SKEW, DRIFT, EXCHANGES, st.integers(1, 30 * SECOND), st.integers(0, 60 * SECOND))
def test_a_deadline_that_crosses_is_off_by_no_more_than_a_quarter_or_comes_later(
    skew_ns: int, drift_ppm: int, exchanges: list[tuple[int, int, int, int]], left_ns: int, way_ns: int
) -> None:
    peer = Peer(skew_ns, drift_ppm)
    offset, now = learned(peer, exchanges)
    best = offset.best()
    sent_ns = now
    wire = Envelope(b"", 2, left_ns, 0, peer.at(sent_ns))
    FarTimes(ManualClock(now + way_ns), offset).arrived(wire)
    true_ns = sent_ns + left_ns
    error_ns = SECOND if best is None else best.error_ns(now + way_ns)
    assert wire.deadline_ns >= now + way_ns  # never before it arrived
    assert wire.deadline_ns >= min(true_ns, now + way_ns + left_ns) - max(left_ns // 4, offset.srtt_ns // 2) - 1
    assert wire.deadline_ns <= max(true_ns + 2 * error_ns, now + way_ns)
    assert wire.deadline_ns < NO_DEADLINE
