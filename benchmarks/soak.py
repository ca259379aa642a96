"""A flow over two worker processes at a part of its capacity for as long as asked: memory, drops, misses, wake-ups.

    python benchmarks/soak.py --minutes 60

Prints a line a minute, and at the end the slope of each process's memory over the second half of the run. Exit code 1
when something was dropped, lost, late or woken late, or memory grew by more than a page a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbridge import Host, load

if TYPE_CHECKING:
    from flowbridge.report import RunReport

OPERATORS = '''
import time


def paced(rate: int = 20000, burst: int = 100):
    """Bursts of small messages at a rate, and a batch in each tenth burst."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_pydict({"n": list(range(20000)), "x": [0.5] * 20000})
    due = time.monotonic()
    number = 0
    while True:
        for _ in range(burst):
            yield {"n": number}
            number += 1
        if number % (10 * burst) == 0:
            yield batch
        due += burst / rate
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)


def same(value):
    return value


def end(value):
    return None
'''
FLOW = """
flowbridge: 1
name: soak
nodes:
  - {id: paced, operator: "python:./soak_operators.py:paced", with: {rate: RATE}, place: {process: first}}
  - {id: same, operator: "python:./soak_operators.py:same", place: {process: second}, inputs: {in: paced/out}}
  - {id: end, operator: "python:./soak_operators.py:end", inputs: {in: same/out}}
"""
PAGE_BYTES = 4096


def resident_bytes() -> dict[str, int]:
    """The memory of this process and its children, by process id."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True, check=False).stdout
    sizes: dict[str, int] = {}
    for process in (str(os.getpid()), *found.split()):
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            continue
        sizes[process] = pages * PAGE_BYTES
    return sizes


def slopes(samples: list[tuple[float, dict[str, int]]]) -> dict[str, float]:
    """Bytes per second of each process that was there for the whole second half."""
    half = samples[len(samples) // 2 :]
    found: dict[str, float] = {}
    for process in half[0][1]:
        if len(half) > 1 and all(process in sizes for _, sizes in half):
            times = np.array([at for at, _ in half])
            found[process] = float(np.polyfit(times, np.array([sizes[process] for _, sizes in half]), 1)[0])
    return found


async def soak(minutes: float, rate: int) -> tuple[RunReport, list[tuple[float, dict[str, int]]]]:
    """Run it, and sample once in five seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "soak_operators.py").write_text(OPERATORS, encoding="utf-8")
        flow = folder / "flow.yaml"
        flow.write_text(FLOW.replace("RATE", str(rate)), encoding="utf-8")
        async with Host() as host:
            running = await host.start(load(str(flow)))
            samples: list[tuple[float, dict[str, int]]] = []
            start = time.monotonic()
            while time.monotonic() - start < minutes * 60 and running.is_running:
                await asyncio.sleep(5)
                samples.append((time.monotonic() - start, resident_bytes()))
                if len(samples) % 12 == 0:
                    _tell(running.report(), samples[-1])
            running.drain("done")
            return await running.wait(), samples


def _tell(report: RunReport, sample: tuple[float, dict[str, int]]) -> None:
    at, sizes = sample
    delivered = sum(edge.books.delivered for edge in report.edges.values())
    memory = ", ".join(f"{size / 2**20:.1f}" for size in sizes.values())
    print(f"{at / 60:5.1f} min  {delivered:>12,} delivered  {memory} MiB", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=5_000, help="messages per second")
    given: Any = parser.parse_args(arguments)
    import uvloop

    report, samples = uvloop.run(soak(given.minutes, given.rate))
    bad = report.status != "done"
    for name, edge in report.edges.items():
        books = edge.books
        bad |= not books.balances or bool(books.dropped_total or books.expired or books.refused or books.in_flight)
        bad |= books.late_wakes > 0
        p99_ms = (books.latency.percentile(0.99) or 0) / 1e6
        counts = f"sent {books.sent:,}, delivered {books.delivered:,}, dropped {books.dropped}"
        counts += f", woken late {books.late_wakes}"
        print(f"{name}: {counts}, p99 {p99_ms:.2f} ms")
    for process, slope in slopes(samples).items():
        bad |= slope > PAGE_BYTES
        print(f"process {process}: {slope:+.0f} bytes per second over the second half")
    for error in report.errors:
        print(error)
    print("failed" if bad else "sound")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
