"""Benchmarks between two processes: data and round trips, over ports of a tier or over the bare ring."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from flowbridge import registry
from flowbridge.cli.bench_ends import bench_route, identities, near_ends
from flowbridge.cli.bench_far import Job, hand_over, histogram_of, join, ring_spec
from flowbridge.cli.bench_measure import Measured, Trial
from flowbridge.cli.run_loop import run_on_loop
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import FlowbridgeError, WouldBlock
from flowbridge.runtime.clock import SystemClock
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Generator

    from flowbridge.contracts import DataSink, DataSource

WARM_UP: Final = 1_000  # messages that are sent first and not counted
_PATIENCE_S: Final = 60.0  # for an answer that does not come, and for the other process to end


def can_split(tier: str) -> bool:
    """Whether a tier joins two processes. Raises: FlowbridgeError when there is no such tier."""
    return hasattr(registry.transport(tier, SystemClock()), "open_sink")


def measure_data(trial: Trial, *, raw: bool = False) -> Measured:
    """Fill a port from this process and empty it in another."""
    near, far = socket.socketpair()
    with near, identities(trial.tier, trial.engine) as folder:
        warm = min(WARM_UP, trial.count)
        job = Job(trial.tier, raw, trial.size_bytes, warm, trial.count, far.fileno(), -1, folder, trial.engine)
        with _other(job, [far]) as process:
            sent: Any = _ring_send(near, trial, job) if raw else run_on_loop(_send(near, trial, job))
            answer = _answer_of(process)
    cpu_ns, missed = sent
    missed += answer["late"]
    wall_ns, cpu_ns = answer["wall_ns"], cpu_ns + answer["cpu_ns"]
    return Measured(trial, answer["delivered"], missed, wall_ns, cpu_ns, histogram_of(answer))


def measure_rtt(trial: Trial, *, raw: bool = False) -> Measured:
    """Send to another process and wait for its answer, one message at a time."""
    near, far = socket.socketpair()
    near_back, far_back = socket.socketpair()
    warm = min(WARM_UP, trial.count)
    with near, near_back, identities(trial.tier, trial.engine) as folder:
        job = Job(
            trial.tier, raw, trial.size_bytes, warm, trial.count, far.fileno(), far_back.fileno(), folder, trial.engine
        )
        with _other(job, [far, far_back]) as process:
            if raw:
                asked = _ring_ask(near, near_back, trial, job)
            else:
                asked = cast("Measured", run_on_loop(_ask_all(near, near_back, trial, job)))
            answer = _answer_of(process)
    return Measured(trial, asked.delivered, asked.missed, asked.wall_ns, asked.cpu_ns + answer["cpu_ns"], asked.latency)


@contextmanager
def _other(job: Job, sockets: list[socket.socket]) -> Generator[subprocess.Popen[str]]:
    """The other process; the sockets are its own from here on."""
    command = [sys.executable, "-m", "flowbridge.cli.bench_far", job.to_json()]
    descriptors = [sock.fileno() for sock in sockets]
    with subprocess.Popen(  # noqa: S603 - this interpreter, this package
        command, pass_fds=descriptors, stdout=subprocess.PIPE, text=True
    ) as process:
        for sock in sockets:
            sock.close()
        try:
            yield process
        finally:
            process.kill()  # it has ended, or what it would do is of no use


def _answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        text, _ = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise FlowbridgeError(f"bench: the other process does not end within {_PATIENCE_S:.0f} s") from error
    if process.returncode:
        raise FlowbridgeError(f"bench: the other process ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def _deadline_ns(trial: Trial, now_ns: int) -> int:
    return NO_DEADLINE if trial.deadline_ns is None else now_ns + trial.deadline_ns


# --- over the contracts -------------------------------------------------------------------------------------------


async def _send(near: socket.socket, trial: Trial, job: Job) -> tuple[int, int]:
    """Processor time, and messages that were late before they left."""
    transport, ends = await near_ends(trial.tier, job.folder, near, engine=job.engine)
    try:
        sink = await transport.open_sink(bench_route("there"), ends[0])
        payload, cpu_ns, missed = bytes(trial.size_bytes), 0, 0
        for number in range(job.warm + job.count):
            if number == job.warm:
                cpu_ns = time.process_time_ns()
            now_ns = time.monotonic_ns()
            # Those that warm up must all arrive, for the other process leaves out so many.
            deadline_ns = NO_DEADLINE if number < job.warm else _deadline_ns(trial, now_ns)
            envelope = Envelope(payload, Priority.NORMAL, deadline_ns, now_ns, size_bytes=trial.size_bytes)
            try:
                sink.send_nowait(envelope)
            except WouldBlock:
                await sink.send(envelope)
        await sink.finish()
        await _flushed(sink)
        found = sink.books.missed
        missed = found.late + found.transport
        return time.process_time_ns() - cpu_ns, missed
    finally:
        await transport.aclose()


async def _flushed(sink: DataSink) -> None:
    """Wait until the other end has seen the end, where a sink can say so."""
    wait = getattr(sink, "flushed", None)
    if wait is not None:
        await wait()


async def _ask_all(near: socket.socket, back: socket.socket, trial: Trial, job: Job) -> Measured:
    transport, ends = await near_ends(trial.tier, job.folder, near, back, engine=job.engine)
    try:
        sink = await transport.open_sink(bench_route("there"), ends[0])
        source = await transport.open_source(bench_route("back"), ends[1])
        warm = Trial(trial.tier, trial.size_bytes, job.warm, None)
        await _ask(sink, source, warm, Histogram(), numbers=bool(job.folder))
        latency = Histogram()
        wall_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        answered = await _ask(sink, source, trial, latency, numbers=bool(job.folder))
        wall_ns, cpu_ns = time.monotonic_ns() - wall_ns, time.process_time_ns() - cpu_ns
        await sink.finish()
        await _flushed(sink)
        return Measured(trial, answered, trial.count - answered, wall_ns, cpu_ns, latency)
    finally:
        await transport.aclose()


async def _ask(sink: DataSink, source: DataSource, trial: Trial, latency: Histogram, *, numbers: bool) -> int:
    """How many were answered before their deadline.

    An answer has the origin of its message; with `numbers`, where times change on their way, its first bytes.
    """
    payload, answered = bytes(trial.size_bytes), 0
    news = asyncio.Event()
    source.on_news(news.set)
    for number in range(trial.count):
        if numbers:
            payload = number.to_bytes(8, "little")[: trial.size_bytes] + payload[8:]
        sent_ns = time.monotonic_ns()
        deadline_ns = _deadline_ns(trial, sent_ns)
        await sink.send(Envelope(payload, Priority.NORMAL, deadline_ns, sent_ns, size_bytes=trial.size_bytes))
        until_ns = sent_ns + (trial.deadline_ns or round(_PATIENCE_S * 1e9))
        if await _answer_to(payload if numbers else sent_ns, source, news, until_ns):
            latency.record(time.monotonic_ns() - sent_ns)
            answered += 1
        elif trial.deadline_ns is None:
            raise FlowbridgeError(f"bench rtt: no answer within {_PATIENCE_S:.0f} s")
    return answered


async def _answer_to(message: int | bytes, source: DataSource, news: asyncio.Event, until_ns: int) -> bool:
    """Whether the answer to the message of that origin or payload came; those to others came too late."""
    while True:
        news.clear()
        taken = source.take(1)
        source.settle(taken)
        if taken:
            if message in (taken[0].origin_ns, taken[0].payload):
                return True
            continue
        left_ns = until_ns - time.monotonic_ns()
        if left_ns <= 0:
            return False
        if source.ended:
            raise FlowbridgeError("bench rtt: the other process ended before it answered")
        try:
            async with asyncio.timeout(left_ns / 1e9):
                await news.wait()
        except TimeoutError:
            return False


# --- over the bare ring -------------------------------------------------------------------------------------------


def _joined(near: socket.socket) -> None:
    """Wait for the other process to start, so that nothing waits for that in the ring."""
    if not near.recv(1):
        raise FlowbridgeError("bench: the other process ended before it joined the ring")


def _ring_send(near: socket.socket, trial: Trial, job: Job) -> tuple[int, int]:
    from flowbridge.shm.port import ShmProducer

    payload, cpu_ns = bytes(trial.size_bytes), 0
    with ShmProducer(ring_spec(trial.size_bytes), name="bench") as producer:
        hand_over(near, producer)
        _joined(near)
        for number in range(job.warm + job.count):
            if number == job.warm:
                cpu_ns = time.process_time_ns()
            now_ns = time.monotonic_ns()
            producer.send(payload, None, deadline_ns=_deadline_ns(trial, now_ns), origin_ns=now_ns)
        cpu_ns = time.process_time_ns() - cpu_ns
    return cpu_ns, 0


def _ring_ask(near: socket.socket, back: socket.socket, trial: Trial, job: Job) -> Measured:
    from flowbridge.shm.port import ShmProducer

    payload, latency, missed = bytes(trial.size_bytes), Histogram(), 0
    wall_ns = cpu_ns = 0
    with ShmProducer(ring_spec(trial.size_bytes), name="bench") as producer:
        hand_over(near, producer)
        _joined(near)
        with join(back) as consumer:
            for number in range(job.warm + job.count):
                if number == job.warm:
                    wall_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
                sent_ns = time.monotonic_ns()
                deadline_ns = _deadline_ns(trial, sent_ns)
                producer.send(payload, None, deadline_ns=deadline_ns, origin_ns=sent_ns)
                if consumer.receive() is None:
                    raise FlowbridgeError("bench rtt: nothing came")  # there is no time-out
                now_ns = time.monotonic_ns()
                if number < job.warm:
                    continue
                if now_ns < deadline_ns:
                    latency.record(now_ns - sent_ns)
                else:
                    missed += 1
            wall_ns, cpu_ns = time.monotonic_ns() - wall_ns, time.process_time_ns() - cpu_ns
            back.sendall(b"e")
    return Measured(trial, trial.count - missed, missed, wall_ns, cpu_ns, latency)
