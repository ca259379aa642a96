"""The flights flow through the command line, against DuckDB over the same month."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from cli_scene import COMMAND
from pyarrow import parquet

FOLDER = Path(__file__).parents[2] / "examples" / "flights"
MONTH = FOLDER / "flights-2013-01.parquet"

# The aggregate with its types, as the flow is to give it: an hour, a carrier, and what took off.
HOURS = f"""
select cast(epoch_us(time_hour) // 3600000000 * 3600000000 as bigint) as start, carrier, count(*) as flights,
       count(distinct tailnum) as aircraft, avg(dep_delay) as mean_delay_min, max(dep_delay) as worst_delay_min,
       stddev_samp(dep_delay) as spread_min, avg(distance / air_time * 60) as mean_speed_mph
from read_parquet('{MONTH}') where dep_delay is not null group by all order by 1, 2
"""
ALERTS = f"""
select epoch_us(time_hour), carrier, flight, tailnum, origin || '-' || dest, dep_delay
from read_parquet('{MONTH}') where dep_delay >= 240
"""


def copied(folder: Path, *, patient: bool) -> Path:
    """A copy of the example; a patient one has deadlines that no slow machine misses."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("out", "__pycache__"))
    flow = folder / "flow.yaml"
    if patient:
        text = flow.read_text()
        for deadline in ("deadline: 2s", "deadline: 500ms"):
            assert deadline in text
            text = text.replace(deadline, "deadline: 1h")
        flow.write_text(text)
    return folder


def ran(folder: Path) -> dict[str, Any]:
    """The report of a run that is done."""
    done = subprocess.run(
        [*COMMAND, "run", "flow.yaml", "--json"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["status"] == "done"
    assert report["errors"] == []
    return report


def balance(report: dict[str, Any]) -> None:
    """Every edge accounts for every message."""
    for name, edge in report["edges"].items():
        out = edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]
        assert edge["sent"] == out + edge["in_flight"], name
        assert edge["in_flight"] == 0, name


def rows_of(folder: Path) -> pa.Table:
    return parquet.read_table(folder / "out" / "delays-by-hour.parquet")


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, Any]]]:
    """Two runs in folders of their own."""
    folders = [copied(tmp_path_factory.mktemp("flights") / "copy", patient=True) for _ in range(2)]
    return [(folder, ran(folder)) for folder in folders]


def test_the_flow_as_shipped_ends_well_and_its_books_balance(tmp_path: Path) -> None:
    folder = copied(tmp_path / "copy", patient=False)
    balance(ran(folder))
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "alerts.jsonl",
        "audit.jsonl",
        "delays-by-hour.parquet",
    ]


def test_the_aggregate_is_what_duckdb_finds(twice: list[tuple[Path, dict[str, Any]]]) -> None:
    table = rows_of(twice[0][0]).sort_by([("window_start", "ascending"), ("carrier", "ascending")])
    with duckdb.connect() as connection:
        want = connection.execute(HOURS).fetchall()
    starts: Any = table.column("window_start").cast(pa.int64())
    ends: Any = table.column("window_end").cast(pa.int64())
    assert {e - s for s, e in zip(starts.to_pylist(), ends.to_pylist(), strict=True)} == {3_600_000_000}
    exact = ("carrier", "flights", "aircraft", "worst_delay_min")
    close = ("mean_delay_min", "spread_min", "mean_speed_mph")
    got = [starts.to_pylist(), *(table.column(name).to_pylist() for name in exact)]
    assert list(zip(*got, strict=True)) == [(row[0], row[1], row[2], row[3], row[5]) for row in want]
    for name, index in zip(close, (4, 6, 7), strict=True):
        column = table.column(name).to_pylist()
        wanted = [row[index] for row in want]
        assert [value is None for value in column] == [value is None for value in wanted]
        pairs = [(a, b) for a, b in zip(column, wanted, strict=True) if b is not None]
        assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], rel=1e-9)
    assert sum(int(count or 0) for count in table.column("flights").to_pylist()) == sum(row[2] for row in want) > 26_000


def test_the_alerts_are_what_duckdb_finds(twice: list[tuple[Path, dict[str, Any]]]) -> None:
    from datetime import datetime

    lines = (twice[0][0] / "out" / "alerts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    got = [
        (
            round(datetime.fromisoformat(row["time_hour"]).timestamp() * 1e6),
            *(row[name] for name in ("carrier", "flight", "tailnum", "route", "dep_delay")),
        )
        for row in rows
    ]
    with duckdb.connect() as connection:
        want = connection.execute(ALERTS).fetchall()
    assert sorted(got) == sorted(want)
    assert len(want) > 50


def test_every_edge_balances_and_drops_are_counted_where_the_policy_drops(
    twice: list[tuple[Path, dict[str, Any]]],
) -> None:
    for _, report in twice:
        balance(report)
        dropping = {name: edge["dropped"] for name, edge in report["edges"].items() if edge["dropped"]}
        assert set(dropping) <= {"enrich/out->audit/in"}
        audit = report["edges"]["enrich/out->audit/in"]
        # The audit waits 15 ms for each of 28 batches and its queue holds two; the source needs far less.
        assert set(audit["dropped"]) == {"drop_oldest"}
        assert audit["sent"] == audit["delivered"] + audit["dropped"]["drop_oldest"] == 28
        assert report["edges"]["audit/out->audits/in"]["delivered"] == audit["delivered"]


def test_as_many_audits_are_written_as_were_delivered(twice: list[tuple[Path, dict[str, Any]]]) -> None:
    for folder, report in twice:
        lines = (folder / "out" / "audit.jsonl").read_text().splitlines()
        assert len(lines) == report["edges"]["audit/out->audits/in"]["delivered"] > 0


def test_two_runs_give_the_same_aggregate_to_the_byte(twice: list[tuple[Path, dict[str, Any]]]) -> None:
    def rows(folder: Path) -> bytes:
        table = rows_of(folder).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue().to_pybytes())

    first, second = (rows(folder) for folder, _ in twice)
    assert first == second
    assert len(first) > 100_000
    alerts = [(folder / "out" / "alerts.jsonl").read_bytes() for folder, _ in twice]
    assert alerts[0] == alerts[1]
