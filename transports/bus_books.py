"""The books of all subscriptions a bus has and had, by the name of their edge."""

from __future__ import annotations

import itertools

from flowbridge.limits import PATHS_MAX
from flowbridge.time.ledger import EdgeBooks

OTHERS = "(others)"


class SubscriptionBooks:
    """An edge that is closed and opened again goes on with the books it had.

    Beyond `PATHS_MAX` closed edges the oldest are added up under ``(others)``.
    """

    __slots__ = ("_closed", "_open", "_others")

    def __init__(self) -> None:
        self._open: dict[str, EdgeBooks] = {}
        self._closed: dict[str, EdgeBooks] = {}  # oldest first
        self._others: EdgeBooks | None = None

    def open(self, edge: str) -> tuple[str, EdgeBooks]:
        """The name, made unique among the open ones with ``#2`` and so on, and its books."""
        name = edge
        numbers = itertools.count(2)
        while name in self._open:
            name = f"{edge} #{next(numbers)}"
        books = self._closed.pop(name, None)
        if books is None:
            books = EdgeBooks()
        self._open[name] = books
        return name, books

    def close(self, name: str) -> None:
        """The edge is used no more; its books stay."""
        self._closed[name] = self._open.pop(name)
        if len(self._closed) <= PATHS_MAX:
            return
        # A message on loan is yet to be counted where it was taken, so such books are passed over.
        oldest = next((edge for edge, books in self._closed.items() if not books.in_flight), None)
        if oldest is not None:
            if self._others is None:
                self._others = EdgeBooks()
            _add(self._others, self._closed.pop(oldest))

    def all(self) -> dict[str, EdgeBooks]:
        """Every edge, closed ones first."""
        books = {**self._closed, **self._open}
        if self._others is not None:
            books[OTHERS] = self._others
        return books


def _add(total: EdgeBooks, books: EdgeBooks) -> None:
    """Add the counts of one edge to those of another."""
    total.sent += books.sent
    total.delivered += books.delivered
    total.expired += books.expired
    total.refused += books.refused
    for policy, count in books.dropped.items():
        total.drop(policy, count)
    total.missed.late += books.missed.late
    total.missed.transport += books.missed.transport
    total.missed.queued += books.missed.queued
    total.missed.executing += books.missed.executing
    total.latency.merge(books.latency)
