"""Clauses of EventBus: what a full subscription does, to itself and to others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING

from flowbridge.envelope import Priority
from flowbridge.errors import WouldBlock
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.bus import books_balance
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import MS, message, numbers, outcome, qos, receive_one, take_all
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.testing.conformance.message import BusMaker


@clause("bus")
async def a_full_subscription_obeys_its_own_policy(maker: BusMaker) -> None:
    """A full queue that drops or refuses does so for its own subscription alone, and `publish` does not wait."""
    wanted = {
        Policy.DROP_OLDEST: ([3, 4], "dropped", 3),
        Policy.DROP_NEWEST: ([0, 1], "dropped", 3),
        Policy.LATEST: ([4], "dropped", 4),
        Policy.ERROR: ([0, 1], "refused", 3),
    }
    for policy, (arrives, column, count) in wanted.items():
        async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
            before = await stack.enter_async_context(bus.subscribe("t"))
            small = qos(1 if policy is Policy.LATEST else 2, policy)
            full = await stack.enter_async_context(bus.subscribe("t", qos=small, edge="full"))
            after = await stack.enter_async_context(bus.subscribe("t"))
            for number in range(5):
                publishing = asyncio.create_task(outcome(bus.publish("t", message(number))))
                await quiet()
                holds(publishing.done(), f"{policy.value}: publish waits")
                books_balance(bus, f"{policy.value}: after message {number}")
            found = [await take_all(subscription) for subscription in (before, full, after)]
            equal(found, [list(range(5)), arrives, list(range(5))], f"{policy.value}: what each got")
            books = bus.books()["full"]
            equal(books.sent, 5, f"{policy.value}: sent")
            counted = books.refused if column == "refused" else books.dropped.get(policy.value)
            equal(counted, count, f"{policy.value}: {column}")


@clause("bus")
async def a_block_subscription_makes_publish_wait(maker: BusMaker) -> None:
    """`publish` waits while a `block` subscription has no credit and goes on when some returns; nothing is dropped."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        slow = await stack.enter_async_context(bus.subscribe("t", qos=qos(2)))
        quick = await stack.enter_async_context(bus.subscribe("t", qos=qos(64)))
        published: list[int] = []

        async def publish() -> None:
            for number in range(8):
                await bus.publish("t", message(number))
                published.append(number)

        publisher = asyncio.create_task(publish())
        await quiet()
        equal(published, [0, 1], "published while nobody takes")
        for number in range(8):
            taken = slow.take(1)
            await quiet()
            equal(len(published), min(number + 2, 8), "published while one is lent")
            equal(numbers(taken), [number], "the next message")
            slow.settle(taken)
            await quiet()
        await publisher
        equal(await take_all(quick), list(range(8)), "what the quick one got")
        books_balance(bus)


@clause("bus")
async def publish_nowait_reaches_all_or_nobody(maker: BusMaker) -> None:
    """`publish_nowait` is WouldBlock when a `block` subscription has no credit; then nobody got the message."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        before = await stack.enter_async_context(bus.subscribe("t"))
        full = await stack.enter_async_context(bus.subscribe("t", qos=qos(1)))
        after = await stack.enter_async_context(bus.subscribe("t", qos=qos(4, Policy.DROP_OLDEST)))
        equal(bus.publish_nowait("t", message(0)), 3, "who accepted the first")
        sent = {edge: books.sent for edge, books in bus.books().items()}
        with raises(WouldBlock, "publish_nowait"):
            bus.publish_nowait("t", message(1))
        equal({edge: books.sent for edge, books in bus.books().items()}, sent, "counted after WouldBlock")
        for subscription in (before, full, after):
            equal(await take_all(subscription), [0], "what each got")
        equal(bus.publish_nowait("t", message(2)), 3, "who accepted it once there is credit")
        books_balance(bus)


@clause("bus")
async def a_late_message_is_not_delivered(maker: BusMaker) -> None:
    """A message that is late when it is published, or becomes late in a queue, is counted as expired, not received."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe("t", edge="e") as subscription:
        await bus.publish("t", message(0, deadline_ns=clock.now_ns()))
        await bus.publish("t", message(1, deadline_ns=clock.now_ns() + 5 * MS))
        await bus.publish("t", message(2))
        await clock.advance(5 * MS)
        equal(await receive_one(subscription), 2, "what is received")
        books = bus.books()["e"]
        equal((books.sent, books.delivered, books.expired), (3, 1, 2), "sent, delivered, expired")
        equal((books.missed.late, books.missed.queued), (1, 1), "stages")
        books_balance(bus)


@clause("bus")
async def leaving_frees_a_waiting_publisher(maker: BusMaker) -> None:
    """A publisher that waits for a subscription goes on when that is closed; the others got the message."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        other = await stack.enter_async_context(bus.subscribe("t"))
        async with bus.subscribe("t", qos=qos(1)):
            await bus.publish("t", message(0))
            publishing = asyncio.create_task(bus.publish("t", message(1)))
            await quiet()
            holds(not publishing.done(), "publish did not wait for a full subscription")
        await quiet()
        holds(publishing.done(), "publish still waits for a closed subscription")
        await publishing
        equal(await take_all(other), [0, 1], "what the other got")
        books_balance(bus)


@clause("bus")
async def the_books_of_a_bus_balance(maker: BusMaker) -> None:
    """After every step of a random script the books of every subscription balance, closed ones included."""
    for seed in range(8):
        random = Random(seed)  # noqa: S311 - a test, not a secret
        clock = ManualClock()
        async with maker(clock) as bus, AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(
                    bus.subscribe(random.choice(("t.*", "t.a", ">")), group=group, qos=qos(3, policy), edge=f"e{index}")
                )
                for index, (policy, group) in enumerate(
                    (policy, group) for policy in Policy for group in (None, random.choice((None, "g")))
                )
            ]
            publishers: list[asyncio.Task[object]] = []
            for step in range(80):
                action = random.randrange(5)
                subscription = random.choice(opened)
                lane = random.choice(tuple(Priority))
                if action < 2:
                    topic = random.choice(("t.a", "t.b", "u"))
                    deadline_ns = clock.now_ns() + random.choice((0, 2, 1000)) * MS
                    sending = bus.publish(topic, message(step, lane, deadline_ns=deadline_ns))
                    publishers.append(asyncio.create_task(outcome(sending)))
                elif action == 4 and step % 10 == 0:
                    await subscription.aclose()
                elif action == 4:
                    await clock.advance(MS)
                else:
                    subscription.settle(subscription.take(random.randint(1, 3)))
                await quiet()
                books_balance(bus, f"seed {seed}, step {step}:")
            for publisher in publishers:
                publisher.cancel()
            await quiet()
        books_balance(bus, f"seed {seed}, closed:")
        left = {edge: books.in_flight for edge, books in bus.books().items() if books.in_flight}
        equal(left, {}, f"seed {seed}: in flight after closing")
