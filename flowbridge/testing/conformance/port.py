"""Clauses of DataPort: what arrives, in which order, and how a stream ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.envelope import Envelope, TraceContext, Trail
from flowbridge.errors import BrokenError, BusyError, ClosedError, EndOfStream
from flowbridge.limits import STARVATION_TURNS_MAX
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import (
    BEST,
    HIGH,
    MS,
    NORMAL,
    RT,
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


@clause("port")
async def keeps_every_field(maker: PortMaker) -> None:
    """A message arrives with every field it was sent with; `sent_ns` is when this hop accepted it."""
    clock = ManualClock()
    async with maker(qos(), clock) as port:
        trail, trace = Trail("a").step("b"), TraceContext("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "k=v")
        headers: dict[str, str | int] = {"topic": "x.y", "correlation": 7}
        deadline_ns = clock.now_ns() + 50 * MS
        await port.sink.send(Envelope(b"body", HIGH, deadline_ns, 123, 0, 4, 42, trail, trace, headers))
        with await port.source.receive() as got:
            equal(bytes(got.payload), b"body", "payload")
            equal((got.priority, got.deadline_ns, got.origin_ns), (HIGH, deadline_ns, 123), "priority and times")
            equal((got.size_bytes, got.seq), (4, 42), "size and sequence number")
            equal(got.sent_ns, clock.now_ns(), "sent_ns")
            equal(got.trail.nodes if got.trail else (), ("a", "b"), "trail")
            equal((got.trace, dict(got.headers or {})), (trace, headers), "trace and headers")


@clause("port")
async def keeps_order_within_a_lane(maker: PortMaker) -> None:
    """Messages of one lane arrive in the order they were sent, when the consumer keeps up."""
    async with maker(qos(), ManualClock()) as port:
        for number in range(100):
            await port.sink.send(message(number))
            equal(await receive_one(port.source), number, "the next message")


@clause("port")
async def keeps_order_when_messages_pile_up(maker: PortMaker) -> None:
    """Messages of one lane stay in order when many are queued, however many are taken at once."""
    for limit in (1, 3, 64):
        async with maker(qos(), ManualClock()) as port:
            await send_all(port.sink, (message(number) for number in range(50)))
            equal(await take_all(port.source, limit), list(range(50)), f"taken {limit} at a time")
            balanced(port)


@clause("port")
async def lends_messages_of_one_lane_at_a_time(maker: PortMaker) -> None:
    """One `take` lends messages of one lane only and never more than asked for; `waiting` names the lanes."""
    async with maker(qos(), ManualClock()) as port:
        equal(port.source.waiting, 0, "lanes waiting at first")
        await send_all(port.sink, [message(0, BEST), message(1, HIGH), message(2, BEST), message(3, HIGH)])
        await quiet()
        equal(port.source.waiting, 1 << HIGH | 1 << BEST, "lanes waiting")
        equal(numbers(port.source.take(64)), [1, 3], "the first take")
        equal(port.source.waiting, 1 << BEST, "lanes waiting after it")
        equal(numbers(port.source.take(1)), [0], "the second take, of one")
        equal(numbers(port.source.take(1)), [2], "the third take, of one")


@clause("port")
async def takes_from_the_lane_asked_for(maker: PortMaker) -> None:
    """`take` with a lane lends from that lane, whatever waits in the others."""
    async with maker(qos(), ManualClock()) as port:
        await send_all(port.sink, [message(0, RT), message(1, BEST)])
        await quiet()
        equal(numbers(port.source.take(4, NORMAL)), [], "an empty lane")
        equal(numbers(port.source.take(4, BEST)), [1], "the lane asked for")
        equal(numbers(port.source.take(4)), [0], "the rest")


@clause("port")
async def what_is_given_back_comes_first_again(maker: PortMaker) -> None:
    """`give_back` undoes a `take`: the messages stand at the head of their lane again, and nothing is counted."""
    async with maker(qos(), ManualClock()) as port:
        await send_all(port.sink, (message(number) for number in range(5)))
        await quiet()
        taken = port.source.take(3)
        port.source.give_back(taken[1:])
        balanced(port, "after giving back")
        equal((port.source.books.delivered, port.source.books.in_flight), (0, 5), "delivered and in flight")
        port.source.settle(taken[:1])
        equal(await take_all(port.source, 2), [1, 2, 3, 4], "what comes next")
        balanced(port)


@clause("port")
async def urgent_lanes_come_first(maker: PortMaker) -> None:
    """When several lanes have messages, the more urgent lane is served first."""
    async with maker(qos(), ManualClock()) as port:
        lanes = (BEST, NORMAL, HIGH, RT)
        await send_all(port.sink, (message(number, lanes[number % 4]) for number in range(8)))
        equal(await take_all(port.source), [3, 7, 2, 6, 1, 5, 0, 4], "the order")


@clause("port")
async def a_lane_passed_over_gets_its_turn(maker: PortMaker) -> None:
    """A lane passed over `STARVATION_TURNS_MAX` times while it had work gets the next turn, and no sooner."""
    async with maker(qos(), ManualClock()) as port:
        await port.sink.send(message(1000, BEST))
        await send_all(port.sink, (message(number, RT) for number in range(STARVATION_TURNS_MAX + 8)))
        order = await take_all(port.source)
        equal(order.index(1000), STARVATION_TURNS_MAX, "turns before the lane passed over")


@clause("port")
async def finish_comes_after_everything_sent(maker: PortMaker) -> None:
    """The end of a stream is seen after the last message, in whatever lane, and stays."""
    async with maker(qos(), ManualClock()) as port:
        await send_all(port.sink, [message(0, BEST), message(1, NORMAL), message(2, RT)])
        await port.sink.finish()
        await quiet()
        holds(not port.source.ended, "ended although messages wait")
        equal([await receive_one(port.source) for _ in range(3)], [2, 1, 0], "what was sent")
        holds(port.source.ended, "not ended although everything was taken")
        for _ in range(2):
            with raises(EndOfStream, "receive after the last message"):
                await port.source.receive()
        equal(port.source.take(1), [], "take after the end")
        balanced(port)


@clause("port")
async def finish_wakes_a_waiting_receiver(maker: PortMaker) -> None:
    """A receiver that waits when the sender finishes gets EndOfStream."""
    async with maker(qos(), ManualClock()) as port:
        waiting = asyncio.create_task(outcome(port.source.receive()))
        await quiet()
        await port.sink.finish()
        await quiet()
        holds(waiting.done(), "the receiver still waits")
        equal(await waiting, EndOfStream, "what it got")


@clause("port")
async def finish_is_idempotent_and_final(maker: PortMaker) -> None:
    """`finish` may be called again; after it every send is ClosedError and counts nothing."""
    async with maker(qos(), ManualClock()) as port:
        await port.sink.send(message(0))
        await port.sink.finish()
        await port.sink.finish()
        with raises(ClosedError, "send_nowait after finish"):
            port.sink.send_nowait(message(1))
        with raises(ClosedError, "send after finish"):
            await port.sink.send(message(1))
        equal(port.sink.books.sent, 1, "sent")
        equal(await take_all(port.source), [0], "what arrives")


@clause("port")
async def news_is_told_to_an_idle_source(maker: PortMaker) -> None:
    """`on_news` calls when a message or the end reaches a source that found nothing, and at once if there is some."""
    calls: list[str] = []
    async with maker(qos(), ManualClock()) as port:
        port.source.on_news(lambda: calls.append("first"))
        await quiet()
        equal(calls, [], "calls without any news")
        for number in range(2):
            calls.clear()
            await port.sink.send(message(number))
            await quiet()
            holds(calls, f"message {number} reached an idle source untold")
            equal(await take_all(port.source), [number], "what there is")
        calls.clear()
        await port.sink.finish()
        await quiet()
        holds(calls, "the end reached an idle source untold")
    async with maker(qos(), ManualClock()) as port:
        calls.clear()
        await port.sink.send(message(0))
        await quiet()
        port.source.on_news(lambda: calls.append("second"))
        await quiet()
        holds(calls, "there was news when on_news was called")
        port.source.on_news(None)


@clause("port")
async def receive_waits_for_a_message(maker: PortMaker) -> None:
    """`receive` waits while there is nothing, and returns what comes."""
    async with maker(qos(), ManualClock()) as port:
        waiting = asyncio.create_task(receive_one(port.source))
        await quiet()
        holds(not waiting.done(), "received before anything was sent")
        await port.sink.send(message(5))
        equal(await waiting, 5, "what it received")


@clause("port")
async def a_second_receiver_is_refused(maker: PortMaker) -> None:
    """While one task receives, another gets BusyError; the first is not disturbed, and later ones are welcome."""
    async with maker(qos(), ManualClock()) as port:
        first = asyncio.create_task(receive_one(port.source))
        await quiet()
        second = asyncio.create_task(outcome(port.source.receive()))
        await quiet()
        holds(second.done(), "the second receiver waits too")
        equal(await second, BusyError, "what the second receiver got")
        await send_all(port.sink, [message(1), message(2)])
        equal((await first, await receive_one(port.source)), (1, 2), "what was received")


@clause("port")
async def a_lease_is_released_once(maker: PortMaker) -> None:
    """Releasing a lease again does nothing; its credit returns once."""
    async with maker(qos(2, low=1), ManualClock()) as port:
        await send_all(port.sink, [message(0), message(1)])
        lease, other = await port.source.receive(), await port.source.receive()
        for _ in range(3):
            lease.release()
        await quiet()
        equal(port.sink.credit_items(NORMAL), 1, "credit after one release")
        equal((port.source.books.delivered, port.source.books.in_flight), (1, 1), "delivered and in flight")
        with other as envelope:
            equal(number_of(envelope), 1, "the other message")
        other.release()
        await quiet()
        equal(port.sink.credit_items(NORMAL), 2, "credit after both")
        balanced(port)


@clause("port")
async def closing_the_source_aborts_what_is_queued(maker: PortMaker) -> None:
    """`source.aclose` counts what is queued as dropped by `abort`; every later send is BrokenError. Idempotent."""
    async with maker(qos(), ManualClock()) as port:
        await send_all(port.sink, [message(0), message(1, RT), message(2)])
        await quiet()
        taken = port.source.take(1)
        await port.source.aclose()
        await port.source.aclose()
        await quiet()
        equal(dict(port.source.books.dropped), {"abort": 2}, "dropped")
        balanced(port, "after closing")
        with raises(BrokenError, "send_nowait to a closed source"):
            port.sink.send_nowait(message(3))
        with raises(BrokenError, "send to a closed source"):
            await port.sink.send(message(3))
        port.source.settle(taken)
        equal((port.source.books.delivered, port.source.books.in_flight), (1, 0), "delivered and in flight")
        balanced(port)


@clause("port")
async def closing_the_source_wakes_who_waits(maker: PortMaker) -> None:
    """When the source is closed, a waiting sender gets BrokenError, a receiver ClosedError; `wait_writable` returns."""
    async with maker(qos(1), ManualClock()) as port:
        await port.sink.send(message(0))
        sender = asyncio.create_task(outcome(port.sink.send(message(1))))
        await quiet()
        writable = asyncio.create_task(port.sink.wait_writable())
        await quiet()
        await port.source.aclose()
        await quiet()
        holds(sender.done(), "the sender still waits")
        equal(await sender, BrokenError, "what the sender got")
        holds(writable.done(), "wait_writable still waits")
        equal(port.sink.books.sent, 1, "sent")
        balanced(port)
    async with maker(qos(1), ManualClock()) as port:
        receiver = asyncio.create_task(outcome(port.source.receive()))
        await quiet()
        await port.source.aclose()
        await quiet()
        holds(receiver.done(), "the receiver still waits")
        equal(await receiver, ClosedError, "what the receiver got")


@clause("port")
async def ten_thousand_messages_leave_nothing_behind(maker: PortMaker) -> None:
    """After ten thousand messages no task is left, nothing is in flight and all credit is back."""
    tasks = len(asyncio.all_tasks())
    async with maker(qos(16, low=8), ManualClock()) as port:
        wanted = 10_000

        async def produce() -> None:
            await send_all(port.sink, (message(number) for number in range(wanted)))
            await port.sink.finish()

        producer = asyncio.create_task(produce())
        for number in range(wanted):
            found = await receive_one(port.source)
            if found != number:
                equal(found, number, "the next message")
        await producer
        await quiet()
        books = port.source.books
        equal((books.sent, books.delivered, books.in_flight), (wanted, wanted, 0), "sent, delivered, in flight")
        equal(port.sink.credit_items(NORMAL), 16, "credit")
    await quiet()
    equal(len(asyncio.all_tasks()), tasks, "tasks")
