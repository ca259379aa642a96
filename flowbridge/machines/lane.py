"""Whose turn it is: the most urgent lane that has work, but no lane is passed over for ever.

Rule: a lane that was passed over `STARVATION_TURNS_MAX` times while it had work gets the next turn.
"""

from __future__ import annotations

from flowbridge.limits import LANES, STARVATION_TURNS_MAX


def lanes_in(mask: int) -> tuple[int, ...]:
    """The lanes whose bits are set, most urgent first."""
    return _LANES_IN[mask]


_LANES_IN = tuple(tuple(lane for lane in range(LANES) if mask >> lane & 1) for mask in range(1 << LANES))


class LaneTurns:
    """Chooses a lane for each turn; time plays no part."""

    __slots__ = ("_passed",)

    def __init__(self) -> None:
        self._passed = [0] * LANES

    def choose(self, mask: int) -> int:
        """The lane of this turn, out of those whose bits are set in `mask` (not 0)."""
        waiting = _LANES_IN[mask]
        first = waiting[0]
        passed = self._passed
        if len(waiting) == 1:
            passed[first] = 0
            return first
        for lane in reversed(waiting):
            if passed[lane] >= STARVATION_TURNS_MAX:
                first = lane
                break
        for lane in waiting:
            passed[lane] += 1
        passed[first] = 0
        return first
