"""Requests of one process, made again where they failed and may be; the rules are in `machines.retry`."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from typing import TYPE_CHECKING, Final

from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.errors import FlowbridgeError
from flowbridge.machines.retry import Backoff, RetryBudget, may_repeat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.contracts import Clock

REQUEST_ID: Final = "request_id"
ATTEMPT: Final = "attempt"
_OWN: Final = os.urandom(8).hex()  # no other process gives the same ids
_NUMBERS: Final = itertools.count()


class Repeats:
    """Makes requests of a bus: `once` makes one attempt, with a timeout in nanoseconds."""

    def __init__(
        self,
        clock: Clock,
        once: Callable[[str, Envelope, int], Awaitable[Envelope]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._once = once
        self._chance = chance
        self._budget = RetryBudget()
        self._pauses: set[asyncio.Future[None]] = set()

    def begin(self, envelope: Envelope, idempotent: bool) -> Envelope:
        """A request is made for the first time: what to send. The attempt itself is its maker's, a coroutine less."""
        self._budget.earn()
        return _named(envelope, 1, envelope.deadline_ns) if idempotent else envelope

    async def again(
        self, topic: str, envelope: Envelope, until_ns: int, failure: FlowbridgeError, idempotent: bool
    ) -> Envelope:
        """The reply, of whichever attempt after a first one that failed; the request has until `until_ns`.

        Raises: as `EventBus.request`, the error of the last one.
        """
        if not may_repeat(failure, idempotent=idempotent):
            raise failure
        backoff = Backoff(min(envelope.deadline_ns, until_ns, NO_DEADLINE))
        while may_repeat(failure, idempotent=idempotent):
            at_ns = backoff.next_ns(self._clock.now_ns(), failure.retry_after_ns, self._chance())
            if at_ns is None or not self._budget.spend():
                break
            await self._pause(at_ns)
            envelope = _named(envelope, backoff.attempt, backoff.deadline_ns)
            try:
                return await self._once(topic, envelope, backoff.deadline_ns - self._clock.now_ns())
            except FlowbridgeError as error:
                failure = error
        raise failure

    async def _pause(self, until_ns: int) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self._clock.call_at(until_ns, lambda: None if over.done() else over.set_result(None))
        self._pauses.add(over)
        try:
            await over
        finally:
            alarm.cancel()
            self._pauses.discard(over)

    def hurry(self) -> None:
        """Make the next attempts now: the bus is closed or broken, which they will tell."""
        for over in self._pauses:
            if not over.done():
                over.set_result(None)

    def __repr__(self) -> str:
        return f"<Repeats {self._budget!r}, {len(self._pauses)} pause>"


def _named(envelope: Envelope, attempt: int, deadline_ns: int) -> Envelope:
    """A request with an id, its own if it has one, and which attempt it is where it is not the first."""
    headers: dict[str, str | int] = {**envelope.headers} if envelope.headers else {}
    headers.setdefault(REQUEST_ID, f"{_OWN}.{next(_NUMBERS)}")
    if attempt > 1:
        headers[ATTEMPT] = attempt
    return Envelope(
        envelope.payload,
        envelope.priority,
        deadline_ns,
        envelope.origin_ns,
        envelope.sent_ns,
        envelope.size_bytes,
        envelope.seq,
        envelope.trail,
        envelope.trace,
        headers,
    )
