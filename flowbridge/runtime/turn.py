"""Turns: which node of an event loop runs its next slice.

Tasks of one loop run in the order they became ready, so without this an urgent message would wait behind every node
that is busy with something else. A node that has work asks for a turn and says how urgent it is; one turn is given at
a time, by the same rules as inside a node: the lane first (none is passed over for ever), then the earliest deadline.
A message in flight is older than one that a source would start now, so what was begun is finished first.

A turn lasts until its holder waits for anything. Nobody owns it: a node that awaits its operator does not stop others.
"""

from __future__ import annotations

import asyncio
import heapq

from flowbridge.limits import LANES
from flowbridge.machines.lane import LaneTurns


class Turns:
    """The turns of one loop."""

    def __init__(self) -> None:
        self._asking: list[list[tuple[int, int, asyncio.Future[None]]]] = [[] for _ in range(LANES)]
        self._lanes = LaneTurns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._order = 0
        self._mask = 0
        self._scheduled = False

    async def take(self, lane: int, urgency_ns: int) -> None:
        """Return when it is this node's turn. Always lets other tasks run in between."""
        if not self._mask:
            await asyncio.sleep(0)
            return
        assert self._loop is not None, "somebody asks already"
        turn: asyncio.Future[None] = self._loop.create_future()
        self.ask(turn, lane, urgency_ns)
        await turn

    def ask(self, turn: asyncio.Future[None], lane: int, urgency_ns: int) -> None:
        """Set the result of `turn` when it is due; for a node that sleeps until there is work for it."""
        self._order += 1
        heapq.heappush(self._asking[lane], (urgency_ns, self._order, turn))
        self._mask |= 1 << lane
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._give)

    def _give(self) -> None:
        """Give one turn; the next is given after its holder has run."""
        self._scheduled = False
        while self._mask:
            lane = self._lanes.choose(self._mask)
            asking = self._asking[lane]
            turn = heapq.heappop(asking)[2]
            if not asking:
                self._mask &= ~(1 << lane)
            if not turn.done():  # its task was cancelled meanwhile
                turn.set_result(None)
                break
        if self._mask and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._give)
