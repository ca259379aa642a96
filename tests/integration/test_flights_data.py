"""The shipped month of flights, and its aggregate by our operators against DuckDB's."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import importlib.util
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from flowbridge.operators.catalog import BUILTINS

FOLDER = Path(__file__).parents[2] / "examples" / "flights"
MONTH = FOLDER / "flights-2013-01.parquet"
COLUMNS = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
    *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
)
HOUR_US = 3_600 * 10**6
DURATIONS = {"1h": 3_600 * 10**9, "24h": 24 * 3_600 * 10**9}

FLOW: Any = yaml.safe_load((FOLDER / "flow.yaml").read_text())
NODES: dict[str, Any] = {node["id"]: node for node in FLOW["nodes"]}


class Recorder:
    """Records what is sent."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        self.values.append(value)


def operator_of(node: str, folder: Path = FOLDER) -> Any:
    """The operator of a node of flow.yaml, constructed from its `with:` as the runner does it."""
    spec = BUILTINS[NODES[node]["operator"]]
    given: dict[str, Any] = dict(NODES[node].get("with", {}))
    for field in spec.config:
        if field.name in given and field.type == "duration":
            given[field.name] = DURATIONS[given[field.name]]
        if field.name in given and field.type == "path":
            given[field.name] = str(folder / given[field.name])
    module, _, attribute = spec.factory.partition(":")
    operator = getattr(import_module(module), attribute)(**given)
    if hasattr(operator, "open"):
        operator.open(SimpleNamespace(node=node, envelope=None))
    return operator


def through(operator: Any, batches: list[Any]) -> list[Any]:
    """What an operator makes of some batches."""
    out = Recorder()
    for batch in batches:
        result = operator.process("in", batch, cast("Any", out))
        if result is not None:
            out.values.append(result)
    if hasattr(operator, "finish"):
        operator.finish(cast("Any", out))
    return out.values


def by_duckdb(query: str) -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def enriched() -> list[Any]:
    source = operator_of("flights")
    batches = through(operator_of("enrich"), list(source.produce()))
    source.close()
    return batches


def test_the_month_has_its_rows_and_columns() -> None:
    file = parquet.ParquetFile(MONTH)
    assert file.metadata.num_rows == 27_004
    assert tuple(file.schema_arrow.names) == COLUMNS
    assert file.schema_arrow.field("time_hour").type == pa.timestamp("us", "UTC")
    assert MONTH.stat().st_size < 500_000


def test_the_source_gives_batches_of_a_thousand(enriched: list[Any]) -> None:
    assert [batch.num_rows for batch in enriched] == [1000] * 27 + [4]


def test_hours_by_carrier_are_what_duckdb_finds(enriched: list[Any]) -> None:
    window = operator_of("hourly")
    table = pa.Table.from_batches(through(window, through(operator_of("flown"), enriched)))
    assert (window.late_rows, window.null_times) == (0, 0)
    want = by_duckdb(
        f"""
        select epoch_us(time_hour) // {HOUR_US} * {HOUR_US} as start, carrier, count(*), count(distinct tailnum),
               avg(dep_delay), max(dep_delay), stddev_samp(dep_delay), avg(distance / air_time * 60)
        from read_parquet('{MONTH}') where dep_delay is not null group by all order by 1, 2
        """
    )
    starts: Any = table.column("window_start").cast(pa.int64())
    ends: Any = table.column("window_end").cast(pa.int64())
    assert [end - start for start, end in zip(starts.to_pylist(), ends.to_pylist(), strict=True)] == [HOUR_US] * len(
        want
    )
    names = ("flights", "aircraft", "mean_delay_min", "worst_delay_min", "spread_min", "mean_speed_mph")
    columns = [starts.to_pylist(), *(table.column(name).to_pylist() for name in ("carrier", *names))]
    got = list(zip(*columns, strict=True))
    assert len(want) > 5000
    assert [row[:4] for row in got] == [row[:4] for row in want]
    for row, other in zip(got, want, strict=True):
        assert list(row[4:]) == [None if value is None else pytest.approx(value, rel=1e-9) for value in other[4:]]


def test_the_alerts_are_the_flights_four_hours_late(enriched: list[Any], tmp_path: Path) -> None:
    sink = operator_of("alerts", tmp_path)
    through(sink, through(operator_of("alert"), through(operator_of("severe"), enriched)))
    rows = [json.loads(line) for line in (tmp_path / "out" / "alerts.jsonl").read_text().splitlines()]
    want = by_duckdb(
        f"select carrier, flight, origin || '-' || dest, dep_delay from read_parquet('{MONTH}') where dep_delay >= 240"
    )
    assert sorted((r["carrier"], r["flight"], r["route"], r["dep_delay"]) for r in rows) == sorted(want)


def test_the_users_operator_summarises_a_batch(enriched: list[Any]) -> None:
    spec = importlib.util.spec_from_file_location("flights_operators", FOLDER / "operators.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    summary = asyncio.run(module.slow_audit(enriched[0], wait_ms=0))
    assert summary == {
        "first_hour": "2013-01-01 10:00:00+00:00",
        "flights": 1000,
        "cancelled": sum(value is None for value in enriched[0].column("dep_delay").to_pylist()),
        "worst_delay_min": 853.0,
    }
