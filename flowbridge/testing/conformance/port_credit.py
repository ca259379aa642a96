"""Clauses of DataPort: credit, watermarks and what a full lane does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import BlockReason, WouldBlock
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import (
    BEST,
    HIGH,
    NORMAL,
    RT,
    balanced,
    message,
    numbers,
    outcome,
    qos,
    send_all,
    take_all,
)
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import DataPort
    from flowbridge.envelope import Envelope
    from flowbridge.testing.conformance.message import PortMaker


def _blocked(port: DataPort, envelope: Envelope, what: str) -> BlockReason:
    """Why a message is not accepted now; nothing may be counted."""
    before = (port.sink.books.sent, port.sink.books.refused, port.sink.books.in_flight)
    with raises(WouldBlock, what) as caught:
        port.sink.send_nowait(envelope)
    books = port.sink.books
    equal((books.sent, books.refused, books.in_flight), before, f"{what}: sent, refused, in flight after WouldBlock")
    return caught.error.reason


@clause("port")
async def block_counts_nothing_when_it_would_block(maker: PortMaker) -> None:
    """Under `block`, `send_nowait` without item credit raises WouldBlock(CREDIT_ITEMS), and nothing is counted."""
    async with maker(qos(3), ManualClock()) as port:
        for number in range(3):
            equal(port.sink.credit_items(NORMAL), 3 - number, "credit")
            port.sink.send_nowait(message(number))
        equal(port.sink.credit_items(NORMAL), 0, "credit of a full lane")
        equal(_blocked(port, message(9), "a full lane"), BlockReason.CREDIT_ITEMS, "the reason")
        balanced(port)
        equal(await take_all(port.source), [0, 1, 2], "what arrives")


@clause("port")
async def byte_credit_is_kept(maker: PortMaker) -> None:
    """A lane holds at most its byte capacity; beyond it `send_nowait` raises WouldBlock(CREDIT_BYTES)."""
    async with maker(qos(8, bytes_=100), ManualClock()) as port:
        port.sink.send_nowait(message(0, size=60))
        equal(_blocked(port, message(1, size=41), "one byte too many"), BlockReason.CREDIT_BYTES, "the reason")
        port.sink.send_nowait(message(2, size=40))
        equal(_blocked(port, message(3, size=1), "a lane full of bytes"), BlockReason.CREDIT_BYTES, "the reason")
        await quiet()
        taken = port.source.take(1)
        equal(_blocked(port, message(3, size=1), "lent bytes"), BlockReason.CREDIT_BYTES, "the reason")
        port.source.settle(taken)
        await quiet()
        port.sink.send_nowait(message(4, size=60))
        equal(await take_all(port.source), [2, 4], "what arrives after it")
        balanced(port)


@clause("port")
async def an_oversized_message_is_accepted_alone(maker: PortMaker) -> None:
    """A lane that holds nothing accepts one message of any size; nothing joins it."""
    async with maker(qos(8, bytes_=100), ManualClock()) as port:
        port.sink.send_nowait(message(0, size=1))
        equal(_blocked(port, message(1, size=500), "a lane that is not empty"), BlockReason.CREDIT_BYTES, "the reason")
        equal(await take_all(port.source), [0], "what arrives first")
        port.sink.send_nowait(message(1, size=500))
        equal(_blocked(port, message(2, size=1), "beside it"), BlockReason.CREDIT_BYTES, "the reason")
        equal(await take_all(port.source), [1], "what arrives next")
        port.sink.send_nowait(message(2, size=1))
        equal(await take_all(port.source), [2], "what arrives last")
        balanced(port)


@clause("port")
async def lanes_have_credit_of_their_own(maker: PortMaker) -> None:
    """A full lane does not stop another, whether full of items, of bytes, or of senders that wait."""
    async with maker(qos(2, bytes_=100), ManualClock()) as port:
        await send_all(port.sink, [message(0, BEST), message(1, BEST)])
        waiting = asyncio.create_task(port.sink.send(message(2, BEST)))
        await quiet()
        holds(not waiting.done(), "a full lane accepted one more")
        for lane in (RT, HIGH, NORMAL):
            equal(port.sink.credit_items(lane), 2, f"credit of lane {lane.word}")
            port.sink.send_nowait(message(10 + lane, lane, size=100))
        await quiet()
        equal(numbers(port.source.take(4)), [10], "the most urgent")
        waiting.cancel()
        await asyncio.wait([waiting])
        balanced(port)


@clause("port")
async def block_waits_for_credit(maker: PortMaker) -> None:
    """Under `block` a sender without credit waits, and goes on when credit returns; nothing is dropped."""
    async with maker(qos(4), ManualClock()) as port:
        wanted = 40
        sent: list[int] = []

        async def produce() -> None:
            for number in range(wanted):
                await port.sink.send(message(number))
                sent.append(number)

        producer = asyncio.create_task(produce())
        await quiet()
        equal(len(sent), 4, "sends that returned while nobody takes")
        equal(port.sink.books.sent, 4, "messages counted while nobody takes")
        for number in range(wanted):
            taken = port.source.take(1)
            await quiet()
            equal(len(sent), min(number + 4, wanted), f"sends that returned while message {number} is lent")
            equal(numbers(taken), [number], "the next message")
            port.source.settle(taken)
            await quiet()
        await producer
        equal((port.sink.books.sent, port.sink.books.dropped_total), (wanted, 0), "sent and dropped")
        balanced(port)


@clause("port")
async def credit_returns_on_settle_and_only_then(maker: PortMaker) -> None:
    """Taking a message returns no credit, settling it does; `settle` counts what was delivered and what expired."""
    async with maker(qos(4), ManualClock()) as port:
        await send_all(port.sink, (message(number) for number in range(4)))
        await quiet()
        taken = port.source.take(3)
        await quiet()
        equal(port.sink.credit_items(NORMAL), 0, "credit while three are lent")
        equal(_blocked(port, message(9), "three are lent"), BlockReason.CREDIT_ITEMS, "the reason")
        equal(port.source.books.in_flight, 4, "in flight while three are lent")
        port.source.settle(taken, expired=1)
        await quiet()
        equal(port.sink.credit_items(NORMAL), 3, "credit after settling")
        books = port.source.books
        equal((books.delivered, books.expired, books.missed.queued, books.in_flight), (2, 1, 1, 1), "the books")
        balanced(port)


@clause("port")
async def watermarks_have_hysteresis(maker: PortMaker) -> None:
    """Under `block` a lane stopped at its high watermark stays stopped (ABOVE_WATERMARK) down to its low one."""
    async with maker(qos(8, high=6, low=2), ManualClock()) as port:
        await send_all(port.sink, (message(number) for number in range(6)))
        equal(_blocked(port, message(9), "the high watermark"), BlockReason.ABOVE_WATERMARK, "the reason")
        waiting = asyncio.create_task(port.sink.send(message(6)))
        writable = asyncio.create_task(port.sink.wait_writable())
        await quiet()
        for left in (5, 4, 3):
            port.source.settle(port.source.take(1))
            await quiet()
            equal(_blocked(port, message(9), f"{left} left"), BlockReason.ABOVE_WATERMARK, "the reason")
            holds(not waiting.done(), f"the sender went on with {left} left")
            holds(not writable.done(), f"wait_writable returned with {left} left")
            equal(port.sink.credit_items(NORMAL), 0, f"credit with {left} left")
        port.source.settle(port.source.take(1))
        await quiet()
        holds(waiting.done(), "the sender still waits at the low watermark")
        holds(writable.done(), "wait_writable still waits at the low watermark")
        equal(port.sink.credit_items(NORMAL), 3, "credit at the low watermark, and one message sent")
        equal(await take_all(port.source), [4, 5, 6], "what arrives")
        balanced(port)


@clause("port")
async def wait_writable_returns_at_once_below_the_watermark(maker: PortMaker) -> None:
    """`wait_writable` does not wait where nothing is stopped, nor after the end."""
    async with maker(qos(4), ManualClock()) as port:
        for step in ("empty", "half full", "finished"):
            if step == "half full":
                await send_all(port.sink, [message(0), message(1)])
            elif step == "finished":
                await port.sink.finish()
            waiting = asyncio.create_task(port.sink.wait_writable())
            await quiet()
            holds(waiting.done(), f"wait_writable waits on a port that is {step}")


@clause("port")
async def drop_oldest_drops_the_oldest_of_the_lane(maker: PortMaker) -> None:
    """Under `drop_oldest` a full lane loses its oldest queued message, which is counted; what is lent is safe."""
    async with maker(qos(3, Policy.DROP_OLDEST), ManualClock()) as port:
        await send_all(port.sink, [message(100, RT), message(101, BEST)])
        await send_all(port.sink, (message(number) for number in range(5)))
        await quiet()
        equal(dict(port.sink.books.dropped), {"drop_oldest": 2}, "dropped")
        lent = port.source.take(1, NORMAL)
        equal(numbers(lent), [2], "the oldest that is left")
        await send_all(port.sink, (message(number) for number in (5, 6, 7)))
        balanced(port, "while one is lent")
        port.source.settle(lent)
        equal(await take_all(port.source), [100, 5, 6, 7, 101], "what arrives")
        equal((port.sink.books.sent, port.sink.books.delivered), (10, 6), "sent and delivered")
        balanced(port)


@clause("port")
async def drop_oldest_makes_room_in_bytes(maker: PortMaker) -> None:
    """Under `drop_oldest` as many old messages go as the new one needs bytes; one too large for any stays alone."""
    async with maker(qos(8, Policy.DROP_OLDEST, bytes_=100), ManualClock()) as port:
        await send_all(port.sink, (message(number, size=30) for number in range(3)))
        await port.sink.send(message(3, size=60))
        await quiet()
        equal(dict(port.sink.books.dropped), {"drop_oldest": 2}, "dropped for 60 bytes")
        await port.sink.send(message(4, size=500))
        await quiet()
        equal(dict(port.sink.books.dropped), {"drop_oldest": 4}, "dropped for 500 bytes")
        equal(await take_all(port.source), [4], "what arrives")
        balanced(port)


@clause("port")
async def drop_newest_drops_the_new_message(maker: PortMaker) -> None:
    """Under `drop_newest` a full lane keeps what it has; the new message is counted as sent and dropped."""
    async with maker(qos(3, Policy.DROP_NEWEST), ManualClock()) as port:
        await port.sink.send(message(100, BEST))
        await send_all(port.sink, (message(number) for number in range(5)))
        port.sink.send_nowait(message(5))
        await quiet()
        equal(dict(port.sink.books.dropped), {"drop_newest": 3}, "dropped")
        balanced(port)
        equal(await take_all(port.source), [0, 1, 2, 100], "what arrives")
        equal((port.sink.books.sent, port.sink.books.delivered), (7, 4), "sent and delivered")
        balanced(port)


@clause("port")
async def latest_keeps_only_the_newest(maker: PortMaker) -> None:
    """Under `latest` each lane holds one queued message, the newest; those it replaced are counted."""
    async with maker(qos(1, Policy.LATEST), ManualClock()) as port:
        for number in range(6):
            port.sink.send_nowait(message(number, NORMAL if number % 2 else HIGH))
        await quiet()
        equal(dict(port.sink.books.dropped), {"latest": 4}, "dropped")
        lent = port.source.take(8)
        equal(numbers(lent), [4], "the newest of the urgent lane")
        await send_all(port.sink, [message(6, HIGH), message(7, HIGH)])
        port.source.settle(lent)
        equal(await take_all(port.source, 8), [7, 5], "what arrives")
        balanced(port)


@clause("port")
async def error_refuses_and_counts(maker: PortMaker) -> None:
    """Under `error` a lane without credit refuses: WouldBlock from `send` too, at once, counted as sent and refused."""
    async with maker(qos(2, Policy.ERROR), ManualClock()) as port:
        await send_all(port.sink, [message(0), message(1)])
        with raises(WouldBlock, "send_nowait to a full lane") as caught:
            port.sink.send_nowait(message(2))
        equal(caught.error.reason, BlockReason.CREDIT_ITEMS, "the reason")
        sender = asyncio.create_task(outcome(port.sink.send(message(3))))
        await quiet()
        holds(sender.done(), "send waits although the policy is error")
        equal(await sender, WouldBlock, "what send got")
        equal((port.sink.books.sent, port.sink.books.refused), (4, 2), "sent and refused")
        await port.sink.send(message(4, RT))
        balanced(port)
        equal(await take_all(port.source), [4, 0, 1], "what arrives")
        await port.sink.send(message(5))
        equal(await take_all(port.source), [5], "what arrives once there is credit")
        balanced(port)
