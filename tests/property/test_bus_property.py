"""The bus under any sequence of subscribing, publishing, taking, cancelling and closing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import WouldBlock
from flowbridge.machines.topics import covers
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from flowbridge.contracts import Subscription

TOPICS = ["a.x", "a.y", "b.x"]
PATTERNS = ["a.x", "a.*", "*.x", ">"]

SUBSCRIBE = st.tuples(
    st.just("subscribe"), st.sampled_from(PATTERNS), st.sampled_from([None, None, "g", "h"]), st.integers(1, 3)
)
PUBLISH = st.tuples(
    st.sampled_from(["publish", "publish", "nowait", "broadcast"]), st.sampled_from(TOPICS), st.sampled_from([1, 2])
)
ON_ONE = st.tuples(st.sampled_from(["take", "take", "close", "cancel"]), st.integers(0, 9))
STEPS = st.lists(st.one_of(SUBSCRIBE, PUBLISH, PUBLISH, ON_ONE, ON_ONE), max_size=40)


@dataclass
class Seen:
    """One subscription, what it should get and what it got: (number, lane)."""

    pattern: str
    group: str | None
    source: Subscription
    stack: AsyncExitStack
    expected: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    got: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    numbers: list[int] = field(default_factory=list[int])
    closed: bool = False

    def take(self, limit: int) -> int:
        taken = self.source.take(limit)
        for envelope in taken:
            self.got.append((envelope.payload, envelope.priority))
            self.numbers.append(envelope.seq)
        self.source.settle(taken)
        return len(taken)


class Play:
    """Plays the steps on a real bus and keeps the books of its own that `judge` compares."""

    def __init__(self) -> None:
        self.bus = LocalEventBus(ManualClock())
        self.seen: list[Seen] = []
        self.tasks: dict[int, asyncio.Task[int]] = {}
        self.topics: dict[int, str] = {}
        self.broadcasts: set[int] = set()
        self.cancelled: set[int] = set()
        self.count = 0
        self.closed_groups: set[str] = set()

    def open(self) -> list[Seen]:
        return [one for one in self.seen if not one.closed]

    async def step(self, step: tuple[object, ...]) -> None:
        match step:
            case ("subscribe", str(pattern), group, int(items)):
                stack = AsyncExitStack()
                qos = Qos(policy=Policy.BLOCK, capacity_items=items, high_items=items, low_items=items - 1)
                name = group if isinstance(group, str) else None
                source = await stack.enter_async_context(self.bus.subscribe(pattern, group=name, qos=qos))
                self.seen.append(Seen(pattern, name, source, stack))
            case ("take", int(index)) if self.open():
                self.open()[index % len(self.open())].take(2)
            case ("close", int(index)) if self.open():
                one = self.open()[index % len(self.open())]
                one.closed = True
                if one.group is not None:
                    self.closed_groups.add(one.group)
                await one.stack.aclose()
            case ("cancel", int(index)) if self.tasks:
                number, task = list(self.tasks.items())[index % len(self.tasks)]
                if task.cancel():
                    self.cancelled.add(number)
            case (str(how), str(topic), int(lane)):
                self.publish(how, topic, lane)
            case _:
                pass
        await quiet()
        assert all(books.balances for books in self.bus.books().values())

    def publish(self, how: str, topic: str, lane: int) -> None:
        number = self.count
        self.count += 1
        envelope = Envelope(number, Priority(lane))
        matching = [one for one in self.open() if covers(one.pattern, topic)]
        groups = {one.group for one in matching if one.group is not None}
        plain = [one for one in matching if one.group is None]
        if how == "nowait":
            before = [one.source.books.sent for one in self.seen]
            try:
                accepted = self.bus.publish_nowait(topic, envelope)
            except WouldBlock:
                assert [one.source.books.sent for one in self.seen] == before
                return
            assert accepted == len(plain) + len(groups)
        elif how == "broadcast":
            self.broadcasts.add(number)
            self.tasks[number] = asyncio.create_task(self.bus.broadcast(topic, envelope))
        else:
            self.tasks[number] = asyncio.create_task(self.bus.publish(topic, envelope))
        self.topics[number] = topic
        for one in matching:
            one.expected.append((number, lane))

    async def finish(self) -> None:
        """Take everything; afterwards nobody may wait any more."""
        progress = True
        while progress:
            progress = sum(one.take(9) for one in self.open()) > 0
            await quiet()
        assert all(task.done() for task in self.tasks.values())

    def judge(self) -> None:
        for one in self.seen:
            for lane in (1, 2):
                got = [number for number, its in one.got if its == lane]
                expected = [number for number, its in one.expected if its == lane]
                assert got == sorted(got), "first come, first served"
                if one.group is None and not one.closed:
                    assert [n for n in expected if n not in got] == [
                        n for n in expected if n in self.cancelled and n not in got
                    ]
            assert len(one.got) == len(set(one.got)), "nothing twice"
            assert set(one.got) <= set(one.expected) or one.group is not None  # a group hands over to who joins later
        self.judge_groups()
        for number, task in self.tasks.items():
            assert task.cancelled() is (number in self.cancelled)

    def judge_groups(self) -> None:
        for group in {one.group for one in self.seen if one.group is not None}:
            members = [one for one in self.seen if one.group == group]
            for number in self.topics:
                takers = sum(number in [n for n, _ in one.got] for one in members)
                asked = [one for one in members if number in [n for n, _ in one.expected]]
                if number in self.broadcasts:
                    if group not in self.closed_groups and number not in self.cancelled:
                        assert takers == len(asked)
                else:
                    assert takers <= 1
                    if group not in self.closed_groups and number not in self.cancelled and asked:
                        assert takers == 1


@given(STEPS)
def test_everything_arrives_once_in_order_and_nobody_waits_for_ever(steps: list[tuple[object, ...]]) -> None:
    async def main() -> None:
        play = Play()
        for step in steps:
            await play.step(step)
        await play.finish()
        play.judge()
        for one in play.open():
            await one.stack.aclose()
        await play.bus.aclose()
        assert all(books.balances and not books.in_flight for books in play.bus.books().values())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@given(
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=30),
)
def test_a_group_always_uses_a_member_that_has_room(capacities: list[int], settles: list[int]) -> None:
    async def main() -> None:
        bus = LocalEventBus(ManualClock())
        async with AsyncExitStack() as stack:
            members: list[Subscription] = []
            for capacity in capacities:
                qos = Qos(capacity_items=capacity, high_items=capacity, low_items=capacity - 1)
                members.append(await stack.enter_async_context(bus.subscribe("t", group="g", qos=qos)))
            held = [0] * len(members)
            for index in [9] * sum(capacities) + settles:
                if index < len(members) and held[index]:
                    members[index].settle(members[index].take(1))
                    held[index] -= 1
                before = [member.books.sent for member in members]
                if held == capacities:
                    try:
                        bus.publish_nowait("t", Envelope(0))
                    except WouldBlock:
                        continue
                    raise AssertionError("a message went into a full group")
                assert bus.publish_nowait("t", Envelope(0)) == 1
                held = [
                    count + member.books.sent - was for count, member, was in zip(held, members, before, strict=True)
                ]
                assert all(count <= capacity for count, capacity in zip(held, capacities, strict=True))
        await bus.aclose()

    asyncio.run(main())
