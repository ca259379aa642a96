"""Clauses of EventBus: requests and replies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import ClosedError, DeadlineExceeded, Effect, NoResponderError
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.bus import books_balance
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import ClauseFailed, equal, holds, raises
from flowbridge.testing.conformance.message import BEST, HIGH, MS, NORMAL, message, number_of, outcome
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import EventBus, Subscription
    from flowbridge.envelope import Envelope
    from flowbridge.testing.conformance.message import BusMaker


async def _answer(bus: EventBus, server: Subscription, number: int) -> None:
    with await server.receive() as request:
        await bus.reply(request, message(number + number_of(request)))


async def _failure(call: asyncio.Task[Envelope], what: str) -> DeadlineExceeded:
    holds(call.done(), f"{what}: the request still waits")
    try:
        await call
    except DeadlineExceeded as error:
        return error
    raise ClauseFailed(f"{what}: it has an answer that nobody gave")


@clause("bus")
async def request_gets_the_first_reply(maker: BusMaker) -> None:
    """A request reaches its responders as a publish does and returns the first reply; every requester gets its own."""
    async with maker(ManualClock()) as bus, bus.subscribe("double") as server, bus.subscribe("double") as second:
        for wanted in (11, 21):
            asking = asyncio.create_task(bus.request("double", message(wanted - 10), timeout_ns=1000 * MS))
            await _answer(bus, server, 10)
            await _answer(bus, second, 500)
            equal(number_of(await asking), wanted, "the reply")
        asked = [asyncio.create_task(bus.request("double", message(n), timeout_ns=1000 * MS)) for n in range(5)]
        await quiet()
        for _ in asked:
            await _answer(bus, server, 10)
        equal([number_of(await one) for one in asked], [10, 11, 12, 13, 14], "replies and their requesters")
        books_balance(bus)


@clause("bus")
async def one_member_of_a_group_answers(maker: BusMaker) -> None:
    """A request reaches one member of a queue group."""
    async with maker(ManualClock()) as bus, bus.subscribe("q", group="g") as one, bus.subscribe("q", group="g") as two:
        asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=1000 * MS))
        await quiet()
        server, idle = (one, two) if one.waiting else (two, one)
        equal(idle.waiting, 0, "lanes waiting at the other member")
        await _answer(bus, server, 1)
        equal(number_of(await asking), 2, "the reply")


@clause("bus")
async def a_request_to_nobody_fails_at_once(maker: BusMaker) -> None:
    """A request to a topic without subscription is NoResponderError at once, without any wait."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("other"):
        asking = asyncio.create_task(outcome(bus.request("nobody", message(1), timeout_ns=1000 * MS)))
        await quiet()
        holds(asking.done(), "the request waits")
        equal(await asking, NoResponderError, "what it got")
        equal(clock.pending(), (), "deadlines left behind")


@clause("bus")
async def a_request_times_out(maker: BusMaker) -> None:
    """Without a reply a request is DeadlineExceeded, effect MAYBE, after its timeout or at its deadline if sooner."""
    for deadline_ms, timeout_ms in ((100, 20), (20, 100), (None, 20)):
        clock = ManualClock()
        async with maker(clock) as bus, bus.subscribe("slow"):
            asked = message(1)
            if deadline_ms is not None:
                asked = message(1, deadline_ns=clock.now_ns() + deadline_ms * MS)
            asking = asyncio.create_task(bus.request("slow", asked, timeout_ns=timeout_ms * MS))
            what = f"deadline {deadline_ms} ms, timeout {timeout_ms} ms"
            await clock.advance(20 * MS - 1)
            holds(not asking.done(), f"{what}: gave up too soon")
            await clock.advance(1)
            error = await _failure(asking, what)
            equal(error.effect, Effect.MAYBE, f"{what}: the effect")
        equal(clock.pending(), (), f"{what}: deadlines left behind")


@clause("bus")
async def a_reply_inherits_deadline_and_priority(maker: BusMaker) -> None:
    """A reply has the deadline and the priority of its request, whatever the responder gave it."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        deadline_ns = clock.now_ns() + 30 * MS
        asked = message(1, HIGH, deadline_ns=deadline_ns)
        asking = asyncio.create_task(bus.request("q", asked, timeout_ns=1000 * MS))
        with await server.receive() as request:
            equal((request.priority, request.deadline_ns), (HIGH, deadline_ns), "the request as it arrived")
            await clock.advance(10 * MS)
            await bus.reply(request, message(2, BEST, deadline_ns=deadline_ns + 500 * MS))
        reply = await asking
        equal((number_of(reply), reply.priority, reply.deadline_ns), (2, HIGH, deadline_ns), "the reply")
        equal(clock.pending(), (), "deadlines left behind")
        asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=1000 * MS))
        with await server.receive() as request:
            await bus.reply(request, message(3, HIGH, deadline_ns=clock.now_ns() + MS))
        equal(((await asking).priority, number_of(await asking)), (NORMAL, 3), "the reply to a normal request")


@clause("bus")
async def a_late_reply_is_counted_as_expired(maker: BusMaker) -> None:
    """A reply that nobody waits for any more disturbs nobody and is counted as expired."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=10 * MS))
        lease = await server.receive()
        await clock.advance(10 * MS)
        await _failure(asking, "no reply in time")
        before = sum(books.expired for books in bus.books().values())
        await bus.reply(lease.envelope, message(2))
        lease.release()
        equal(sum(books.expired for books in bus.books().values()) - before, 1, "counted as expired")
        books_balance(bus)
        asking = asyncio.create_task(bus.request("q", message(3), timeout_ns=10 * MS))
        await _answer(bus, server, 0)
        equal(number_of(await asking), 3, "the next reply")


@clause("bus")
async def closing_the_bus_fails_pending_requests(maker: BusMaker) -> None:
    """`aclose` makes every request that waits for a reply fail with ClosedError."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q"):
        asking = [asyncio.create_task(outcome(bus.request("q", message(n), timeout_ns=1000 * MS))) for n in range(3)]
        await quiet()
        await bus.aclose()
        await quiet()
        for one in asking:
            holds(one.done(), "a request still waits on a closed bus")
            equal(await one, ClosedError, "what it got")
        equal(clock.pending(), (), "deadlines left behind")


@clause("bus")
async def a_cancelled_request_leaves_nothing(maker: BusMaker) -> None:
    """A cancelled request waits for no deadline any more, and its reply is counted as expired."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("q") as server:
        asking = asyncio.create_task(bus.request("q", message(1), timeout_ns=10 * MS))
        lease = await server.receive()
        asking.cancel()
        await asyncio.wait([asking])
        await quiet()  # a bus of another process has to hear of it
        equal(clock.pending(), (), "deadlines left behind")
        before = sum(books.expired for books in bus.books().values())
        await bus.reply(lease.envelope, message(2))
        lease.release()
        equal(sum(books.expired for books in bus.books().values()) - before, 1, "counted as expired")
        with raises(NoResponderError, "a request to another topic"):
            await bus.request("r", message(1), timeout_ns=MS)
        books_balance(bus)
