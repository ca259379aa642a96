"""Clocks with one bug each. The docstring says which."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.testing.clock import ManualAlarm, ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable


class Early(ManualClock):
    """Everything comes one nanosecond early."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        return super().call_at(deadline_ns - 1, callback)


class GoesBack(ManualClock):
    """Every hundredth look is a nanosecond before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def now_ns(self) -> int:
        self.looks += 1
        return super().now_ns() - (self.looks % 100 == 0)


class StandsStill(ManualClock):
    """Time passes unseen."""

    async def set(self, now_ns: int) -> None:
        before_ns = self._now_ns
        await super().set(now_ns)
        self._now_ns = before_ns


class WaitsForThePast(ManualClock):
    """A past deadline is waited for."""

    async def sleep_until(self, deadline_ns: int) -> None:
        await super().sleep_until(max(deadline_ns, self._now_ns + 1))


class LastFirst(ManualClock):
    """Equal deadlines come in the wrong order."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        self._order -= 2
        return super().call_at(deadline_ns, callback)


class InTheOrderAsked(ManualClock):
    """Deadlines come in the order they were asked for."""

    async def set(self, now_ns: int) -> None:
        due = [alarm for alarm in self._alarms if alarm.deadline_ns <= now_ns + 10**7]
        if len(due) > 4:
            await super().set(max(alarm.deadline_ns for alarm in due))
        await super().set(max(now_ns, self._now_ns))

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        latest = max([deadline_ns, *(alarm.deadline_ns for alarm in self._alarms if alarm.deadline_ns < 10**14)])
        return super().call_at(latest if deadline_ns > self._now_ns else deadline_ns, callback)


class RemembersTheCancelled(ManualClock):
    """A cancelled sleep stays pending."""

    async def sleep_until(self, deadline_ns: int) -> None:
        if deadline_ns > self._now_ns:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.call_at(deadline_ns, lambda: None if future.done() else future.set_result(None))
            await future


class CallsAtOnce(ManualClock):
    """A past deadline is called from within."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        if deadline_ns <= self._now_ns:
            callback()
            return ManualAlarm(deadline_ns, 0, lambda: None)
        return super().call_at(deadline_ns, callback)


class CannotCancel(ManualClock):
    """A cancelled alarm comes."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        super().call_at(deadline_ns, callback)
        return ManualAlarm(deadline_ns, 0, callback)


class ForgetsThePast(ManualClock):
    """An alarm for the past never comes."""

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> ManualAlarm:
        if deadline_ns <= self._now_ns:
            return ManualAlarm(deadline_ns, 0, callback)
        return super().call_at(deadline_ns, callback)
