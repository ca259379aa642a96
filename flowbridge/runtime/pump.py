"""Pump: lets a node wait for its ring itself instead of sleeping on the event loop.

A message that wakes an event loop costs a dozen calls before the operator sees it. A synchronous operator that has a
process for itself needs none of them: whatever else that process does (its host's orders, reports, snapshots) may
wait for a moment. So the node keeps the thread of the loop and blocks on its ring, and gives the loop a turn once in
`SLICE_NS_MAX`, as long as messages come quickly. After a pause of `PAUSE_NS_MAX` it sleeps on the loop like any other.

There is one thread, as before: nothing here needs a lock, and every rule of the runner holds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.contracts import BlockingSink, BlockingSource
from flowbridge.limits import PAUSE_NS_MAX, SLICE_NS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.runtime.inlet import Inlet
    from flowbridge.runtime.outlet import Outlet


class Pump:
    """The waiting of one node; made by `pump_for`."""

    def __init__(self, clock: Clock, source: BlockingSource, sinks: Sequence[BlockingSink]) -> None:
        self._now_ns = clock.now_ns
        self._source = source
        self._sinks = tuple(sinks)
        self._due_ns = 0  # when the loop has its next turn
        self._paused_ns = 0  # when the node last had nothing to do
        self._is_brisk = False  # the last pause was short
        self._is_kept = False  # the source was not left to the loop

    def keeps(self) -> bool:
        """Bring what has arrived and go on without the loop; False when it is to have its turn now."""
        now_ns = self._now_ns()
        if not self._is_brisk or now_ns >= self._due_ns or self._needs_loop():
            self._due_ns = now_ns + SLICE_NS_MAX
            return False
        self._is_kept = True
        self._source.wait_blocking(0)
        return True

    def _needs_loop(self) -> bool:
        for sink in self._sinks:  # a loop, as a generator would cost more than what it asks
            if sink.needs_loop:
                return True
        return False

    async def rest(self, has_news: Callable[[], bool]) -> bool:
        """Wait here while messages come quickly. False when the node is to sleep on the loop until there is news."""
        now_ns = self._paused_ns = self._now_ns()
        until_ns = now_ns + PAUSE_NS_MAX
        while self._is_brisk and now_ns < until_ns and not self._needs_loop():
            if now_ns >= self._due_ns:
                self._due_ns = now_ns + SLICE_NS_MAX
                await asyncio.sleep(0)
                if has_news():
                    return True
            self._is_kept = True
            if self._source.wait_blocking(self._due_ns - now_ns):
                return True
            now_ns = self._now_ns()
            if now_ns < self._due_ns:
                break  # only the loop can bring what comes next
        self.leave()
        return has_news()

    def resume(self) -> None:
        """The node was woken, here or by the loop."""
        now_ns = self._now_ns()
        self._is_brisk = now_ns - self._paused_ns < PAUSE_NS_MAX

    def leave(self) -> None:
        """Leave everything to the loop again."""
        if self._is_kept:
            self._is_kept = False
            self._source.leave_to_loop()


def pump_for(clock: Clock, inlets: Sequence[Inlet], outlets: Iterable[Outlet]) -> Pump | None:
    """A pump for a node of one input, if all its routes can do without the loop for a moment."""
    if len(inlets) != 1 or not isinstance(source := inlets[0].source, BlockingSource):
        return None
    sinks: list[BlockingSink] = []
    for outlet in outlets:
        for edge in outlet.edges:
            if not isinstance(edge.sink, BlockingSink):
                return None
            sinks.append(edge.sink)
    return Pump(clock, source, sinks)
