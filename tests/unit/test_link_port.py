"""Ports over links, ring and socket: credit, order, ends, and everything that may be lost."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from link_scene import KINDS, calm, joined, message, until

from flowbridge.envelope import Priority
from flowbridge.errors import BrokenError, ClosedError, EncodeError, EndOfStream, WouldBlock
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from link_scene import Pair

    from flowbridge.time.ledger import EdgeBooks

pytestmark = pytest.mark.parametrize("kind", KINDS)


def batch(**columns: list[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def balanced(books: EdgeBooks) -> bool:
    return books.balances and books.in_flight >= 0


async def taken(pair: Pair, found: list[Any], count: int) -> None:
    """Take so many messages, and settle them."""
    while len(found) < count:
        await asyncio.sleep(0)
        found += pair.take_all()


def test_a_report_that_nobody_asked_for_wakes_who_waits_later(kind: str) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=Policy.BLOCK, capacity_items=4, high_items=4, low_items=1)) as pair:
            assert pair.sink.send_many_nowait([message(n) for n in range(9)]) == 4
            await until(lambda: pair.source.waiting)
            pair.take_all()
            await calm()  # the report arrives while nobody waits
            async with asyncio.timeout(10):
                await pair.sink.wait_writable()
            assert pair.sink.credit_items(Priority.NORMAL) == 4

    asyncio.run(main())


def test_room_on_the_link_is_noticed_by_one_who_asked_for_credit_before(kind: str) -> None:
    async def main() -> None:
        qos = Qos(policy=Policy.BLOCK, capacity_items=64, high_items=64, low_items=1, capacity_bytes=1 << 30)
        async with joined(kind, qos) as pair:
            body = b"y" * 900_000
            waiter = asyncio.create_task(asyncio.sleep(0))
            for n in range(64):
                pair.sink.send_nowait(message(n, body if n % 2 else b"s"))
                if n == 4:
                    waiter = asyncio.create_task(pair.sink.flushed())
                    await asyncio.sleep(0)
            found: list[Any] = []

            def all_there() -> bool:
                found.extend(pair.source.take(100))  # held, so that no report comes
                return len(found) == 64

            if kind == "socket":
                await until(all_there)
            else:  # slots may have to come back first
                await taken(pair, found, 64)
            assert [one.seq for one in found] == list(range(64))
            waiter.cancel()

    asyncio.run(main())


def test_the_end_counts_although_the_producer_is_gone(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.sink.send_many_nowait([message(n) for n in range(3)])
            await pair.sink.finish()
            pair.sink.close()
            for n in range(3):
                with await pair.source.receive() as envelope:
                    assert envelope.seq == n
            with pytest.raises(EndOfStream):
                await pair.source.receive()

    asyncio.run(main())


def test_a_producer_that_closes_without_an_end_is_broken(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.sink.send_nowait(message(0))
            pair.sink.close()
            assert balanced(pair.sink.books)
            assert pair.sink.books.in_flight == 0
            (await pair.source.receive()).release()
            with pytest.raises(BrokenError):
                await pair.source.receive()
            with pytest.raises(BrokenError):
                pair.source.take(1)

    asyncio.run(main())


def test_a_receiver_does_not_outlive_a_source_that_leaves(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            await calm()
            receiving = asyncio.create_task(pair.source.receive())
            await calm()
            pair.source.close()
            with pytest.raises((BrokenError, ClosedError)):
                await receiving

    asyncio.run(main())


def test_what_becomes_late_before_there_is_a_link_does_not_travel(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            await calm()
            pair.cut()
            await until(lambda: len(pair.lost) == 2)
            soon_ns = pair.clock.now_ns() + 10
            for n in range(10):
                pair.sink.send_nowait(message(n, deadline_ns=soon_ns) if n % 2 else message(n))
            await pair.clock.advance(20)
            pair.rejoin()
            await until(lambda: pair.source.waiting)
            await calm()
            assert [one.seq for one in pair.take_all()] == [0, 2, 4, 6, 8]
            await until(lambda: not pair.source.owes_report)
            await calm()
            books = pair.sink.books
            assert (books.sent, books.delivered, books.expired, books.in_flight) == (10, 5, 5, 0)
            assert (books.missed.transport, books.missed.queued) == (5, 0)
            assert balanced(books)

    asyncio.run(main())


def test_one_of_many_that_cannot_be_written_stops_those_after_it(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            many = [message(n, object() if n == 2 else b"x") for n in range(5)]
            assert pair.sink.send_many_nowait(many) == 2
            assert pair.sink.books.refused == 0
            with pytest.raises(EncodeError):
                pair.sink.send_many_nowait(many[2:])
            assert (pair.sink.books.sent, pair.sink.books.refused) == (3, 1)
            assert pair.sink.send_many_nowait(many[3:]) == 2
            await until(lambda: pair.source.waiting)
            await calm()
            assert [one.seq for one in pair.take_all()] == [0, 1, 3, 4]

    asyncio.run(main())


@pytest.mark.parametrize(
    "bad",
    [
        message(2**63),
        message(1, size_bytes=-1),
        message(1, headers={"a": 2**64}),
        message(1, headers={"a": "\ud800"}),
        message(1, headers={"a": "y" * 5000}),
        message(1, headers={"a": 1.5}),  # type: ignore[dict-item]
        message(1, deadline_ns=2**64),
    ],
    ids=["seq", "size", "number", "surrogate", "long", "float", "deadline"],
)
def test_what_the_other_end_would_not_read_is_refused_at_once(kind: str, bad: Any) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            with pytest.raises(EncodeError):
                pair.sink.send_nowait(bad)
            assert pair.sink.books.refused == 1
            pair.sink.send_nowait(message(7, headers={"a": "ä" * 1000, "b": -(2**63), "c": 2**64 - 1}))
            with await pair.source.receive() as envelope:
                assert envelope.headers == {"a": "ä" * 1000, "b": -(2**63), "c": 2**64 - 1}

    asyncio.run(main())


def test_a_view_may_be_released_by_its_sender(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            await calm()
            pair.cut()
            await until(lambda: len(pair.lost) == 2)
            with memoryview(b"z" * 9000) as view:
                pair.sink.send_nowait(message(0, view))
            pair.rejoin()
            with await pair.source.receive() as envelope:
                assert bytes(envelope.payload) == b"z" * 9000

    asyncio.run(main())


def test_a_second_link_waits_until_everything_of_the_first_is_settled(kind: str) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=Policy.BLOCK, capacity_items=4, high_items=4, low_items=1)) as pair:
            pair.keep()
            assert pair.sink.send_many_nowait([message(n) for n in range(4)]) == 4
            await until(lambda: pair.source.waiting)
            held = pair.source.take(2)
            pair.cut()
            await until(lambda: len(pair.lost) == 2)
            assert pair.sink.books.dropped == {"lost": 4}
            assert pair.sink.send_many_nowait([message(n) for n in range(4, 10)]) == 4
            pair.rejoin()
            await calm()
            assert pair.sink.books.in_flight == 4
            pair.source.settle(held)
            assert [one.seq for one in pair.take_all()] == [2, 3]
            await until(lambda: pair.source.waiting)
            assert [one.seq for one in pair.take_all()] == [4, 5, 6, 7]
            await calm()
            near, far = pair.sink.books, pair.source.books
            assert (near.sent, near.delivered, near.dropped, near.in_flight) == (8, 4, {"lost": 4}, 0)
            assert (far.sent, far.delivered, far.in_flight) == (8, 8, 0)
            assert balanced(near)
            assert balanced(far)

    asyncio.run(main())


def test_the_end_goes_over_the_second_link_when_the_first_was_lost_before(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            await calm()
            pair.cut()
            await until(lambda: len(pair.lost) == 2)
            pair.sink.send_nowait(message(0))
            await pair.sink.finish()
            flushed = asyncio.create_task(pair.sink.flushed())
            await calm()
            assert not flushed.done()
            pair.rejoin()
            (await pair.source.receive()).release()
            with pytest.raises(EndOfStream):
                await pair.source.receive()
            await flushed

    asyncio.run(main())


def test_schemas_keep_their_numbers_on_the_next_link(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            pair.keep()
            first, second = batch(a=[1, 2]), batch(b=["x"])
            pair.sink.send_nowait(message(0, first))
            (await pair.source.receive()).release()
            pair.cut()
            await until(lambda: len(pair.lost) == 2)
            pair.sink.send_nowait(message(1, first))
            pair.rejoin()
            pair.sink.send_nowait(message(2, second))
            pair.sink.send_nowait(message(3, first))
            for expected in (first, second, first):
                with await pair.source.receive() as envelope:
                    assert envelope.payload.equals(expected)

    asyncio.run(main())


def test_whoever_waits_below_the_watermark_goes_on_when_the_link_is_lost(kind: str) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=Policy.BLOCK, capacity_items=2, high_items=2, low_items=1)) as pair:
            pair.keep()
            assert pair.sink.send_many_nowait([message(n) for n in range(3)]) == 2
            waiting = asyncio.create_task(pair.sink.wait_writable())
            sending = asyncio.create_task(pair.sink.send(message(2)))
            await calm()
            assert not waiting.done()
            pair.cut()
            await asyncio.gather(waiting, sending)
            assert balanced(pair.sink.books)
            pair.sink.close()
            assert pair.sink.books.in_flight == 0
            assert balanced(pair.sink.books)
            assert pair.sink.books.dropped == {"lost": 2, "abort": 1}

    asyncio.run(main())


def test_every_wait_ends_when_the_link_is_lost_for_good(kind: str) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=Policy.BLOCK, capacity_items=2, high_items=2, low_items=1)) as pair:
            assert pair.sink.send_many_nowait([message(n) for n in range(3)]) == 2
            sending = asyncio.create_task(pair.sink.send(message(2)))
            waiting = asyncio.create_task(pair.sink.wait_writable())
            flushed = asyncio.create_task(pair.sink.flushed())
            await until(lambda: pair.source.waiting)
            pair.cut()
            with pytest.raises(BrokenError):
                await sending
            await asyncio.gather(waiting, flushed)
            with pytest.raises(BrokenError):
                pair.sink.send_nowait(message(3))
            pair.source.settle(pair.source.take(2))
            with pytest.raises(BrokenError):
                await pair.source.receive()
            assert balanced(pair.sink.books)

    asyncio.run(main())


def test_a_listener_that_fails_does_not_stop_the_link(kind: str) -> None:
    async def main() -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with joined(kind) as pair:

            def fail() -> None:
                raise ValueError("the listener's mistake")

            pair.source.on_news(fail)
            pair.sink.send_nowait(message(0))
            await until(lambda: failures)
            pair.source.on_news(None)
            assert pair.source.take(0) == []
            pair.sink.send_nowait(message(1))
            await calm()
            assert [one.seq for one in pair.take_all()] == [0, 1]

    asyncio.run(main())


def test_large_and_small_messages_keep_their_order(kind: str) -> None:
    async def main() -> None:
        qos = Qos(policy=Policy.BLOCK, capacity_items=64, high_items=64, low_items=1, capacity_bytes=1 << 40)
        async with joined(kind, qos) as pair:
            sizes = [1, 20_000_000, 2_000, 20_000_001, 70_000, 1, 17_000_000, 3]
            for n, size in enumerate(sizes):
                pair.sink.send_nowait(message(n, bytes(size)))
            await pair.sink.finish()
            found: list[tuple[int, int]] = []
            while True:
                try:
                    lease = await pair.source.receive()
                except EndOfStream:
                    break
                with lease as envelope:
                    found.append((envelope.seq, len(envelope.payload)))
            assert found == list(enumerate(sizes))

    asyncio.run(main())


def test_a_consumer_that_keeps_payloads_does_not_stop_the_route(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            kept: list[Any] = []
            for n in range(12):  # more than there are slots of this size
                await pair.sink.send(message(n, memoryview(bytes([n]) * 5_000_000)))
                with await pair.source.receive() as envelope:
                    kept.append(envelope.payload)
            assert [view[-1] for view in kept] == list(range(12))

    asyncio.run(main())


def test_context_stays_with_its_message_when_another_overtakes_it(kind: str) -> None:
    async def main() -> None:
        qos = Qos(policy=Policy.BLOCK, capacity_items=2000, high_items=2000, low_items=1)
        async with joined(kind, qos) as pair:
            low = [message(n, b"l" * 900, lane=3, headers={"seq": n}) for n in range(1500)]
            high = [message(n, b"h", lane=0) for n in range(1500)]
            for one, other in zip(low, high, strict=True):
                pair.sink.send_nowait(one)
                pair.sink.send_nowait(other)
            found: list[Any] = []
            await taken(pair, found, 3000)
            for one in found:
                assert one.headers == ({"seq": one.seq} if one.priority == 3 else None)

    asyncio.run(main())


def test_a_dropping_policy_never_waits_and_balances(kind: str) -> None:
    async def main() -> None:
        for policy in (Policy.DROP_OLDEST, Policy.DROP_NEWEST, Policy.LATEST):
            async with joined(kind, Qos(policy=policy, capacity_items=5)) as pair:
                for n in range(40):
                    assert pair.sink.send_many_nowait([message(100 * n + k) for k in range(100)]) == 100
                await calm(400)
                taken = pair.take_all()
                await calm()
                near, far = pair.sink.books, pair.source.books
                assert near.sent == 4000
                assert near.in_flight == far.in_flight == 0
                assert near.delivered == far.delivered == len(taken)
                assert balanced(near)
                assert balanced(far)

    asyncio.run(main())


def test_messages_are_refused_without_being_lost_under_error(kind: str) -> None:
    async def main() -> None:
        async with joined(kind, Qos(policy=Policy.ERROR, capacity_items=2)) as pair:
            pair.sink.send_nowait(message(0))
            pair.sink.send_nowait(message(1))
            with pytest.raises(WouldBlock):
                pair.sink.send_nowait(message(2))
            await until(lambda: pair.source.waiting)
            assert [one.seq for one in pair.take_all()] == [0, 1]
            await calm()
            assert (pair.sink.books.delivered, pair.sink.books.refused) == (2, 1)

    asyncio.run(main())


def test_ports_that_are_opened_and_closed_leave_nothing(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            await calm()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(200):
                port = await pair.transport.open_port(pair.route)
                port.sink.send_nowait(message(0))
                await port.sink.finish()
                (await port.source.receive()).release()
                await port.sink.flushed()
                port.sink.close()
                await port.source.aclose()
                port.source.close()
            await calm()
            assert len(os.listdir("/proc/self/fd")) <= before + 4

    asyncio.run(main())
