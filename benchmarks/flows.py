"""Flows of the fabric against the same work joined by bare asyncio.Queues, as ratios within one run.

    python benchmarks/flows.py [--json] [--rounds 5] [--bound 128]

Each figure is the median of the rounds; a round runs the two contenders one after the other. CPU is that of the whole
process. Keep the machine quiet.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import uvloop

from flowbridge import Host, Plan, Qos
from flowbridge.plan import Artifact, ArtifactKind, Origin, Plane, PluginManifest, Port, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECOND_NS = 10**9
QUEUE_ITEMS = 128
ONE = pa.scalar(1.0)
TABLE = pa.table({name: pa.array([float(row) for row in range(1_000)]) for name in ("distance", "air_time", "delay")})
BATCH = TABLE.to_batches()[0]


class Work:
    """Source, map and sink of one comparison; `records` is how many records one message stands for."""

    def __init__(self, name: str, messages: int, records: int, make: Any, convert: Callable[[Any], Any]) -> None:
        self.name = name
        self.messages = messages
        self.records = records
        self.make = make
        self.convert = convert

    def source(self) -> Iterator[Any]:
        return (self.make for _ in range(self.messages))

    def sink(self, value: Any) -> None:
        pass


def add_one(batch: Any) -> Any:
    """One column in, one column out."""
    return pa.RecordBatch.from_arrays([pc.add(batch.column(0), ONE)], names=["distance"])


def speed_and_filter(batch: Any) -> Any:
    """What a map and a filter of a real flow do: a new column from two, and the rows above a threshold."""
    speed = pc.divide(batch.column(0), pc.add(batch.column(1), ONE))
    widened = batch.append_column("speed", speed)
    return widened.filter(pc.greater(batch.column(2), ONE))


WORKS = (
    Work("record", 200_000, 1, 1, lambda value: value + 1),
    Work("arrow 1000, one add", 40_000, 1_000, BATCH, add_one),
    Work("arrow 1000, divide, append, filter", 10_000, 1_000, BATCH, speed_and_filter),
)


def plan_of(work: Work) -> Plan:
    """Source -> Map -> Sink with a deadline on every message."""

    def node(name: str, **more: Any) -> PluginManifest:
        artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref=f"host:{name}")
        return PluginManifest(node=name, artifact=artifact, origin=Origin.EXTERNAL, **more)

    def route(source: str, target: str) -> Route:
        return Route(
            id=f"{source}/out->{target}/in",
            plane=Plane.DATA,
            source_node=source,
            source_port="out",
            target_node=target,
            target_port="in",
            qos=Qos(capacity_items=QUEUE_ITEMS, high_items=QUEUE_ITEMS, low_items=QUEUE_ITEMS // 2),
        )

    out = (Port(name="out"),)
    return Plan(
        name=work.name,
        digest="",
        manifests=(node("source", outputs=out, deadline_ns=60 * SECOND_NS), node("map", outputs=out), node("sink")),
        routes=(route("source", "map"), route("map", "sink")),
    )


async def with_flowbridge(work: Work) -> tuple[float, float]:
    """Wall and CPU seconds of one run through a Host; every message is accounted for."""
    operators: dict[str, Callable[..., Any]] = {"source": work.source, "map": work.convert, "sink": work.sink}
    async with Host(operators=operators) as host:
        wall, cpu = time.perf_counter(), time.process_time()
        report = await host.run(plan_of(work))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for edge in report.edges.values():
        assert edge.books.delivered == work.messages, edge.to_json()
        assert edge.books.latency.count == work.messages, edge.to_json()
    return wall, cpu


async def with_queues(work: Work, bound: int) -> tuple[float, float]:
    """Wall and CPU seconds of the same calls joined by two bounded asyncio.Queues: no deadline, no counts."""
    first: asyncio.Queue[Any] = asyncio.Queue(bound)
    second: asyncio.Queue[Any] = asyncio.Queue(bound)
    end = object()

    async def source() -> None:
        for value in work.source():
            await first.put(value)
        await first.put(end)

    async def convert() -> None:
        while (value := await first.get()) is not end:
            await second.put(work.convert(value))
        await second.put(end)

    async def sink() -> None:
        while (value := await second.get()) is not end:
            work.sink(value)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(source(), convert(), sink())
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(work: Work, rounds: int, bound: int) -> dict[str, Any]:
    """Median of `rounds` rounds: records per second, CPU per message, and the ratio of the two speeds."""
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ours.append(runner.run(with_flowbridge(work)))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            bare.append(runner.run(with_queues(work, bound)))
    del ours[0], bare[0]  # the first round warms up

    def median(runs: list[tuple[float, float]], part: int) -> float:
        return statistics.median(run[part] for run in runs)

    records = work.messages * work.records
    return {
        "work": work.name,
        "flowbridge_records_per_s": round(records / median(ours, 0)),
        "queues_records_per_s": round(records / median(bare, 0)),
        "flowbridge_cpu_us_per_message": round(median(ours, 1) / work.messages * 1e6, 2),
        "queues_cpu_us_per_message": round(median(bare, 1) / work.messages * 1e6, 2),
        "ratio": round(statistics.median(b[0] / o[0] for o, b in zip(ours, bare, strict=True)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bound", type=int, default=QUEUE_ITEMS, help="messages that a bare queue holds at most")
    options = parser.parse_args()
    results = [compare(work, options.rounds, options.bound) for work in WORKS]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'work':<36}{'flowbridge':>14}{'bare queues':>14}{'CPU us/msg':>18}{'ratio':>8}")
    for row in results:
        cpu = f"{row['flowbridge_cpu_us_per_message']:.2f} / {row['queues_cpu_us_per_message']:.2f}"
        print(
            f"{row['work']:<36}{row['flowbridge_records_per_s'] / 1e6:>12.2f} M"
            f"{row['queues_records_per_s'] / 1e6:>12.2f} M{cpu:>18}{row['ratio']:>8.2f}"
        )


if __name__ == "__main__":
    main()
