"""Whose slice is next among the nodes of one loop."""

from __future__ import annotations

import asyncio

from flowbridge.limits import STARVATION_TURNS_MAX
from flowbridge.runtime.turn import Turns


def order_of(asks: list[tuple[str, int, int]], cancelled: frozenset[str] = frozenset()) -> list[str]:
    """The order in which tasks that ask together get their turns."""
    ran: list[str] = []

    async def node(turns: Turns, name: str, lane: int, urgency_ns: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.ask(turn, lane, urgency_ns)
        await turn
        ran.append(name)

    async def main() -> None:
        turns = Turns()
        tasks = {name: asyncio.create_task(node(turns, name, lane, ns)) for name, lane, ns in asks}
        await asyncio.sleep(0)
        for name in cancelled:
            tasks[name].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    asyncio.run(main())
    return ran


def test_the_urgent_lane_goes_first_then_the_earliest_deadline() -> None:
    asks = [("late", 2, 900), ("soon", 2, 100), ("bulk", 3, 1), ("now", 0, 5_000)]
    assert order_of(asks) == ["now", "soon", "late", "bulk"]


def test_equal_asks_are_served_in_the_order_they_came() -> None:
    assert order_of([("a", 2, 7), ("b", 2, 7), ("c", 2, 7)]) == ["a", "b", "c"]


def test_a_cancelled_node_does_not_use_up_a_turn() -> None:
    asks = [("a", 1, 1), ("b", 1, 2), ("c", 1, 3)]
    assert order_of(asks, cancelled=frozenset({"a", "b"})) == ["c"]


def test_a_lane_is_not_passed_over_for_ever() -> None:
    asks = [("patient", 3, 0), *((f"urgent {number}", 0, number) for number in range(3 * STARVATION_TURNS_MAX))]
    assert order_of(asks).index("patient") == STARVATION_TURNS_MAX


def test_a_node_that_takes_turn_after_turn_lets_others_run() -> None:
    async def main() -> int:
        turns = Turns()
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(10):
            await turns.take(0, 0)
        task.cancel()
        return others

    assert asyncio.run(main()) >= 9


def test_one_turn_is_given_at_a_time_and_newcomers_may_be_more_urgent() -> None:
    """What a slice wakes asks before the next turn is given, so it can go first."""
    ran: list[str] = []

    async def main() -> None:
        turns = Turns()
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        async def sleeper() -> None:
            await woken
            ran.append("woken")

        first: asyncio.Future[None] = loop.create_future()
        second: asyncio.Future[None] = loop.create_future()
        turns.ask(first, 2, 1)
        turns.ask(second, 2, 2)

        async def slice_of(turn: asyncio.Future[None], name: str, wakes: bool) -> None:
            await turn
            ran.append(name)
            if wakes:
                turns.ask(woken, 0, 99)  # as a node does when a message arrives for it

        await asyncio.gather(sleeper(), slice_of(first, "first", True), slice_of(second, "second", False))

    asyncio.run(main())
    assert ran == ["first", "woken", "second"]
