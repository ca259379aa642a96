"""What a synchronous operator in a process of its own pays per message: with the pump, and on the event loop.

    python benchmarks/pump.py --seconds 3 --pairs 3

Source, operator and sink in a process each, bytes of 64, by ring. The same flow with a second, idle node beside the
operator runs on the loop, because a pump is for a process of one node; the two are run in turns. Prints the CPU of the
operator's process per message (getrusage(2)) and what a message waits between the source's send and the operator.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from flowbridge import Host, load

OPERATORS = '''
import json
import resource
import time
from pathlib import Path

WARM = 20


async def paced(context, rate: int = 2000, seconds: float = 3.0):
    """Single messages, a pause before each: what was missed is not made up for in a burst."""
    until = context.clock.now_ns() + seconds * 10**9
    while (now := context.clock.now_ns()) < until:
        await context.clock.sleep_until(now + 10**9 // rate)
        yield b"x" * 64


def flat_out(seconds: float = 3.0):
    """As fast as they go."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(64):
            yield b"x" * 64


class Measured:
    """Passes on what it is given, and writes what that took."""

    def __init__(self, to: str) -> None:
        self.to = Path(to)
        self.items = 0

    def _now(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu": used.ru_utime + used.ru_stime, "switches": used.ru_nvcsw + used.ru_nivcsw, "wall": time.monotonic()
        }

    def process(self, value):
        self.items += 1
        if self.items == WARM:
            self.first = self._now()
        return value

    def finish(self):
        now = self._now()
        taken = {key: now[key] - self.first[key] for key in now}
        self.to.write_text(json.dumps({"items": self.items - WARM, **taken}), encoding="utf-8")


def idle(value):
    return None


def end(value):
    return None
'''
FLOW = """
flowbridge: 1
name: pump
nodes:
  - {id: source, operator: "python:./pump_operators.py:SOURCE", with: WITH, place: {process: first}}
  - id: same
    operator: "python:./pump_operators.py:Measured"
    with: {to: "TO"}
    place: {process: second}
    inputs: {in: source/out}
  - {id: end, operator: "python:./pump_operators.py:end", place: {process: third}, inputs: {in: same/out}}
"""
NEIGHBOUR = """\
  - {id: idle, operator: "python:./pump_operators.py:idle", place: {process: second}, inputs: {in: bus/nothing}}
"""


async def measured(rate: int, seconds: float, *, on_loop: bool) -> dict[str, float]:
    """One run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pump_operators.py").write_text(OPERATORS, encoding="utf-8")
        flow = folder / "flow.yaml"
        text = FLOW.replace("SOURCE", "paced" if rate else "flat_out")
        text = text.replace("WITH", f"{{rate: {rate}, seconds: {seconds}}}" if rate else f"{{seconds: {seconds}}}")
        flow.write_text(text.replace("TO", str(folder / "took")) + (NEIGHBOUR if on_loop else ""), encoding="utf-8")
        async with Host() as host:
            report = await (await host.start(load(str(flow)))).wait()
        took: dict[str, Any] = json.loads((folder / "took").read_text(encoding="utf-8"))
    if report.status != "done":
        raise SystemExit("\n".join(report.errors))
    found = {
        "rate": took["items"] / took["wall"],
        "cpu_us": took["cpu"] / took["items"] * 1e6,
        "switches": took["switches"] / took["items"],
    }
    into = next(edge.books.latency for name, edge in report.edges.items() if name.endswith("->same/in"))
    found["p50_us"] = (into.percentile(0.5) or 0) / 1e3
    found["p99_us"] = (into.percentile(0.99) or 0) / 1e3
    (path,) = [path for path in report.paths if path.nodes == ("source", "same", "end")]
    found["through_us"] = (path.latency.percentile(0.5) or 0) / 1e3
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run pairs and print their medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rates", default="200,2000,10000,0", help="messages per second; 0: as fast as they go")
    given: Any = parser.parse_args(arguments)
    import uvloop

    for rate in map(int, given.rates.split(",")):
        runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(given.pairs):
            for on_loop, found in runs.items():
                found.append(uvloop.run(measured(rate, given.seconds, on_loop=on_loop)))
        for on_loop, found in runs.items():
            middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
            figures = ", ".join(f"{key} {value:,.2f}" for key, value in middle.items())
            print(f"{rate or 'full'} per second, {'loop' if on_loop else 'pump'}: {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
