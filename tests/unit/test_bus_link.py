"""A bus behind a Unix socket: what the clauses cannot ask, because two ends and a link between them are needed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import functools
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import pytest

from flowbridge import registry
from flowbridge.envelope import Envelope
from flowbridge.errors import (
    BrokenError,
    ClosedError,
    Effect,
    EncodeError,
    EndOfStream,
    LocalProtocolError,
    NoResponderError,
    WouldBlock,
)
from flowbridge.limits import BUS_LINK_CALLS_MAX, BUS_LINK_LIMIT_NS, BUS_LINK_WINDOW_ITEMS, STREAM_BYTES_HIGH
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.message import MS, message, number_of, qos, take_all
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import UdsEventBus, serve_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from flowbridge.contracts import EventBus
    from flowbridge.transports.bus_peer import BusPeer

P = ParamSpec("P")


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine function, run to its end."""

    @functools.wraps(test)
    def run(*args: P.args, **given: P.kwargs) -> None:
        asyncio.run(test(*args, **given))

    return run


class Scene:
    """A host with its bus and server, and clients that a test opens."""

    def __init__(self, clock: ManualClock, host: EventBus, server: BusServer) -> None:
        self.clock = clock
        self.host = host
        self.server = server
        self.peers: list[BusPeer] = []
        self.clients: list[UdsEventBus] = []

    async def client(self) -> UdsEventBus:
        ours, theirs = socket.socketpair()
        self.peers.append(serve_client(self.server, theirs))
        client = await UdsEventBus.connect(ours, self.clock)
        self.clients.append(client)
        return client


@asynccontextmanager
async def scene() -> AsyncGenerator[Scene]:
    clock = ManualClock()
    transport = registry.transport("inproc", clock)
    host = await transport.open_bus()
    server = BusServer(host, clock)
    one = Scene(clock, host, server)
    try:
        yield one
    finally:
        for client in one.clients:
            await client.aclose()
        await server.aclose()
        await transport.aclose()


@on_a_loop
async def test_a_deadline_crosses_to_the_nanosecond() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t") as subscription:
            deadline_ns = at.clock.now_ns() + 1_234_567
            await at.host.publish("t", message(1, deadline_ns=deadline_ns))
            await quiet()
            taken = subscription.take(1)
            assert taken[0].deadline_ns == deadline_ns
            subscription.settle(taken)


@on_a_loop
async def test_one_client_hears_and_answers_another() -> None:
    async with scene() as at:
        one, two = await at.client(), await at.client()
        async with one.subscribe("q") as server:
            asking = asyncio.create_task(two.request("q", Envelope({"a": [1, None]}), timeout_ns=1000 * MS))
            with await server.receive() as request:
                assert request.payload == {"a": [1, None]}
                await one.reply(request, Envelope("yes"))
            assert (await asking).payload == "yes"


@on_a_loop
async def test_what_the_client_drops_is_in_one_column_at_both_ends() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t", qos=qos(2, Policy.DROP_OLDEST), edge="e") as subscription:
            for number in range(5):
                await at.host.publish("t", message(number))
            assert await take_all(subscription) == [3, 4]
            for books in (at.host.books()["e"], client.books()["e"]):
                assert (books.sent, books.delivered, books.dropped) == (5, 2, {"drop_oldest": 3})
                assert books.balances
                assert not books.in_flight


@on_a_loop
async def test_lateness_at_the_client_is_lateness_at_the_host() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t", edge="e") as subscription:
            await at.host.publish("t", message(1, deadline_ns=at.clock.now_ns() + MS))
            await quiet()
            await at.clock.advance(MS)
            await at.host.publish("t", message(2))
            with await subscription.receive() as got:
                assert got.payload == b"2"
        for books in (at.host.books()["e"], client.books()["e"]):
            assert (books.sent, books.delivered, books.expired, books.missed.queued) == (2, 1, 1, 1)


@on_a_loop
async def test_a_vanished_host_is_broken_for_everybody_who_waits() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t") as subscription, client.subscribe("full", qos=qos(1)):
            await client.publish("full", message(0))
            await client.publish("t", message(1))
            waiting = [
                asyncio.create_task(client.publish("full", message(1))),
                asyncio.create_task(client.request("t", message(2), timeout_ns=1000 * MS)),
            ]
            await quiet()
            await at.server.aclose()
            await quiet()
            for task in waiting:
                with pytest.raises(BrokenError) as caught:
                    await task
                assert caught.value.effect is Effect.MAYBE
            assert await _numbers_left(subscription) == [1, 2]
            with pytest.raises(BrokenError):
                subscription.take(1)
            with pytest.raises(BrokenError):
                await subscription.receive()
            with pytest.raises(BrokenError):
                client.publish_nowait("t", message(3))
            with pytest.raises(BrokenError):
                await client.publish("t", message(3))
            assert not at.clock.pending()


async def _numbers_left(subscription: Any) -> list[int]:
    found: list[int] = []
    while subscription.waiting:
        taken = subscription.take(1)
        found.append(int(taken[0].payload))
        subscription.settle(taken)
    return found


@on_a_loop
async def test_a_receiver_that_waits_wakes_when_the_host_vanishes() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t") as subscription:
            receiving = asyncio.create_task(subscription.receive())
            await quiet()
            await at.server.aclose()
            with pytest.raises(BrokenError):
                await receiving


@on_a_loop
async def test_a_vanished_client_leaves_its_books_and_nothing_else() -> None:
    async with scene() as at:
        client = await at.client()
        subscription = await client.subscribe("t", qos=qos(2), edge="e").__aenter__()
        for number in range(2):
            await at.host.publish("t", message(number))
        publishing = asyncio.create_task(client.publish("t", message(2)))
        host_publishing = asyncio.create_task(at.host.publish("t", message(3)))
        asking = asyncio.create_task(client.request("t", message(4), timeout_ns=1000 * MS))
        await quiet()
        taken = subscription.take(1)
        assert len(taken) == 1
        assert not publishing.done()
        cast(Any, client)._link.close()  # as when it is killed
        await quiet()
        assert at.server.peers == 0
        assert await host_publishing == 0
        books = at.host.books()["e"]
        assert (books.sent, books.in_flight, books.dropped) == (2, 0, {"lost": 2})
        for task in (publishing, asking):
            task.cancel()
        await asyncio.wait((publishing, asking))
        assert not at.clock.pending()


@pytest.mark.parametrize("first", ["client", "host"])
@on_a_loop
async def test_what_a_vanished_client_had_and_what_it_was_still_to_be_sent_is_lost(first: str) -> None:
    async with scene() as at:
        client = await at.client()
        await client.subscribe("t", qos=qos(2, Policy.DROP_OLDEST), edge="e").__aenter__()
        count = BUS_LINK_WINDOW_ITEMS + 2 + 2  # on loan, and in the queue of the host: nobody reads meanwhile
        for number in range(count):
            at.host.publish_nowait("t", message(number))
        books = at.host.books()["e"]
        assert (books.sent, books.in_flight, books.dropped) == (count, count, {})
        if first == "client":
            cast(Any, client)._link.close()  # as when it is killed
            await quiet()
        else:
            await at.server.aclose()
        assert (books.in_flight, books.delivered, books.dropped) == (0, 0, {"lost": count})
        assert books.balances


@on_a_loop
async def test_a_request_that_a_vanished_client_was_not_sent_goes_to_the_next_one() -> None:
    async with scene() as at:
        client = await at.client()
        await client.subscribe("t", qos=qos(4)).__aenter__()
        begun = asyncio.create_task(at.host.request("t", message(0), timeout_ns=1000 * MS))
        await quiet()
        at.peers[0].is_congested = True  # as when the client does not read
        queued = asyncio.create_task(at.host.request("t", message(1), timeout_ns=1000 * MS))
        await quiet()
        cast(Any, client)._link.close()
        with pytest.raises(BrokenError) as caught:
            await begun
        assert caught.value.effect is Effect.MAYBE
        async with at.host.subscribe("t") as successor:
            await at.clock.set(at.clock.pending()[0])  # when it is tried again
            with await successor.receive() as request:
                assert number_of(request) == 1
                await at.host.reply(request, Envelope("yes"))
        assert (await queued).payload == "yes"


@on_a_loop
async def test_errors_cross_with_their_class() -> None:
    async with scene() as at:
        client = await at.client()
        with pytest.raises(NoResponderError, match="nobody"):
            await client.request("nobody", message(1), timeout_ns=MS)
        with pytest.raises(LocalProtocolError, match="no request"):
            await client.reply(message(1), message(2))
        async with client.subscribe("t", qos=qos(1, Policy.ERROR)):
            await client.publish("t", message(1))
            with pytest.raises(WouldBlock, match="credit-items"):
                await client.request("t", message(2), timeout_ns=MS)
        await at.host.aclose()
        with pytest.raises(ClosedError):
            await client.publish("t", message(1))


@on_a_loop
async def test_a_value_that_cannot_leave_its_process_is_refused_where_it_is() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t", edge="e") as subscription:
            with pytest.raises(EncodeError, match="object"):
                await client.publish("t", Envelope(object()))
            with pytest.raises(EncodeError, match="exceeds"):
                await client.publish("t", Envelope(b"", headers={"long": "x" * 5000}))
            assert await at.host.publish("t", Envelope(object())) == 1
            assert await client.publish("t", message(1)) == 1
            assert await take_all(subscription) == [1]
            assert dict(at.host.books()["e"].dropped) == {"encode": 1}
            assert client.books()["e"].balances


@on_a_loop
async def test_publishing_without_waiting_needs_a_host_that_tells() -> None:
    async with scene() as at:

        class Silent:
            def __getattr__(self, name: str) -> Any:
                if name == "watch":
                    raise AttributeError(name)
                return getattr(at.host, name)

        server = BusServer(cast(Any, Silent()), at.clock)
        ours, theirs = socket.socketpair()
        serve_client(server, theirs)
        client = await UdsEventBus.connect(ours, at.clock)
        async with client.subscribe("t") as subscription:
            with pytest.raises(WouldBlock, match="does not tell"):
                client.publish_nowait("t", message(1))
            assert await client.publish("t", message(2)) == 1
            assert await take_all(subscription) == [2]
        await client.aclose()
        await server.aclose()


@on_a_loop
async def test_credit_that_others_used_up_makes_the_message_wait_at_the_host() -> None:
    async with scene() as at:
        client = await at.client()
        async with at.host.subscribe("t", qos=qos(1)) as subscription:
            await quiet()
            assert at.host.publish_nowait("t", message(1)) == 1
            assert client.publish_nowait("t", message(2)) == 1  # it does not know yet
            await quiet()
            with pytest.raises(WouldBlock):
                client.publish_nowait("t", message(3))
            assert await take_all(subscription) == [1, 2]


@on_a_loop
async def test_credit_that_comes_back_at_the_host_is_told() -> None:
    async with scene() as at:
        client = await at.client()
        async with at.host.subscribe("t", qos=qos(1)) as subscription:
            await quiet()
            for number in range(3):
                assert client.publish_nowait("t", message(number)) == 1
                await quiet()
                with pytest.raises(WouldBlock):
                    client.publish_nowait("t", message(9))
                assert await take_all(subscription) == [number]
                await at.clock.advance(BUS_LINK_LIMIT_NS)


@on_a_loop
async def test_a_client_that_does_not_read_bounds_what_the_host_keeps() -> None:
    async with scene() as at:
        client = await at.client()
        small = qos(4, Policy.DROP_OLDEST, bytes_=1 << 30)
        async with client.subscribe("t", qos=small, edge="e") as subscription:
            stream = cast(Any, client)._link.stream
            stream.pause()
            body = b"x" * 65536
            for _ in range(2 * BUS_LINK_WINDOW_ITEMS):
                await at.host.publish("t", Envelope(body, size_bytes=len(body)))
            peer = at.peers[0]
            assert cast(Any, peer)._link.stream.unsent_bytes < STREAM_BYTES_HIGH + 2 * len(body)
            dropped = at.host.books()["e"].dropped["drop_oldest"]
            assert dropped > BUS_LINK_WINDOW_ITEMS
            stream.resume()
            for _ in range(200):
                await quiet()
            assert subscription.waiting
            assert at.host.books()["e"].balances
            while taken := subscription.take(1):
                subscription.settle(taken)
            await quiet()
            assert client.books()["e"].balances
        assert not at.host.books()["e"].in_flight


@on_a_loop
async def test_calls_that_nobody_answers_are_bounded() -> None:
    async with scene() as at:
        client = await at.client()
        async with at.host.subscribe("t", qos=qos(1)):
            await at.host.publish("t", message(0))
            waiting = [asyncio.create_task(client.publish("t", message(1))) for _ in range(BUS_LINK_CALLS_MAX)]
            await quiet()
            with pytest.raises(WouldBlock, match="unanswered"):
                await client.publish("t", message(1))
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            await quiet()
            assert await client.publish("other", message(1)) == 0


@on_a_loop
async def test_an_opening_that_is_cancelled_is_closed_again() -> None:
    async with scene() as at:
        client = await at.client()
        opening = asyncio.create_task(client.subscribe("t").__aenter__())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await quiet()
        assert await at.host.publish("t", message(1)) == 0


@on_a_loop
async def test_what_was_under_way_reaches_a_subscription_that_drains() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t", edge="e") as subscription:
            subscription.drain()  # the host hears of it at its next turn
            for number in range(3):
                assert await at.host.publish("t", message(number)) == 1
            assert not subscription.ended
            assert await take_all(subscription) == [0, 1, 2]
            assert subscription.ended
            assert await at.host.publish("t", message(3)) == 0
        for books in (at.host.books()["e"], client.books()["e"]):
            assert (books.sent, books.delivered, books.in_flight) == (3, 3, 0)


@on_a_loop
async def test_what_comes_piece_by_piece_to_a_subscription_that_closes_is_aborted() -> None:
    async with scene() as at:
        client = await at.client()
        opening = client.subscribe("t", edge="e")
        subscription = await opening.__aenter__()
        to_client = at.peers[0]._link.stream
        to_client.pause()  # the host does not hear yet that it closes
        closing = asyncio.create_task(subscription.aclose())
        for number in range(3):
            await quiet()
            assert await at.host.publish("t", message(number)) == 1
        await quiet()
        assert not closing.done()
        to_client.resume()
        await closing
        assert await client.publish("t", message(9)) == 0
        await quiet()
        for books in (at.host.books()["e"], client.books()["e"]):
            assert (books.sent, dict(books.dropped), books.in_flight) == (3, {"abort": 3}, 0)


@on_a_loop
async def test_a_host_that_vanishes_while_a_subscription_drains_is_broken_not_ended() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t") as ended, client.subscribe("t") as broken:
            await at.host.publish("t", message(0))
            await quiet()
            ended.drain()
            await quiet()
            broken.drain()  # the host does not get to say that it knows
            await at.server.aclose()
            await quiet()
            for one in (ended, broken):
                assert await _numbers_left(one) == [0]
            assert ended.ended
            assert not broken.ended
            with pytest.raises(EndOfStream):
                await ended.receive()
            with pytest.raises(BrokenError):
                await broken.receive()


@on_a_loop
async def test_a_loan_outlives_its_subscription() -> None:
    async with scene() as at:
        client = await at.client()
        async with client.subscribe("t", edge="e") as subscription:
            await at.host.publish("t", message(1))
            await quiet()
            taken = subscription.take(1)
        assert at.host.books()["e"].in_flight == 1
        subscription.settle(taken)
        await quiet()
        for books in (at.host.books()["e"], client.books()["e"]):
            assert (books.delivered, books.in_flight) == (1, 0)


@pytest.mark.parametrize("said", [b"\x20\x00\x00", b"\x02\x02\x00\x81\x07", b"\xff" * 8, b"\x15\x00\x00"])
@on_a_loop
async def test_a_stranger_is_shown_out(said: bytes) -> None:
    async with scene() as at:
        client = await at.client()
        ours, theirs = socket.socketpair()
        serve_client(at.server, theirs)
        with ours:
            ours.sendall(said)
            await quiet()
            assert at.server.peers == 1
        assert await client.publish("t", message(1)) == 0
