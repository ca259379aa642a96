"""Liveness: when to ask a peer whether it is there, and when its silence means that it is not."""

from __future__ import annotations

import math
from typing import Final

from flowbridge.limits import SUSPECT_BEATS


class Liveness:
    """Looks once per beat, or later where there is nothing to lose: `rest_s` after the peer was heard.

    It needs no word from the peer about its pace. Each end asks for itself, any packet is an answer, and silence counts
    from when the peer was heard last or, after a rest, from when it was asked. As the question of one end is heard by
    the other, one of two that rest asks for both. Times are seconds of any clock that does not go back.
    """

    __slots__ = ("_asked_since", "_beat_s", "_rest_s", "_woken_at", "due")

    def __init__(self, beat_s: float, rest_s: float) -> None:
        self.due = 0.0
        """When to look again."""
        self._beat_s: Final = beat_s
        self._rest_s: Final = rest_s
        self._asked_since = -math.inf  # silence before that means nothing; while it rests, this is `due`
        self._woken_at = -math.inf

    def begin(self, now: float) -> None:
        """Look after a beat for the first time."""
        self.due = now + self._beat_s

    def look(self, now: float) -> bool:
        """Begin a look, a beat before the next; False when it is so late that what came may not have been read."""
        late_s = now - self.due
        if self._asked_since >= self.due:
            self._asked_since = now
        self.due = now + self._beat_s
        return late_s <= self._beat_s

    def is_silent(self, now: float, heard_at: float) -> bool:
        """Whether a peer that is asked in every beat should have been heard by now."""
        return now - max(heard_at, self._asked_since) > SUSPECT_BEATS * self._beat_s

    def rest(self, heard_at: float) -> bool:
        """There is nothing to carry: whether the peer was heard so lately that it need not be asked; `due` is later."""
        until = heard_at + self._rest_s
        if heard_at < self._woken_at or until <= self.due:
            return False
        self.due = self._asked_since = until
        return True

    def wake(self, now: float) -> bool:
        """There is something to carry or to find out: whether this ends a rest, so that the peer is to be asked now."""
        if self._asked_since <= now:
            return False
        self._asked_since = self._woken_at = now
        self.due = now + self._beat_s
        return True

    def __repr__(self) -> str:
        return f"<Liveness, looks every {self._beat_s:g} s or {self._rest_s:g} s, next at {self.due:g}>"
