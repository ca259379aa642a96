"""The books of an edge."""

from __future__ import annotations

import pytest

from flowbridge.time.ledger import EdgeBooks, Missed, Stage


def test_books_balance_when_every_message_is_in_one_column() -> None:
    books = EdgeBooks(sent=15, delivered=5, expired=1, refused=2, in_flight=3)
    books.drop("latest")
    books.drop("abort", 2)
    books.drop("latest")
    assert books.dropped == {"latest": 2, "abort": 2}
    assert books.dropped_total == 4
    assert books.balances


@pytest.mark.parametrize("column", ["sent", "delivered", "expired", "refused", "in_flight"])
def test_books_with_one_message_too_many_in_a_column_do_not_balance(column: str) -> None:
    books = EdgeBooks()
    assert books.balances
    setattr(books, column, 1)
    assert not books.balances


def test_a_drop_that_was_never_sent_does_not_balance() -> None:
    books = EdgeBooks()
    books.drop("abort")
    assert not books.balances


def test_a_miss_is_counted_in_one_of_four_stages() -> None:
    missed = Missed(late=1, transport=20, queued=300, executing=4000)
    assert missed.total == 4321
    assert {stage.value for stage in Stage} == set(Missed.__slots__)
