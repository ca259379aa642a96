"""Clauses of DataPort: sending many at once is the same as sending them one after another."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from flowbridge.envelope import NO_DEADLINE, Priority
from flowbridge.errors import BrokenError, ClosedError, WouldBlock
from flowbridge.plan import Policy
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import equal, holds, raises
from flowbridge.testing.conformance.message import MS, NORMAL, RT, balanced, message, qos, send_all, take_all
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from flowbridge.contracts import DataSink
    from flowbridge.envelope import Envelope
    from flowbridge.testing.conformance.message import PortMaker


def _one_by_one(sink: DataSink, batch: list[Envelope], policy: Policy) -> int:
    """What `send_many_nowait` does, by `send_nowait`."""
    for count, envelope in enumerate(batch):
        try:
            sink.send_nowait(envelope)
        except WouldBlock:
            if policy is Policy.BLOCK:
                return count
    return len(batch)


@clause("port")
async def sending_many_is_sending_one_by_one(maker: PortMaker) -> None:
    """`send_many_nowait` deals with, counts, drops and delivers exactly what `send_nowait` would, one after another."""
    for policy in Policy:
        for seed in range(8):
            random = Random(seed)  # noqa: S311 - a test, not a secret
            clock = ManualClock()
            limits = qos(6, policy, high=5, low=2, bytes_=200)
            async with maker(limits, clock) as many, maker(limits, clock) as single:
                number = 0
                for step in range(25):
                    batch: list[tuple[int, Priority, int, int]] = []
                    for _ in range(random.randint(0, 7)):
                        lane = random.choice((NORMAL, NORMAL, NORMAL, RT))
                        deadline_ns = random.choice((NO_DEADLINE, NO_DEADLINE, NO_DEADLINE, clock.now_ns()))
                        batch.append((number, lane, deadline_ns, random.choice((1, 1, 20, 90, 300))))
                        number += 1
                    pair = [[message(n, lane, deadline_ns=d, size=size) for n, lane, d, size in batch] for _ in "ab"]
                    what = f"policy {policy.value}, seed {seed}, step {step}"
                    wanted = _one_by_one(single.sink, pair[1], policy)
                    equal(many.sink.send_many_nowait(pair[0]), wanted, f"{what}: dealt with of {len(batch)}")
                    await quiet()
                    for column in ("sent", "expired", "refused", "in_flight", "dropped", "missed"):
                        found, right = getattr(many.sink.books, column), getattr(single.sink.books, column)
                        equal(found, right, f"{what}: {column}")
                    balanced(many, what)
                    limit = random.randint(0, 4)
                    if limit:
                        taken = [port.source.take(limit) for port in (many, single)]
                        equal([one.payload for one in taken[0]], [one.payload for one in taken[1]], f"{what}: taken")
                        for port, lent in zip((many, single), taken, strict=True):
                            port.source.settle(lent)


@clause("port")
async def sending_many_keeps_the_stamp_and_tells_the_news(maker: PortMaker) -> None:
    """`send_many_nowait` keeps the `sent_ns` it finds and tells an idle source; nothing sent is no news."""
    clock = ManualClock()
    async with maker(qos(), clock) as port:
        calls: list[str] = []
        port.source.on_news(lambda: calls.append("news"))
        equal(port.sink.send_many_nowait([]), 0, "dealt with of none")
        await quiet()
        equal(calls, [], "calls without any message")
        batch = [message(number) for number in range(3)]
        for envelope in batch:
            envelope.sent_ns = clock.now_ns() - MS
        equal(port.sink.send_many_nowait(batch), 3, "dealt with")
        await quiet()
        holds(calls, "many messages reached an idle source untold")
        taken = port.source.take(8)
        equal([envelope.sent_ns for envelope in taken], [clock.now_ns() - MS] * 3, "sent_ns")
        port.source.settle(taken)


@clause("port")
async def many_do_not_overtake_a_waiting_sender(maker: PortMaker) -> None:
    """While a sender waits for credit in a lane, `send_many_nowait` deals with nothing of that lane."""
    async with maker(qos(8, bytes_=100), ManualClock()) as port:
        await send_all(port.sink, [message(0, size=60)])
        waiting = asyncio.create_task(port.sink.send(message(1, size=90)))
        await quiet()
        equal(port.sink.send_many_nowait([message(9, size=1)]), 0, "dealt with while a sender waits")
        equal(await take_all(port.source), [0, 1], "what arrives")
        await waiting
        equal(port.sink.send_many_nowait([message(2, size=1)]), 1, "dealt with afterwards")
        equal(await take_all(port.source), [2], "what arrives afterwards")
        balanced(port)


@clause("port")
async def many_are_refused_after_the_end(maker: PortMaker) -> None:
    """After `finish` sending many is ClosedError, after the source was closed BrokenError; nothing is counted."""
    async with maker(qos(), ManualClock()) as port:
        await port.sink.finish()
        with raises(ClosedError, "send_many_nowait after finish"):
            port.sink.send_many_nowait([message(0), message(1)])
        equal(port.sink.books.sent, 0, "sent")
    async with maker(qos(), ManualClock()) as port:
        await port.source.aclose()
        await quiet()
        with raises(BrokenError, "send_many_nowait to a closed source"):
            port.sink.send_many_nowait([message(0), message(1)])
        equal(port.sink.books.sent, 0, "sent")
