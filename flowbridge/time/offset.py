"""What a peer's monotonic clock shows, seen from here.

Four instants of one exchange tell it (RFC 5905, section 8): t1 when we asked and t4 when the answer came, by our clock;
t2 when the question came and t3 when the answer left, by the peer's.

    theta = ((t2 - t1) + (t3 - t4)) / 2         the peer's clock less ours
    rtt   = (t4 - t1) - (t3 - t2)

The true offset lies within rtt / 2 of theta, whatever part of the time each way took. From t1 on the clocks may drift
apart, so a sample is worth less the older it is.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

SAMPLES: Final = 16
DRIFT_PPM: Final = 200
"""How fast two clocks may drift apart, in millionths: twice what a computer's clock is off at worst."""
_ROUNDING_NS: Final = 4  # four instants, each cut to a nanosecond
_SMOOTHING: Final = 8  # the weight of the newest round trip is 1/8 (RFC 9002, section 5.3)


class Sample(NamedTuple):
    """One exchange: its offset and round trip, and when it began by our clock."""

    theta_ns: int
    rtt_ns: int
    since_ns: int

    def error_ns(self, now_ns: int) -> int:
        """By how much `theta_ns` may be off now."""
        return self.rtt_ns // 2 + (now_ns - self.since_ns) * DRIFT_PPM // 1_000_000 + _ROUNDING_NS


class ClockOffset:
    """The offset of one peer's clock, from the best of the last `SAMPLES` exchanges."""

    __slots__ = ("_assumed", "_best", "_samples", "srtt_ns")

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._assumed: Sample | None = None
        self._best: Sample | None = None
        self.srtt_ns = 0
        """The smoothed round trip; 0 before the first sample."""

    def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> bool:
        """Take in an exchange; False, and it is not used, when its instants cannot be."""
        rtt_ns = (t4_ns - t1_ns) - (t3_ns - t2_ns)
        if t4_ns < t1_ns or t3_ns < t2_ns or rtt_ns < 0:
            return False
        theta_ns = ((t2_ns - t1_ns) + (t3_ns - t4_ns)) // 2
        self._samples.append(Sample(theta_ns, rtt_ns, t1_ns))
        # All of them are worth less by as much with time, so the best one is so until the next comes.
        self._best = min(self._samples, key=lambda sample: sample.error_ns(t4_ns))
        self.srtt_ns += (rtt_ns - self.srtt_ns) // _SMOOTHING if self.srtt_ns else rtt_ns
        return True

    def assume(self, peer_ns: int, own_ns: int) -> None:
        """What the peer's clock showed a moment before ours: good enough until the first exchange."""
        self._assumed = Sample(peer_ns - own_ns, 0, own_ns)

    def best(self) -> Sample | None:
        """The sample that can be off by the least; what was assumed before the first, or None.

        While samples are fresh that is the one with the shortest round trip.
        """
        return self._best or self._assumed

    def reset(self) -> None:
        """Forget all: it is another clock now."""
        self._samples.clear()
        self._assumed = self._best = None
        self.srtt_ns = 0

    def __repr__(self) -> str:
        return f"<ClockOffset {len(self._samples)} samples, round trip {self.srtt_ns / 1e6:.3f} ms>"
