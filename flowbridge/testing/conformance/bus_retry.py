"""Clauses of EventBus: requests that are refused, made again, or known already."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code, error_of
from flowbridge.errors import (
    BrokenError,
    ClosedError,
    Effect,
    FlowbridgeError,
    LocalProtocolError,
    OverloadError,
    Retry,
)
from flowbridge.limits import REQUEST_ATTEMPTS_MAX, REQUEST_KEPT_NS, RETRY_BASE_NS, RETRY_BURST, RETRY_SHARE
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.bus import books_balance
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import MS, message, number_of, outcome
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import EventBus, Subscription
    from flowbridge.envelope import Envelope
    from flowbridge.testing.conformance.message import BusMaker

_LONG: Final = 3_600_000 * MS
_STEP_NS: Final = 5 * MS
_STEPS_MAX: Final = 200


async def _until(clock: ManualClock, condition: Callable[[], bool], what: str) -> None:
    """Let time pass until something holds."""
    for _ in range(_STEPS_MAX):
        await quiet()
        if condition():
            return
        await clock.advance(_STEP_NS)
    holds(condition(), what)


async def _asked(clock: ManualClock, server: Subscription) -> Envelope:
    """The next request, taken and settled."""
    receiving = asyncio.create_task(server.receive())
    try:
        await _until(clock, receiving.done, "nobody asks")
    finally:
        receiving.cancel()
    with receiving.result() as request:
        return request


async def _refuse_all(bus: EventBus, server: Subscription, error: FlowbridgeError, asked: list[Envelope]) -> None:
    """Refuse until cancelled."""
    while True:
        with await server.receive() as request:
            asked.append(request)
            await bus.refuse(request, error)


def _header(request: Envelope, name: str) -> object:
    return (request.headers or {}).get(name)


@clause("bus")
async def a_refused_request_fails_with_its_error(maker: BusMaker) -> None:
    """A request that a responder refused for good fails at once: its error has the code, effect and retry it was given.

    It is asked once, and the refusal is counted as a reply is.
    """
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        for refusal, kind, code in (
            (LocalProtocolError("no number"), LocalProtocolError, Code.INVALID),
            (error_of(Code.FAILED, "it broke"), FlowbridgeError, Code.FAILED),
            (error_of(Code.UNIMPLEMENTED), FlowbridgeError, Code.UNIMPLEMENTED),
        ):
            asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=_LONG, idempotent=True))
            with await server.receive() as request:
                await bus.refuse(request, refusal)
            with raises(kind, "the request") as caught:
                await asking
            error = caught.error
            equal((error.code, error.effect, error.retry), (code, refusal.effect, Retry.NEVER), "the error")
            holds(str(refusal) in str(error), f"what was said is gone: {error}")
        await quiet()
        equal(server.waiting, 0, "lanes with another request")
        equal(clock.pending(), (), "deadlines left behind")
        books_balance(bus)


@clause("bus")
async def what_was_not_done_is_asked_again(maker: BusMaker) -> None:
    """A request that was refused undone is made again under the same id and deadline, not before its `retry_after_ns`.

    The header ``attempt`` counts from 2. Without `retry_after_ns` the pause is half to one and a half of 50 ms, then
    twice as long each.
    """
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        deadline_ns = clock.now_ns() + _LONG
        asked = message(1, deadline_ns=deadline_ns)
        asked.headers = {"request_id": "r1"}
        asking = asyncio.create_task(bus.request("q", asked, timeout_ns=2 * _LONG))
        for attempt, after_ns in ((1, 300 * MS), (2, None), (3, None)):
            request = await _asked(clock, server)
            equal(_header(request, "attempt"), None if attempt == 1 else attempt, "the attempt")
            equal((_header(request, "request_id"), request.deadline_ns), ("r1", deadline_ns), "id and deadline")
            refused_ns = clock.now_ns()
            await bus.refuse(request, OverloadError("full", after_ns))
            again = asyncio.create_task(server.receive())
            least_ns = after_ns or (RETRY_BASE_NS << (attempt - 1)) // 2
            await clock.advance(least_ns - (clock.now_ns() - refused_ns) - 1)
            holds(not again.done(), f"attempt {attempt + 1} came too soon")
            again.cancel()
            await asyncio.wait([again])
        last = await _asked(clock, server)
        await bus.reply(last, message(7))
        equal(number_of(await asking), 7, "the reply")
        equal(clock.pending(), (), "deadlines left behind")
        books_balance(bus)


@clause("bus")
async def a_request_is_not_made_for_ever(maker: BusMaker) -> None:
    """A request is made four times at most, and never at or after its deadline; then it fails with the last error."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        for timeout_ns, after_ns, attempts in (
            (_LONG, MS, REQUEST_ATTEMPTS_MAX),
            (_LONG, _LONG, 1),
            (20 * MS, None, 1),
        ):
            asked: list[Envelope] = []
            refusing = asyncio.create_task(_refuse_all(bus, server, OverloadError("full", after_ns), asked))
            asking = asyncio.create_task(outcome(bus.request("q", message(1), timeout_ns=timeout_ns)))
            await _until(clock, asking.done, "the request still waits")
            equal((await asking, len(asked)), (OverloadError, attempts), f"error and attempts with {timeout_ns} ns")
            refusing.cancel()
            await asyncio.wait([refusing])
        await quiet()
        equal(clock.pending(), (), "deadlines left behind")


@clause("bus")
async def only_what_may_be_done_twice_is(maker: BusMaker) -> None:
    """A request of which nobody knows whether it was done is made again if it is `idempotent`, and fails otherwise."""
    clock = ManualClock()
    lost = error_of(Code.PEER_GONE, "the one behind me is gone")
    async with maker(clock) as bus, bus.subscribe("q") as server:
        asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=_LONG))
        await bus.refuse(await _asked(clock, server), lost)
        with raises(BrokenError, "the request") as caught:
            await asking
        equal((caught.error.code, caught.error.effect), (Code.PEER_GONE, Effect.MAYBE), "the error")
        asking = asyncio.create_task(bus.request("q", message(2), timeout_ns=_LONG, idempotent=True))
        first = await _asked(clock, server)
        await bus.refuse(first, lost)
        second = await _asked(clock, server)
        holds(_header(first, "request_id") is not None, "the first attempt has no id")
        equal(_header(second, "request_id"), _header(first, "request_id"), "the id of the second attempt")
        await bus.reply(second, message(3))
        equal(number_of(await asking), 3, "the reply")


@clause("bus")
async def few_requests_are_made_again(maker: BusMaker) -> None:
    """Of the requests one in ten may be made again, and ten more; then a request fails with its first error."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        asked: list[Envelope] = []
        refusing = asyncio.create_task(_refuse_all(bus, server, OverloadError("full", MS), asked))
        count = 3 * RETRY_BURST
        for number in range(count):
            asking = asyncio.create_task(outcome(bus.request("q", message(number), timeout_ns=_LONG)))
            await _until(clock, asking.done, "the request still waits")
            equal(await asking, OverloadError, "what it got")
        again = len(asked) - count
        holds(RETRY_BURST <= again <= RETRY_BURST + count // RETRY_SHARE, f"{again} of {count} were made again")
        refusing.cancel()
        await asyncio.wait([refusing])


@clause("bus")
async def a_request_with_the_same_id_is_not_done_again(maker: BusMaker) -> None:
    """A request whose topic and ``request_id`` were asked before gets the outcome they had; nobody is asked again.

    While there is none it is a conflict (0x706, effect MAYBE). A reply that came too late is an outcome. An outcome is
    known for a minute.
    """
    clock = ManualClock()

    def same() -> Envelope:
        envelope = message(1)
        envelope.headers = {"request_id": 7}
        return envelope

    async with maker(clock) as bus, bus.subscribe("*") as server:
        asking = asyncio.create_task(outcome(bus.request("q", same(), timeout_ns=10 * MS)))
        request = await _asked(clock, server)
        with raises(FlowbridgeError, "while it is done") as caught:
            await bus.request("q", same(), timeout_ns=_LONG)
        equal((caught.error.code, caught.error.effect), (Code.CONFLICT, Effect.MAYBE), "while it is done")
        await _until(clock, asking.done, "the request still waits")
        await bus.reply(request, message(5))  # too late for who asked
        equal(number_of(await bus.request("q", same(), timeout_ns=_LONG)), 5, "what the late reply said")
        await quiet()
        equal(server.waiting, 0, "lanes with another request")
        asking = asyncio.create_task(bus.request("r", same(), timeout_ns=_LONG))
        await bus.refuse(await _asked(clock, server), error_of(Code.FAILED))
        for call in (asking, bus.request("r", same(), timeout_ns=_LONG)):
            with raises(FlowbridgeError, "on another topic") as failed:
                await call
            equal((failed.error.code, failed.error.effect), (Code.FAILED, Effect.DONE), "on another topic")
        await clock.advance(REQUEST_KEPT_NS)
        last = asyncio.create_task(bus.request("q", same(), timeout_ns=_LONG))
        await bus.reply(await _asked(clock, server), message(6))
        equal(number_of(await last), 6, "after a minute")


@clause("bus")
async def what_a_responder_leaves_undone_is_asked_again(maker: BusMaker) -> None:
    """A request whose responder closes its subscription before taking it is made again, and another one may answer."""
    clock = ManualClock()
    async with maker(clock) as bus:
        async with bus.subscribe("q", group="g") as leaves:
            asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=_LONG))
            await _until(clock, lambda: bool(leaves.waiting), "nobody asks")
            stays = bus.subscribe("q", group="g")
            server = await stays.__aenter__()
        try:
            request = await _asked(clock, server)
            equal(_header(request, "attempt"), 2, "the attempt")
            await bus.reply(request, message(8))
            equal(number_of(await asking), 8, "the reply")
        finally:
            await stays.__aexit__(None, None, None)
        books_balance(bus)


@clause("bus")
async def closing_the_bus_fails_requests_between_attempts(maker: BusMaker) -> None:
    """`aclose` makes a request that is to be made again fail with ClosedError, and leaves no deadline behind."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        asking = asyncio.create_task(outcome(bus.request("q", message(1), timeout_ns=2 * _LONG)))
        await bus.refuse(await _asked(clock, server), OverloadError("full", _LONG))
        await quiet()
        await bus.aclose()
        await quiet()
        holds(asking.done(), "the request still waits on a closed bus")
        equal(await asking, ClosedError, "what it got")
        equal(clock.pending(), (), "deadlines left behind")
