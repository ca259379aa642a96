"""Where published messages wait for room: at a gate before one subscription, or before the members of a queue group.

Rules.
1. Whoever waits at a gate goes in the order of coming, within its lane; nobody overtakes. A subscription that several
   gates lead to lets in first whoever came first.
2. At the gate of a group the member whose turn it is takes the message; one without room is passed over while another
   has some. When none has, a member whose policy does not wait decides; when all wait, so does the message.
3. A message waits at each of its gates by itself, so a full subscription keeps nothing from the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import BlockReason
from flowbridge.limits import LANES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import Alarm, Clock
    from flowbridge.envelope import Envelope
    from flowbridge.transports.bus_port import SubscriptionPort


class Wait:
    """One message at one gate."""

    __slots__ = ("alarm", "delivery", "gate")

    def __init__(self, delivery: Delivery, gate: Gate) -> None:
        self.delivery: Final = delivery
        self.gate = gate
        self.alarm: Alarm | None = None

    def over(self, accepted: bool) -> None:
        """It went in, or never will; already out of the gate."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.delivery.over(self, accepted)

    def expire(self) -> None:
        """Its deadline passed."""
        self.gate.expire(self)


class Delivery:
    """One published message on its way: how many accepted it, and where it still waits."""

    __slots__ = ("_done", "accepted", "message", "number", "on_end", "waits")

    def __init__(self, message: Envelope, number: int) -> None:
        self.message: Final = message
        self.number: Final = number  # orders those that wait
        self.accepted = 0
        self.waits: list[Wait] = []
        self.on_end: Callable[[], None] | None = None  # called when the last wait is over, unless withdrawn
        self._done: asyncio.Future[None] | None = None

    def over(self, wait: Wait, accepted: bool) -> None:
        """One of the waits is over."""
        self.waits.remove(wait)
        self.accepted += accepted
        if not self.waits:
            if self._done is not None and not self._done.done():
                self._done.set_result(None)
            if self.on_end is not None:
                self.on_end()

    async def finished(self) -> None:
        """Wait until it waits nowhere. Cancelled: whoever has it keeps it, it goes to nobody else."""
        if self.waits:
            self._done = asyncio.get_running_loop().create_future()
            try:
                await self._done
            finally:
                self.withdraw()

    def withdraw(self) -> None:
        """Wait no more; nothing is counted where it waited. Idempotent."""
        self.on_end = None
        if not self.waits:
            return
        waits, self.waits = self.waits, []
        for wait in waits:
            if wait.alarm is not None:
                wait.alarm.cancel()
            wait.gate.remove(wait)
        for wait in waits:
            wait.gate.admit()


class Gate:
    """What stands before one subscription, or before all members of one queue group that a topic matches."""

    __slots__ = ("_clock", "_turn", "_waiting", "group", "members", "waits")

    def __init__(self, members: tuple[SubscriptionPort, ...], clock: Clock, group: str | None = None) -> None:
        assert members, "a gate leads somewhere"
        self.members: Final = members
        self.group: Final = group
        self.waits: list[deque[Wait]] = [deque() for _ in range(LANES)]
        self._waiting = 0
        self._clock = clock
        self._turn = 0

    def offer(self, message: Envelope) -> bool | None:
        """Whether it was accepted; None when it has to wait."""
        if self._waiting and self.waits[self._lane(message)] and not self._late(message):
            return None
        members = self.members
        if len(members) == 1:
            return members[0].put(message)
        port = self._choose(message)
        return None if port is None else port.put(message)

    def reason(self, message: Envelope) -> BlockReason | None:
        """Why `offer` would answer None; None when it would not."""
        members = self.members
        now_ns = self._clock.now_ns()
        if self._waiting and self.waits[self._lane(message)] and not self._late(message):
            return members[0].lacks(message, now_ns) or BlockReason.CREDIT_ITEMS
        reason: BlockReason | None = None
        for port in members:
            if not port.waits:
                return None
            reason = port.lacks(message, now_ns)
            if reason is None:
                return None
        return reason

    def wait(self, delivery: Delivery) -> None:
        """Let a message wait here; `delivery` is told how it ended."""
        wait = Wait(delivery, self)
        delivery.waits.append(wait)
        self.append(wait)
        deadline_ns = self._deadline_ns(delivery.message)
        if deadline_ns != NO_DEADLINE:
            wait.alarm = self._clock.call_at(deadline_ns, wait.expire)

    def append(self, wait: Wait) -> None:
        """Put one that waits behind all others of its lane."""
        wait.gate = self
        self.waits[self._lane(wait.delivery.message)].append(wait)
        self._waiting += 1
        if self._waiting == 1:
            for port in self.members:
                port.waited_by.append(self)

    def remove(self, wait: Wait) -> None:
        """Take one out of the line."""
        self.waits[self._lane(wait.delivery.message)].remove(wait)
        self._left()

    def admit(self) -> None:
        """Let in what waits, first come first served in each lane, as far as there is room."""
        for lane in range(LANES):
            while self.admit_first(lane):
                pass

    def admit_first(self, lane: int) -> bool:
        """Let in the first of a lane; False when there is none or no room."""
        line = self.waits[lane]
        if not line:
            return False
        message = line[0].delivery.message
        port = self._choose(message)
        if port is None:
            return False
        # Out of the line first: what is told of the message may come back to this gate.
        wait = line.popleft()
        self._left()
        wait.over(port.put(message, waited=True) is True)
        return True

    def expire(self, wait: Wait) -> None:
        """The deadline of one passed: it counts as expired where its turn would have been."""
        self.remove(wait)
        self.members[self._turn % len(self.members)].expire()
        wait.over(accepted=False)
        self.admit()

    def clear(self) -> list[Wait]:
        """Everything that waits, taken out of its line."""
        waits = [wait for line in self.waits for wait in line]
        for wait in waits:
            self.remove(wait)
        return waits

    def _left(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            for port in self.members:
                port.waited_by.remove(self)

    def _lane(self, message: Envelope) -> int:
        return self.members[0].lane(message)

    def _deadline_ns(self, message: Envelope) -> int:
        """When it is too late for every member."""
        return max([port.deadline_ns(message) for port in self.members])

    def _late(self, message: Envelope) -> bool:
        return self._deadline_ns(message) <= self._clock.now_ns()

    def _choose(self, message: Envelope) -> SubscriptionPort | None:
        """Who takes the message now (rule 2); None when it has to wait."""
        members = self.members
        now_ns = self._clock.now_ns()
        if len(members) == 1:
            port = members[0]
            return port if not port.waits or port.lacks(message, now_ns) is None else None  # its own policy decides
        patient: int | None = None
        for index in range(self._turn, self._turn + len(members)):
            port = members[index % len(members)]
            if port.lacks(message, now_ns) is None:
                self._turn = index % len(members) + 1
                return port
            if patient is None and not port.waits:
                patient = index
        if patient is None:
            return None
        self._turn = patient % len(members) + 1
        return members[patient % len(members)]

    def __repr__(self) -> str:
        name = "" if self.group is None else f" of group {self.group}"
        return f"<Gate{name} to {len(self.members)}, {self._waiting} waiting>"
