"""Cutting anew loses no row, and copies none that needs no copying."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.operators.file_source import rebatch


@given(sizes=st.lists(st.integers(0, 30), max_size=10), rows=st.integers(1, 25))
def test_all_rows_come_in_order_in_batches_of_the_size_asked_for(sizes: list[int], rows: int) -> None:
    total = sum(sizes)
    numbers: Any = pa.RecordBatch.from_pydict({"n": pa.array(range(total), pa.int64())})
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    batches = list(rebatch((numbers.slice(start, size) for start, size in zip(starts, sizes, strict=True)), rows))
    assert [n for batch in batches for n in batch.column("n").to_pylist()] == list(range(total))
    assert all(batch.num_rows == rows for batch in batches[:-1])
    assert all(0 < batch.num_rows <= rows for batch in batches[-1:])


@given(times=st.integers(1, 5), rows=st.integers(1, 20))
def test_a_batch_that_lies_within_one_is_a_view_of_it(times: int, rows: int) -> None:
    whole: Any = pa.RecordBatch.from_pydict({"n": pa.array(range(times * rows), pa.int64())})
    pieces: list[Any] = list(rebatch([whole], rows))
    home = whole.column("n").buffers()[1].address
    assert all(piece.column("n").buffers()[1].address == home for piece in pieces)
