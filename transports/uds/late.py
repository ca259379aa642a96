"""LateWatch: finds what a sleeping end of a ring was not woken for, so that a lost wake-up costs time and shows."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

from flowbridge.limits import RING_LOOK_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.time.ledger import EdgeBooks


class LateWatch:
    """Looks at one end of a ring every `RING_LOOK_NS`; the counterpart of the bounded sleeps of the blocking calls.

    `look()` takes in what is there, if the end sleeps, and returns whether that was anything. The peer publishes before
    it wakes, so the wake-up may just be on its way: only when none has come by the next look, `late()` is called. That
    is so when a wake-up was lost, and also when the peer stood still for that long between the two.
    """

    def __init__(self, descriptor: int, look: Callable[[], bool], late: Callable[[], None]) -> None:
        self._look = look
        self._late = late
        self._is_suspect = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(RING_LOOK_NS / 1e9, self._tick)

    def woken(self) -> None:
        """A wake-up came."""
        self._is_suspect = False

    def _tick(self) -> None:
        if self._is_suspect and not self._poll.poll(0):  # uvloop may run a timer before it reads what has come
            self._late()
        self._is_suspect = False
        self._timer = self._loop.call_later(RING_LOOK_NS / 1e9, self._tick)
        self._is_suspect = self._look()

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def note_late(notes: EdgeBooks) -> None:
    """Count one in an edge's books."""
    notes.late_wakes += 1
