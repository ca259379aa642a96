"""Requests of another process that no task waits for: their outcome, their bounds, and their end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from flowbridge.envelope import Envelope
from flowbridge.errors import ClosedError, DeadlineExceeded, EncodeError, NoResponderError
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.message import MS, message, qos
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus import REPLIES, LocalEventBus
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import UdsEventBus, serve_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.errors import FlowbridgeError


class Kept:
    """An answer that keeps its outcome."""

    def __init__(self) -> None:
        self.outcomes: list[Envelope | FlowbridgeError] = []

    def done(self) -> bool:
        return bool(self.outcomes)

    def set_result(self, result: Envelope | FlowbridgeError, /) -> None:
        self.outcomes.append(result)


class Plain:
    """A bus that can only be asked by tasks."""

    def __init__(self, bus: LocalEventBus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        if name == "ask":
            raise AttributeError(name)
        return getattr(self._bus, name)


def over_a_link(
    test: Callable[[LocalEventBus, UdsEventBus, ManualClock], Awaitable[None]], *, plain: bool = False
) -> None:
    async def main() -> None:
        clock = ManualClock()
        bus = LocalEventBus(clock)
        server = BusServer(cast(Any, Plain(bus)) if plain else bus, clock)
        ours, theirs = socket.socketpair()
        serve_client(server, theirs)
        client = await UdsEventBus.connect(ours, clock)
        try:
            await test(bus, client, clock)
        finally:
            await client.aclose()
            await server.aclose()
            await bus.aclose()
        assert clock.pending() == ()

    asyncio.run(main())


@pytest.mark.parametrize("plain", [False, True])
def test_many_requests_at_once_get_each_its_own_reply(plain: bool) -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q") as subscription:
            asked = [asyncio.create_task(client.request("q", message(n), timeout_ns=MS)) for n in range(50)]
            for _ in asked:
                with await subscription.receive() as request:
                    await bus.reply(request, Envelope(request.payload))
            assert [(await one).payload for one in asked] == [message(n).payload for n in range(50)]
        assert bus.books()[REPLIES].delivered == 50

    over_a_link(test, plain=plain)


@pytest.mark.parametrize("plain", [False, True])
def test_a_reply_that_cannot_leave_its_process_fails_the_request_and_not_the_replier(plain: bool) -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q") as subscription:
            asking = asyncio.create_task(client.request("q", message(1), timeout_ns=MS))
            with await subscription.receive() as request:
                await bus.reply(request, Envelope(object()))
            with pytest.raises(EncodeError):
                await asking

    over_a_link(test, plain=plain)


def test_a_request_that_is_cancelled_leaves_nothing_at_the_host() -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q", qos=qos(1)) as subscription:
            asked = [asyncio.create_task(client.request("q", message(n), timeout_ns=MS)) for n in range(2)]
            await quiet()  # the second one waits for credit
            for one in asked:
                one.cancel()
            await asyncio.wait(asked)
            await quiet()
            assert clock.pending() == ()
            with await subscription.receive() as request:
                await bus.reply(request, Envelope(b"late"))
            assert not subscription.waiting
        assert bus.books()[REPLIES].expired == 1

    over_a_link(test)


def test_a_request_whose_last_subscriber_leaves_is_told_so() -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q", qos=qos(1)):
            assert await bus.publish("q", message(0)) == 1
            asking = asyncio.create_task(client.request("q", message(1), timeout_ns=MS))
            await quiet()
        with pytest.raises(NoResponderError):
            await asking

    over_a_link(test)


def test_a_bus_that_closes_fails_the_requests_of_its_clients() -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q"):
            asking = asyncio.create_task(client.request("q", message(1), timeout_ns=MS))
            await quiet()
            await bus.aclose()
            with pytest.raises(ClosedError):
                await asking

    over_a_link(test)


def test_an_answer_is_given_once_and_a_second_reply_counts_as_expired() -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q") as subscription:
            kept = Kept()
            pending = bus.ask("q", message(1), MS, kept)
            with await subscription.receive() as request:
                await bus.reply(request, Envelope(b"first"))
                await bus.reply(request, Envelope(b"second"))
            pending.close()
            pending.close()
            assert [cast(Envelope, one).payload for one in kept.outcomes] == [b"first"]
            books = bus.books()[REPLIES]
            assert (books.delivered, books.expired) == (1, 1)

    over_a_link(test)


def test_an_answer_that_never_comes_is_a_deadline_exceeded() -> None:
    async def test(bus: LocalEventBus, client: UdsEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q"):
            kept = Kept()
            pending = bus.ask("q", message(1), MS, kept)
            await clock.advance(MS - 1)
            assert kept.outcomes == []
            await clock.advance(1)
            assert [type(one) for one in kept.outcomes] == [DeadlineExceeded]
            pending.close()

    over_a_link(test)
