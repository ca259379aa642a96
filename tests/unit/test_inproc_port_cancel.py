"""A call of the inproc port that is cancelled at any point leaves nothing behind and holds up nobody."""

from __future__ import annotations

import asyncio
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from flowbridge.envelope import Priority
from flowbridge.errors import WouldBlock
from flowbridge.plan import Plane, Route
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.message import MS, message, numbers, qos, take_all
from flowbridge.testing.quiet import quiet
from flowbridge.transports.inproc.port import InprocDataPort

if TYPE_CHECKING:
    from flowbridge.plan import Qos

TURNS = 8
"""More turns of the loop than any script here takes, so that every point of a wait is met."""


def port_of(qos: Qos, clock: ManualClock | None = None) -> InprocDataPort:
    route = Route(
        id="a/out->b/in",
        plane=Plane.DATA,
        source_node="a",
        source_port="out",
        target_node="b",
        target_port="in",
        qos=qos,
    )
    return InprocDataPort(route, clock or ManualClock())


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel_senders(victims: tuple[int, ...], before: int, between: int) -> None:
    """Four senders at a port of one; credit returns; some of them are cancelled some turns later."""
    clock = ManualClock()
    port = port_of(qos(1), clock)
    await port.sink.send(message(0))
    senders = [asyncio.create_task(port.sink.send(message(n, deadline_ns=clock.now_ns() + MS))) for n in (1, 2, 3, 4)]
    writable = asyncio.create_task(port.sink.wait_writable())
    await turns(before)
    port.source.settle(port.source.take(1))
    await turns(between)
    for victim in victims:
        senders[victim].cancel()
    await quiet()
    what = f"victims {victims}, {before} turns before and {between} between"
    assert port.source.books.balances, what
    found = await take_all(port.source)
    assert all(sender.done() for sender in senders), what
    assert found == [number + 1 for number, sender in enumerate(senders) if not sender.cancelled()], what
    assert writable.done(), f"{what}: wait_writable still waits at an empty port"
    books = port.source.books
    assert books.balances, what
    assert (books.sent, books.delivered, books.in_flight) == (len(found) + 1, len(found) + 1, 0), what
    assert port.sink.credit_items(Priority.NORMAL) == 1, what
    assert clock.pending() == (), f"{what}: deadlines left behind"


@pytest.mark.parametrize("victims", [v for count in (1, 2, 3, 4) for v in combinations(range(4), count)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_send_cancelled_anywhere_is_sent_or_not_counted_and_holds_up_nobody(
    victims: tuple[int, ...], *, backwards: bool
) -> None:
    for before in range(3):
        for between in range(TURNS):
            order = victims[::-1] if backwards else victims
            asyncio.run(cancel_senders(order, before, between))


def test_a_sender_that_is_cancelled_in_the_turn_it_was_admitted_takes_nothing_with_it() -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(1), clock)
        await port.sink.send(message(0))
        first = asyncio.create_task(port.sink.send(message(1, deadline_ns=clock.now_ns() + MS)))
        second = asyncio.create_task(port.sink.send(message(2, deadline_ns=clock.now_ns() + MS)))
        await quiet()
        port.source.settle(port.source.take(1))
        first.cancel()
        await quiet()
        assert first.cancelled()
        assert second.done()
        assert (port.sink.books.sent, port.sink.books.in_flight) == (2, 1)
        assert await take_all(port.source) == [2]
        assert clock.pending() == ()

    asyncio.run(script())


def test_a_sender_whose_message_was_taken_before_its_cancellation_arrived_is_counted() -> None:
    async def script() -> None:
        port = port_of(qos(1))
        await port.sink.send(message(0))
        sender = asyncio.create_task(port.sink.send(message(1)))
        await quiet()
        sender.cancel()
        port.source.settle(port.source.take(1))  # admits it: the sender has not run since it was cancelled
        taken = port.source.take(1)
        await quiet()
        assert sender.cancelled()
        assert numbers(taken) == [1]
        port.source.settle(taken)
        assert (port.sink.books.sent, port.sink.books.delivered) == (2, 2)

    asyncio.run(script())


def test_wait_writable_is_not_forgotten_when_the_last_message_is_withdrawn() -> None:
    async def script() -> None:
        port = port_of(qos(1))
        await port.sink.send(message(0))
        admitted = asyncio.create_task(port.sink.send(message(1)))
        refused = asyncio.create_task(port.sink.send(message(2)))
        await quiet()
        writable = asyncio.create_task(port.sink.wait_writable())
        await quiet()
        port.source.settle(port.source.take(1))  # admits one and stops the lane again at the other
        refused.cancel()
        admitted.cancel()
        await quiet()
        assert port.source.waiting == 0
        assert writable.done()

    asyncio.run(script())


def test_a_cancelled_wait_writable_leaves_nothing_behind() -> None:
    async def script() -> None:
        port = port_of(qos(1))
        await port.sink.send(message(0))
        with pytest.raises(WouldBlock):
            port.sink.send_nowait(message(1))
        for _ in range(3):
            waiting = asyncio.create_task(port.sink.wait_writable())
            await quiet()
            waiting.cancel()
            await quiet()
        assert port.ends.writable == []

    asyncio.run(script())


@pytest.mark.parametrize("queued", [0, 1, 3])
def test_a_receive_cancelled_anywhere_loses_nothing(queued: int) -> None:
    async def script(before: int, between: int) -> None:
        port = port_of(qos(8))
        for number in range(queued):
            await port.sink.send(message(number))
        receiver = asyncio.create_task(port.source.receive())
        await turns(before)
        for number in range(queued, 3):
            await port.sink.send(message(number))
        await turns(between)
        receiver.cancel()
        await quiet()
        found: list[int] = []
        if not receiver.cancelled():
            with receiver.result() as envelope:
                found.append(envelope.seq)
        while len(found) < 3:
            with await port.source.receive() as envelope:
                found.append(envelope.seq)
        assert found == [0, 1, 2]
        assert (port.source.books.delivered, port.source.books.in_flight) == (3, 0)

    for before in range(TURNS):
        for between in range(TURNS):
            asyncio.run(script(before, between))
