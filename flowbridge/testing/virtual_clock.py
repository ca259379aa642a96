"""A clock on a virtual loop, one for each host: it may be ahead of the others, and go faster or slower."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowbridge.testing.clock import UNIX_START_NS
from flowbridge.testing.virtual_loop import START_NS, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: Final = 1_000_000


class VirtualAlarm:
    """A call that is still to come; see `contracts.Alarm`."""

    __slots__ = ("_callback", "_clock", "_deadline_ns", "_timer")

    def __init__(self, clock: VirtualClock, deadline_ns: int, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._deadline_ns = deadline_ns
        self._callback: Callable[[], None] | None = callback
        self._timer = self._arm()

    def _arm(self) -> asyncio.Handle:
        loop = self._clock.loop
        if self._deadline_ns <= self._clock.now_ns():
            return loop.call_soon(self._come)
        return loop.call_at(self._clock.loop_time_of(self._deadline_ns), self._come)

    def _come(self) -> None:
        if self._clock.now_ns() < self._deadline_ns:  # the division rounded
            self._timer = self._arm()
            return
        callback, self._callback = self._callback, None
        self._clock.forget()
        if callback is not None:
            callback()

    def cancel(self) -> None:
        """Let it not come."""
        if self._callback is not None:
            self._callback = None
            self._timer.cancel()
            self._clock.forget()


class VirtualClock:
    """Reads the virtual loop; see `contracts.Clock`.

    `skew_ns` is how far it is ahead of the loop when the loop starts, `drift_ppm` by how many millionths it is faster.
    """

    def __init__(self, loop: VirtualLoop | None = None, *, skew_ns: int = 0, drift_ppm: int = 0) -> None:
        found = asyncio.get_running_loop() if loop is None else loop
        assert isinstance(found, VirtualLoop), "a virtual clock needs a virtual loop"
        self.loop: Final = found
        self._skew_ns = skew_ns
        self._drift_ppm = drift_ppm
        self._pending = 0

    def now_ns(self) -> int:
        """The loop's time, seen through skew and drift."""
        passed_ns = self.loop.time_ns() - START_NS
        return START_NS + self._skew_ns + passed_ns + passed_ns * self._drift_ppm // PARTS

    def unix_ns(self) -> int:
        """As `now_ns`, from another start."""
        return self.now_ns() - START_NS + UNIX_START_NS

    def loop_time_of(self, deadline_ns: int) -> float:
        """When the loop's `time` has reached a deadline of this clock."""
        passed_ns = deadline_ns - START_NS - self._skew_ns
        return (START_NS + passed_ns * PARTS // (PARTS + self._drift_ppm)) / 1e9

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> VirtualAlarm:
        """Call back once this clock has come there; at the next turn of the loop when that has passed."""
        self._pending += 1
        return VirtualAlarm(self, deadline_ns, callback)

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return once this clock has come there; at once when that has passed."""
        if deadline_ns <= self.now_ns():
            return
        future: asyncio.Future[None] = self.loop.create_future()
        alarm = self.call_at(deadline_ns, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            alarm.cancel()

    def pending(self) -> int:
        """How many deadlines something waits for."""
        return self._pending

    def forget(self) -> None:
        """Count one alarm less."""
        self._pending -= 1

    def __repr__(self) -> str:
        return f"<VirtualClock {self.now_ns()}, {self._pending} pending>"
