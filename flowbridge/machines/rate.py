"""Rate: how often something may be done."""

from __future__ import annotations

from typing import Final


class Rate:
    """A bucket of tokens: `per_second` of them come back in a second, and so many or `burst` may be taken at once.

    Times are seconds of any clock that does not go back.
    """

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        """Full at first."""
        self._per_second: Final = per_second
        self._burst: Final = per_second if burst is None else burst
        self._left = float(self._burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take one if there is one; whether there was."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def __repr__(self) -> str:
        return f"<Rate {self._per_second:g} a second, {self._left:g} left>"
