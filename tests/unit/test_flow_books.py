"""The books of edges between processes: what each end counts, and what is left when a process died."""

from __future__ import annotations

from typing import Any

import pytest

from flowbridge.report import NodeReport, PathReport
from flowbridge.runtime.books import (
    Account,
    EdgeAccounts,
    Role,
    merged_paths,
    node_from_plain,
    node_to_plain,
    path_from_plain,
    path_to_plain,
)
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks, Missed


def histogram(*values: int) -> Histogram:
    made = Histogram()
    made.extend(values)
    return made


def edge(sink: EdgeBooks, source: EdgeBooks) -> EdgeAccounts:
    """An edge between two processes."""
    made = EdgeAccounts("ipc")
    made.of(Role.SINK).go_on(lambda: sink)
    made.of(Role.SOURCE).go_on(lambda: source)
    return made


def test_the_producers_end_has_the_counts_and_the_consumers_the_times() -> None:
    sink = EdgeBooks(sent=10, delivered=6, expired=1, refused=1, in_flight=1, dropped={"latest": 1})
    sink.missed = Missed(late=1, queued=1)
    source = EdgeBooks(sent=7, delivered=6, in_flight=1, missed=Missed(executing=2), latency=histogram(5, 6))
    books = edge(sink, source).books()
    assert books.balances
    assert (books.sent, books.delivered, books.dropped) == (10, 6, {"latest": 1})
    assert books.missed == Missed(late=1, queued=1, executing=2)
    assert books.latency.count == 2


def test_what_was_on_its_way_when_its_producer_died_is_lost_unless_it_arrived() -> None:
    sink = EdgeBooks(sent=10, delivered=2, in_flight=8)
    source = EdgeBooks(sent=7, delivered=7, latency=histogram(*range(7)))
    made = edge(sink, source)
    made.of(Role.SINK).end(loses=False)
    books = made.books()
    assert books.balances
    assert (books.sent, books.delivered, books.dropped, books.in_flight) == (10, 7, {"lost": 3}, 0)


def test_a_last_report_that_is_out_of_date_does_not_make_messages_up() -> None:
    made = edge(EdgeBooks(sent=3, delivered=1, in_flight=2), EdgeBooks(sent=9, delivered=8, in_flight=1))
    made.of(Role.SINK).end(loses=False)
    books = made.books()
    assert books.balances
    assert (books.sent, books.delivered, books.in_flight, books.dropped) == (9, 8, 1, {})


def test_a_successor_goes_on_counting() -> None:
    source = EdgeBooks(delivered=7)
    made = edge(EdgeBooks(sent=10, delivered=2, in_flight=8), source)
    made.of(Role.SINK).end(loses=False)
    made.of(Role.SINK).go_on(lambda: EdgeBooks(sent=5, delivered=4, in_flight=1))
    source.delivered = 11
    books = made.books()
    assert books.balances
    assert (books.sent, books.delivered, books.in_flight, books.dropped) == (15, 11, 1, {"lost": 3})


def test_a_route_within_a_process_that_died_loses_what_was_in_it() -> None:
    account = Account(lambda: EdgeBooks(sent=10, delivered=6, in_flight=4))
    account.end(loses=True)
    account.go_on(lambda: EdgeBooks(sent=2, delivered=2))
    total = account.total()
    assert total.balances
    assert (total.sent, total.delivered, total.dropped) == (12, 8, {"lost": 4})


def test_books_and_reports_come_through_as_they_are() -> None:
    books = EdgeBooks(9, 3, 2, 1, 1, {"latest": 2}, Missed(1, 2, 3, 4), histogram(2_000, 5), 6, 7, 8)
    assert EdgeBooks.from_plain(books.to_plain()).to_plain() == books.to_plain()
    empty = EdgeBooks()
    assert EdgeBooks.from_plain(empty.to_plain()).latency.percentile(0.5) is None
    node = NodeReport("n", histogram(7), "running", 3, 2, 1, error="no", process="p")
    assert node_from_plain("n", "p", node_to_plain(node)).to_json() == node.to_json()
    path = PathReport(("a", "b"), 500, histogram(3), 4, 1)
    assert path_from_plain(path_to_plain(path)).to_json() == path.to_json()


NOT_BOOKS: list[Any] = [[], [1, 2], [1, 2, 3, 4, 5, {}, [1], [0, None, 0, {}], 9], ["x"] * 8]


@pytest.mark.parametrize("plain", NOT_BOOKS)
def test_other_plain_values_are_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        EdgeBooks.from_plain(plain)


def test_a_path_that_two_processes_met_is_one() -> None:
    near = [PathReport(("a", "b"), 500, histogram(3), 4, 1), PathReport(("a",), None, histogram(), 1, 0)]
    merged = merged_paths([near, [PathReport(("a", "b"), 500, histogram(4), 2, 2)]])
    assert [(path.nodes, path.delivered, path.missed, path.latency.count) for path in merged] == [
        (("a", "b"), 6, 3, 2),
        (("a",), 1, 0, 0),
    ]
