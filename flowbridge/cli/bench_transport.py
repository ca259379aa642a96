"""Benchmarks below the host: one data port, and requests over a bus."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from flowbridge import registry
from flowbridge.cli.bench_measure import Measured, Trial
from flowbridge.cli.run_loop import run_on_loop
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import DeadlineExceeded, WouldBlock
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.plan import ContentType, Plane, Qos, Route
from flowbridge.runtime.clock import SystemClock
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.contracts import DataPort, DataSource, EventBus, Transport

WARM_UP: Final = 1_000  # messages that are sent first and not counted
_TOPIC: Final = "bench.echo"
_PATIENCE_NS: Final = 60 * 10**9  # a reply that takes longer will not come


def measure_data(trial: Trial) -> Measured:
    """Fill one data port from one task and empty it from another."""
    return _with_transport(trial.tier, lambda transport: _data(transport, trial))


def measure_rtt(trial: Trial) -> Measured:
    """Ask and answer over the bus, one request at a time."""
    return _with_transport(trial.tier, lambda transport: _rtt(transport, trial))


def _with_transport(tier: str, work: Callable[[Transport], Awaitable[Measured]]) -> Measured:
    async def main() -> Measured:
        transport = registry.transport(tier, SystemClock())
        try:
            return await work(transport)
        finally:
            await transport.aclose()

    measured = run_on_loop(main())
    assert isinstance(measured, Measured)
    return measured


async def _data(transport: Transport, trial: Trial) -> Measured:
    await _through(await _port(transport, "warm"), trial, min(WARM_UP, trial.count))
    return await _through(await _port(transport, "bench"), trial, trial.count)


async def _port(transport: Transport, name: str) -> DataPort:
    route = Route(
        id=f"{name}/out->{name}/in",
        plane=Plane.DATA,
        source_node=name,
        source_port="out",
        target_node=name,
        target_port="in",
        qos=Qos(),
        content_type=ContentType.BYTES,
    )
    return await transport.open_port(route)


async def _through(port: DataPort, trial: Trial, count: int) -> Measured:
    latency = Histogram()
    wall_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
    async with asyncio.TaskGroup() as group:
        group.create_task(_send_all(port, trial, count))
        received = group.create_task(_receive_all(port.source, latency))
    wall_ns, cpu_ns = time.monotonic_ns() - wall_ns, time.process_time_ns() - cpu_ns
    delivered, late = received.result()
    missed = late + port.sink.books.missed.late + port.sink.books.missed.transport
    return Measured(trial, delivered, missed, wall_ns, cpu_ns, latency)


async def _send_all(port: DataPort, trial: Trial, count: int) -> None:
    payload, sink = bytes(trial.size_bytes), port.sink
    for _ in range(count):
        now_ns = time.monotonic_ns()
        deadline_ns = NO_DEADLINE if trial.deadline_ns is None else now_ns + trial.deadline_ns
        envelope = Envelope(payload, Priority.NORMAL, deadline_ns, now_ns, size_bytes=trial.size_bytes)
        try:
            sink.send_nowait(envelope)
        except WouldBlock:
            await sink.send(envelope)
    await sink.finish()


async def _receive_all(source: DataSource, latency: Histogram) -> tuple[int, int]:
    """How many arrived in time, and how many were late."""
    news = asyncio.Event()
    source.on_news(news.set)
    delivered = late = 0
    while not source.ended:
        news.clear()
        taken = source.take(SLICE_ITEMS_MAX)
        if not taken:
            if not source.ended:
                await news.wait()
            continue
        now_ns = time.monotonic_ns()
        in_time = [now_ns - e.origin_ns for e in taken if e.deadline_ns > now_ns]
        latency.extend(in_time)
        source.settle(taken, expired=len(taken) - len(in_time))
        delivered += len(in_time)
        late += len(taken) - len(in_time)
        await asyncio.sleep(0)
    return delivered, late


async def _rtt(transport: Transport, trial: Trial) -> Measured:
    bus = await transport.open_bus()
    async with bus.subscribe(_TOPIC, edge="bench") as subscription:
        server = asyncio.create_task(_echo(bus, subscription))
        try:
            await _ask(bus, trial, min(WARM_UP, trial.count), Histogram())
            latency = Histogram()
            wall_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
            answered = await _ask(bus, trial, trial.count, latency)
            wall_ns, cpu_ns = time.monotonic_ns() - wall_ns, time.process_time_ns() - cpu_ns
        finally:
            server.cancel()
            await asyncio.wait([server])
    return Measured(trial, answered, trial.count - answered, wall_ns, cpu_ns, latency)


async def _ask(bus: EventBus, trial: Trial, count: int, latency: Histogram) -> int:
    """How many of the requests were answered before their deadline."""
    payload = bytes(trial.size_bytes)
    answered = 0
    for _ in range(count):
        sent_ns = time.monotonic_ns()
        deadline_ns = NO_DEADLINE if trial.deadline_ns is None else sent_ns + trial.deadline_ns
        request = Envelope(payload, Priority.NORMAL, deadline_ns, sent_ns, size_bytes=trial.size_bytes)
        try:
            await bus.request(_TOPIC, request, timeout_ns=trial.deadline_ns or _PATIENCE_NS)
        except DeadlineExceeded:
            if trial.deadline_ns is None:
                raise
            continue
        latency.record(time.monotonic_ns() - sent_ns)
        answered += 1
    return answered


async def _echo(bus: EventBus, subscription: DataSource) -> None:
    while True:
        with await subscription.receive() as request:
            await bus.reply(request, Envelope(request.payload, size_bytes=request.size_bytes))
