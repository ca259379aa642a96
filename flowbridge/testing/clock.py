"""A clock that a test moves: an hour passes at once, and every deadline in it is kept in order."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Final

from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable

START_NS: Final = 1_000_000_000_000
UNIX_START_NS: Final = 1_700_000_000_000_000_000


class ManualAlarm:
    """A call that is still to come; see `contracts.Alarm`."""

    __slots__ = ("_callback", "deadline_ns", "order")

    def __init__(self, deadline_ns: int, order: int, callback: Callable[[], None]) -> None:
        self.deadline_ns: Final = deadline_ns
        self.order: Final = order
        self._callback: Callable[[], None] | None = callback

    @property
    def over(self) -> bool:
        """Whether it came or was cancelled."""
        return self._callback is None

    def cancel(self) -> None:
        """Let it not come."""
        self._callback = None

    def come(self) -> None:
        """Call back, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def __lt__(self, other: ManualAlarm) -> bool:
        return (self.deadline_ns, self.order) < (other.deadline_ns, other.order)

    def __repr__(self) -> str:
        return f"<ManualAlarm {'over' if self.over else f'at {self.deadline_ns}'}>"


class ManualClock:
    """A clock that stands still until it is told; see `contracts.Clock`. It works with any loop and never waits."""

    def __init__(self, start_ns: int = START_NS, *, unix_start_ns: int = UNIX_START_NS) -> None:
        self._now_ns = start_ns
        self._unix_offset_ns = unix_start_ns - start_ns
        self._alarms: list[ManualAlarm] = []  # a heap
        self._order = 0

    def now_ns(self) -> int:
        """What it was last set to."""
        return self._now_ns

    def unix_ns(self) -> int:
        """As `now_ns`, from another start."""
        return self._now_ns + self._unix_offset_ns

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call back once the clock was moved there; at the next turn of the loop when that has passed."""
        self._order += 1
        alarm = ManualAlarm(deadline_ns, self._order, callback)
        if deadline_ns <= self._now_ns:
            asyncio.get_running_loop().call_soon(alarm.come)
        else:
            heapq.heappush(self._alarms, alarm)
        return alarm

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return once the clock was moved there; at once when that has passed."""
        if deadline_ns <= self._now_ns:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.call_at(deadline_ns, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            alarm.cancel()

    def pending(self) -> tuple[int, ...]:
        """The deadlines that something waits for, soonest first."""
        return tuple(sorted(alarm.deadline_ns for alarm in self._alarms if not alarm.over))

    async def advance(self, by_ns: int) -> None:
        """Let time pass, stopping at each deadline on the way until nothing more happens at that instant.

        What is started on the way and is due before the end is kept too. Raises: ValueError for a negative time.
        """
        if by_ns < 0:
            raise ValueError(f"by_ns must not be negative: {by_ns}")
        await self.set(self._now_ns + by_ns)

    async def set(self, now_ns: int) -> None:
        """Move to an instant, as `advance` does. Raises: ValueError when it has passed."""
        if now_ns < self._now_ns:
            raise ValueError(f"the clock never goes back: it is {self._now_ns}, not {now_ns}")
        await quiet()
        while self._alarms and self._alarms[0].deadline_ns <= now_ns:
            instant_ns = self._alarms[0].deadline_ns
            self._now_ns = max(self._now_ns, instant_ns)
            while self._alarms and self._alarms[0].deadline_ns == instant_ns:
                heapq.heappop(self._alarms).come()
            await quiet()
        if now_ns > self._now_ns:
            self._now_ns = now_ns
            await quiet()

    def __repr__(self) -> str:
        return f"<ManualClock {self._now_ns}, {len(self.pending())} pending>"
