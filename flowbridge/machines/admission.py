"""What a sender still sends when its path is too slow for all, and which of its streams goes first.

Serving the earliest deadline first is best while everything can be in time, and worst when it cannot: then all of it is
a little late (Buttazzo, Spuri and Sensini, "Value vs. deadline scheduling in overload conditions", RTSS 1995). So what
would come too late is refused before it takes the place of what would not.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

Rank: TypeAlias = "tuple[int, int]"
"""Urgency, 0 for the most urgent, and deadline in nanoseconds: what is smaller goes first."""

_PART = 4, 5  # of what is left may be spent on waiting to be sent: the rest is for the way, and for being wrong


def admit(size_bytes: int, remaining_ns: int, queued_bytes: int, window_bytes: int, srtt_ns: int) -> bool:
    """Whether a message that has `remaining_ns` left can be sent in time.

    `queued_bytes` go before it, which are those whose rank is not behind its own; the path carries `window_bytes` in
    each smoothed round trip. Behind nothing everything goes that is not late, and so it does while nothing is known of
    the path (`srtt_ns` or `window_bytes` 0): without being used a path never shows that it carries more.
    """
    if remaining_ns <= 0:
        return False
    if not queued_bytes or srtt_ns <= 0 or window_bytes <= 0:
        return True
    part, whole = _PART
    return (queued_bytes + size_bytes) * srtt_ns * whole <= remaining_ns * window_bytes * part


class Pressing:
    """The rank of a stream: that of the most pressing message that waits on it, wherever it stands.

    Messages of a stream are sent in the order in which they were written, so one lifts all before it. Positions are
    bytes from the start of the stream. Only those are kept that may come to be the first: O(1) a message.
    """

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: deque[tuple[int, Rank]] = deque()  # both rise from left to right

    def wrote(self, end: int, rank: Rank) -> None:
        """A message was written, and ends there: behind those before it."""
        ends = self._ends
        while ends and ends[-1][1] >= rank:
            ends.pop()
        ends.append((end, rank))

    def left(self, position: int) -> None:
        """So much of the stream was sent."""
        ends = self._ends
        while ends and ends[0][0] <= position:
            ends.popleft()

    @property
    def rank(self) -> Rank | None:
        """The smallest rank of those that wait; None when none does."""
        return self._ends[0][1] if self._ends else None

    def __len__(self) -> int:
        return len(self._ends)

    def __repr__(self) -> str:
        return f"<Pressing {self.rank}, {len(self._ends)} kept>"
