"""Clauses of DataPort: deadlines, and what a cancelled or waiting call leaves behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import EndOfStream, WouldBlock
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import (
    MS,
    NORMAL,
    balanced,
    message,
    number_of,
    numbers,
    outcome,
    qos,
    receive_one,
    send_all,
    take_all,
)
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.testing.conformance.message import PortMaker

TURNS = 24
"""A cancellation is tried after each number of turns below this."""


@clause("port")
async def receive_passes_over_late_messages(maker: PortMaker) -> None:
    """`receive` never returns a late message: it is counted as expired, stage `queued`, and its credit returns."""
    clock = ManualClock()
    async with maker(qos(4), clock) as port:
        now_ns = clock.now_ns()
        deadlines = (now_ns + 5 * MS, now_ns + 20 * MS, now_ns + 6 * MS, now_ns + 21 * MS)
        await send_all(port.sink, (message(n, deadline_ns=deadline_ns) for n, deadline_ns in enumerate(deadlines)))
        await clock.advance(6 * MS)
        equal([await receive_one(port.source), await receive_one(port.source)], [1, 3], "what is received")
        books = port.source.books
        equal((books.delivered, books.expired, books.missed.queued, books.missed.total), (2, 2, 2, 2), "the books")
        await quiet()
        equal(port.sink.credit_items(NORMAL), 4, "credit")
        balanced(port)


@clause("port")
async def take_does_not_look_at_deadlines(maker: PortMaker) -> None:
    """`take` lends late messages too: whoever takes decides, and says so to `settle`."""
    clock = ManualClock()
    async with maker(qos(4), clock) as port:
        await port.sink.send(message(0, deadline_ns=clock.now_ns() + MS))
        await clock.advance(2 * MS)
        taken = port.source.take(4)
        equal(numbers(taken), [0], "what is lent")
        port.source.settle(taken, expired=1)
        equal((port.source.books.expired, port.source.books.delivered), (1, 0), "expired and delivered")
        balanced(port)


@clause("port")
async def a_message_offered_late_is_not_delivered(maker: PortMaker) -> None:
    """A message that is late when it is offered is counted as sent and expired, stage `late`, under every policy."""
    for policy in Policy:
        clock = ManualClock()
        async with maker(qos(1, policy), clock) as port:
            await port.sink.send(message(0, deadline_ns=clock.now_ns()))
            port.sink.send_nowait(message(1, deadline_ns=clock.now_ns() - MS))
            await port.sink.send(message(2, deadline_ns=clock.now_ns() + MS))
            books = port.sink.books
            equal((books.sent, books.expired, books.missed.late), (3, 2, 2), f"{policy.value}: sent, expired, late")
            equal(await take_all(port.source), [2], f"{policy.value}: what arrives")
            balanced(port)


@clause("port")
async def a_message_that_waits_too_long_expires(maker: PortMaker) -> None:
    """A message whose deadline passes while it waits for credit expires, stage `transport`; others are not held up."""
    clock = ManualClock()
    async with maker(qos(1), clock) as port:
        await port.sink.send(message(0))
        first = asyncio.create_task(port.sink.send(message(1, deadline_ns=clock.now_ns() + 10 * MS)))
        await quiet()
        second = asyncio.create_task(port.sink.send(message(2)))
        await clock.advance(9 * MS)
        holds(not first.done(), "gave up before the deadline")
        equal(port.sink.books.sent, 1, "sent before the deadline")
        await clock.advance(MS)
        holds(first.done(), "still waits after the deadline")
        await first
        books = port.sink.books
        equal((books.sent, books.expired, books.missed.transport), (2, 1, 1), "sent, expired, transport")
        holds(not second.done(), "the other sender got credit that nobody returned")
        equal(await take_all(port.source), [0, 2], "what arrives")
        holds(second.done(), "the other sender still waits")
        balanced(port)
    equal(clock.pending(), (), "deadlines left behind")


@clause("port")
async def credit_in_time_leaves_no_timer(maker: PortMaker) -> None:
    """A sender that got its credit in time is sent, and its deadline is waited for no longer."""
    clock = ManualClock()
    async with maker(qos(1), clock) as port:
        await port.sink.send(message(0))
        waiting = asyncio.create_task(port.sink.send(message(1, deadline_ns=clock.now_ns() + 10 * MS)))
        await quiet()
        equal(await take_all(port.source), [0, 1], "what arrives")
        await waiting
        equal(clock.pending(), (), "deadlines left behind")
        equal((port.sink.books.delivered, port.sink.books.expired), (2, 0), "delivered and expired")


@clause("port")
async def waiting_senders_are_served_in_order(maker: PortMaker) -> None:
    """Senders that wait for credit of a lane get it first come, first served."""
    async with maker(qos(2), ManualClock()) as port:
        await send_all(port.sink, [message(0), message(1)])
        senders: list[asyncio.Task[None]] = []
        for number in range(2, 8):
            senders.append(asyncio.create_task(port.sink.send(message(number))))
            await quiet()
        equal(await take_all(port.source), list(range(8)), "the order")
        await asyncio.gather(*senders)
        balanced(port)


@clause("port")
async def nobody_overtakes_a_waiting_sender(maker: PortMaker) -> None:
    """While a message waits for byte credit, a smaller one that would fit does not pass it in its lane."""
    async with maker(qos(8, bytes_=100), ManualClock()) as port:
        await send_all(port.sink, [message(0, size=30), message(1, size=30)])
        first = asyncio.create_task(port.sink.send(message(2, size=90)))
        await quiet()
        with raises(WouldBlock, "a small message behind a large one"):
            port.sink.send_nowait(message(9, size=1))
        second = asyncio.create_task(port.sink.send(message(3, size=1)))
        await quiet()
        holds(not (first.done() or second.done()), "sent without credit")
        equal(await take_all(port.source), [0, 1, 2, 3], "what arrives")
        await asyncio.gather(first, second)
        balanced(port)


@clause("port")
async def a_cancelled_send_counts_nothing(maker: PortMaker) -> None:
    """A send that is cancelled while it waits for credit sends nothing and counts nothing; those behind it go on."""
    async with maker(qos(1), ManualClock()) as port:
        await port.sink.send(message(0))
        first = asyncio.create_task(port.sink.send(message(1)))
        await quiet()
        second = asyncio.create_task(port.sink.send(message(2)))
        await quiet()
        first.cancel()
        await asyncio.wait([first])
        holds(first.cancelled(), "a send that waits was not cancelled")
        equal(port.sink.books.sent, 1, "sent after the cancellation")
        balanced(port, "after the cancellation")
        equal(await take_all(port.source), [0, 2], "what arrives")
        await second
        balanced(port)


@clause("port")
async def a_send_is_cancelled_or_sent_wherever_it_lands(maker: PortMaker) -> None:
    """However late the cancellation of a send comes, the message was sent and counted or neither."""
    for turns in range(TURNS):
        async with maker(qos(1), ManualClock()) as port:
            await port.sink.send(message(0))
            sender = asyncio.create_task(port.sink.send(message(1)))
            await quiet()
            port.source.settle(port.source.take(1))
            for _ in range(turns):
                await asyncio.sleep(0)
            sender.cancel()
            await asyncio.wait([sender])
            await quiet()
            wanted = [] if sender.cancelled() else [1]
            what = f"after {turns} turns, {'cancelled' if sender.cancelled() else 'sent'}"
            equal(port.sink.books.sent, 1 + len(wanted), f"{what}: sent")
            equal(await take_all(port.source), wanted, f"{what}: what arrives")
            equal(port.sink.credit_items(NORMAL), 1, f"{what}: credit")
            balanced(port, what)


@clause("port")
async def a_cancelled_receive_loses_nothing(maker: PortMaker) -> None:
    """Wherever the cancellation of a receive lands, no message is lost, doubled or out of order."""
    for queued in (0, 3):
        for turns in range(TURNS):
            async with maker(qos(), ManualClock()) as port:
                await send_all(port.sink, (message(number) for number in range(queued)))
                receiver = asyncio.create_task(receive_one(port.source))
                if not queued:
                    await quiet()
                    await send_all(port.sink, (message(number) for number in range(3)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                receiver.cancel()
                await asyncio.wait([receiver])
                first = [] if receiver.cancelled() else [receiver.result()]
                what = f"cancelled after {turns} turns with {queued} queued"
                balanced(port, what)
                equal(first + await take_all(port.source), [0, 1, 2], what)
                equal((port.source.books.delivered, port.source.books.in_flight), (3, 0), f"{what}: the books")


@clause("port")
async def a_cancelled_receive_frees_the_place(maker: PortMaker) -> None:
    """After a cancelled receive another one may wait, and gets message and end."""
    async with maker(qos(), ManualClock()) as port:
        for number in range(3):
            cancelled = asyncio.create_task(receive_one(port.source))
            await quiet()
            cancelled.cancel()
            await asyncio.wait([cancelled])
            waiting = asyncio.create_task(receive_one(port.source))
            await quiet()
            await port.sink.send(message(number))
            equal(await waiting, number, "what the next one received")
        last = asyncio.create_task(outcome(port.source.receive()))
        await quiet()
        await port.sink.finish()
        equal(await last, EndOfStream, "the end")


@clause("port")
async def interleaved_senders_keep_their_own_order(maker: PortMaker) -> None:
    """Several tasks may send at once: nothing is lost, and what one task sent stays in its order."""
    async with maker(qos(2), ManualClock()) as port:

        async def produce(first: int) -> None:
            await send_all(port.sink, (message(first + step) for step in range(30)))

        senders = [asyncio.create_task(produce(first)) for first in (0, 100, 200)]
        found: list[int] = []
        for _ in range(90):
            with await port.source.receive() as envelope:
                found.append(number_of(envelope))
        await asyncio.gather(*senders)
        for first in (0, 100, 200):
            mine = [number for number in found if first <= number < first + 100]
            equal(mine, list(range(first, first + 30)), "the messages of one sender")
        balanced(port)
