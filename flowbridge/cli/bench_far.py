"""The other process of a benchmark between two: started by `bench_pair` as ``python -m flowbridge.cli.bench_far``.

Its argument is a `Job` as JSON, its descriptors are inherited, its answer is one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flowbridge.cli.bench_ends import bench_route, far_ends
from flowbridge.envelope import Envelope
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from flowbridge.contracts import DataSink, DataSource
    from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec


@dataclass(frozen=True, slots=True)
class Job:
    """What the other process is to do; `there` and `back` are descriptors of sockets, `back` -1 without answers.

    `folder` has the certificates of a tier between machines; empty for others.
    """

    tier: str
    raw: bool
    size_bytes: int
    warm: int
    count: int
    there: int
    back: int
    folder: str = ""
    engine: str = "auto"

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class Tally:
    """Counts what arrives; the first `warm` messages do not count."""

    def __init__(self, job: Job) -> None:
        self.latency = Histogram()
        self.delivered = self.late = 0
        self._warm = job.warm
        self._seen = 0
        self._start_ns = self._stop_ns = time.monotonic_ns()
        self._cpu_ns = time.process_time_ns()

    def came(self, origin_ns: int, deadline_ns: int, now_ns: int) -> None:
        """One message was taken."""
        self._seen += 1
        self._stop_ns = now_ns
        if self._seen <= self._warm:
            if self._seen == self._warm:
                self._start_ns, self._cpu_ns = now_ns, time.process_time_ns()
            return
        if deadline_ns > now_ns:
            self.delivered += 1
            self.latency.record(now_ns - origin_ns)
        else:
            self.late += 1

    def to_json(self) -> dict[str, Any]:
        """The answer."""
        return {
            "delivered": self.delivered,
            "late": self.late,
            "wall_ns": self._stop_ns - self._start_ns,
            "cpu_ns": time.process_time_ns() - self._cpu_ns,
            "buckets": list(self.latency.buckets()),
            "max": self.latency.max,
        }


def histogram_of(answer: dict[str, Any]) -> Histogram:
    """The histogram of an answer, with the same count in every bucket and the same maximum."""
    found = Histogram()
    for low, high, count in answer["buckets"]:
        value = answer["max"] if low <= answer["max"] < high else low
        for start in range(0, count, 65536):
            found.extend([value] * min(65536, count - start))
    return found


# --- over the contracts -------------------------------------------------------------------------------------------


async def _ports(job: Job) -> dict[str, Any]:
    there = socket.socket(fileno=job.there)
    back = None if job.back < 0 else socket.socket(fileno=job.back)
    transport, ends = await far_ends(job.tier, job.folder, there, back, engine=job.engine)
    try:
        source = await transport.open_source(bench_route("there"), ends[0])
        if back is None:
            return await _take_all(source, Tally(job))
        sink = await transport.open_sink(bench_route("back"), ends[1])
        return await _answer_all(source, sink, Tally(job))
    finally:
        await transport.aclose()
        if job.folder:  # else they are the transport's
            there.close()
            if back is not None:
                back.close()


async def _take_all(source: DataSource, tally: Tally) -> dict[str, Any]:
    news = asyncio.Event()
    source.on_news(news.set)
    while not source.ended:
        news.clear()
        taken = source.take(SLICE_ITEMS_MAX)
        if not taken:
            if not source.ended:
                await news.wait()
            continue
        now_ns = time.monotonic_ns()
        late = tally.late
        for envelope in taken:
            tally.came(envelope.origin_ns, envelope.deadline_ns, now_ns)
        source.settle(taken, expired=tally.late - late)
        await asyncio.sleep(0)
    return tally.to_json()


async def _answer_all(source: DataSource, sink: DataSink, tally: Tally) -> dict[str, Any]:
    news = asyncio.Event()
    source.on_news(news.set)
    while not source.ended:
        news.clear()
        taken = source.take(SLICE_ITEMS_MAX)
        for request in taken:
            now_ns = time.monotonic_ns()
            tally.came(request.origin_ns, request.deadline_ns, now_ns)
            await sink.send(
                Envelope(
                    request.payload,
                    request.priority,
                    request.deadline_ns,
                    request.origin_ns,
                    size_bytes=request.size_bytes,
                )
            )
        source.settle(taken)
        if not taken and not source.ended:
            await news.wait()
    return tally.to_json()


# --- over the bare ring -------------------------------------------------------------------------------------------


def ring_spec(size_bytes: int) -> ShmSpec:
    """A ring, and four slots if the payload needs them."""
    from flowbridge.shm.port import ShmSpec

    slots = ((size_bytes, 4),) if size_bytes > ShmSpec().inline_bytes_max else ()
    return ShmSpec(classes=slots, prefault=True)


def hand_over(sock: socket.socket, producer: ShmProducer) -> None:
    """Give the other process what it needs to receive."""
    socket.send_fds(sock, [b"d"], producer.descriptors())


def join(sock: socket.socket) -> ShmConsumer:
    """Receive from the producer that the other process handed over."""
    from flowbridge.shm.port import ShmConsumer

    _, descriptors, _, _ = socket.recv_fds(sock, 1, 4)
    try:
        return ShmConsumer.attach(descriptors, name="bench")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _ring(job: Job) -> dict[str, Any]:
    from flowbridge.shm.port import ShmProducer

    tally = Tally(job)
    with socket.socket(fileno=job.there) as sock, join(sock) as consumer:
        sock.sendall(b"j")
        if job.back < 0:
            for _ in range(job.warm + job.count):
                lease = consumer.receive()
                assert lease is not None  # there is no time-out
                tally.came(lease.origin_ns, lease.deadline_ns, time.monotonic_ns())
                del lease
            return tally.to_json()
        with socket.socket(fileno=job.back) as back, ShmProducer(ring_spec(job.size_bytes), name="bench") as producer:
            hand_over(back, producer)
            for _ in range(job.warm + job.count):
                lease = consumer.receive()
                assert lease is not None
                tally.came(lease.origin_ns, lease.deadline_ns, time.monotonic_ns())
                producer.send(lease, None, deadline_ns=lease.deadline_ns, origin_ns=lease.origin_ns)
                del lease
            back.recv(1)  # the last answer has arrived
    return tally.to_json()


def main() -> None:
    """Do the job of the command line."""
    job = Job(**json.loads(sys.argv[1]))
    if job.raw:
        answer = _ring(job)
    else:
        from flowbridge.cli.run_loop import run_on_loop

        answer = run_on_loop(_ports(job))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
