"""Requests and replies on the inproc event bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bus_scenario import MS, START, drain, qos, run, take_one

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import (
    DeadlineExceeded,
    Effect,
    LocalProtocolError,
    NoResponderError,
    WouldBlock,
)
from flowbridge.plan import Policy
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import DataSource
    from flowbridge.testing.clock import ManualClock


# --- requests -------------------------------------------------------------------------------------------------------


async def serve(bus: LocalEventBus, source: DataSource, answer: Callable[[Any], Any]) -> None:
    """Answer requests until cancelled."""
    while True:
        with await source.receive() as request:
            await bus.reply(request, Envelope(answer(request.payload)))


def test_a_request_is_answered_with_its_own_deadline_and_priority() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("double", group="servers") as source:
            server = asyncio.create_task(serve(bus, source, lambda value: 2 * value))
            request = Envelope(21, Priority.HIGH, START + 5 * MS, origin_ns=77)
            reply = await bus.request("double", request, timeout_ns=50 * MS)
            assert reply.payload == 42
            assert (reply.priority, reply.deadline_ns, reply.origin_ns) == (Priority.HIGH, START + 5 * MS, 77)
            assert reply.headers is not None
            assert set(reply.headers) == {"topic"}
            replies = await asyncio.gather(
                *(bus.request("double", Envelope(number), timeout_ns=MS) for number in range(20))
            )
            assert [reply.payload for reply in replies] == [2 * number for number in range(20)]
            assert {reply.deadline_ns for reply in replies} == {START + MS}
            assert [reply.seq for reply in replies] == list(range(1, 21))
            server.cancel()
            await asyncio.wait([server])
        books = bus.books()["(replies)"]
        assert (books.sent, books.delivered) == (21, 21)

    run(scenario)


def test_a_request_nobody_serves_fails_at_once() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("other"):
            with pytest.raises(NoResponderError, match="'topic'"):
                await bus.request("topic", Envelope(1), timeout_ns=MS)
        assert clock.now_ns() == START
        assert "(replies)" not in bus.books()

    run(scenario)


@pytest.mark.parametrize(("deadline_ns", "timeout_ns"), [(NO_DEADLINE, 5 * MS), (START + 5 * MS, 9 * MS)])
def test_a_request_ends_at_its_timeout_or_deadline_whichever_is_sooner(deadline_ns: int, timeout_ns: int) -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            caller = asyncio.create_task(bus.request("a", Envelope(1, deadline_ns=deadline_ns), timeout_ns=timeout_ns))
            await clock.advance(5 * MS - 1)
            assert not caller.done()
            await clock.advance(1)
            with pytest.raises(DeadlineExceeded) as caught:
                await caller
            assert caught.value.effect is Effect.MAYBE
            assert caught.value.deadline_ns == START + 5 * MS
            request = take_one(source)
            await bus.reply(request, Envelope(2))
            books = bus.books()["(replies)"]
            assert (books.sent, books.expired, books.missed.late) == (1, 1, 1)

    run(scenario)


def test_a_request_that_is_late_already_fails_without_waiting() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a"):
            for envelope, timeout_ns in ((Envelope(1, deadline_ns=START), MS), (Envelope(1), 0), (Envelope(1), -5)):
                with pytest.raises(DeadlineExceeded):
                    await bus.request("a", envelope, timeout_ns=timeout_ns)
        assert clock.now_ns() == START

    run(scenario)


def test_a_reply_at_the_very_deadline_is_too_late_whoever_comes_first() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            replies: list[asyncio.Task[None]] = []
            clock.call_at(START + MS, lambda: replies.append(asyncio.create_task(bus.reply(request, Envelope(2)))))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            request = take_one(source)
            await clock.advance(MS)
            with pytest.raises(DeadlineExceeded):
                await caller
            assert bus.books()["(replies)"].expired == 1
            assert replies[0].done()

    run(scenario)


def test_a_second_reply_changes_nothing_and_is_counted_as_expired() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as one, bus.subscribe("a") as two:
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            first, second = take_one(one), take_one(two)
            await bus.reply(second, Envelope("fast"))
            await bus.reply(first, Envelope("slow"))
            await bus.reply(second, Envelope("again"))
            assert (await caller).payload == "fast"
            books = bus.books()["(replies)"]
            assert (books.sent, books.delivered, books.expired, books.missed.total) == (3, 1, 2, 0)

    run(scenario)


def test_a_reply_ends_a_request_that_still_waits_for_credit_elsewhere() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as full, bus.subscribe("a") as roomy:
            bus.publish_nowait("a", Envelope(0))
            drain(roomy)
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            await bus.reply(take_one(roomy), Envelope("answer"))
            assert (await caller).payload == "answer"
            assert drain(full) == [0]  # the request was withdrawn from here
            assert full.books.sent == 1

    run(scenario)


def test_a_cancelled_request_leaves_nothing_pending() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            callers = [asyncio.create_task(bus.request("a", Envelope(n), timeout_ns=MS)) for n in range(3)]
            await quiet()
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            assert all(caller.cancelled() for caller in callers)
            assert "0 requests" in repr(bus)
            await bus.reply(take_one(source), Envelope("late"))
            assert source.books.sent == 1
            assert bus.books()["(replies)"].expired == 1

    run(scenario)


def test_a_request_that_every_subscription_refuses_fails_at_once() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, Policy.ERROR)):
            bus.publish_nowait("a", Envelope(0))
            with pytest.raises(WouldBlock, match="every subscription to a"):
                await bus.request("a", Envelope(1), timeout_ns=MS)

    run(scenario)


def test_a_request_whose_only_subscriber_closes_before_taking_it_fails_at_once() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)):
            bus.publish_nowait("a", Envelope(0))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
        with pytest.raises(NoResponderError, match="lost its subscribers"):
            await caller
        assert clock.now_ns() == START

    run(scenario)


def test_a_request_expired_in_front_of_a_full_subscription_is_a_deadline_exceeded() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            bus.publish_nowait("a", Envelope(0))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await clock.advance(MS)
            with pytest.raises(DeadlineExceeded):
                await caller
            assert source.books.sent in {1, 2}
            assert drain(source) == [0]

    run(scenario)


def test_unanswered_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.bus_replies.REQUESTS_PENDING_MAX", 2)

    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            callers = [asyncio.create_task(bus.request("a", Envelope(n), timeout_ns=MS)) for n in range(2)]
            await quiet()
            with pytest.raises(WouldBlock, match="2 requests"):
                await bus.request("a", Envelope(2), timeout_ns=MS)
            assert len(source.take(9)) == 2
            await clock.advance(MS)
            assert [type(caller.exception()) for caller in callers] == [DeadlineExceeded] * 2

    run(scenario)


def test_a_message_that_is_no_request_cannot_be_answered() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        for headers in (None, {}, {"reply_to": 7}):
            with pytest.raises(LocalProtocolError, match="reply_to"):
                await bus.reply(Envelope(1, headers=headers), Envelope(2))
        assert "(replies)" not in bus.books()

    run(scenario)


def test_a_reply_on_another_bus_goes_astray_to_nobody() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        other = LocalEventBus(clock)
        async with bus.subscribe("a") as ours, other.subscribe("a") as theirs:
            callers = [asyncio.create_task(b.request("a", Envelope(1), timeout_ns=MS)) for b in (bus, other)]
            await quiet()
            await other.reply(take_one(ours), Envelope("wrong bus"))
            await quiet()
            assert not any(caller.done() for caller in callers)
            await other.reply(take_one(theirs), Envelope("right bus"))
            assert (await callers[1]).payload == "right bus"
            await clock.advance(MS)
            assert isinstance(callers[0].exception(), DeadlineExceeded)
        await other.aclose()

    run(scenario)
