"""What it costs to start and to wait: import, --help, and a flow in which nothing happens.

    python benchmarks/start.py [--rounds 5] [--idle 10]

Import and --help are medians of whole processes, beside an empty interpreter in the same run. Idle is the CPU time of a
flow on the command line for some seconds, less that of the same flow for a tenth of a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IDLE = """\
flowbridge: 1
name: idle
nodes:
  - {id: server, operator: "python:./server.py:answer", inputs: {ask: {from: bus/idle.ask, reply: true}}}
  - {id: log, operator: console, inputs: {in: server/out}}
"""
HEAVY = ["pyarrow", "aioquic", "wasmtime", "opentelemetry", "numpy", "pydantic", "yaml", "asyncio"]


def wall_ms(command: list[str], rounds: int) -> float:
    """Median wall time of a command."""
    times: list[float] = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[1:])


def cpu_s(flow: Path, seconds: float) -> float:
    """CPU seconds of one run of a flow, start and end included."""
    before = os.times()
    command = [sys.executable, "-m", "flowbridge", "run", str(flow), "--for", f"{seconds}s"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    options = parser.parse_args()

    empty = wall_ms([sys.executable, "-c", "pass"], options.rounds)
    imported = wall_ms([sys.executable, "-c", "import flowbridge"], options.rounds)
    helped = wall_ms([sys.executable, "-m", "flowbridge", "--help"], options.rounds)
    probe = f"import sys, flowbridge; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as name:
        flow = Path(name) / "flow.yaml"
        flow.write_text(IDLE)
        (Path(name) / "server.py").write_text("def answer(value):\n    return value\n")
        short = statistics.median(cpu_s(flow, 0.1) for _ in range(options.rounds))
        idle = statistics.median(cpu_s(flow, options.idle) for _ in range(min(options.rounds, 3)))
    print(f"an empty interpreter     {empty:7.1f} ms")
    print(f"import flowbridge        {imported - empty:7.1f} ms more; loads {loaded or 'none'} of {', '.join(HEAVY)}")
    print(f"flowbridge --help        {helped:7.1f} ms")
    print(f"an idle flow             {100 * (idle - short) / (options.idle - 0.1):7.2f} % of a core")


if __name__ == "__main__":
    main()
