"""Clauses of EventBus: subscriptions that drain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import Effect, EndOfStream, NoResponderError
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.bus import books_balance
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import MS, message, number_of, numbers, outcome, qos, receive_one, take_all
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.testing.conformance.message import BusMaker


@clause("bus")
async def a_drained_subscription_ends_after_what_came_before(maker: BusMaker) -> None:
    """After `drain` a subscription gives what was published before, and ends; what comes later goes to others only."""
    async with maker(ManualClock()) as bus, bus.subscribe("t") as stays, bus.subscribe("t", edge="e") as drains:
        for number in range(4):
            equal(bus.publish_nowait("t", message(number)), 2, f"who accepted message {number}")
        drains.drain()
        drains.drain()
        for number in range(4, 6):
            equal(await bus.publish("t", message(number)), 1, "who accepted it after the drain")
        equal(await receive_one(drains), 0, "the first")
        taken = drains.take(8)
        equal(numbers(taken), [1, 2, 3], "what was there")
        drains.give_back(taken[1:])
        holds(not drains.ended, "it has ended although messages wait")
        drains.settle(taken[:1])
        equal(await take_all(drains), [2, 3], "what was given back")
        await quiet()
        holds(drains.ended, "it has not ended although everything was taken")
        with raises(EndOfStream, "receive"):
            await drains.receive()
        equal(await take_all(stays), [0, 1, 2, 3, 4, 5], "what the other one got")
        books = bus.books()["e"]
        equal((books.sent, books.delivered, books.dropped_total), (4, 4, 0), "the books")
        books_balance(bus)


@clause("bus")
async def draining_an_idle_subscription_is_news(maker: BusMaker) -> None:
    """Whoever waits in `receive` when a subscription drains gets EndOfStream; the callback of `on_news` is called."""
    async with maker(ManualClock()) as bus, bus.subscribe("t") as received, bus.subscribe("t") as watched:
        receiver = asyncio.create_task(outcome(received.receive()))
        news: list[bool] = []
        watched.on_news(lambda: news.append(watched.ended))
        equal(watched.take(1), [], "what was there")
        await quiet()
        for one in (received, watched):
            one.drain()
        await quiet()
        holds(receiver.done(), "a receiver still waits")
        equal(await receiver, EndOfStream, "what the receiver got")
        equal(news[-1:], [True], "whether it had ended when it was told")
        books_balance(bus)


@clause("bus")
async def closing_what_drains_aborts_the_rest(maker: BusMaker) -> None:
    """Closing what drains, or its bus, drops what is queued by `abort`; its edge can be subscribed to again at once."""
    async with maker(ManualClock()) as bus:
        async with bus.subscribe("t", edge="e") as drains:
            for number in range(3):
                await bus.publish("t", message(number))
            drains.drain()
            equal(await receive_one(drains), 0, "what was received")
        equal(drains.take(1), [], "what can be taken when it is closed")
        async with bus.subscribe("t", edge="e") as again:
            books = bus.books()["e"]
            equal((books.sent, books.delivered, dict(books.dropped)), (3, 1, {"abort": 2}), "the books")
            await bus.publish("t", message(9))
            again.drain()
            await quiet()
            await bus.aclose()
            equal(again.take(1), [], "what can be taken when the bus is closed")
        equal(dict(bus.books()["e"].dropped), {"abort": 3}, "dropped")
        books_balance(bus)


@clause("bus")
async def a_draining_responder_answers_what_it_has(maker: BusMaker) -> None:
    """Requests made before a responder drains get its answer; those made later go to another one, or to nobody."""
    async with maker(ManualClock()) as bus, bus.subscribe("q", group="g", qos=qos(8)) as drains:
        asked = [asyncio.create_task(bus.request("q", message(n), timeout_ns=1000 * MS)) for n in range(3)]
        await quiet()
        drains.drain()
        with raises(NoResponderError, "a request after the drain") as failed:
            await bus.request("q", message(7), timeout_ns=1000 * MS)
        equal(failed.error.effect, Effect.NONE, "the effect of a request after the drain")
        async with bus.subscribe("q", group="g") as other:
            later = asyncio.create_task(bus.request("q", message(8), timeout_ns=1000 * MS))
            await quiet()
            for server, count in ((drains, 3), (other, 1)):
                for _ in range(count):
                    with await server.receive() as request:
                        await bus.reply(request, message(10 + number_of(request)))
            equal([number_of(await one) for one in (*asked, later)], [10, 11, 12, 18], "the replies")
        with raises(EndOfStream, "receive"):
            await drains.receive()
        books_balance(bus)
