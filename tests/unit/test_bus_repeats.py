"""Requests with ids on the buses of this project, beyond what the clauses say of every bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bus_scenario import MS, START, run, take_one

from flowbridge.codec.codes import Code, error_of
from flowbridge.envelope import Envelope
from flowbridge.errors import FlowbridgeError, LocalProtocolError, OverloadError
from flowbridge.machines.node_acl import NodeAcl
from flowbridge.runtime.guarded_bus import GuardedBus
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus_repeats import Repeats
from flowbridge.transports.uds.bus import connected_bus

if TYPE_CHECKING:
    from flowbridge.transports.bus import LocalEventBus


def named(number: int, name: str | int) -> Envelope:
    return Envelope(number, headers={"request_id": name})


async def asked(bus: LocalEventBus, who: str, envelope: Envelope) -> asyncio.Future[Any]:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    pending = bus.ask("q", envelope, 1000 * MS, answer, who)
    answer.add_done_callback(lambda _: pending.close())
    await quiet()
    return answer


def test_the_ids_of_two_peers_are_not_the_same() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("q") as source:
            answers: dict[str, asyncio.Future[Any]] = {}
            for number, who in enumerate(("", "fb://dev/node/a", "fb://dev/node/b")):
                answers[who] = await asked(bus, who, named(number, 7))
                await bus.reply(take_one(source), Envelope(number))
            assert [answer.result().payload for answer in answers.values()] == [0, 1, 2]
            for number, who in enumerate(answers):
                assert (await asked(bus, who, named(9, 7))).result().payload == number
            await quiet()

    run(scenario)


def test_a_request_that_reached_nobody_may_be_made_under_the_same_id() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        with pytest.raises(FlowbridgeError):
            await bus.request("q", named(1, "x"), timeout_ns=MS)
        async with bus.subscribe("q") as source:
            answer = await asked(bus, "", named(1, "x"))
            await bus.reply(take_one(source), Envelope(2))
            assert answer.result().payload == 2
            await quiet()

    run(scenario)


def test_a_reply_that_is_known_has_the_deadline_of_who_asks_again() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("q") as source:
            await asked(bus, "", named(1, "x"))
            await bus.reply(take_one(source), Envelope(2, headers={"of": "it"}))
            await clock.advance(MS)
            reply = await bus.request("q", named(1, "x"), timeout_ns=5 * MS)
            assert (reply.payload, reply.deadline_ns) == (2, START + 6 * MS)
            assert reply.headers is not None
            assert reply.headers["of"] == "it"
            assert "reply_to" not in reply.headers

    run(scenario)


def test_a_client_and_its_host_do_not_both_repeat() -> None:
    async def main() -> None:
        clock = ManualClock()
        pair = await connected_bus(clock)
        try:
            async with pair.bus.subscribe("q") as source:
                asking = asyncio.create_task(pair.client.request("q", Envelope(1), timeout_ns=10_000 * MS))
                attempts = 0
                while not asking.done():
                    await quiet()
                    for request in source.take(9):
                        attempts += 1
                        source.settle([request])
                        await pair.bus.refuse(request, OverloadError("full", MS))
                    await clock.advance(MS)
                with pytest.raises(OverloadError) as caught:
                    await asking
                assert attempts == 4
                assert caught.value.retry_after_ns == MS
        finally:
            await pair.aclose()

    asyncio.run(main())


def test_a_guarded_bus_asks_in_the_name_of_its_principal() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        guarded: Any = GuardedBus(bus, NodeAcl([]), "edge-1")
        with pytest.raises(FlowbridgeError, match="edge-1"):
            guarded.ask("q", Envelope(1), MS, None)
        async with bus.subscribe("q") as source:
            await asked(bus, "", Envelope(1))
            request = take_one(source)
            await guarded.refuse(request, error_of(Code.FAILED))
            assert bus.books()["(replies)"].delivered == 1
            await quiet()

    run(scenario)


def test_what_is_no_request_cannot_be_refused() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        with pytest.raises(LocalProtocolError, match="reply_to"):
            await bus.refuse(Envelope(1), OverloadError("full"))

    run(scenario)


def test_a_request_that_is_cancelled_between_attempts_leaves_nothing() -> None:
    async def main() -> None:
        clock = ManualClock()

        async def once(topic: str, envelope: Envelope, timeout_ns: int) -> Envelope:
            raise OverloadError("full")

        repeats = Repeats(clock, once)
        again = repeats.again("q", Envelope(1), clock.now_ns() + 1000 * MS, OverloadError("full"), False)
        asking = asyncio.create_task(again)
        await quiet()
        assert "1 pause" in repr(repeats)
        assert len(clock.pending()) == 1
        asking.cancel()
        await asyncio.wait([asking])
        assert "0 pause" in repr(repeats)
        assert not clock.pending()

    asyncio.run(main())
