"""What a person sees while a flow runs: a live table on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TextIO

from flowbridge.cli import output
from flowbridge.cli.units import count_text, duration_text, rate_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

    from flowbridge.plan import Plan
    from flowbridge.report import EdgeReport, NodeReport, RunReport
    from flowbridge.time.histogram import Histogram


class View(Protocol):
    """Shown for the length of a ``with``; `stdout` is where operators print meanwhile."""

    @property
    def pause_s(self) -> float:
        """Seconds between two refreshes."""
        ...

    @property
    def stdout(self) -> TextIO: ...
    def note(self, text: str) -> None:
        """One line for people, at once."""
        ...

    def refresh(self, report: RunReport) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


def choose_view(plan: Plan, *, as_json: bool) -> View:
    """Live when stdout is a terminal and the result is for people."""
    if as_json:
        return LineView(sys.stderr)
    return LiveView(plan) if sys.stdout.isatty() else LineView(sys.stdout)


class LineView:
    """One line on stderr every ten seconds."""

    pause_s: float = 0.5

    def __init__(self, stdout: TextIO) -> None:
        self._stdout: Final = stdout
        self._next_s = 10.0

    @property
    def stdout(self) -> TextIO:
        """Where operators print."""
        return self._stdout

    def note(self, text: str) -> None:
        """One line, at once."""
        output.say(text)

    def refresh(self, report: RunReport) -> None:
        """Say something when it is time to."""
        if report.duration_s >= self._next_s:
            self._next_s = report.duration_s + 10.0
            output.say(progress_line(report))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to put back."""


class LiveView:
    """Tables of nodes and edges that are drawn again twice a second and vanish at the end."""

    pause_s: float = 0.5

    def __init__(self, plan: Plan) -> None:
        self._plan: Final = plan
        self._live: Live | None = None
        self._rates = Rates()

    @property
    def stdout(self) -> TextIO:
        """While live, Rich's stand-in for stdout: what is printed scrolls above the tables."""
        return sys.stdout

    def note(self, text: str) -> None:
        """One line above the tables."""
        if self._live is None:
            output.say(text)
        else:
            self._live.console.print(text, markup=False, highlight=False)

    def refresh(self, report: RunReport) -> None:
        """Draw the tables again."""
        if self._live is not None:
            self._live.update(live_tables(report, self._rates, self._live.console.height), refresh=True)

    def __enter__(self) -> Self:
        from rich.live import Live

        console = output.console(sys.stdout)
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class Rates:
    """Messages per second between two looks at a growing count."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._before_s = 0.0
        self._span_s = 0.0

    def turn(self, now_s: float) -> None:
        """A new look begins."""
        self._span_s, self._before_s = now_s - self._before_s, now_s

    def of(self, key: str, count: int) -> str:
        """The rate of one count since the last look."""
        grown = count - self._before.get(key, 0)
        self._before[key] = count
        return rate_text(grown / self._span_s) if self._span_s > 0 else "-"


def progress_line(report: RunReport) -> str:
    """What a long run says of itself."""
    delivered = sum(edge.books.delivered for edge in report.edges.values())
    dropped = sum(edge.books.dropped_total for edge in report.edges.values())
    missed = sum(edge.books.missed.total for edge in report.edges.values())
    return (
        f"{report.flow}: running {duration_text(report.duration_s * 1e9)}, {delivered:,} delivered, "
        f"{dropped:,} dropped, {count_text(missed, 'deadline')} missed"
    )


def percentiles(histogram: Histogram) -> tuple[str, str, str]:
    """p50, p95 and p99 with units."""
    p50, p95, p99 = (duration_text(histogram.percentile(fraction)) for fraction in (0.5, 0.95, 0.99))
    return p50, p95, p99


def live_tables(report: RunReport, rates: Rates, height: int) -> RenderableType:
    """The tables, cut to the height of the terminal."""
    from rich.console import Group
    from rich.text import Text

    from flowbridge.cli.table import table

    rates.turn(report.duration_s)
    space = max(2, height - 11)
    node_rows = min(len(report.nodes), max(space // 2, space - len(report.edges)))
    edge_rows = min(len(report.edges), space - node_rows)
    nodes = table("", "node", "state", ">rate", ">processed", ">errors", ">p50", ">p95", ">p99")
    edges = table(
        "", "edge", ">rate", ">delivered", ">dropped", ">expired", ">missed", ">queued", ">p50", ">p95", ">p99"
    )
    _fill(nodes, [_node_row(node, rates) for node in [*report.nodes.values()][:node_rows]], len(report.nodes))
    _fill(edges, [_edge_row(edge, rates) for edge in [*report.edges.values()][:edge_rows]], len(report.edges))
    head = Text.assemble(
        (report.flow, "bold"), f"  {duration_text(report.duration_s * 1e9)}  ", ("Ctrl-C drains", "dim")
    )
    return Group(head, nodes, edges)


def _fill(into: Table, rows: list[tuple[Any, ...]], total: int) -> None:
    for row in rows:
        into.add_row(*row)
    if total > len(rows):
        into.caption = f"... and {total - len(rows):,} more"
        into.caption_justify = "left"


def _node_row(node: NodeReport, rates: Rates) -> tuple[Any, ...]:
    from rich.text import Text

    rate = rates.of(f"node {node.node}", node.processed)
    state = Text(node.state, "red" if node.state == "failed" else "")
    return (Text(node.node), state, rate, f"{node.processed:,}", alarming(node.errors), *percentiles(node.latency))


def _edge_row(edge: EdgeReport, rates: Rates) -> tuple[Any, ...]:
    from rich.text import Text

    books = edge.books
    return (
        Text(edge.edge),
        rates.of(f"edge {edge.edge}", books.delivered),
        f"{books.delivered:,}",
        alarming(books.dropped_total),
        alarming(books.expired),
        alarming(books.missed.total),
        f"{books.in_flight:,}",
        *percentiles(books.latency),
    )


def alarming(count: int) -> Any:
    """A count that should be 0: red when it is not."""
    from rich.text import Text

    return Text(f"{count:,}", "red" if count else "dim")
