"""When a request that failed is made again: as its error allows, inside its deadline, and not by everybody at once.

Rules.
1. An error with effect NONE is repeated, one with effect MAYBE or DONE only where the request may be done twice
   (`idempotent`); none whose `retry` is NEVER, and none that says who may do what, or that there is nobody to ask.
2. The pause before attempt n + 1 is `RETRY_BASE_NS` times 2^(n-1), give or take a half, so that those who failed
   together do not come again together. What the peer says in `retry_after_ns` replaces it, and is never shortened.
3. No attempt begins at or after the deadline of the request, and there are at most `REQUEST_ATTEMPTS_MAX`.
4. Of the requests to one peer one in `RETRY_SHARE` may be a repetition, and a few more at the start: a peer that fails
   for everybody is not asked several times as often for that. (gRPC calls this retry throttling, Finagle a budget.)
"""

from __future__ import annotations

from typing import Final

from flowbridge.errors import AuthError, Effect, FlowbridgeError, NoResponderError, Retry
from flowbridge.limits import REQUEST_ATTEMPTS_MAX, RETRY_BASE_NS, RETRY_BURST, RETRY_SHARE

_SPREAD: Final = 2  # a pause differs by one part in so many from what it would be


def may_repeat(error: Exception, *, idempotent: bool) -> bool:
    """Whether a request that failed like this may be made again (rule 1)."""
    if not isinstance(error, FlowbridgeError) or isinstance(error, AuthError | NoResponderError):
        return False
    return error.retry is not Retry.NEVER and (idempotent or error.effect is Effect.NONE)


class RetryBudget:
    """How many repetitions one peer may still be sent (rule 4)."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = RETRY_BURST * RETRY_SHARE

    def earn(self) -> None:
        """A request was made that is none."""
        if self._parts < RETRY_BURST * RETRY_SHARE:
            self._parts += 1

    def spend(self) -> bool:
        """Whether there may be another repetition now; asking takes it."""
        if self._parts < RETRY_SHARE:
            return False
        self._parts -= RETRY_SHARE
        return True

    @property
    def left(self) -> int:
        """How many repetitions there may be now."""
        return self._parts // RETRY_SHARE

    def __repr__(self) -> str:
        return f"<RetryBudget {self.left} left>"


class Backoff:
    """The attempts of one request (rules 2 and 3)."""

    __slots__ = ("attempt", "deadline_ns")

    def __init__(self, deadline_ns: int) -> None:
        self.attempt = 1
        """The one that is made now."""
        self.deadline_ns: Final = deadline_ns

    def next_ns(self, now_ns: int, retry_after_ns: int | None, chance: float) -> int | None:
        """When to make the next attempt, None when there is none; `chance` is from 0 to 1, at random."""
        if self.attempt >= REQUEST_ATTEMPTS_MAX:
            return None
        pause_ns = RETRY_BASE_NS << (self.attempt - 1) if retry_after_ns is None else max(0, retry_after_ns)
        spread_ns = int(pause_ns * chance)
        at_ns = now_ns + pause_ns + (spread_ns // _SPREAD if retry_after_ns is not None else spread_ns - pause_ns // 2)
        if at_ns >= self.deadline_ns:
            return None
        self.attempt += 1
        return at_ns

    def __repr__(self) -> str:
        return f"<Backoff in attempt {self.attempt}>"
