"""One call of an operator: cut off at its deadline, repeated by class of error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import DeadlineExceeded, Effect
from flowbridge.plan import RetryPolicy
from flowbridge.runtime.call import retries, retry_delay_ns, said, until_deadline
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable

MS = 1_000_000


def call(work: Awaitable[int], clock: ManualClock, lasts_ns: int = 10 * MS) -> asyncio.Task[int]:
    return asyncio.create_task(until_deadline(work, clock.now_ns() + lasts_ns, clock, "node n"))


def test_work_is_cut_off_at_its_deadline_and_not_before() -> None:
    async def script() -> None:
        clock = ManualClock()
        ended: list[str] = []

        async def work() -> int:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cut")
            return 1

        task = call(work(), clock)
        await clock.advance(10 * MS - 1)
        assert ended == []
        await clock.advance(1)
        assert ended == ["cut"]
        with pytest.raises(DeadlineExceeded, match=r"node n: deadline exceeded by 0\.000 ms") as caught:
            await task
        assert caught.value.effect is Effect.MAYBE
        assert caught.value.deadline_ns == caught.value.now_ns == clock.now_ns()
        assert task.cancelling() == 0
        assert clock.pending() == ()

    asyncio.run(script())


def test_work_that_ends_in_time_leaves_no_alarm() -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            await clock.sleep_until(clock.now_ns() + 9 * MS)
            return 5

        task = call(work(), clock)
        await clock.advance(9 * MS)
        assert await task == 5
        assert clock.pending() == ()
        await clock.advance(100 * MS)
        assert task.cancelling() == 0

    asyncio.run(script())


def test_work_that_fails_in_time_leaves_no_alarm() -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            await asyncio.sleep(0)
            raise KeyError("x")

        with pytest.raises(KeyError):
            await call(work(), clock)
        assert clock.pending() == ()

    asyncio.run(script())


def test_without_a_deadline_nothing_is_watched() -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            assert clock.pending() == ()
            return 5

        assert await until_deadline(work(), NO_DEADLINE, clock, "node n") == 5

    asyncio.run(script())


@pytest.mark.parametrize("lasts_ns", [0, -MS])
def test_work_whose_deadline_has_passed_is_cut_off_where_it_first_waits(lasts_ns: int) -> None:
    async def script() -> None:
        clock = ManualClock()

        async def waits() -> int:
            await asyncio.Event().wait()
            return 1

        async def does_not_wait() -> int:
            return 2

        with pytest.raises(DeadlineExceeded):
            await call(waits(), clock, lasts_ns)
        assert await call(does_not_wait(), clock, lasts_ns) == 2

    asyncio.run(script())


@pytest.mark.parametrize("when", ["before", "same turn, first", "same turn, second"])
def test_a_cancellation_from_outside_wins_and_stays_one(when: str) -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            await asyncio.Event().wait()
            return 1

        def cancel() -> None:
            task.cancel()

        deadline_ns = clock.now_ns() + 10 * MS
        if when == "same turn, first":
            clock.call_at(deadline_ns, cancel)
        task = call(work(), clock)
        await quiet()
        if when == "same turn, second":
            clock.call_at(deadline_ns, cancel)
        if when == "before":
            task.cancel()
        else:
            await clock.advance(10 * MS)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1, "only the one from outside is left"
        assert clock.pending() == ()

    asyncio.run(script())


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_work_that_keeps_the_cut_to_itself_is_not_cancelled_later(how: str) -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise KeyError("mine") from None
            return 7

        task = call(work(), clock)
        await clock.advance(10 * MS)
        if how == "returns":
            assert await task == 7
        else:
            with pytest.raises(KeyError, match="mine"):
                await task
        assert task.cancelling() == 0

    asyncio.run(script())


def test_work_that_cancels_itself_failed_and_does_not_end_its_node() -> None:
    async def script() -> None:
        clock = ManualClock()

        async def work() -> int:
            raise asyncio.CancelledError

        with pytest.raises(RuntimeError, match="cancelled"):
            await call(work(), clock)
        assert clock.pending() == ()

    asyncio.run(script())


def test_one_call_after_another_is_cut_off_in_the_same_task() -> None:
    async def script() -> None:
        clock = ManualClock()
        cuts: list[int] = []

        async def work() -> int:
            await asyncio.Event().wait()
            return 1

        async def both() -> None:
            for number in range(2):
                try:
                    await until_deadline(work(), clock.now_ns() + MS, clock, "node n")
                except DeadlineExceeded:
                    cuts.append(number)

        task = asyncio.create_task(both())
        await clock.advance(2 * MS)
        await task
        assert cuts == [0, 1]

    asyncio.run(script())


# --- retries ------------------------------------------------------------------------------------------------------


class FlakyError(ConnectionError):
    pass


@pytest.mark.parametrize(
    ("error", "on", "wanted"),
    [
        (ValueError(), (), True),
        (FlakyError(), ("FlakyError",), True),
        (FlakyError(), ("TimeoutError", "ConnectionError"), True),
        (FlakyError(), ("OSError",), True),
        (FlakyError(), ("TimeoutError",), False),
        (DeadlineExceeded("x", 1, 2), ("TimeoutError",), True),
        (KeyboardInterrupt(), (), False),
        (asyncio.CancelledError(), (), False),
        (asyncio.CancelledError(), ("CancelledError",), False),
    ],
)
def test_a_policy_names_errors_by_their_class_or_a_base(
    error: BaseException, on: tuple[str, ...], *, wanted: bool
) -> None:
    assert retries(error, RetryPolicy(max=1, on=on)) == wanted


def test_the_delay_before_a_retry_doubles_and_does_not_overflow() -> None:
    policy = RetryPolicy(max=99, delay_ns=3)
    assert [retry_delay_ns(policy, attempt) for attempt in (1, 2, 3, 4)] == [3, 6, 12, 24]
    assert retry_delay_ns(policy, 99) == retry_delay_ns(policy, 21) == 3 * 2**20


def test_an_error_is_said_in_one_line() -> None:
    assert said(ValueError("two\n  lines\tof it")) == "ValueError: two lines of it"
    assert said(ValueError()) == "ValueError"
    assert said(KeyError("k")) == "KeyError: 'k'"
