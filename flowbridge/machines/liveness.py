"""Liveness: when to ask a peer whether it is there, and when its silence means that it is not."""

from __future__ import annotations

import math
from typing import Final

from flowbridge.limits import REST_SUSPECT_RESTS, SUSPECT_BEATS


class Liveness:
    """Looks in every beat, or at rest when the peer has not been heard for `rest_s`; then it is to be asked.

    It needs no word from the peer about its pace: each end asks for itself, any packet is an answer, and silence from
    before a rest was ended is not held against the peer. As one end is heard when it asks, one of two at rest asks for
    both. Times are seconds of any clock that does not go back.
    """

    __slots__ = ("_is_at_rest", "_rest_s", "_woken_at", "beat_s", "due")

    def __init__(self, beat_s: float, rest_s: float) -> None:
        self.due = 0.0
        """When to look again."""
        self.beat_s: Final = beat_s
        self._rest_s: Final = max(beat_s, rest_s)
        self._is_at_rest = False
        self._woken_at = -math.inf

    def look(self, now: float) -> float:
        """Begin a look; returns how many seconds late it is: after more than a beat, what came may not be read yet."""
        late_s = now - self.due
        self.due = now + (self._rest_s if self._is_at_rest else self.beat_s)
        return late_s

    def is_silent(self, now: float, heard_at: float) -> bool:
        """Whether the peer should have been heard by now, as it was asked; at rest it has a whole one to answer in."""
        allowed_s = REST_SUSPECT_RESTS * self._rest_s if self._is_at_rest else SUSPECT_BEATS * self.beat_s
        return now - max(heard_at, self._woken_at) > allowed_s

    def rest(self, now: float, heard_at: float) -> bool:
        """There is nothing to carry: rest, unless a question is not answered yet. True: ask nothing now."""
        if heard_at < self._woken_at:
            return False
        self._is_at_rest = True
        until = heard_at + self._rest_s
        is_heard = until > now + self.beat_s
        self.due = until if is_heard else now + self._rest_s
        return is_heard

    def hurry(self, now: float) -> None:
        """Look in every beat, from now."""
        self._is_at_rest = False
        self.due = now + self.beat_s

    def wake(self, now: float) -> bool:
        """There is something to carry or to find out: whether this ends a rest, so that the peer is to be asked now."""
        if not self._is_at_rest:
            return False
        self._woken_at = now
        self.hurry(now)
        return True

    def __repr__(self) -> str:
        pace = "at rest" if self._is_at_rest else f"every {self.beat_s:g} s"
        return f"<Liveness {pace}, looks next at {self.due:g}>"
