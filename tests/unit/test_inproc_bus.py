"""The event bus of one process, in what is its own; what every bus keeps is in the conformance clauses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import (
    BlockReason,
    ClosedError,
    DeadlineExceeded,
    Effect,
    LocalProtocolError,
    NoResponderError,
    WouldBlock,
)
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet
from flowbridge.transports.inproc import InprocTransport
from flowbridge.transports.inproc.bus import InprocEventBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowbridge.contracts import DataSource, EventBus, Subscription

START = 1_000_000_000_000
MS = 1_000_000


def qos(items: int = 1, policy: Policy = Policy.BLOCK, **more: Any) -> Qos:
    return Qos(policy=policy, capacity_items=items, high_items=items, low_items=max(items - 1, 0), **more)


def run(scenario: Callable[[InprocEventBus, ManualClock], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a new bus; afterwards no task is left, no alarm, and all books balance."""

    async def main() -> None:
        clock = ManualClock(START)
        bus = InprocEventBus(clock)
        await asyncio.wait_for(scenario(bus, clock), 60)
        await bus.aclose()
        await bus.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert clock.pending() == ()
        for edge, books in bus.books().items():
            assert books.balances, edge

    asyncio.run(main())


def drain(source: DataSource) -> list[Any]:
    """The payloads of all that is queued."""
    payloads: list[Any] = []
    while taken := source.take(1000):
        payloads.extend(envelope.payload for envelope in taken)
        source.settle(taken)
    return payloads


def take_one(source: DataSource) -> Envelope:
    """Take and give back one message."""
    taken = source.take(1)
    assert len(taken) == 1
    source.settle(taken)
    return taken[0]


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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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


def take_one_of(source: DataSource, lane: int) -> Envelope:
    taken = source.take(1, lane)
    source.settle(taken)
    return taken[0]


def test_numbers_count_per_subscription_and_have_no_gap_after_a_refusal() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, Policy.ERROR)) as source:
            assert await bus.publish("a", Envelope(0)) == 1
            assert await bus.publish("a", Envelope(1)) == 0
            assert take_one(source).seq == 0
            assert await bus.publish("a", Envelope(2)) == 1
            assert take_one(source).seq == 1
            assert (source.books.sent, source.books.refused) == (3, 1)

    run(scenario)


def test_a_subscription_has_priority_and_deadline_of_its_own() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        opening = bus.subscribe("a")
        async with opening:
            with pytest.raises(LocalProtocolError, match="second time"):
                async with opening:
                    pass
        assert await bus.publish("a", Envelope(1)) == 0

    run(scenario)


def test_more_subscriptions_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.inproc.bus.SUBSCRIPTIONS_MAX", 1)

    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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


# --- waiting for credit ---------------------------------------------------------------------------------------------


def test_publish_waits_for_every_full_subscription_and_keeps_nothing_from_the_others() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a", qos=qos(1)) as one,
            bus.subscribe("a", qos=qos(1)) as two,
            bus.subscribe("a") as roomy,
        ):
            await bus.publish("a", Envelope(0))
            publisher = asyncio.create_task(bus.publish("a", Envelope(1)))
            await quiet()
            assert drain(roomy) == [0, 1]
            assert drain(one) == [0, 1]
            await quiet()
            assert not publisher.done()
            assert drain(two) == [0, 1]
            assert await publisher == 3

    run(scenario)


def test_publishers_go_in_the_order_of_coming_at_every_subscription() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as one, bus.subscribe(">", qos=qos(1)) as two:
            await bus.publish("a", Envelope(0))
            publishers = [asyncio.create_task(bus.publish("a" if n % 2 else "b", Envelope(n))) for n in range(1, 9)]
            await quiet()
            assert drain(two) == [0, *range(1, 9)]
            assert drain(one) == [0, 1, 3, 5, 7]
            assert [await publisher for publisher in publishers] == [2, 1] * 4

    run(scenario)


def test_publish_nowait_gives_nobody_the_message_when_one_would_block() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as roomy, bus.subscribe("a", qos=qos(1), edge="tight") as tight:
            assert bus.publish_nowait("a", Envelope(0)) == 2
            with pytest.raises(WouldBlock, match="tight") as caught:
                bus.publish_nowait("a", Envelope(1))
            assert caught.value.reason in {BlockReason.CREDIT_ITEMS, BlockReason.ABOVE_WATERMARK}
            assert drain(roomy) == drain(tight) == [0]
            assert (roomy.books.sent, tight.books.sent) == (1, 1)
            assert bus.publish_nowait("a", Envelope(2)) == 2

    run(scenario)


def test_publish_nowait_knows_byte_credit_and_those_who_wait() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as roomy, bus.subscribe("a", qos=qos(9, capacity_bytes=100)) as tight:
            assert bus.publish_nowait("a", Envelope(0, size_bytes=1000)) == 2  # an empty lane takes any size
            assert len(tight.take(1)) == 1
            with pytest.raises(WouldBlock) as caught:
                bus.publish_nowait("a", Envelope(1, size_bytes=1))
            assert caught.value.reason is BlockReason.CREDIT_BYTES
            assert drain(roomy) == [0]

    run(scenario)


def test_nobody_overtakes_a_large_message_that_waits_for_byte_credit() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(9, capacity_bytes=100)) as source:
            bus.publish_nowait("a", Envelope("first", size_bytes=60))
            large = asyncio.create_task(bus.publish("a", Envelope("large", size_bytes=80)))
            await quiet()
            with pytest.raises(WouldBlock):
                bus.publish_nowait("a", Envelope("small", size_bytes=1))
            small = asyncio.create_task(bus.publish("a", Envelope("small", size_bytes=1)))
            await quiet()
            assert drain(source) == ["first", "large", "small"]
            assert await large == await small == 1

    run(scenario)


def test_a_full_lane_does_not_stop_another() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            await bus.publish("a", Envelope("first"))
            publisher = asyncio.create_task(bus.publish("a", Envelope("waits")))
            await quiet()
            assert await bus.publish("a", Envelope("urgent", Priority.REALTIME)) == 1
            assert bus.publish_nowait("a", Envelope("idle", Priority.BEST_EFFORT)) == 1
            assert drain(source) == ["urgent", "first", "waits", "idle"]
            assert await publisher == 1

    run(scenario)


def test_a_publisher_above_the_watermark_goes_on_at_the_low_one() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        marked = Qos(capacity_items=8, high_items=4, low_items=1)
        async with bus.subscribe("a", qos=marked) as source:
            for number in range(4):
                assert bus.publish_nowait("a", Envelope(number)) == 1
            with pytest.raises(WouldBlock) as caught:
                bus.publish_nowait("a", Envelope(4))
            assert caught.value.reason is BlockReason.ABOVE_WATERMARK
            publisher = asyncio.create_task(bus.publish("a", Envelope(4)))
            await quiet()
            take_one(source)
            take_one(source)
            await quiet()
            assert not publisher.done()  # 2 left: still above the low watermark
            take_one(source)
            assert await publisher == 1

    run(scenario)


@pytest.mark.parametrize(
    ("policy", "kept", "accepted"),
    [
        (Policy.DROP_OLDEST, [2, 3], [1, 1, 1, 1]),
        (Policy.DROP_NEWEST, [0, 1], [1, 1, 1, 1]),
        (Policy.LATEST, [3], [1, 1, 1, 1]),
        (Policy.ERROR, [0, 1], [1, 1, 0, 0]),
    ],
)
def test_only_block_makes_a_publisher_wait(policy: Policy, kept: list[int], accepted: list[int]) -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(2, policy)) as source:
            assert [bus.publish_nowait("a", Envelope(number)) for number in range(4)] == accepted
            assert drain(source) == kept

    run(scenario)


def test_a_deadline_that_passes_while_waiting_is_counted_and_lets_the_next_go() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source, bus.subscribe("a") as roomy:
            await bus.publish("a", Envelope(0))
            short = asyncio.create_task(bus.publish("a", Envelope(1, deadline_ns=START + 5 * MS)))
            await quiet()
            patient = asyncio.create_task(bus.publish("a", Envelope(2)))
            await clock.advance(5 * MS)
            assert await short == 1  # the roomy one has it
            assert (source.books.expired, source.books.missed.transport) == (1, 1)
            assert drain(source) == [0, 2]
            assert await patient == 2
            assert drain(roomy) == [0, 1, 2]

    run(scenario)


def test_the_deadline_of_a_subscription_bounds_the_wait_for_it() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, deadline_ns=2 * MS)) as source:
            await bus.publish("a", Envelope(0))
            publisher = asyncio.create_task(bus.publish("a", Envelope(1)))
            await clock.advance(2 * MS)
            assert await publisher == 0
            assert source.books.missed.transport == 1

    run(scenario)


def test_a_cancelled_publisher_leaves_its_place_and_no_count() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as one, bus.subscribe("a", qos=qos(1)) as two:
            await bus.publish("a", Envelope(0))
            cancelled = asyncio.create_task(bus.publish("a", Envelope(1, deadline_ns=START + MS)))
            await quiet()
            patient = asyncio.create_task(bus.publish("a", Envelope(2)))
            await quiet()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert drain(one) == drain(two) == [0, 2]
            assert await patient == 2
            assert (one.books.sent, two.books.sent) == (2, 2)

    run(scenario)


def test_cancelling_the_large_one_in_front_lets_the_small_one_in() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(9, capacity_bytes=100)) as source:
            bus.publish_nowait("a", Envelope("first", size_bytes=60))
            large = asyncio.create_task(bus.publish("a", Envelope("large", size_bytes=80)))
            await quiet()
            small = asyncio.create_task(bus.publish("a", Envelope("small", size_bytes=1)))
            await quiet()
            large.cancel()
            assert await small == 1
            assert drain(source) == ["first", "small"]

    run(scenario)


def test_the_large_one_in_front_expiring_lets_the_small_one_in() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(9, capacity_bytes=100)) as source:
            bus.publish_nowait("a", Envelope("first", size_bytes=60))
            large = asyncio.create_task(bus.publish("a", Envelope("large", deadline_ns=START + MS, size_bytes=80)))
            await quiet()
            small = asyncio.create_task(bus.publish("a", Envelope("small", size_bytes=1)))
            await clock.advance(MS)
            assert (await large, await small) == (0, 1)
            assert drain(source) == ["first", "small"]

    run(scenario)


def test_a_subscription_that_closes_frees_its_publishers() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as other:
            async with bus.subscribe("a", qos=qos(1), edge="closing") as source:
                await bus.publish("a", Envelope(0))
                publishers = [asyncio.create_task(bus.publish("a", Envelope(n))) for n in (1, 2)]
                await quiet()
                await source.aclose()
                await source.aclose()
                assert [await publisher for publisher in publishers] == [1, 1]
                assert await bus.publish("a", Envelope(3)) == 1
            books = bus.books()["closing"]
            assert (books.sent, books.dropped) == (1, {"abort": 1})
            assert drain(other) == [0, 1, 2, 3]

    run(scenario)


def test_a_subscriber_may_settle_and_publish_from_its_callback() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        got: list[Any] = []
        async with bus.subscribe("a", qos=qos(1)) as one, bus.subscribe("a", qos=qos(1)) as two:

            def on_news() -> None:
                got.extend(drain(one))
                if len(got) == 1:
                    assert bus.publish_nowait("a", Envelope("second")) == 2  # takes the room of the first at `two`
                    with pytest.raises(WouldBlock):
                        bus.publish_nowait("a", Envelope("third"))

            one.on_news(on_news)
            assert bus.publish_nowait("a", Envelope("first")) == 2
            assert drain(two) == ["second", "first"]
            assert got == ["first", "second"]

    run(scenario)


# --- queue groups ---------------------------------------------------------------------------------------------------


def test_a_group_takes_turns() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a", group="g") as one,
            bus.subscribe("a", group="g") as two,
            bus.subscribe("a", group="g") as three,
            bus.subscribe("a") as alone,
        ):
            assert [await bus.publish("a", Envelope(number)) for number in range(7)] == [2] * 7
            assert (drain(one), drain(two), drain(three)) == ([0, 3, 6], [1, 4], [2, 5])
            assert drain(alone) == list(range(7))

    run(scenario)


@pytest.mark.parametrize("policy", list(Policy))
def test_a_full_member_is_passed_over_while_another_has_room(policy: Policy) -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1, policy)) as tight, bus.subscribe("a", group="g") as roomy:
            for number in range(5):
                assert bus.publish_nowait("a", Envelope(number)) == 1
            assert drain(tight) == [0]
            assert drain(roomy) == [1, 2, 3, 4]
            assert not tight.books.dropped
            assert not tight.books.refused

    run(scenario)


def test_when_all_members_are_full_the_first_to_settle_gets_the_message() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1)) as one, bus.subscribe("a", group="g", qos=qos(1)) as two:
            assert [bus.publish_nowait("a", Envelope(number)) for number in range(2)] == [1, 1]
            with pytest.raises(WouldBlock):
                bus.publish_nowait("a", Envelope(2))
            publishers = [asyncio.create_task(bus.publish("a", Envelope(number))) for number in (2, 3)]
            await quiet()
            with pytest.raises(WouldBlock):
                bus.publish_nowait("a", Envelope(9))
            assert take_one(two).payload == 1
            assert take_one(two).payload == 2
            assert take_one(two).payload == 3
            assert take_one(one).payload == 0
            assert [await publisher for publisher in publishers] == [1, 1]

    run(scenario)


def test_a_member_that_drops_decides_when_nobody_has_room() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a", group="g", qos=qos(1)) as blocks,
            bus.subscribe("a", group="g", qos=qos(1, Policy.DROP_OLDEST)) as drops,
        ):
            assert [bus.publish_nowait("a", Envelope(number)) for number in range(4)] == [1] * 4
            assert (drain(blocks), drain(drops)) == ([0], [3])
            assert drops.books.dropped == {"drop_oldest": 2}

    run(scenario)


def test_a_group_goes_by_its_name_across_patterns() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a.*", group="g") as one, bus.subscribe("a.b", group="g") as two:
            assert [await bus.publish("a.b", Envelope(number)) for number in range(4)] == [1] * 4
            assert await bus.publish("a.c", Envelope("c")) == 1
            assert (drain(one), drain(two)) == ([0, 2, "c"], [1, 3])

    run(scenario)


def test_a_message_that_waits_goes_to_a_member_that_joins() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1)) as full:
            bus.publish_nowait("a", Envelope(0))
            publishers = [asyncio.create_task(bus.publish("a", Envelope(number))) for number in (1, 2)]
            await quiet()
            async with bus.subscribe("a", group="g", qos=qos(9)) as fresh:
                assert [await publisher for publisher in publishers] == [1, 1]
                assert drain(fresh) == [1, 2]
            assert drain(full) == [0]

    run(scenario)


def test_messages_that_waited_at_two_gates_stay_in_order_when_one_gate_is_left() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a.*", group="g", qos=qos(1)) as wide:
            async with bus.subscribe("a.b", group="g", qos=qos(1)):
                publishers: list[asyncio.Task[int]] = []
                for number, topic in enumerate(["a.c", "a.b", "a.c", "a.b", "a.c"]):
                    publishers.append(asyncio.create_task(bus.publish(topic, Envelope(number))))
                    await quiet()
                assert [publisher.done() for publisher in publishers] == [True, True, False, False, False]
            assert drain(wide) == [0, 2, 3, 4]
            assert [await publisher for publisher in publishers] == [1] * 5

    run(scenario)


def test_a_broadcast_and_a_message_of_the_group_go_in_the_order_of_coming() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1)) as source:
            bus.publish_nowait("a", Envelope(0))
            for number, publish in enumerate([bus.publish, bus.broadcast, bus.publish, bus.broadcast], 1):
                asyncio.create_task(publish("a", Envelope(number))).add_done_callback(asyncio.Task.result)
                await quiet()
            assert drain(source) == [0, 1, 2, 3, 4]

    run(scenario)


def test_a_message_that_waits_outlives_a_member_and_not_the_last() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1)) as stays:
            async with bus.subscribe("a", group="g", qos=qos(1)):
                bus.publish_nowait("a", Envelope(0))
                bus.publish_nowait("a", Envelope(1))
                deadline_ns = START + 5 * MS
                publishers = [
                    asyncio.create_task(bus.publish("a", Envelope(2))),
                    asyncio.create_task(bus.publish("a", Envelope(3, deadline_ns=deadline_ns))),
                    asyncio.create_task(bus.publish("a", Envelope(4))),
                ]
                await quiet()
            await quiet()
            assert not any(publisher.done() for publisher in publishers)
            assert take_one(stays).payload == 0
            assert await publishers[0] == 1
            await clock.advance(5 * MS)
            assert await publishers[1] == 0
        assert await publishers[2] == 0

    run(scenario)


def test_a_broadcast_reaches_every_member_and_waits_for_each() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a", group="g", qos=qos(1)) as one,
            bus.subscribe("a", group="g", qos=qos(1)) as two,
            bus.subscribe("a") as alone,
        ):
            assert await bus.broadcast("a", Envelope(0)) == 3
            caller = asyncio.create_task(bus.broadcast("a", Envelope(1)))
            await quiet()
            grouped = asyncio.create_task(bus.publish("a", Envelope(2)))
            await quiet()
            assert drain(one) == [0, 1, 2]
            assert not caller.done()
            assert drain(two) == [0, 1]
            assert (await caller, await grouped) == (3, 2)
            assert drain(alone) == [0, 1, 2]

    run(scenario)


# --- requests -------------------------------------------------------------------------------------------------------


async def serve(bus: InprocEventBus, source: DataSource, answer: Callable[[Any], Any]) -> None:
    """Answer requests until cancelled."""
    while True:
        with await source.receive() as request:
            await bus.reply(request, Envelope(answer(request.payload)))


def test_a_request_is_answered_with_its_own_deadline_and_priority() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("double", group="servers") as source:
            server = asyncio.create_task(serve(bus, source, lambda value: 2 * value))
            request = Envelope(21, Priority.HIGH, START + 5 * MS, origin_ns=77)
            reply = await bus.request("double", request, timeout_ns=50 * MS)
            assert reply.payload == 42
            assert (reply.priority, reply.deadline_ns, reply.origin_ns) == (Priority.HIGH, START + 5 * MS, 77)
            assert reply.headers is not None
            assert set(reply.headers) == {"topic"}
            replies = await asyncio.gather(
                *(bus.request("double", Envelope(number), timeout_ns=MS) for number in range(20))
            )
            assert [reply.payload for reply in replies] == [2 * number for number in range(20)]
            assert {reply.deadline_ns for reply in replies} == {START + MS}
            assert [reply.seq for reply in replies] == list(range(1, 21))
            server.cancel()
            await asyncio.wait([server])
        books = bus.books()["(replies)"]
        assert (books.sent, books.delivered) == (21, 21)

    run(scenario)


def test_a_request_nobody_serves_fails_at_once() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("other"):
            with pytest.raises(NoResponderError, match="'topic'"):
                await bus.request("topic", Envelope(1), timeout_ns=MS)
        assert clock.now_ns() == START
        assert "(replies)" not in bus.books()

    run(scenario)


@pytest.mark.parametrize(("deadline_ns", "timeout_ns"), [(NO_DEADLINE, 5 * MS), (START + 5 * MS, 9 * MS)])
def test_a_request_ends_at_its_timeout_or_deadline_whichever_is_sooner(deadline_ns: int, timeout_ns: int) -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            caller = asyncio.create_task(bus.request("a", Envelope(1, deadline_ns=deadline_ns), timeout_ns=timeout_ns))
            await clock.advance(5 * MS - 1)
            assert not caller.done()
            await clock.advance(1)
            with pytest.raises(DeadlineExceeded) as caught:
                await caller
            assert caught.value.effect is Effect.MAYBE
            assert caught.value.deadline_ns == START + 5 * MS
            request = take_one(source)
            await bus.reply(request, Envelope(2))
            books = bus.books()["(replies)"]
            assert (books.sent, books.expired, books.missed.late) == (1, 1, 1)

    run(scenario)


def test_a_request_that_is_late_already_fails_without_waiting() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a"):
            for envelope, timeout_ns in ((Envelope(1, deadline_ns=START), MS), (Envelope(1), 0), (Envelope(1), -5)):
                with pytest.raises(DeadlineExceeded):
                    await bus.request("a", envelope, timeout_ns=timeout_ns)
        assert clock.now_ns() == START

    run(scenario)


def test_a_reply_at_the_very_deadline_is_too_late_whoever_comes_first() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            replies: list[asyncio.Task[None]] = []
            clock.call_at(START + MS, lambda: replies.append(asyncio.create_task(bus.reply(request, Envelope(2)))))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            request = take_one(source)
            await clock.advance(MS)
            with pytest.raises(DeadlineExceeded):
                await caller
            assert bus.books()["(replies)"].expired == 1
            assert replies[0].done()

    run(scenario)


def test_a_second_reply_changes_nothing_and_is_counted_as_expired() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as one, bus.subscribe("a") as two:
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            first, second = take_one(one), take_one(two)
            await bus.reply(second, Envelope("fast"))
            await bus.reply(first, Envelope("slow"))
            await bus.reply(second, Envelope("again"))
            assert (await caller).payload == "fast"
            books = bus.books()["(replies)"]
            assert (books.sent, books.delivered, books.expired, books.missed.total) == (3, 1, 2, 0)

    run(scenario)


def test_a_reply_ends_a_request_that_still_waits_for_credit_elsewhere() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as full, bus.subscribe("a") as roomy:
            bus.publish_nowait("a", Envelope(0))
            drain(roomy)
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
            await bus.reply(take_one(roomy), Envelope("answer"))
            assert (await caller).payload == "answer"
            assert drain(full) == [0]  # the request was withdrawn from here
            assert full.books.sent == 1

    run(scenario)


def test_a_cancelled_request_leaves_nothing_pending() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            callers = [asyncio.create_task(bus.request("a", Envelope(n), timeout_ns=MS)) for n in range(3)]
            await quiet()
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            assert all(caller.cancelled() for caller in callers)
            assert "0 requests" in repr(bus)
            await bus.reply(take_one(source), Envelope("late"))
            assert source.books.sent == 1
            assert bus.books()["(replies)"].expired == 1

    run(scenario)


def test_a_request_that_every_subscription_refuses_fails_at_once() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, Policy.ERROR)):
            bus.publish_nowait("a", Envelope(0))
            with pytest.raises(WouldBlock, match="every subscription to a"):
                await bus.request("a", Envelope(1), timeout_ns=MS)

    run(scenario)


def test_a_request_whose_only_subscriber_closes_before_taking_it_fails_at_once() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)):
            bus.publish_nowait("a", Envelope(0))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await quiet()
        with pytest.raises(NoResponderError, match="lost its subscribers"):
            await caller
        assert clock.now_ns() == START

    run(scenario)


def test_a_request_expired_in_front_of_a_full_subscription_is_a_deadline_exceeded() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as source:
            bus.publish_nowait("a", Envelope(0))
            caller = asyncio.create_task(bus.request("a", Envelope(1), timeout_ns=MS))
            await clock.advance(MS)
            with pytest.raises(DeadlineExceeded):
                await caller
            assert source.books.sent in {1, 2}
            assert drain(source) == [0]

    run(scenario)


def test_unanswered_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.inproc.bus_replies.REQUESTS_PENDING_MAX", 2)

    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a") as source:
            callers = [asyncio.create_task(bus.request("a", Envelope(n), timeout_ns=MS)) for n in range(2)]
            await quiet()
            with pytest.raises(WouldBlock, match="2 requests"):
                await bus.request("a", Envelope(2), timeout_ns=MS)
            assert len(source.take(9)) == 2
            await clock.advance(MS)
            assert [type(caller.exception()) for caller in callers] == [DeadlineExceeded] * 2

    run(scenario)


def test_a_message_that_is_no_request_cannot_be_answered() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        for headers in (None, {}, {"reply_to": 7}):
            with pytest.raises(LocalProtocolError, match="reply_to"):
                await bus.reply(Envelope(1, headers=headers), Envelope(2))
        assert "(replies)" not in bus.books()

    run(scenario)


def test_a_reply_on_another_bus_goes_astray_to_nobody() -> None:
    async def scenario(bus: InprocEventBus, clock: ManualClock) -> None:
        other = InprocEventBus(clock)
        async with bus.subscribe("a") as ours, other.subscribe("a") as theirs:
            callers = [asyncio.create_task(b.request("a", Envelope(1), timeout_ns=MS)) for b in (bus, other)]
            await quiet()
            await other.reply(take_one(ours), Envelope("wrong bus"))
            await quiet()
            assert not any(caller.done() for caller in callers)
            await other.reply(take_one(theirs), Envelope("right bus"))
            assert (await callers[1]).payload == "right bus"
            await clock.advance(MS)
            assert isinstance(callers[0].exception(), DeadlineExceeded)
        await other.aclose()

    run(scenario)


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_topic_has_a_deadline_that_only_tightens_and_a_priority_for_messages_that_ask_for_none() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        bus.configure("a", qos(4, priority=Priority.REALTIME, deadline_ns=MS))
        async with bus.subscribe("a") as source:
            bus.publish_nowait("a", Envelope(1, Priority.BEST_EFFORT))
            assert take_one(source).priority == Priority.BEST_EFFORT

    run(scenario)


# --- books and the end ----------------------------------------------------------------------------------------------


def test_books_have_the_name_of_the_edge_and_open_ones_are_unique() -> None:
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    monkeypatch.setattr("flowbridge.transports.inproc.bus_books.PATHS_MAX", 3)

    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
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
    monkeypatch.setattr("flowbridge.transports.inproc.bus.TOPICS_CACHED_MAX", 4)

    async def scenario(bus: InprocEventBus, _: ManualClock) -> None:
        async with bus.subscribe("t.*", group="g") as source:
            for number in range(50):
                assert bus.publish_nowait(f"t.{number}", Envelope(number)) == 1
                assert drain(source) == [number]
            assert len(bus._fanouts) <= 4  # pyright: ignore[reportPrivateUsage]

    run(scenario)
