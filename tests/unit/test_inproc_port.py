"""The corners of the port in one process: who is woken when, and what a cancellation leaves behind.

What every port must do is in the clauses; here are the cases that this one could get wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import BlockReason, BrokenError, BusyError, ClosedError, EndOfStream, WouldBlock
from flowbridge.plan import Plane, Policy, Qos, Route
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet
from flowbridge.transports.inproc.port import InprocDataPort

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

MS = 1_000_000


def qos(items: int, policy: Policy = Policy.BLOCK, *, low: int = 0, size: int = 1_000) -> Qos:
    return Qos(policy=policy, capacity_items=items, capacity_bytes=size, high_items=items, low_items=low)


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


def message(number: int, lane: int = Priority.NORMAL, deadline_ns: int = NO_DEADLINE, *, size: int = 0) -> Envelope:
    return Envelope(number, lane, deadline_ns, size_bytes=size, seq=number)


def numbers(envelopes: Sequence[Envelope]) -> list[int]:
    return [envelope.seq for envelope in envelopes]


async def outcome(work: Coroutine[Any, Any, Any]) -> type[BaseException] | None:
    """The class of what it raised, None when it returned."""
    try:
        await work
    except Exception as error:
        return type(error)
    return None


async def empty(port: InprocDataPort) -> list[int]:
    """Take and settle until nothing comes any more."""
    found: list[int] = []
    while taken := port.source.take(1):
        found += numbers(taken)
        port.source.settle(taken)
        await quiet()
    return found


# --- waiting for credit -------------------------------------------------------------------------------------------


def test_settling_wakes_as_many_senders_as_have_credit_first_come_first_served() -> None:
    async def script() -> None:
        port = port_of(qos(4, low=3))
        for number in range(4):
            await port.sink.send(message(number))
        senders = [asyncio.create_task(port.sink.send(message(number))) for number in range(4, 9)]
        await quiet()
        taken = port.source.take(3)
        await quiet()
        assert [sender.done() for sender in senders] == [False] * 5, "taking alone returns no credit"
        port.source.settle(taken)
        await quiet()
        assert [sender.done() for sender in senders] == [True, True, True, False, False]
        assert await empty(port) == [3, 4, 5, 6, 7, 8]
        await asyncio.gather(*senders)

    asyncio.run(script())


def test_a_message_that_would_overtake_waiting_senders_of_its_lane_has_to_wait() -> None:
    async def script() -> None:
        port = port_of(qos(2, low=1))
        await port.sink.send(message(0))
        await port.sink.send(message(1))
        sender = asyncio.create_task(port.sink.send(message(2)))
        await quiet()
        with pytest.raises(WouldBlock, match="a/out->b/in: would block") as caught:
            port.sink.send_nowait(message(3))
        assert caught.value.reason is BlockReason.CREDIT_ITEMS
        assert port.sink.send_many_nowait([message(3), message(4)]) == 0
        assert port.sink.credit_items(Priority.NORMAL) == 0
        assert port.sink.send_many_nowait([message(5, Priority.HIGH)]) == 1, "another lane is free"
        assert await empty(port) == [5, 0, 1, 2]
        await sender
        port.sink.send_nowait(message(6))
        assert await empty(port) == [6]

    asyncio.run(script())


def test_nothing_overtakes_a_large_message_and_its_end_lets_those_behind_it_go() -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(8, size=10), clock)
        await port.sink.send(message(0, size=6))
        large = asyncio.create_task(port.sink.send(message(1, deadline_ns=clock.now_ns() + MS, size=5)))
        await quiet()
        small = asyncio.create_task(port.sink.send(message(2, size=4)))
        await quiet()
        assert port.sink.send_many_nowait([message(3, size=1)]) == 0
        with pytest.raises(WouldBlock) as caught:
            port.sink.send_nowait(message(3, size=5))
        assert caught.value.reason is BlockReason.CREDIT_BYTES
        assert (large.done(), small.done()) == (False, False)
        await clock.advance(MS)
        assert (large.done(), small.done()) == (True, True)
        assert port.sink.books.missed.transport == 1
        assert await empty(port) == [0, 2]

    asyncio.run(script())


def test_sent_ns_is_when_the_message_was_accepted() -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(1), clock)
        await port.sink.send(message(0))
        late = message(1)
        sender = asyncio.create_task(port.sink.send(late))
        await clock.advance(5 * MS)
        port.source.settle(port.source.take(1))
        await sender
        assert late.sent_ns == clock.now_ns()

    asyncio.run(script())


def test_a_waiting_message_expires_at_its_deadline_and_not_before() -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(1), clock)
        await port.sink.send(message(0))
        start_ns = clock.now_ns()
        senders = [
            asyncio.create_task(port.sink.send(message(number, deadline_ns=start_ns + number * MS)))
            for number in (3, 1, 2)
        ]
        await quiet()
        for passed, done in ((1, 1), (1, 2), (1, 3)):
            await clock.advance(passed * MS - 1)
            assert sum(sender.done() for sender in senders) == done - 1
            await clock.advance(1)
            assert sum(sender.done() for sender in senders) == done
        books = port.sink.books
        assert (books.sent, books.expired, books.missed.transport) == (4, 3, 3)
        assert await empty(port) == [0]
        assert clock.pending() == ()
        assert await outcome(asyncio.wait_for(port.sink.send(message(9)), None)) is None

    asyncio.run(script())


def test_credit_that_comes_in_the_instant_of_the_deadline_comes_too_late() -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(1), clock)
        await port.sink.send(message(0))
        clock.call_at(clock.now_ns() + MS, lambda: port.source.settle(port.source.take(1)))
        sender = asyncio.create_task(port.sink.send(message(1, deadline_ns=clock.now_ns() + MS)))
        await clock.advance(MS)
        assert sender.done()
        books = port.sink.books
        assert (books.expired, books.missed.transport, books.in_flight) == (1, 1, 0)
        assert clock.pending() == ()

    asyncio.run(script())


@pytest.mark.parametrize("how", ["finish", "aclose"])
def test_the_end_frees_every_waiting_sender_and_leaves_no_timer(how: str) -> None:
    async def script() -> None:
        clock = ManualClock()
        port = port_of(qos(1), clock)
        for lane in Priority:
            await port.sink.send(message(lane, lane))
        senders = [
            asyncio.create_task(outcome(port.sink.send(message(10 + n, Priority(n % 4), clock.now_ns() + MS))))
            for n in range(8)
        ]
        await quiet()
        writable = asyncio.create_task(port.sink.wait_writable())
        await quiet()
        await (port.sink.finish() if how == "finish" else port.source.aclose())
        await quiet()
        assert all(sender.done() for sender in senders)
        assert Counter(sender.result() for sender in senders) == {ClosedError if how == "finish" else BrokenError: 8}
        assert writable.done()
        assert clock.pending() == ()
        assert await empty(port) == ([0, 1, 2, 3] if how == "finish" else [])
        assert port.source.books.balances
        assert port.source.books.sent == 4

    asyncio.run(script())


@pytest.mark.parametrize("how", ["finish", "aclose"])
@pytest.mark.parametrize("cancelled_first", [False, True])
def test_a_sender_cancelled_in_the_turn_of_the_end_is_cancelled(how: str, *, cancelled_first: bool) -> None:
    async def script() -> None:
        port = port_of(qos(1))
        await port.sink.send(message(0))
        sender = asyncio.create_task(port.sink.send(message(1)))
        await quiet()
        if cancelled_first:
            sender.cancel()
        await (port.sink.finish() if how == "finish" else port.source.aclose())
        sender.cancel()
        await quiet()
        assert sender.cancelled()
        assert port.source.books.sent == 1
        assert port.source.books.balances

    asyncio.run(script())


# --- news and receivers -------------------------------------------------------------------------------------------


def test_news_is_told_once_until_the_source_looked_and_found_nothing() -> None:
    async def script() -> None:
        port = port_of(qos(8))
        told: list[int] = []
        port.source.on_news(lambda: told.append(len(told)))
        for number in range(3):
            port.sink.send_nowait(message(number))
        assert len(told) == 1
        assert port.source.waiting == 1 << Priority.NORMAL
        assert numbers(port.source.take(8)) == [0, 1, 2]
        port.sink.send_nowait(message(3))
        assert len(told) == 1, "it has not yet found the port empty"
        assert numbers(port.source.take(8)) == [3]
        assert port.source.waiting == 0
        assert port.sink.send_many_nowait([message(4), message(5)]) == 2
        assert len(told) == 2
        port.source.on_news(None)
        await port.sink.finish()
        assert len(told) == 2

    asyncio.run(script())


def test_a_message_that_was_let_in_by_credit_is_news() -> None:
    async def script() -> None:
        port = port_of(qos(1))
        told: list[str] = []
        port.source.on_news(lambda: told.append("news"))
        await port.sink.send(message(0))
        sender = asyncio.create_task(port.sink.send(message(1)))
        await quiet()
        taken = port.source.take(1)
        assert port.source.waiting == 0
        assert told == ["news"]
        port.source.settle(taken)
        await sender
        assert told == ["news", "news"]

    asyncio.run(script())


def test_closing_the_source_wakes_its_receiver() -> None:
    async def script() -> None:
        port = port_of(qos(1))
        receiver = asyncio.create_task(outcome(port.source.receive()))
        await quiet()
        await port.source.aclose()
        await quiet()
        assert receiver.done()
        assert receiver.result() is ClosedError

    asyncio.run(script())


def test_what_is_given_back_to_an_idle_source_is_news() -> None:
    async def script() -> None:
        port = port_of(qos(8))
        port.sink.send_nowait(message(0))
        taken = port.source.take(1)
        receiver = asyncio.create_task(port.source.receive())
        await quiet()
        assert not receiver.done()
        port.source.give_back(taken)
        await quiet()
        assert receiver.done()
        assert receiver.result().envelope is taken[0]
        receiver.result().release()
        assert port.source.books.delivered == 1

    asyncio.run(script())


def test_a_receiver_and_a_listener_both_hear_of_a_message() -> None:
    async def script() -> None:
        port = port_of(qos(8))
        told: list[str] = []
        receiver = asyncio.create_task(port.source.receive())
        await quiet()
        port.source.on_news(lambda: told.append("news"))
        port.sink.send_nowait(message(0))
        await quiet()
        assert receiver.done()
        assert told == ["news"]
        receiver.result().release()
        assert port.source.waiting == 0
        port.sink.send_nowait(message(1))
        assert told == ["news", "news"], "a receiver that is gone takes no listener with it"

    asyncio.run(script())


def test_a_receiver_that_was_woken_still_keeps_others_out() -> None:
    async def script() -> None:
        port = port_of(qos(8))
        first = asyncio.create_task(port.source.receive())
        await quiet()
        port.sink.send_nowait(message(0))
        port.sink.send_nowait(message(1))
        with pytest.raises(BusyError, match="another task receives already"):
            await port.source.receive()
        await quiet()
        assert first.result().envelope.seq == 0
        assert (await port.source.receive()).envelope.seq == 1

    asyncio.run(script())


def test_receive_from_a_source_that_is_closed_or_ended_says_which() -> None:
    async def script() -> None:
        closed, ended = port_of(qos(2)), port_of(qos(2))
        await closed.source.aclose()
        with pytest.raises(ClosedError, match="a/out->b/in: closed"):
            await closed.source.receive()
        with pytest.raises(BrokenError, match="the consumer closed its end"):
            closed.sink.send_nowait(message(0))
        await closed.sink.finish()
        with pytest.raises(EndOfStream):
            await closed.source.receive()
        await ended.sink.finish()
        await ended.source.aclose()
        with pytest.raises(EndOfStream):
            await ended.source.receive()
        with pytest.raises(ClosedError, match="finished already"):
            await ended.sink.send(message(0))

    asyncio.run(script())


def test_what_is_given_back_to_a_closed_source_is_dropped_and_counted() -> None:
    async def script() -> None:
        port = port_of(qos(4))
        for number in range(3):
            port.sink.send_nowait(message(number))
        taken = port.source.take(2)
        await port.source.aclose()
        assert port.source.books.dropped == {"abort": 1}
        port.source.give_back(taken[1:])
        assert port.source.books.dropped == {"abort": 2}
        port.source.settle(taken[:1])
        assert (port.source.books.delivered, port.source.books.in_flight) == (1, 0)
        assert port.source.books.balances

    asyncio.run(script())


@pytest.mark.parametrize("policy", list(Policy))
def test_sending_many_refuses_or_drops_as_the_policy_says_and_an_empty_batch_is_nothing(policy: Policy) -> None:
    async def script() -> None:
        port = port_of(qos(2, policy))
        assert port.sink.send_many_nowait([]) == 0
        count = port.sink.send_many_nowait([message(number) for number in range(4)])
        assert count == (2 if policy is Policy.BLOCK else 4)
        assert port.sink.books.sent == count
        wanted = {Policy.DROP_OLDEST: [2, 3], Policy.LATEST: [3]}.get(policy, [0, 1])
        assert await empty(port) == wanted
        assert port.sink.books.balances
        await port.sink.finish()
        with pytest.raises(ClosedError):
            port.sink.send_many_nowait([message(9)])

    asyncio.run(script())


def test_a_port_and_a_lease_say_what_they_are() -> None:
    async def script() -> None:
        port = port_of(qos(2))
        port.sink.send_nowait(message(7))
        assert repr(port) == "<InprocDataPort a/out->b/in <LaneQueue block 0/0/1/0 of 2 each>>"
        lease = await port.source.receive()
        assert repr(lease).startswith("<QueueLease held <Envelope 7 normal")
        lease.release()
        assert repr(lease).startswith("<QueueLease released")

    asyncio.run(script())
