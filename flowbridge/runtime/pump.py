"""Pump: lets a node wait for its ring itself instead of sleeping on the event loop.

A message that wakes an event loop costs a dozen calls before the operator sees it. A synchronous operator that has a
process for itself needs none of them: whatever else that process does (its host's orders, reports, snapshots) may
wait for a moment. So the node keeps the thread of the loop and blocks on its ring, and gives the loop a turn once in
`SLICE_NS_MAX`, as long as messages come quickly. After a pause of `PAUSE_NS_MAX` it sleeps on the loop like any other.

There is one thread, as before: nothing here needs a lock, and every rule of the runner holds.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from flowbridge.contracts import BlockingSink, BlockingSource
from flowbridge.limits import BULK_ITEMS, PAUSE_NS_MAX, SLICE_NS_MAX
from flowbridge.time.manager import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.runtime.binding import Bound
    from flowbridge.runtime.inlet import Intake
    from flowbridge.runtime.outlet import Outlet


class Pump:
    """Takes the messages of one node as long as that needs nobody's decision; made by `pump_for`."""

    def __init__(self, clock: Clock, intake: Intake, source: BlockingSource, sinks: Sequence[BlockingSink]) -> None:
        self._now_ns = clock.now_ns
        self._intake = intake
        self._queue = intake.inlets[0].source
        self._source = source  # the same
        self._sinks = tuple(sinks)
        self._due_ns = 0  # when the loop has its next turn
        self._paused_ns = 0  # when the node went to sleep on the loop
        self._is_brisk = False  # the last pause was short
        self._is_kept = False  # the source was not left to the loop

    async def take(self, outlet: Outlet | None) -> Run[Envelope] | None:
        """What comes next, waiting for it; gives the loop its turns meanwhile.

        None when the runner has to see to it, and then all is left to the loop: several lanes have work, a message is
        late, the input has ended, something can come or go through the loop only, or nothing came for a while.
        """
        began_ns = now_ns = self._now_ns()
        source, queue = self._source, self._queue
        while self._is_brisk and not self._needs_loop():
            if now_ns >= self._due_ns:
                await asyncio.sleep(0)
                now_ns = self._now_ns()
                self._due_ns = now_ns + SLICE_NS_MAX
            self._is_kept = True
            if queue.waiting:
                source.wait_blocking(0)  # something more urgent may have come
            elif not source.wait_blocking(self._due_ns - now_ns):
                now_ns = self._now_ns()
                self._is_brisk = now_ns - began_ns < PAUSE_NS_MAX
                if now_ns >= self._due_ns:
                    continue
                break  # what comes next needs the loop
            run = self._run(outlet)
            if run is not None:
                return run
            break
        self.leave()
        return None

    def _needs_loop(self) -> bool:
        for sink in self._sinks:  # noqa: SIM110 - a generator would cost more than what it asks
            if sink.needs_loop:
                return True
        return False

    def _run(self, outlet: Outlet | None) -> Run[Envelope] | None:
        """What waits, if it is of one lane and its head is in time; no more than can be sent on."""
        queue = self._queue
        mask = queue.waiting
        if not mask or mask & (mask - 1):
            return None
        lane = mask.bit_length() - 1
        limit = self._intake.limit
        if outlet is not None and limit > 1:
            limit = min(limit, outlet.room(lane))
        taken = queue.take(limit, lane)
        if len(taken) >= BULK_ITEMS:  # the loop costs little by so many, and lets as many gather for the next slice
            self._is_brisk = False
        if taken[0].deadline_ns > self._now_ns():
            return Run(0, list(taken))
        queue.give_back(taken)
        return None

    def pause(self) -> None:
        """The node sleeps on the loop from here on."""
        self._paused_ns = self._now_ns()

    def resume(self) -> None:
        """It was woken."""
        self._is_brisk = self._now_ns() - self._paused_ns < PAUSE_NS_MAX

    def leave(self) -> None:
        """Leave everything to the loop again."""
        if self._is_kept:
            self._is_kept = False
            self._source.leave_to_loop()


def pump_for(clock: Clock, bound: Bound, intake: Intake, outlets: Iterable[Outlet]) -> Pump | None:
    """A pump for a plain operator of one input, if all its routes can do without the loop for a moment."""
    inlets = intake.inlets
    if len(inlets) != 1 or not _is_plain(bound) or not isinstance(source := inlets[0].source, BlockingSource):
        return None
    sinks: list[BlockingSink] = []
    for outlet in outlets:
        for edge in outlet.edges:
            if not isinstance(edge.sink, BlockingSink):
                return None
            sinks.append(edge.sink)
    return Pump(clock, intake, source, sinks)


def _is_plain(bound: Bound) -> bool:
    """Whether no part of an operator is asynchronous: one that is may have tasks that live on the loop."""
    hooks = (bound.open, bound.finish, bound.snapshot, bound.restore, bound.on_gap, bound.close)
    written = [inspect.unwrap(hook) for hook in hooks if hook is not None]
    return not bound.is_async and not any(inspect.iscoroutinefunction(hook) for hook in written)
