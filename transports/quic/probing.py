"""Probing: how often a peer that does not answer is asked, beside the back-off of RFC 9002."""

from __future__ import annotations

import math

from flowbridge.limits import QUIC_PROBE_NS


class Probing:
    """When a PING goes between the probes of an engine, while nothing answers these.

    Section 6.2.1 of the RFC lets the probe timeout double with each of them: after a cut of 12 s the next one may be
    5 s away, and while the window is full of what was lost nothing else is sent. The doubling spares a path that may
    be congested. A packet every `QUIC_PROBE_NS` does not harm one: it is 40 kbit/s at most, never more than one for a
    round trip, and over with the idle timeout. It takes nothing for lost, which the RFC leaves to an answer: where
    the round trip has only become longer, what was sent is not sent again, and the answer says how long it is.

    Times are seconds of one clock. `timeout_s` is the probe timeout without the doubling, None while no probe is
    unanswered, and before the handshake is confirmed: then the address may be dead, or somebody else's.
    """

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = -math.inf  # when the last one of either kind went

    def timer(self, due: float | None, timeout_s: float | None) -> float | None:
        """When to call `asks`, at which time the engine itself wants to be called at `due`."""
        return due if due is None or timeout_s is None else min(due, self._next(timeout_s))

    def asks(self, now: float, timeout_s: float | None, *, has_probed: bool) -> bool:
        """Whether to send a PING now; not when the engine has just sent a probe of its own."""
        if has_probed:
            self._at = now
            return False
        if timeout_s is None or now < self._next(timeout_s):
            return False
        self._at = now
        return True

    def _next(self, timeout_s: float) -> float:
        return self._at + max(QUIC_PROBE_NS / 1e9, timeout_s)
