"""Clauses of BlockingSource and BlockingSink: who waits without the loop gets what the loop would have brought.

A source may say that something can come through the loop only; then the loop brings it, and the rest holds as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol, cast

from flowbridge.contracts import BlockingSink, BlockingSource, DataSink, DataSource
from flowbridge.envelope import Envelope
from flowbridge.errors import BlockReason, BrokenError, WouldBlock
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import MS, NORMAL, RT, balanced, message, numbers, qos
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import DataPort
    from flowbridge.testing.conformance.message import PortMaker

LONG_NS: Final = 10_000 * MS
"""Waited out only by a source that misses what comes."""


class _Source(DataSource, BlockingSource, Protocol):
    pass


class _Sink(DataSink, BlockingSink, Protocol):
    pass


def _ends(port: DataPort) -> tuple[_Sink, _Source]:
    return cast("_Sink", port.sink), cast("_Source", port.source)


async def _brought(source: _Source) -> bool:
    """Bring what was sent, through the loop where it must be; whether it came without."""
    before = source.waiting, source.ended
    if source.wait_blocking(LONG_NS):
        return True
    holds((source.waiting, source.ended) == before, "a wait that brought something says that nothing came")
    source.leave_to_loop()
    await quiet()
    return False


def _taken(source: _Source, limit: int = 64) -> list[int]:
    """The numbers of what is there, settled; no turn of the loop."""
    found: list[int] = []
    while lent := source.take(limit):
        found += numbers(lent)
        source.settle(lent)
    return found


@clause("blocking")
async def a_wait_says_whether_something_came(maker: PortMaker) -> None:
    """`wait_blocking` is True when it brought something, told by `on_news` by then; after its timeout it is False."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        calls: list[str] = []
        source.on_news(lambda: calls.append("news"))
        await quiet()
        for timeout_ns in (0, MS):
            holds(not source.wait_blocking(timeout_ns), "something came although nothing was sent")
        equal(calls, [], "calls without any news")
        for number in range(3):
            calls.clear()
            sink.send_nowait(message(number))
            await _brought(source)
            holds(calls, f"message {number} reached an idle source untold")
            equal(source.waiting, 1 << NORMAL, "lanes waiting")
            equal(_taken(source), [number], "what there is")
            holds(not source.wait_blocking(0), "the same came twice")
        balanced(port)


@clause("blocking")
async def waits_and_loop_keep_one_order(maker: PortMaker) -> None:
    """Messages of one lane come in order and once, whether a wait or the loop brings them."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        found: list[int] = []
        for step in range(12):
            for number in range(5):
                sink.send_nowait(message(step * 5 + number))
            if step % 3:
                await _brought(source)
            else:
                source.leave_to_loop()
                await quiet()
            found += _taken(source, 1 + step % 4)
        source.leave_to_loop()
        await quiet()
        equal(found + _taken(source), list(range(60)), "what arrives")
        equal((source.books.delivered, source.books.in_flight), (60, 0), "delivered and in flight")
        balanced(port)


@clause("blocking")
async def an_urgent_message_overtakes_what_was_brought(maker: PortMaker) -> None:
    """A wait of no time brings what is more urgent than what is there, and `take` lends that first."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        for number in range(3):
            sink.send_nowait(message(number))
        await _brought(source)
        sink.send_nowait(message(9, RT))
        if not source.wait_blocking(0):
            await _brought(source)
        equal(_taken(source, 1), [9, 0, 1, 2], "the order")
        balanced(port)


@clause("blocking")
async def a_wait_ends_when_something_comes(maker: PortMaker) -> None:
    """Who waits is woken by what is sent meanwhile, as often as it waits."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        sink.send_nowait(message(0))
        if not await _brought(source):
            return  # it comes through the loop, which does nothing while somebody waits
        equal(_taken(source), [0], "the first")
        for number in range(1, 4):

            def send(number: int = number) -> None:
                time.sleep(0.002)
                sink.send_nowait(message(number))  # the thread of the loop does nothing meanwhile but wait

            sender = threading.Thread(target=send)
            sender.start()
            came = source.wait_blocking(LONG_NS)
            sender.join()
            holds(came, f"message {number} woke nobody")
            equal(_taken(source), [number], "what came")
        balanced(port)


@clause("blocking")
async def credit_returns_without_the_loop(maker: PortMaker) -> None:
    """Without credit `send_nowait` is WouldBlock, with its reason; only `settle` returns it, told by the next wait."""
    async with maker(qos(1), ManualClock()) as port:
        sink, source = _ends(port)
        for number in range(5):
            sink.send_nowait(message(number))
            needs_no_loop = await _brought(source)
            lent = source.take(1)
            equal(numbers(lent), [number], "what came")
            source.wait_blocking(0)
            with raises(WouldBlock, "a second message while the first is lent") as caught:
                sink.send_nowait(message(99))
            equal(caught.error.reason, BlockReason.CREDIT_ITEMS, "the reason")
            source.settle(lent)
            source.wait_blocking(0)
            if not needs_no_loop:
                source.leave_to_loop()
                await quiet()
            equal(sink.credit_items(NORMAL), 1, "credit after the message was given back")
        equal((sink.books.sent, sink.books.delivered), (5, 5), "sent and delivered")
        balanced(port)


@clause("blocking")
async def what_is_lent_stays_valid_while_more_is_brought(maker: PortMaker) -> None:
    """A payload that a wait brought stays as it is until it is given back, whatever waits bring meanwhile."""
    async with maker(qos(8, bytes_=1 << 22), ManualClock()) as port:
        sink, source = _ends(port)
        lent: list[Envelope] = []
        for number in range(8):
            sink.send_nowait(Envelope(bytes([number]) * 50_000, size_bytes=50_000, seq=number))
            await _brought(source)
            lent += source.take(8)
        equal(len(lent), 8, "messages on loan")
        for number, envelope in enumerate(lent):
            holds(bytes(envelope.payload) == bytes([number]) * 50_000, f"payload {number} changed while it was lent")
        equal(source.books.in_flight, 8, "in flight")
        source.settle(lent)
        source.leave_to_loop()
        await quiet()
        equal(sink.credit_items(NORMAL), 8, "credit")
        balanced(port)


@clause("blocking")
async def deadlines_are_counted_as_on_the_loop(maker: PortMaker) -> None:
    """What is late when it is offered is not brought; what becomes late is lent, and expires where `settle` says so."""
    clock = ManualClock()
    async with maker(qos(), clock) as port:
        sink, source = _ends(port)
        deadline_ns = clock.now_ns() + 5 * MS
        sink.send_nowait(message(0, deadline_ns=clock.now_ns()))
        holds(not source.wait_blocking(0), "a message that was late when it was offered came")
        sink.send_nowait(message(1, deadline_ns=deadline_ns))
        await _brought(source)
        await clock.advance(5 * MS)
        lent = source.take(4)
        equal([envelope.deadline_ns for envelope in lent], [deadline_ns], "what is lent")
        source.settle(lent, expired=1)
        source.leave_to_loop()
        await quiet()
        for books in (source.books, sink.books):
            equal((books.delivered, books.in_flight), (0, 0), "delivered and in flight")
        equal((sink.books.sent, sink.books.expired), (2, 2), "sent and expired")
        equal((sink.books.missed.late, sink.books.missed.queued), (1, 1), "late and queued")
        balanced(port)


@clause("blocking")
async def the_end_comes_in_band(maker: PortMaker) -> None:
    """A wait brings the end after everything sent before it; after it nothing comes, and no wait is waited out."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        sink.send_nowait(message(0))
        sink.send_nowait(message(1))
        await sink.finish()
        await _brought(source)
        holds(not source.ended, "ended although messages wait")
        equal(_taken(source), [0, 1], "what was sent")
        if not source.ended:
            await _brought(source)
        holds(source.ended, "not ended although everything was taken")
        holds(not source.wait_blocking(0), "something came after the end")
        equal(source.take(1), [], "take after the end")
        balanced(port)


@clause("blocking")
async def the_end_alone_is_brought(maker: PortMaker) -> None:
    """The end of a stream without a message is news that a wait brings."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        calls: list[str] = []
        source.on_news(lambda: calls.append("news"))
        source.wait_blocking(0)
        await sink.finish()
        await _brought(source)
        holds(source.ended, "not ended")
        holds(calls, "the end reached an idle source untold")


@clause("blocking")
async def the_loop_goes_on_where_it_was_left(maker: PortMaker) -> None:
    """After `leave_to_loop` the loop brings what came before it and after it, and tells of it; again and again."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        calls: list[str] = []
        source.on_news(lambda: calls.append("news"))
        for number in range(0, 6, 2):
            equal(_taken(source), [], "what is left")
            calls.clear()
            source.wait_blocking(0)
            sink.send_nowait(message(number))
            source.leave_to_loop()
            await quiet()
            holds(calls, f"message {number}, sent before it was left to the loop, came untold")
            equal(_taken(source), [number], "what the loop brought")
            calls.clear()
            sink.send_nowait(message(number + 1))
            await quiet()
            holds(calls, f"message {number + 1}, sent after it was left to the loop, came untold")
            equal(_taken(source), [number + 1], "what the loop brought")
        balanced(port)


@clause("blocking")
async def a_sender_that_waits_needs_the_loop(maker: PortMaker) -> None:
    """A sink with a sender that waits for credit says that it needs the loop, so that it is not kept waiting."""
    async with maker(qos(1), ManualClock()) as port:
        sink, source = _ends(port)
        sink.send_nowait(message(0))
        sender = asyncio.create_task(sink.send(message(1)))
        await quiet()
        holds(not sender.done(), "sent without credit")
        holds(sink.needs_loop, "a sender waits, and the loop is not needed")
        await _brought(source) if not source.waiting else None
        equal(_taken(source), [0], "what came first")
        source.leave_to_loop()
        await sender
        await quiet()
        equal(_taken(source), [1], "what the loop sent on")
        balanced(port)


@clause("blocking")
async def a_closed_source_brings_nothing(maker: PortMaker) -> None:
    """After `aclose` a wait is False at once, what was brought is dropped by `abort`, and sends are BrokenError."""
    async with maker(qos(), ManualClock()) as port:
        sink, source = _ends(port)
        for number in range(3):
            sink.send_nowait(message(number))
        await _brought(source)
        await source.aclose()
        await quiet()
        holds(not source.wait_blocking(0), "something came to a closed source")
        source.leave_to_loop()
        await quiet()
        equal(dict(source.books.dropped), {"abort": 3}, "dropped")
        with raises(BrokenError, "send_nowait to a closed source"):
            sink.send_nowait(message(3))
        balanced(port)
