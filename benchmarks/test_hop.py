"""One inproc hop and its parts, per message, with pytest-benchmark; 64 messages a round, as a slice has."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbridge.envelope import Envelope, Priority
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Plane, Qos, Route
from flowbridge.runtime.clock import SystemClock
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks
from flowbridge.time.manager import TimeManager
from flowbridge.transports.inproc import InprocDataPort

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

SLICE = 64
MINUTE_NS = 60 * 10**9


def envelopes(now_ns: int) -> list[Envelope]:
    """Messages with a deadline and a priority, as a node makes them."""
    return [Envelope(number, Priority.HIGH, now_ns + MINUTE_NS, now_ns, now_ns, 32, number) for number in range(SLICE)]


def route() -> Route:
    return Route(
        id="a/out->b/in",
        plane=Plane.DATA,
        source_node="a",
        source_port="out",
        target_node="b",
        target_port="in",
        qos=Qos(capacity_items=SLICE, high_items=SLICE),
    )


def test_a_hop_with_deadline_priority_and_histogram(benchmark: BenchmarkFixture) -> None:
    """Made, sent, admitted, chosen, checked against its deadline, settled and entered: divide by 64."""
    clock = SystemClock()
    port = InprocDataPort(route(), clock)
    manager: TimeManager[Envelope] = TimeManager()
    latency = Histogram()

    def hop() -> None:
        port.sink.send_many_nowait(envelopes(clock.now_ns()))
        now_ns = clock.now_ns()
        manager.admit(port.source.take(SLICE), now_ns=now_ns)
        run = manager.pop(now_ns=now_ns, limit=SLICE)
        assert run is not None
        waits: list[int] = []
        for envelope in run.items:
            if envelope.deadline_ns > now_ns:
                now_ns = clock.now_ns()
                waits.append(now_ns - envelope.sent_ns)
        port.source.settle(run.items)
        latency.extend(waits)

    benchmark.extra_info["messages"] = SLICE
    benchmark(hop)
    assert port.source.books.balances


def test_a_hop_message_by_message(benchmark: BenchmarkFixture) -> None:
    """`send_nowait` and `take(1)`, as an asynchronous operator causes them: divide by 64."""
    clock = SystemClock()
    port = InprocDataPort(route(), clock)

    def hop() -> None:
        for envelope in envelopes(clock.now_ns()):
            port.sink.send_nowait(envelope)
            taken = port.source.take(1)
            assert taken[0].deadline_ns > clock.now_ns()
            port.source.settle(taken)

    benchmark.extra_info["messages"] = SLICE
    benchmark(hop)


def test_a_queue_alone(benchmark: BenchmarkFixture) -> None:
    """The machine without clock or wake-up: divide by 64."""
    queue = LaneQueue(Qos(capacity_items=SLICE, high_items=SLICE), EdgeBooks())
    messages = envelopes(0)

    def cycle() -> None:
        queue.offer_many(messages, 1)
        queue.settle(queue.take(SLICE))

    benchmark.extra_info["messages"] = SLICE
    benchmark(cycle)


def test_a_histogram_record(benchmark: BenchmarkFixture) -> None:
    """64 records, their share of the sorting into buckets included: divide by 64."""
    histogram = Histogram()
    values = [1_000 + 37 * number for number in range(SLICE)]

    def record() -> None:
        histogram.extend(values)

    benchmark.extra_info["messages"] = SLICE
    benchmark(record)


def test_a_round_trip_between_two_tasks(benchmark: BenchmarkFixture) -> None:
    """There and back between two tasks of one loop, one message at a time: two hops and two task switches."""

    async def rounds(count: int) -> None:
        clock = SystemClock()
        there, back = InprocDataPort(route(), clock), InprocDataPort(route(), clock)

        async def echo() -> None:
            for _ in range(count):
                with await there.source.receive() as envelope:
                    await back.sink.send(Envelope(envelope.payload))

        task = asyncio.create_task(echo())
        for number in range(count):
            await there.sink.send(Envelope(number))
            with await back.source.receive() as answer:
                assert answer.payload == number
        await task
        clock.close()

    def run() -> Any:
        return asyncio.run(rounds(SLICE))

    benchmark.extra_info["messages"] = SLICE
    benchmark(run)
