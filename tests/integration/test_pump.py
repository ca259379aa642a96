"""A node that waits for its ring itself does what one on the loop does: same results, same books, same ends."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from link_scene import joined, message
from process_scene import until
from pump_scene import PATIENCE_S, Scene, ran

from flowbridge.envelope import NO_DEADLINE, Priority
from flowbridge.errors import BrokenError, OperatorError
from flowbridge.limits import PAUSE_NS_MAX
from flowbridge.shm import native_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pump_scene import Far

if (PROBLEM := native_problem()) is not None:
    pytest.skip(PROBLEM, allow_module_level=True)

HOW = pytest.mark.parametrize("pumps", [True, False], ids=["pump", "loop"])
MS = 1_000_000


def same(value: Any) -> Any:
    return value


def copied(value: Any) -> Any:
    """A large payload, which came as a view of its slot, as bytes."""
    return bytes(value) if type(value) is memoryview else value


def sends(*payloads: Any, pause_s: float = 0.0, lanes: int = 1) -> Callable[[Far], Coroutine[Any, Any, None]]:
    """Send these, one after another, on so many lanes in turn."""

    async def drive(far: Far) -> None:
        for number, payload in enumerate(payloads):
            await far.sink.send(message(number, payload, lane=tuple(Priority)[number % lanes]))
            await asyncio.sleep(pause_s)

    return drive


def settled(scene: Scene) -> None:
    """Every account of a scene balances, and nothing is under way."""
    for name, books in scene.books.items():
        assert books.balances, f"{name}: {books}"
        assert books.in_flight == 0, f"{name}: {books}"


@HOW
def test_every_message_is_handled_once_and_in_order(*, pumps: bool) -> None:
    scene = ran(same, sends(*range(200), pause_s=0.0002), pumps=pumps)
    assert scene.values == list(range(200))
    assert scene.report.processed == scene.books["b"].delivered == scene.books["c"].delivered == 200
    assert scene.books["b"].latency.count == scene.report.latency.count == 200
    assert bool(scene.waits[True]) is pumps, "messages came without the loop"
    settled(scene)


@pytest.mark.parametrize("seed", range(3))
def test_pump_and_loop_give_the_same_results_and_the_same_books(seed: int) -> None:
    dice = random.Random(seed)
    payloads = [
        dice.choice([b"x" * dice.choice([1, 64, 2000, 70_000]), {"n": number}, number, str(number)])
        for number in range(150)
    ]
    pauses = [dice.choice([0.0, 0.0, 0.0003]) for _ in payloads]

    def operator(value: Any) -> Any:
        if isinstance(value, int) and value % 7 == 0:
            return None  # nothing comes of it
        return value

    async def drive(far: Far) -> None:
        for number, (payload, pause_s) in enumerate(zip(payloads, pauses, strict=True)):
            late = 1 if number % 10 == 9 else NO_DEADLINE
            await far.sink.send(message(number, payload, deadline_ns=late))
            if pause_s:
                await asyncio.sleep(pause_s)

    def plain(scene: Scene) -> Any:
        columns = ("sent", "delivered", "expired", "refused", "dropped")
        return (
            list(map(copied, scene.values)),
            {name: [getattr(books, column) for column in columns] for name, books in scene.books.items()},
            scene.report.processed,
        )

    found = [ran(operator, drive, pumps=pumps) for pumps in (True, False)]
    assert plain(found[0]) == plain(found[1])
    for scene in found:
        settled(scene)


class Stops:
    """Stands still at its third message until it is let go, as long work does."""

    def __init__(self) -> None:
        self.stands = threading.Event()
        self.goes_on = threading.Event()
        self.seen: list[Any] = []

    def process(self, value: Any) -> Any:
        self.seen.append(value)
        if len(self.seen) == 3:
            self.stands.set()
            assert self.goes_on.wait(PATIENCE_S)
        return value

    async def reach(self, far: Far) -> None:
        """Send until it stands still."""
        for number in range(3):
            await far.sink.send(message(number, number))
            await asyncio.sleep(0.0005)
        await asyncio.to_thread(self.stands.wait, PATIENCE_S)


@HOW
def test_what_becomes_late_while_the_operator_works_is_counted_as_expired(*, pumps: bool) -> None:
    operator = Stops()

    async def drive(far: Far) -> None:
        await operator.reach(far)
        soon_ns = far.clock.now_ns() + 2 * MS
        for number in range(3, 9):
            await far.sink.send(message(number, number, deadline_ns=soon_ns if number % 2 else NO_DEADLINE))
        await far.clock.sleep_until(soon_ns + 1)
        operator.goes_on.set()

    scene = ran(operator, drive, pumps=pumps)
    assert scene.values == [0, 1, 2, 4, 6, 8]
    books = scene.books["b"]
    assert (books.delivered, books.expired, books.missed.queued) == (6, 3, 3)
    settled(scene)


@HOW
def test_an_urgent_message_goes_before_those_that_wait(*, pumps: bool) -> None:
    operator = Stops()

    async def drive(far: Far) -> None:
        await operator.reach(far)
        for number in range(3, 40):
            await far.sink.send(message(number, number))
        await far.sink.send(message(40, "urgent", lane=Priority.REALTIME))
        operator.goes_on.set()

    scene = ran(operator, drive, pumps=pumps)
    assert operator.seen.index("urgent") <= 4, "one may have been taken before it came"
    assert [value for value in scene.values if value != "urgent"] == list(range(40))
    settled(scene)


@HOW
def test_an_operator_that_raises_fails_its_node_by_name(*, pumps: bool) -> None:
    def operator(value: int) -> int:
        if value == 30:
            raise ValueError("thirty")
        return value

    async def drive(far: Far) -> None:
        try:
            await sends(*range(60), pause_s=0.0003)(far)
        except BrokenError:
            return

    scene = ran(operator, drive, pumps=pumps)
    assert isinstance(scene.error, OperatorError)
    assert "node b" in str(scene.error)
    assert "thirty" in str(scene.error)
    assert scene.report.state == "failed"
    assert scene.books["b"].balances
    assert scene.books["a"].balances


@HOW
def test_a_failed_operator_goes_on_after_its_restart(*, pumps: bool) -> None:
    def operator(value: int) -> int:
        if value in {20, 40}:
            raise ValueError(str(value))
        return value

    scene = ran(
        operator,
        sends(*range(60), pause_s=0.0003),
        pumps=pumps,
        node="restart: {when: on-failure, delay: 1ms, max: 3}",
    )
    assert scene.error is None
    assert scene.report.restarts == 2
    assert scene.values == [value for value in range(60) if value not in {20, 40}]
    settled(scene)


@HOW
def test_what_an_operator_leaves_out_is_counted(*, pumps: bool) -> None:
    def operator(value: int) -> int:
        if value % 10 == 5:
            raise ValueError(str(value))
        return value

    scene = ran(operator, sends(*range(60), pause_s=0.0002), pumps=pumps, node="on_error: skip")
    assert scene.values == [value for value in range(60) if value % 10 != 5]
    assert scene.report.errors == 6
    settled(scene)


@HOW
@pytest.mark.parametrize("when", ["busy", "quiet"])
def test_a_node_that_is_stopped_gives_back_what_it_has_not_handled(when: str, *, pumps: bool) -> None:
    scene = Scene()

    async def drive(far: Far) -> None:
        number = 0
        try:
            while number < 50 or when == "busy":
                await far.sink.send(message(number, number))
                await asyncio.sleep(0.0003)
                number += 1
            await far.sink.wait_writable()
            await until(scene.node.done, "it is stopped")
        except BrokenError:
            return

    async def stop(scene: Scene) -> None:
        await until(lambda: scene.report.processed >= 50, "it works")
        scene.node.cancel()
        await asyncio.wait({scene.node})

    async def main() -> None:
        await scene.run(same, drive, pumps=pumps, meanwhile=stop)

    asyncio.run(main())
    assert scene.report.state == "aborted"
    assert scene.values == list(range(len(scene.values)))
    for books in scene.books.values():
        assert books.balances


@HOW
def test_snapshots_are_kept_while_messages_come(*, pumps: bool) -> None:
    class Sum:
        def __init__(self) -> None:
            self.total = 0

        def process(self, value: int) -> int:
            self.total += value
            return self.total

        def snapshot(self) -> int:
            return self.total

    scene = ran(Sum(), sends(*range(60), pause_s=0.0003), pumps=pumps, node="snapshot: 1ms")
    assert scene.values[-1] == sum(range(60))
    assert 0 < scene.supervisor.runner.snapshots.state <= sum(range(60))


@HOW
def test_a_node_waits_for_credit_and_goes_on(*, pumps: bool) -> None:
    def many(value: int) -> Any:
        for part in range(50):  # more than a route holds
            yield value * 50 + part

    scene = ran(many, sends(*range(40), pause_s=0.0002), pumps=pumps)
    assert scene.values == list(range(2000))
    settled(scene)


@HOW
def test_a_payload_that_no_slot_holds_comes_in_its_place(*, pumps: bool) -> None:
    large = b"l" * (17 * 1024 * 1024)
    payloads = [*range(20), large, *range(20, 40), b"m" * 70_000, *range(40, 60)]
    scene = ran(same, sends(*payloads, pause_s=0.0002), pumps=pumps)
    assert [value if isinstance(value, int) else len(value) for value in scene.values] == [
        value if isinstance(value, int) else len(value) for value in payloads
    ]
    settled(scene)


def test_the_loop_has_its_turns_while_messages_come() -> None:
    turns = 0

    async def count(scene: Scene) -> None:
        nonlocal turns
        while not scene.node.done():
            turns += 1
            await asyncio.sleep(0)

    scene = ran(same, sends(*range(200), pause_s=0.0002), pumps=True, meanwhile=count)
    assert scene.values == list(range(200))
    assert turns > 10


def test_an_asynchronous_operator_stays_on_the_loop() -> None:
    async def operator(value: int) -> int:
        await asyncio.sleep(0)
        return value

    scene = ran(operator, sends(*range(50), pause_s=0.0002), pumps=True)
    assert scene.values == list(range(50))
    assert not scene.waits


def test_an_operator_with_an_asynchronous_part_stays_on_the_loop() -> None:
    class Opens:
        async def open(self) -> None:
            await asyncio.sleep(0)

        def process(self, value: int) -> int:
            return value

    scene = ran(Opens(), sends(*range(50), pause_s=0.0002), pumps=True)
    assert scene.values == list(range(50))
    assert not scene.waits


def test_after_a_long_pause_a_node_sleeps_on_the_loop() -> None:
    async def drive(far: Far) -> None:
        for number in range(6):
            await far.sink.send(message(number, number))
            await asyncio.sleep(20 * PAUSE_NS_MAX / 1e9)

    scene = ran(same, drive, pumps=True)
    assert scene.values == list(range(6))
    assert sum(scene.waits.values()) <= 6 * 4, "a pause is waited out on the loop"


@pytest.mark.parametrize("kind", ["ring", "socket"])
def test_a_source_that_is_waited_for_leaves_nothing_behind(kind: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            async with asyncio.timeout(PATIENCE_S):
                pair.sink.send_nowait(message(0))
                await until(lambda: pair.source.waiting, "the loop brings it")
                pair.take_all()
                pair.sink.send_nowait(message(1))
                assert pair.source.wait_blocking(MS) is (kind == "ring")
                found = [one.seq for one in pair.take_all()]
                assert pair.source.wait_blocking(1) is False
                pair.source.leave_to_loop()
                pair.sink.send_nowait(message(2))
                await until(lambda: pair.source.waiting, "the loop brings it again")
                found += [one.seq for one in pair.take_all()]
                assert found == [1, 2]
                await pair.sink.finish()
                while not pair.source.ended:
                    pair.source.wait_blocking(0)
                    await asyncio.sleep(0)
                assert pair.source.wait_blocking(0) is False

    asyncio.run(main())


@pytest.mark.parametrize("how", ["closes", "cut"])
@pytest.mark.parametrize("kind", ["ring", "socket"])
def test_a_producer_that_vanishes_is_told_to_who_waits_after_what_it_sent(kind: str, how: str) -> None:
    async def main() -> None:
        async with joined(kind) as pair:
            news: list[str] = []
            pair.source.on_news(lambda: news.append("news"))
            pair.source.wait_blocking(0)
            found: list[int] = []
            for number in range(3):
                pair.sink.send_nowait(message(number))
            if how == "closes":
                pair.sink.close()
            else:
                pair.cut()

            async def take() -> None:
                while True:
                    news.clear()
                    if not pair.source.wait_blocking(MS):
                        pair.source.leave_to_loop()
                        await asyncio.sleep(0)
                    seen = [one.seq for one in pair.take_all()]
                    assert news or not seen, "it came untold"
                    found.extend(seen)

            with pytest.raises(BrokenError):
                await asyncio.wait_for(take(), PATIENCE_S)
            assert found == [0, 1, 2]
            assert news, "the break came untold"
            assert pair.source.wait_blocking(0) is False
            assert pair.source.books.balances

    asyncio.run(main())
