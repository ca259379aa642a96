"""Clauses of EventBus: who gets what is published."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import ClosedError, LocalProtocolError
from flowbridge.limits import TOPIC_CHARACTERS_MAX, TOPIC_TOKENS_MAX
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import (
    BEST,
    HIGH,
    MS,
    NORMAL,
    RT,
    message,
    number_of,
    outcome,
    qos,
    receive_one,
    take_all,
)
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import EventBus, Subscription
    from flowbridge.testing.conformance.message import BusMaker


def books_balance(bus: EventBus, when: str = "at the end") -> None:
    """Raises: ClauseFailed unless every edge balances."""
    for edge, books in bus.books().items():
        holds(books.balances, f"{when} the books of {edge} do not balance: {books}")


async def _numbers_of(*subscriptions: Subscription) -> list[list[int]]:
    return [await take_all(subscription, 8) for subscription in subscriptions]


@clause("bus")
async def publish_reaches_every_matching_subscription(maker: BusMaker) -> None:
    """A message reaches every subscription whose pattern matches, once, and no other; `publish` counts them."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        patterns = ("a.b", "a.b", "a.*", "a.>", ">", "a", "a.b.c", "b.>", "*.*.*")
        opened = [await stack.enter_async_context(bus.subscribe(pattern)) for pattern in patterns]
        equal([one.pattern for one in opened], list(patterns), "patterns")
        equal(await bus.publish("a.b", message(1)), 5, "who accepted a.b")
        equal(bus.publish_nowait("nobody", message(2)), 1, "who accepted a topic that only > matches")
        wanted = [[1], [1], [1], [1], [1, 2], [], [], [], []]
        equal(await _numbers_of(*opened), wanted, "what each got")
        books_balance(bus)


@clause("bus")
async def a_message_arrives_as_it_was_published(maker: BusMaker) -> None:
    """Payload, priority, deadline and headers arrive; the header ``topic`` says where it was published."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe(">") as subscription:
        deadline_ns = clock.now_ns() + 7 * MS
        sent = message(1, RT, deadline_ns=deadline_ns)
        sent.headers = {"correlation": 9}
        await bus.publish("x.y", sent)
        with await subscription.receive() as got:
            equal((bytes(got.payload), got.priority, got.deadline_ns), (b"1", RT, deadline_ns), "what arrived")
            headers = got.headers or {}
            equal((headers.get("correlation"), headers.get("topic")), (9, "x.y"), "headers")
        equal((sent.priority, sent.deadline_ns, sent.headers), (RT, deadline_ns, {"correlation": 9}), "what was sent")


@clause("bus")
async def a_star_is_one_word(maker: BusMaker) -> None:
    """``*`` in a pattern stands for exactly one word, in any place."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        patterns = ("*", "a.*", "*.b", "a.*.c")
        opened = [await stack.enter_async_context(bus.subscribe(pattern)) for pattern in patterns]
        for number, topic in enumerate(("a", "a.b", "a.b.c", "a.x.y.c", "ab.b", "a.bb.c")):
            await bus.publish(topic, message(number))
        equal(await _numbers_of(*opened), [[0], [1], [1, 4], [2, 5]], "what each got")


@clause("bus")
async def a_last_arrow_is_one_or_more_words(maker: BusMaker) -> None:
    """``>`` at the end of a pattern stands for one or more words, never for none."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(bus.subscribe(pattern)) for pattern in (">", "a.>", "a.*.>")]
        for number, topic in enumerate(("a", "a.b", "a.b.c", "a.b.c.d", "b.a")):
            await bus.publish(topic, message(number))
        equal(await _numbers_of(*opened), [[0, 1, 2, 3, 4], [1, 2, 3], [2, 3]], "what each got")


@clause("bus")
async def bad_topics_and_patterns_are_refused(maker: BusMaker) -> None:
    """A bad topic or pattern is LocalProtocolError: empty words, wildcards in a topic, ``>`` not last, too long."""
    async with maker(ManualClock()) as bus, bus.subscribe(">") as everything:
        many, long = ".".join("a" * (TOPIC_TOKENS_MAX + 1)), "a" * (TOPIC_CHARACTERS_MAX + 1)
        for bad in ("", ".", "a.", ".a", "a..b", "a b", many, long, "a.*", "a.>", ">", "*"):
            with raises(LocalProtocolError, f"publish to {bad[:20]!r}"):
                await bus.publish(bad, message(0))
            with raises(LocalProtocolError, f"publish_nowait to {bad[:20]!r}"):
                bus.publish_nowait(bad, message(0))
            with raises(LocalProtocolError, f"request to {bad[:20]!r}"):
                await bus.request(bad, message(0), timeout_ns=MS)
        for bad in ("", ".", "a.", "a..b", ">.a", "a.>.b", "a b", many, long):
            with raises(LocalProtocolError, f"subscribe to {bad[:20]!r}"):
                async with bus.subscribe(bad):
                    pass
        equal(await take_all(everything), [], "what arrived nevertheless")
        longest = "a" * TOPIC_CHARACTERS_MAX
        for number, good in enumerate(("a", "a.b-c_d", ".".join("a" * TOPIC_TOKENS_MAX), longest)):
            await bus.publish(good, message(number))
        equal(await take_all(everything), [0, 1, 2, 3], "good topics at the limit")


@clause("bus")
async def one_member_of_a_group_gets_each_message(maker: BusMaker) -> None:
    """Each message goes to one member of every matching queue group, in fair shares, and to all without a group."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        first = [await stack.enter_async_context(bus.subscribe("work", group="first")) for _ in range(3)]
        second = [await stack.enter_async_context(bus.subscribe("work", group="second")) for _ in range(2)]
        alone = await stack.enter_async_context(bus.subscribe("work"))
        equal([first[0].group, second[0].group, alone.group], ["first", "second", None], "groups")
        for number in range(12):
            equal(await bus.publish("work", message(number)), 3, "who accepted it")
        for members in (first, second):
            got = await _numbers_of(*members)
            equal(sorted(number for one in got for number in one), list(range(12)), "what the members got together")
            shares = [len(one) for one in got]
            holds(max(shares) - min(shares) <= 1, f"unfair shares {shares}")
            holds(all(one == sorted(one) for one in got), f"out of order: {got}")
        equal(await take_all(alone), list(range(12)), "what the one without a group got")
        books_balance(bus)


@clause("bus")
async def a_group_prefers_a_member_with_credit(maker: BusMaker) -> None:
    """A full member of a queue group is passed over while another member has credit."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        full = await stack.enter_async_context(bus.subscribe("work", group="g", qos=qos(1)))
        free = await stack.enter_async_context(bus.subscribe("work", group="g", qos=qos(16)))
        for number in range(8):
            equal(bus.publish_nowait("work", message(number)), 1, f"who accepted message {number}")
        got = await _numbers_of(full, free)
        equal([len(one) for one in got], [1, 7], "shares")
        books_balance(bus)


@clause("bus")
async def a_member_that_leaves_is_passed_over(maker: BusMaker) -> None:
    """After a member closed its subscription, the rest of its group gets everything."""
    async with maker(ManualClock()) as bus, bus.subscribe("work", group="g") as stays:
        async with bus.subscribe("work", group="g") as leaves:
            for number in range(2):
                await bus.publish("work", message(number))
            got = await _numbers_of(stays, leaves)
            equal(sorted(map(len, got)), [1, 1], "shares of two")
        for number in range(4):
            equal(await bus.publish("work", message(number)), 1, "who accepted it")
        equal(await take_all(stays), [0, 1, 2, 3], "what the rest got")


@clause("bus")
async def broadcast_reaches_every_member(maker: BusMaker) -> None:
    """`broadcast` reaches every member of every matching group, and everyone without a group."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        groups = ("g", "g", "g", "h", None)
        opened = [await stack.enter_async_context(bus.subscribe("all", group=group)) for group in groups]
        other = await stack.enter_async_context(bus.subscribe("other", group="g"))
        equal(await bus.broadcast("all", message(1)), 5, "who accepted it")
        await bus.broadcast("all", message(2))
        equal(await _numbers_of(*opened, other), [[1, 2]] * 5 + [[]], "what each got")
        books_balance(bus)


@clause("bus")
async def keeps_the_order_of_each_publisher(maker: BusMaker) -> None:
    """A subscription gets what one publisher published in its order, when messages pile up too; urgent lanes first."""
    async with maker(ManualClock()) as bus, bus.subscribe("t.*") as subscription:

        async def publish(first: int) -> None:
            for step in range(20):
                await bus.publish(f"t.{first}", message(first + step))

        await asyncio.gather(publish(0), publish(100))
        found = await take_all(subscription, 3)
        for first in (0, 100):
            mine = [number for number in found if first <= number < first + 100]
            equal(mine, list(range(first, first + 20)), "the messages of one publisher")
        for number, lane in enumerate((BEST, NORMAL, HIGH)):
            await bus.publish("t.x", message(number, lane))
        equal(await take_all(subscription), [2, 1, 0], "urgent lanes first")


@clause("bus")
async def configure_gives_a_topic_priority_and_deadline(maker: BusMaker) -> None:
    """A configured topic gives a message its priority and tightens its deadline; the first matching pattern wins."""
    clock = ManualClock()
    async with maker(clock) as bus, bus.subscribe(">") as subscription:
        bus.configure("alerts.>", Qos(priority=HIGH, deadline_ns=50 * MS))
        bus.configure("alerts.fire", Qos(priority=BEST, deadline_ns=MS))
        now_ns = clock.now_ns()
        cases = {
            ("alerts.fire", NO_DEADLINE): (HIGH, now_ns + 50 * MS),
            ("alerts.fire", now_ns + 20 * MS): (HIGH, now_ns + 20 * MS),
            ("alerts.fire", now_ns + 90 * MS): (HIGH, now_ns + 50 * MS),
            ("alerts", NO_DEADLINE): (NORMAL, NO_DEADLINE),
        }
        for (topic, deadline_ns), wanted in cases.items():
            await bus.publish(topic, message(0, deadline_ns=deadline_ns))
            with await subscription.receive() as got:
                equal((got.priority, got.deadline_ns), wanted, f"{topic} sent with {deadline_ns}")


@clause("bus")
async def configure_gives_later_subscriptions_their_queue(maker: BusMaker) -> None:
    """A subscription without a QoS of its own has the queue of the first configured pattern that covers it."""
    async with maker(ManualClock()) as bus:
        bus.configure("news.>", qos(2, Policy.DROP_OLDEST))
        async with bus.subscribe("news.local") as configured, bus.subscribe("news.local", qos=qos(8)) as own:
            for number in range(5):
                await bus.publish("news.local", message(number))
            equal(await _numbers_of(configured, own), [[3, 4], [0, 1, 2, 3, 4]], "what each got")
            books_balance(bus)


@clause("bus")
async def closing_a_subscription_aborts_the_rest(maker: BusMaker) -> None:
    """What is queued when a subscription closes is dropped by `abort`; its books stay in `books`, under its edge."""
    async with maker(ManualClock()) as bus:
        async with bus.subscribe("t", edge="bus/t->n/in") as subscription:
            for number in range(3):
                await bus.publish("t", message(number))
            equal(await receive_one(subscription), 0, "what was received")
        equal(await bus.publish("t", message(9)), 0, "who accepted it after closing")
        books = bus.books()["bus/t->n/in"]
        equal((books.sent, books.delivered, dict(books.dropped)), (3, 1, {"abort": 2}), "the books")
        equal(books.in_flight, 0, "in flight")
        books_balance(bus)


@clause("bus")
async def a_closed_bus_is_closed(maker: BusMaker) -> None:
    """`aclose` is idempotent; after it publish, request and subscribe are ClosedError; what was queued is dropped."""
    async with maker(ManualClock()) as bus, AsyncExitStack() as stack:
        subscription = await stack.enter_async_context(bus.subscribe("t", edge="e"))
        idle = await stack.enter_async_context(bus.subscribe("u"))
        await bus.publish("t", message(0))
        receiver = asyncio.create_task(outcome(idle.receive()))
        await quiet()
        await bus.aclose()
        await bus.aclose()
        await quiet()
        holds(receiver.done(), "a receiver still waits on a closed bus")
        await receiver
        with raises(ClosedError, "publish"):
            await bus.publish("t", message(1))
        with raises(ClosedError, "publish_nowait"):
            bus.publish_nowait("t", message(1))
        with raises(ClosedError, "broadcast"):
            await bus.broadcast("t", message(1))
        with raises(ClosedError, "request"):
            await bus.request("t", message(1), timeout_ns=MS)
        with raises(ClosedError, "subscribe"):
            async with bus.subscribe("t"):
                pass
        equal(subscription.take(1), [], "what can be taken from a closed bus")
        equal(dict(bus.books()["e"].dropped), {"abort": 1}, "dropped")
        books_balance(bus)


@clause("bus")
async def one_payload_may_go_to_many(maker: BusMaker) -> None:
    """Subscriptions do not share fate: settling or giving back one copy leaves the other copies as they are."""
    async with maker(ManualClock()) as bus, bus.subscribe("t") as one, bus.subscribe("t") as other:
        same = message(1)
        await bus.publish("t", same)
        await bus.publish("t", same)
        await quiet()
        taken = one.take(2)
        equal([number_of(envelope) for envelope in taken], [1, 1], "published twice")
        one.give_back(taken[1:])
        one.settle(taken[:1])
        equal(await _numbers_of(one, other), [[1], [1, 1]], "what is left")
        books_balance(bus)
