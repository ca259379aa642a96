"""The inproc event bus in what is its own; what every bus keeps is in the conformance clauses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from bus_scenario import MS, START, drain, qos, run, take_one, take_one_of

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import (
    ClosedError,
    LocalProtocolError,
)
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet
from flowbridge.transports.inproc import InprocTransport

if TYPE_CHECKING:
    from flowbridge.contracts import EventBus, Subscription
    from flowbridge.transports.bus import LocalEventBus


# --- what a subscriber sees -----------------------------------------------------------------------------------------


def test_the_bus_keeps_its_contract_for_the_type_checker() -> None:
    async def main() -> None:
        async with InprocTransport(ManualClock(START)) as transport:
            bus: EventBus = await transport.open_bus()
            assert bus is await transport.open_bus()
            async with bus.subscribe("a.*", group="g") as subscription:
                subscribed: Subscription = subscription
                assert (subscribed.pattern, subscribed.group) == ("a.*", "g")
        with pytest.raises(ClosedError):
            await bus.publish("a", Envelope(1))

    asyncio.run(main())


def test_a_published_envelope_is_not_changed_and_each_subscriber_has_its_own() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a.>") as early, AsyncExitStack() as stack:
            assert await bus.publish("a.x", Envelope(0)) == 1
            late = await stack.enter_async_context(bus.subscribe("*.b"))
            payload = object()
            envelope = Envelope(payload, Priority.HIGH, START + 9, 5, 6, 7, 8, headers={"k": "v"})
            assert await bus.publish("a.b", envelope) == 2
            first = take_one_of(early, Priority.HIGH)
            second = take_one(late)
            for got, seq in ((first, 1), (second, 0)):
                assert got is not envelope
                assert got.payload is payload
                assert (got.priority, got.deadline_ns, got.origin_ns, got.size_bytes) == (
                    Priority.HIGH,
                    START + 9,
                    5,
                    7,
                )
                assert got.sent_ns == START
                assert got.seq == seq
                assert got.headers == {"k": "v", "topic": "a.b"}
            assert first is not second
            assert (envelope.seq, envelope.sent_ns, envelope.headers) == (8, 6, {"k": "v"})

    run(scenario)


def test_numbers_count_per_subscription_and_have_no_gap_after_a_refusal() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, Policy.ERROR)) as source:
            assert await bus.publish("a", Envelope(0)) == 1
            assert await bus.publish("a", Envelope(1)) == 0
            assert take_one(source).seq == 0
            assert await bus.publish("a", Envelope(2)) == 1
            assert take_one(source).seq == 1
            assert (source.books.sent, source.books.refused) == (3, 1)

    run(scenario)


def test_a_subscription_has_priority_and_deadline_of_its_own() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        strict = qos(9, priority=Priority.BEST_EFFORT, deadline_ns=5 * MS)
        async with bus.subscribe("a", qos=strict) as own, bus.subscribe("a") as plain:
            await bus.publish("a", Envelope(1, Priority.HIGH))
            await bus.publish("a", Envelope(2, Priority.HIGH, START + MS))
            first, second = take_one(own), take_one(own)
            assert (first.priority, first.deadline_ns) == (Priority.BEST_EFFORT, START + 5 * MS)
            assert second.deadline_ns == START + MS
            other = take_one(plain)
            assert (other.priority, other.deadline_ns) == (Priority.HIGH, NO_DEADLINE)

    run(scenario)


def test_a_late_message_is_in_the_books_and_not_accepted() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            assert await bus.publish("a", Envelope(1, deadline_ns=START)) == 0
            assert bus.publish_nowait("a", Envelope(1, deadline_ns=START)) == 0
            assert (source.books.expired, source.books.missed.late) == (2, 2)
            assert await bus.publish("a", Envelope(2)) == 1
            publisher = asyncio.create_task(bus.publish("a", Envelope(3)))
            await quiet()
            assert (
                bus.publish_nowait("a", Envelope(1, deadline_ns=START)) == 0
            )  # needs no credit, passes those who wait
            assert source.books.missed.late == 3
            assert drain(source) == [2, 3]
            assert await publisher == 1

    run(scenario)


def test_a_bad_topic_or_pattern_is_refused_at_once() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        for topic in ("", "a..b", "a.*", "a.>"):
            with pytest.raises(LocalProtocolError):
                await bus.publish(topic, Envelope(1))
            with pytest.raises(LocalProtocolError):
                bus.publish_nowait(topic, Envelope(1))
            with pytest.raises(LocalProtocolError):
                await bus.request(topic, Envelope(1), timeout_ns=MS)
        for pattern in ("", ">.a", "a*"):
            with pytest.raises(LocalProtocolError):
                bus.subscribe(pattern)
            with pytest.raises(LocalProtocolError):
                bus.configure(pattern, Qos())

    run(scenario)


def test_a_subscription_is_entered_once() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        opening = bus.subscribe("a")
        async with opening:
            with pytest.raises(LocalProtocolError, match="second time"):
                async with opening:
                    pass
        assert await bus.publish("a", Envelope(1)) == 0

    run(scenario)


def test_more_subscriptions_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.bus.SUBSCRIPTIONS_MAX", 1)

    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a"):
            with pytest.raises(LocalProtocolError, match="1 subscriptions"):
                async with bus.subscribe("b"):
                    pass
            bus.configure("a", Qos())
            bus.configure("a", Qos())
            with pytest.raises(LocalProtocolError, match="1 settings"):
                bus.configure("b", Qos())
        async with bus.subscribe("b"):
            pass

    run(scenario)


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_topic_has_a_deadline_that_only_tightens_and_a_priority_for_messages_that_ask_for_none() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe(">") as source:
            bus.publish_nowait("alerts.a", Envelope("before"))
            bus.configure("alerts.>", Qos(priority=Priority.HIGH, deadline_ns=5 * MS))
            bus.configure("alerts.a", Qos(priority=Priority.REALTIME))  # not reached: the first match wins
            bus.publish_nowait("alerts.a", Envelope("plain"))
            bus.publish_nowait("alerts.a", Envelope("low", Priority.BEST_EFFORT, START + MS))
            bus.publish_nowait("other", Envelope("other"))
            got: dict[str, tuple[int, int]] = {}
            while taken := source.take(9):
                got.update({envelope.payload: (envelope.priority, envelope.deadline_ns) for envelope in taken})
                source.settle(taken)
            assert got == {
                "before": (Priority.NORMAL, NO_DEADLINE),
                "plain": (Priority.HIGH, START + 5 * MS),
                "low": (Priority.BEST_EFFORT, START + MS),
                "other": (Priority.NORMAL, NO_DEADLINE),
            }

    run(scenario)


def test_a_topic_gives_its_queue_to_later_subscriptions_that_have_none() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with AsyncExitStack() as stack:
            before = await stack.enter_async_context(bus.subscribe("alerts.a"))
            bus.configure("alerts.>", qos(2, Policy.DROP_OLDEST, priority=Priority.HIGH))
            exact = await stack.enter_async_context(bus.subscribe("alerts.a"))
            part = await stack.enter_async_context(bus.subscribe("alerts.*"))
            wider = await stack.enter_async_context(bus.subscribe("*.a"))
            own = await stack.enter_async_context(bus.subscribe("alerts.a", qos=qos(3, Policy.DROP_OLDEST)))
            for number in range(5):
                bus.publish_nowait("alerts.a", Envelope(number, Priority.BEST_EFFORT))
            kept = [drain(source) for source in (before, exact, part, wider, own)]
            assert kept == [list(range(5)), [3, 4], [3, 4], list(range(5)), [2, 3, 4]]

    run(scenario)


def test_the_low_priority_of_a_message_survives_the_topic_and_the_default_queue() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        bus.configure("a", qos(4, priority=Priority.REALTIME, deadline_ns=MS))
        async with bus.subscribe("a") as source:
            bus.publish_nowait("a", Envelope(1, Priority.BEST_EFFORT))
            assert take_one(source).priority == Priority.BEST_EFFORT

    run(scenario)


# --- books and the end ----------------------------------------------------------------------------------------------


def test_books_have_the_name_of_the_edge_and_open_ones_are_unique() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a.>"),
            bus.subscribe("a.>"),
            bus.subscribe("a.>", group="g"),
            bus.subscribe("a.>", edge="bus/a.>"),
            bus.subscribe("a.>", edge="bus/a->b/in"),
        ):
            names = ["bus/a.>", "bus/a.> #2", "bus/a.> (g)", "bus/a.> #3", "bus/a->b/in"]
            assert list(bus.books()) == names
        assert sorted(bus.books()) == sorted(names)

    run(scenario)


def test_an_edge_opened_again_goes_on_with_its_books_and_starts_its_numbers_anew() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        for round_number in range(3):
            async with bus.subscribe("a", edge="e") as source:
                bus.publish_nowait("a", Envelope(0))
                bus.publish_nowait("a", Envelope(1))
                assert take_one(source).seq == 0
                assert source.books is bus.books()["e"]
                assert source.books.sent == 2 * round_number + 2
        books = bus.books()["e"]
        assert (books.sent, books.delivered, books.dropped) == (6, 3, {"abort": 3})

    run(scenario)


def test_books_of_closed_edges_are_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.bus_books.PATHS_MAX", 3)

    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("t", edge="lent") as source:
            bus.publish_nowait("t", Envelope(0))
            lent = source.take(1)
        for number in range(10):
            async with bus.subscribe("t", edge=f"e{number}") as other:
                bus.publish_nowait("t", Envelope(0))
                take_one(other)
        books = bus.books()
        assert set(books) == {"lent", "e8", "e9", "(others)"}
        assert books["(others)"].sent == books["(others)"].delivered == 8
        source.settle(lent)
        assert bus.books()["lent"].delivered == 1

    run(scenario)


def test_closing_the_bus_wakes_everybody_who_waits() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with AsyncExitStack() as stack:
            for group in (None, "g"):
                await stack.enter_async_context(bus.subscribe("full", qos=qos(1), group=group))
            idle = await stack.enter_async_context(bus.subscribe("idle"))
            bus.publish_nowait("full", Envelope(0))
            waiting = [
                asyncio.create_task(bus.publish("full", Envelope(1))),
                asyncio.create_task(bus.request("full", Envelope(1), timeout_ns=MS)),
                asyncio.create_task(bus.request("idle", Envelope(1), timeout_ns=MS)),
                asyncio.create_task(idle.receive()),
                asyncio.create_task(idle.receive()),
            ]
            await quiet()
            await bus.aclose()
            await asyncio.wait(waiting)
            assert [type(task.exception()) for task in waiting] == [ClosedError] * 3 + [type(None), ClosedError]

    run(scenario)


def test_a_closed_bus_says_so() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", edge="e") as source:
            bus.publish_nowait("a", Envelope(0))
            await bus.aclose()
            with pytest.raises(ClosedError):
                await source.receive()
        with pytest.raises(ClosedError):
            await bus.publish("a", Envelope(1))
        with pytest.raises(ClosedError):
            bus.publish_nowait("a", Envelope(1))
        with pytest.raises(ClosedError):
            await bus.broadcast("a", Envelope(1))
        with pytest.raises(ClosedError):
            await bus.request("a", Envelope(1), timeout_ns=MS)
        with pytest.raises(ClosedError):
            await bus.reply(Envelope(1, headers={"reply_to": "x"}), Envelope(2))
        with pytest.raises(ClosedError):
            async with bus.subscribe("a"):
                pass
        assert bus.books()["e"].dropped == {"abort": 1}
        assert "closed" in repr(bus)

    run(scenario)


def test_the_bus_forgets_topics_rather_than_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.bus.TOPICS_CACHED_MAX", 4)

    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("t.*", group="g") as source:
            for number in range(50):
                assert bus.publish_nowait(f"t.{number}", Envelope(number)) == 1
                assert drain(source) == [number]
            assert len(bus._fanouts) <= 4  # pyright: ignore[reportPrivateUsage]

    run(scenario)
