"""Who waits at the inproc event bus, in which order, and who of a queue group gets the message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bus_scenario import MS, START, drain, qos, run, take_one

from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import (
    BlockReason,
    WouldBlock,
)
from flowbridge.plan import Policy, Qos
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.testing.clock import ManualClock
    from flowbridge.transports.bus import LocalEventBus

# --- waiting for credit ---------------------------------------------------------------------------------------------


def test_publish_waits_for_every_full_subscription_and_keeps_nothing_from_the_others() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1)) as one, bus.subscribe(">", qos=qos(1)) as two:
            await bus.publish("a", Envelope(0))
            publishers = [asyncio.create_task(bus.publish("a" if n % 2 else "b", Envelope(n))) for n in range(1, 9)]
            await quiet()
            assert drain(two) == [0, *range(1, 9)]
            assert drain(one) == [0, 1, 3, 5, 7]
            assert [await publisher for publisher in publishers] == [2, 1] * 4

    run(scenario)


def test_publish_nowait_gives_nobody_the_message_when_one_would_block() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a") as roomy, bus.subscribe("a", qos=qos(9, capacity_bytes=100)) as tight:
            assert bus.publish_nowait("a", Envelope(0, size_bytes=1000)) == 2  # an empty lane takes any size
            assert len(tight.take(1)) == 1
            with pytest.raises(WouldBlock) as caught:
                bus.publish_nowait("a", Envelope(1, size_bytes=1))
            assert caught.value.reason is BlockReason.CREDIT_BYTES
            assert drain(roomy) == [0]

    run(scenario)


def test_nobody_overtakes_a_large_message_that_waits_for_byte_credit() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(2, policy)) as source:
            assert [bus.publish_nowait("a", Envelope(number)) for number in range(4)] == accepted
            assert drain(source) == kept

    run(scenario)


def test_a_deadline_that_passes_while_waiting_is_counted_and_lets_the_next_go() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
        async with bus.subscribe("a", qos=qos(1, deadline_ns=2 * MS)) as source:
            await bus.publish("a", Envelope(0))
            publisher = asyncio.create_task(bus.publish("a", Envelope(1)))
            await clock.advance(2 * MS)
            assert await publisher == 0
            assert source.books.missed.transport == 1

    run(scenario)


def test_a_cancelled_publisher_leaves_its_place_and_no_count() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1, policy)) as tight, bus.subscribe("a", group="g") as roomy:
            for number in range(5):
                assert bus.publish_nowait("a", Envelope(number)) == 1
            assert drain(tight) == [0]
            assert drain(roomy) == [1, 2, 3, 4]
            assert not tight.books.dropped
            assert not tight.books.refused

    run(scenario)


def test_when_all_members_are_full_the_first_to_settle_gets_the_message() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with (
            bus.subscribe("a", group="g", qos=qos(1)) as blocks,
            bus.subscribe("a", group="g", qos=qos(1, Policy.DROP_OLDEST)) as drops,
        ):
            assert [bus.publish_nowait("a", Envelope(number)) for number in range(4)] == [1] * 4
            assert (drain(blocks), drain(drops)) == ([0], [3])
            assert drops.books.dropped == {"drop_oldest": 2}

    run(scenario)


def test_a_group_goes_by_its_name_across_patterns() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a.*", group="g") as one, bus.subscribe("a.b", group="g") as two:
            assert [await bus.publish("a.b", Envelope(number)) for number in range(4)] == [1] * 4
            assert await bus.publish("a.c", Envelope("c")) == 1
            assert (drain(one), drain(two)) == ([0, 2, "c"], [1, 3])

    run(scenario)


def test_a_message_that_waits_goes_to_a_member_that_joins() -> None:
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
        async with bus.subscribe("a", group="g", qos=qos(1)) as source:
            bus.publish_nowait("a", Envelope(0))
            publishers: list[asyncio.Task[int]] = []
            for number, publish in enumerate([bus.publish, bus.broadcast, bus.publish, bus.broadcast], 1):
                publishers.append(asyncio.create_task(publish("a", Envelope(number))))
                await quiet()
            assert drain(source) == [0, 1, 2, 3, 4]
            assert [await publisher for publisher in publishers] == [1] * 4

    run(scenario)


def test_a_message_that_waits_outlives_a_member_and_not_the_last() -> None:
    async def scenario(bus: LocalEventBus, clock: ManualClock) -> None:
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
    async def scenario(bus: LocalEventBus, _: ManualClock) -> None:
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
