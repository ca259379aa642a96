"""Reads the report of a running flow from another thread.

Counters and histograms belong to the thread of the event loop and carry no lock: `Histogram.flush` swaps a list that
the loop may be appending to, and `EdgeBooks` changes in several steps. A second thread that read them in place could
count values twice or lose them. So the copy is taken *by the loop*, between two callbacks, a few rows per turn; sorting
and rendering happen in the thread that asked. Each row is therefore exact (the books of an edge balance); rows may be a
few turns of the loop apart. A loop that does not answer is reported, never worked around.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from flowbridge.errors import ResourceError
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Row = NodeReport | EdgeReport | PathReport

LOOP_ANSWER_NS_MAX: Final = 2 * 10**9
"""A loop that takes longer to give a turn is held by an operator that blocks, and the reading fails."""

_CHECK_S: Final = 0.05  # how often a waiting reader looks whether the loop or the reader has been closed


class ReportReader:
    """Gives consistent copies of a report to any thread.

    `loop` is the event loop that runs the flow; without it the loop that is running where the reader is made. With
    neither, the report is read where `read` is called: right for a run that has ended, wrong for any other.
    """

    def __init__(
        self,
        report: Callable[[], RunReport],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        timeout_ns: int = LOOP_ANSWER_NS_MAX,
    ) -> None:
        self._report: Final = report
        self._loop: Final = loop if loop is not None else _running_loop()
        self._timeout_ns: Final = timeout_ns
        self._closed = False

    def read(self) -> RunReport:
        """A copy that nobody else writes to. On the loop's own thread it never waits.

        Raises: ResourceError when the loop does not answer in time or the reader was closed.
        """
        copy, rows = self._on_loop(self._open)
        for start in range(0, len(rows), SLICE_ITEMS_MAX):
            self._on_loop(partial(_take, copy, rows[start : start + SLICE_ITEMS_MAX]))
        for node in copy.nodes.values():
            node.latency.flush()
        for edge in copy.edges.values():
            edge.books.latency.flush()
        for path in copy.paths:
            path.latency.flush()
        return copy

    def close(self) -> None:
        """Let every waiting `read` fail at once."""
        self._closed = True

    def _open(self) -> tuple[RunReport, list[Row]]:
        source = self._report()
        copy = RunReport(source.flow, source.digest, source.status, source.duration_s, errors=list(source.errors))
        return copy, [*source.nodes.values(), *source.edges.values(), *source.paths]

    def _on_loop(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise ResourceError("report: the reader was closed")
        loop = self._loop
        if loop is None or loop is _running_loop():
            return work()
        turn: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(_run, turn, work)
        except RuntimeError:  # the loop is closed: the run is over and nobody writes any more
            return work()
        deadline_ns = time.monotonic_ns() + self._timeout_ns
        while not concurrent.futures.wait([turn], timeout=min(_CHECK_S, self._timeout_ns / 1e9)).done:
            if loop.is_closed() and turn.cancel():  # it will never get to it
                return work()
            if (self._closed or time.monotonic_ns() >= deadline_ns) and turn.cancel():
                why = "the reader was closed" if self._closed else "an operator blocks it, or it was stopped"
                raise ResourceError(
                    f"report: the event loop of the flow did not answer within {self._timeout_ns / 1e9:g} s ({why})"
                )
        return turn.result()


def _run(turn: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    if not turn.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except Exception as error:
        turn.set_exception(error)
    else:
        turn.set_result(result)


def _take(copy: RunReport, rows: list[Row]) -> None:
    for row in rows:
        if isinstance(row, NodeReport):
            copy.nodes[row.node] = replace(row, latency=row.latency.copy())
        elif isinstance(row, PathReport):
            copy.paths.append(replace(row, latency=row.latency.copy()))
        else:
            books = row.books
            twin = replace(
                books, dropped=dict(books.dropped), missed=replace(books.missed), latency=books.latency.copy()
            )
            copy.edges[row.edge] = EdgeReport(row.edge, row.tier, twin)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
