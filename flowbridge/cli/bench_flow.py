"""A whole flow as benchmark: compiled by the YAML front end and run by a host like any other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowbridge import registry
from flowbridge.cli.bench_measure import Measured, Trial
from flowbridge.cli.run_loop import run_on_loop
from flowbridge.errors import FlowbridgeError
from flowbridge.host import Host
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbridge.report import RunReport

_FLOW: Final = """\
flowbridge: 1
name: bench
nodes:
  - id: source
    operator: python:flowbridge.cli.bench_flow:produce
    with: {{count: {count}, size_bytes: {size_bytes}}}
    outputs: [out]
    {deadline}
  - id: relay
    operator: python:flowbridge.cli.bench_flow:relay
    inputs: {{in: {{from: source/out, tier: {tier}}}}}
    outputs: [out]
  - id: sink
    operator: python:flowbridge.cli.bench_flow:swallow
    inputs: {{in: {{from: relay/out, tier: {tier}}}}}
"""

_LAST_EDGE: Final = "relay/out->sink/in"


def produce(count: int, size_bytes: int) -> Iterator[bytes]:
    """The source: the same bytes again and again."""
    payload = bytes(size_bytes)
    for _ in range(count):
        yield payload


def relay(value: bytes) -> bytes:
    """The node in the middle: what comes goes."""
    return value


def swallow(value: bytes) -> None:
    """The end."""
    del value


@dataclass(frozen=True, slots=True)
class _Text:
    """A `FlowSource` that is in no file."""

    text: str
    name: str = "bench"
    base_dir: str = "."


def flow_text(trial: Trial, count: int) -> str:
    """The flow of a trial."""
    deadline = "" if trial.deadline_ns is None else f"deadline: {trial.deadline_ns}ns"
    return _FLOW.format(count=count, size_bytes=trial.size_bytes, tier=trial.tier, deadline=deadline)


def measure(trial: Trial) -> Measured:
    """Run the flow once to warm up and once to be measured."""
    _once(trial, min(1_000, trial.count))
    cpu_ns = time.process_time_ns()
    report = _once(trial, trial.count)
    cpu_ns = time.process_time_ns() - cpu_ns
    latency = Histogram()
    for path in report.paths:
        latency.merge(path.latency)
    delivered = sum(path.delivered for path in report.paths)
    # Nothing is dropped by a `block` queue: what did not arrive was given up late, and what arrived may end late.
    missed = trial.count - delivered + report.edges[_LAST_EDGE].books.missed.executing
    return Measured(trial, delivered, missed, round(report.duration_s * 1e9), cpu_ns, latency)


def _once(trial: Trial, count: int) -> RunReport:
    plan = registry.adapter("yaml").compile(_Text(flow_text(trial, count)))

    async def main() -> RunReport:
        async with Host() as host:
            flow = await host.start(plan)
            return await flow.wait()

    report: RunReport = run_on_loop(main())
    if report.status != "done":
        raise FlowbridgeError(f"bench flow: {report.status}: {'; '.join(report.errors)}")
    return report
