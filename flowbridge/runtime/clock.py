"""The real clock: nanoseconds of the machine, and deadlines that are kept to some tens of microseconds.

The loop's own `call_at` rounds: the selector waits in whole milliseconds, and uvloop's time stands on a grid of one. So
there is one timerfd per loop (timerfd_create(2)), armed for the earliest of a heap of deadlines and read through
`add_reader`. Where the system has none, `call_at` is asked, and asked again when it comes early.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import sys
import time
from typing import TYPE_CHECKING, Final
from weakref import ReferenceType, WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

CANCELLED_MAX: Final = 64
"""So many cancelled deadlines may wait in the heap before they are swept out, when they are most of it."""


class SystemAlarm:
    """A call that is still to come; see `contracts.Alarm`."""

    __slots__ = ("callback", "deadline_ns", "timer")

    # Filled in by `LoopTimer.add`: an `__init__` would cost as much as all the rest of it.
    deadline_ns: int
    callback: Callable[[], None] | None
    """None once it came or was cancelled."""
    timer: LoopTimer

    def cancel(self) -> None:
        """Let it not come."""
        if self.callback is not None:
            self.callback = None
            timer = self.timer
            timer.pending -= 1
            if len(timer.alarms) - timer.pending > CANCELLED_MAX:
                timer.sweep()

    def come(self) -> None:
        """Call back, once."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def __repr__(self) -> str:
        return f"<SystemAlarm {'over' if self.callback is None else f'at {self.deadline_ns}'}>"


class LoopTimer:
    """The alarms of one loop, and what wakes it for the first of them: a timerfd, or `call_at` without one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, precise: bool) -> None:
        self.alarms: list[tuple[int, int, SystemAlarm]] = []  # a heap, by deadline and then order
        self.pending = 0  # how many of them are still to come
        self.closed = False  # whether it can be used no more
        self._order = 0
        self._armed_ns = 0  # what the wake-up is set to; 0: it is not
        self._handle: asyncio.TimerHandle | None = None
        self._fd = _timerfd() if precise else -1
        if self._fd >= 0:
            loop.add_reader(self._fd, self._due)
            # The loop closes its asynchronous generators when it ends; that is how the descriptor is closed with it.
            self._guard = self._close_with_loop()
            with contextlib.suppress(StopIteration):
                self._guard.__anext__().send(None)

    async def _close_with_loop(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self.close()

    def add(self, deadline_ns: int, callback: Callable[[], None]) -> SystemAlarm:
        """Call back from the loop at a deadline; at its next turn when that has passed."""
        order = self._order = self._order + 1
        self.pending += 1
        alarm = SystemAlarm()
        alarm.deadline_ns = deadline_ns
        alarm.callback = callback
        alarm.timer = self
        alarms = self.alarms
        heapq.heappush(alarms, (deadline_ns, order, alarm))
        if alarms[0][2] is alarm:
            self._arm(deadline_ns)
        return alarm

    def sweep(self) -> None:
        """Throw the cancelled alarms out, when they are most."""
        if len(self.alarms) > 2 * self.pending:
            self.alarms = [entry for entry in self.alarms if entry[2].callback is not None]
            heapq.heapify(self.alarms)

    def _arm(self, deadline_ns: int) -> None:
        self._armed_ns = deadline_ns
        if self._fd >= 0:
            _settime(self._fd, max(deadline_ns, 1))  # 0 would disarm
            return
        if self._handle is not None:
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(max(deadline_ns - time.monotonic_ns(), 0) / 1e9, self._due)

    def _due(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):  # armed anew since it became readable
                os.read(self._fd, 8)
        # What is added by a callback waits for the next turn, so that a callback cannot keep the loop for itself.
        last = self._order
        now_ns = time.monotonic_ns()
        try:
            while self.alarms and self.alarms[0][0] <= now_ns and self.alarms[0][1] <= last:
                alarm = heapq.heappop(self.alarms)[2]
                if alarm.callback is not None:
                    self.pending -= 1
                    alarm.come()
        finally:  # a callback that raises is the loop's to report; the rest comes in the next turn
            while self.alarms and self.alarms[0][2].callback is None:
                heapq.heappop(self.alarms)
            if self.alarms and not self.closed:
                self._arm(self.alarms[0][0])

    def close(self) -> None:
        """Close the descriptor; what is still to come does not."""
        self.closed = True
        fd, self._fd = self._fd, -1
        self.alarms.clear()
        self.pending = 0
        if self._handle is not None:
            self._handle.cancel()
        if fd >= 0:
            with contextlib.suppress(RuntimeError):  # no loop runs: then there is no reader to remove either
                asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class SystemClock:
    """The clock of this machine; see `contracts.Clock`. One object serves every loop of the process."""

    def __init__(self, *, precise: bool = True) -> None:
        self._precise = precise and _timerfd_exists()
        # Weak both ways: the loop holds its timer (as a reader or a handle), and the timer holds the loop.
        self._timers: WeakKeyDictionary[asyncio.AbstractEventLoop, ReferenceType[LoopTimer]] = WeakKeyDictionary()

        self._last: tuple[Callable[[], asyncio.AbstractEventLoop | None], Callable[[], LoopTimer | None]]
        self._last = _nothing, _nothing  # who asked last, which is nearly always who asks next

    # The builtins themselves: these are asked several times per message.
    now_ns = staticmethod(time.monotonic_ns)
    unix_ns = staticmethod(time.time_ns)

    def _timer(self) -> LoopTimer:
        loop = asyncio.get_running_loop()
        known = self._timers.get(loop)
        timer = None if known is None else known()
        if timer is None or timer.closed:
            timer = LoopTimer(loop, precise=self._precise)
            self._timers[loop] = ReferenceType(timer)
        self._last = ReferenceType(loop), ReferenceType(timer)
        return timer

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> SystemAlarm:
        """Call back on the running loop once `now_ns() >= deadline_ns`."""
        last_loop, last_timer = self._last
        if last_loop() is asyncio.get_running_loop() and (timer := last_timer()) is not None and not timer.closed:
            return timer.add(deadline_ns, callback)
        return self._timer().add(deadline_ns, callback)

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return once `now_ns() >= deadline_ns`."""
        if deadline_ns <= time.monotonic_ns():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.call_at(deadline_ns, lambda: _wake(future))
        try:
            await future
        finally:
            alarm.cancel()

    def pending(self) -> int:
        """How many deadlines the running loop waits for."""
        known = self._timers.get(asyncio.get_running_loop())
        timer = None if known is None else known()
        return 0 if timer is None else timer.pending

    def close(self) -> None:
        """Close what the running loop holds; not needed where the loop is ended by `asyncio.run`."""
        known = self._timers.pop(asyncio.get_running_loop(), None)
        timer = None if known is None else known()
        if timer is not None:
            timer.close()

    def __repr__(self) -> str:
        return f"<SystemClock {'timerfd' if self._precise else 'call_at'}>"


def _nothing() -> None:
    """The reference to something that is gone."""


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


if sys.version_info >= (3, 13) and sys.platform == "linux":

    def _timerfd_exists() -> bool:
        return True

    def _timerfd() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _settime(fd: int, deadline_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline_ns)

else:
    from flowbridge.runtime.timerfd import exists as _timerfd_exists
    from flowbridge.runtime.timerfd import open_timerfd as _timerfd
    from flowbridge.runtime.timerfd import settime as _settime
