"""What a person sees during and after a run, from reports made by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.text import Text

from flowbridge.cli.run import exit_code
from flowbridge.cli.run_summary import print_summary
from flowbridge.cli.run_view import LineView, Rates, live_tables, progress_line
from flowbridge.cli.table import print_table, table
from flowbridge.plan import Artifact, ArtifactKind, Origin, Placement, Plan, PluginManifest, Port
from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks, Missed

if TYPE_CHECKING:
    from pathlib import Path


def histogram(*values: int) -> Histogram:
    made = Histogram()
    made.extend(values)
    return made


def report(status: str = "done") -> RunReport:
    books = EdgeBooks(sent=1200, delivered=1100, expired=40, refused=0, in_flight=0, latency=histogram(1_000_000))
    books.drop("drop_oldest", 60)
    books.missed = Missed(queued=40, executing=7)
    made = RunReport("flights", "sha256:0", status, 12.5)
    made.nodes["source"] = NodeReport("source", histogram(1_000), "done", processed=1200)
    made.nodes["sink"] = NodeReport("sink", histogram(2_000), "failed", processed=1100, errors=3, error="boom")
    made.edges["source/out->sink/in"] = EdgeReport("source/out->sink/in", "inproc", books)
    made.paths.append(PathReport(("source", "sink"), 20_000_000, histogram(5_000_000), delivered=1100, missed=47))
    made.errors.append("node sink, port in, message 7: ValueError: [bold]boom[/bold]")
    return made


def plan(path: str = "out.csv", base_dir: str = ".") -> Plan:
    sink = PluginManifest(
        node="sink",
        artifact=Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="csv_sink"),
        origin=Origin.INTERNAL,
        inputs=(Port(name="in"),),
        config={"path": path},
    )
    return Plan(name="flights", digest="sha256:0", manifests=(sink,), routes=(), base_dir=base_dir)


def summary(made: RunReport, of: Plan | None = None) -> str:
    stream = io.StringIO()
    print_summary(of or plan(), made, stream)
    return stream.getvalue()


def test_the_summary_says_status_time_losses_paths_and_errors() -> None:
    text = summary(report("failed"))
    assert text.startswith("flights: failed after 12.5 s\n")
    assert "Deadlines missed: 47, by stage: 40 queued, 7 executing" in text
    assert "Dropped: 60, by policy: 60 drop_oldest" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("source → sink"))
    assert row[:8] == ["source", "→", "sink", "20", "ms", "1,100", "47", "4.27"]
    assert "error: node sink, port in, message 7: ValueError: [bold]boom[/bold]" in text


def test_the_summary_of_a_pipe_has_no_escape_codes_and_no_cut_names() -> None:
    made = report()
    long = "a_very_long_node_name_" * 3
    made.edges[f"{long}/out->{long}/in"] = EdgeReport(f"{long}/out->{long}/in", "inproc", EdgeBooks())
    text = summary(made)
    assert "\x1b" not in text
    assert "…" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_file_that_was_written_is_named_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_bytes(b"x" * 2048)
    made = report()
    made.nodes["sink"].state = "done"
    text = summary(made, plan(base_dir=str(tmp_path)))
    assert "sink wrote " in text
    assert "out.csv (2 KiB)" in text
    assert "wrote" not in summary(made, plan("missing.csv", str(tmp_path)))


def test_a_file_that_this_run_did_not_write_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_bytes(b"of an earlier run")
    before = plan(base_dir=str(tmp_path))
    assert "wrote" not in summary(report(), before)  # the node failed
    made = report()
    made.nodes["sink"].state = "done"
    there = tuple(replace(manifest, place=Placement(host="edge-1")) for manifest in before.manifests)
    assert "wrote" not in summary(made, replace(before, manifests=there))


def test_books_that_do_not_balance_are_said_so() -> None:
    made = report()
    assert "do not balance" not in summary(made)
    made.edges["source/out->sink/in"].books.sent += 1
    assert "source/out->sink/in: the books do not balance" in summary(made)


def test_a_summary_of_thousands_of_nodes_is_short_and_keeps_those_in_trouble() -> None:
    made = RunReport("big", "sha256:0", "failed", 1.0)
    for i in range(5_000):
        made.nodes[f"n{i}"] = NodeReport(f"n{i}", Histogram(), "done")
    made.nodes["n4999"].error = "broken"
    text = summary(made)
    assert len(text.splitlines()) < 60
    assert "n4999" in text
    assert "4,960 nodes more" in text


def test_a_run_without_anything_still_has_a_summary() -> None:
    assert summary(RunReport("empty", "", "interrupted", 0.0)) == "empty: interrupted before it had started\n"


@pytest.mark.parametrize("height", [5, 24, 60])
def test_the_live_tables_fit_the_terminal(height: int) -> None:
    made = report()
    for i in range(100):
        made.nodes[f"n{i}"] = NodeReport(f"n{i}", Histogram(), "running")
        made.edges[f"e{i}"] = EdgeReport(f"e{i}", "inproc", EdgeBooks())
    console = Console(file=io.StringIO(), width=150, height=height)
    lines = console.render_lines(live_tables(made, Rates(), height))
    assert len(lines) <= max(height, 13)


def test_rates_are_of_the_time_since_the_last_look() -> None:
    rates = Rates()
    rates.turn(2.0)
    assert rates.of("a", 100) == "50/s"
    rates.turn(4.0)
    assert rates.of("a", 100) == "0/s"


def test_a_long_run_says_something_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView(io.StringIO())
    for seconds in (1.0, 9.9, 10.1, 10.6, 19.0, 20.2):
        made = report("running")
        made.duration_s = seconds
        view.refresh(made)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "flights: running 10.1 s, 1,100 delivered, 60 dropped, 47 deadlines missed",
        "flights: running 20.2 s, 1,100 delivered, 60 dropped, 47 deadlines missed",
    ]
    assert progress_line(report()) != ""


@pytest.mark.parametrize(
    ("status", "signalled", "code"),
    [
        ("done", False, 0),
        ("failed", False, 1),
        ("failed", True, 1),
        ("interrupted", True, 130),
        ("interrupted", False, 1),
    ],
)
def test_the_exit_code_follows_the_report(status: str, signalled: bool, code: int) -> None:
    from flowbridge.cli.run_loop import Ending

    assert exit_code(Ending(report(status), signalled, reader_gone=False)) == code


WIDE = ("edge", "tier", ">sent", ">delivered", ">in flight", ">p50", ">p99")


def narrow(width: int, name: str = "numbers/out->squares/in") -> list[str]:
    """What is printed of a table of one row, on a terminal of a width."""
    stream = io.StringIO()
    rows = table("Edges", *WIDE)
    rows.add_row(Text(name), "inproc", "1,000,000", "999,999", "1", "914 ms", "11.26 s")
    print_table(Console(file=stream, width=width, highlight=False), rows)
    return stream.getvalue().splitlines()


def test_a_table_has_no_more_blanks_than_its_terminal_has_room_for() -> None:
    cells = ["numbers/out->squares/in", "inproc", "1,000,000", "999,999", "1", "914 ms", "11.26 s"]
    assert narrow(100)[-1].split("   ")[:3] == cells[:3]
    squeezed = narrow(75)
    assert " ".join(squeezed[-1].split()) == " ".join(cells)
    assert max(map(len, squeezed)) <= 75


@pytest.mark.parametrize("width", [65, 68, 72])
def test_a_narrow_terminal_folds_names_and_no_numbers(width: int) -> None:
    lines = narrow(width)
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith("numbers"))
    assert row.split()[1:] == ["inproc", "1,000,000", "999,999", "1", "914", "ms", "11.26", "s"]


@pytest.mark.parametrize("width", [24, 40, 55])
def test_where_a_table_does_not_fit_a_row_is_a_few_lines(width: int) -> None:
    lines = narrow(width, "a/out->b/in")
    assert max(map(len, lines)) <= width
    assert lines[:3] == ["", "Edges", "a/out->b/in"]
    pairs = [pair.strip() for line in lines[3:] for pair in line.split("  ") if pair.strip()]
    assert pairs == [
        *("tier inproc", "sent 1,000,000", "delivered 999,999", "in flight 1"),
        *("p50 914 ms", "p99 11.26 s"),
    ]
