"""Batches over the ring: in place, in order, their schema once."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flowbridge.errors import EndOfStream, WouldBlock
from flowbridge.shm import native_problem

if native_problem() is not None:
    pytest.skip(str(native_problem()), allow_module_level=True)

from flowbridge.codec.batch import BatchTemplate
from flowbridge.shm.arrow import BatchConsumer, BatchProducer
from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec

SPEC = ShmSpec(classes=((64 * 1024, 4), (1024 * 1024, 2)))


def pair(spec: ShmSpec = SPEC) -> tuple[BatchProducer, BatchConsumer]:
    producer = ShmProducer(spec)
    return BatchProducer(producer), BatchConsumer(ShmConsumer.attach(producer.descriptors()))


def close(*ends: BatchProducer | BatchConsumer) -> None:
    for end in ends:
        (end.producer if isinstance(end, BatchProducer) else end.consumer).close()


def batch_of(rows: int, start: int = 0) -> Any:
    return pa.RecordBatch.from_pydict(
        {"n": list(range(start, start + rows)), "text": [f"row {n}" for n in range(rows)]}
    )


def test_batches_arrive_equal_and_in_order_whatever_their_size() -> None:
    sender, receiver = pair()
    batches = [batch_of(rows, rows) for rows in (1, 10, 1_000, 0, 20_000, 3)]
    for batch in batches:
        sender.send_batch_nowait(batch)
    for batch in batches:
        assert receiver.receive_batch_nowait().equals(batch)
    assert receiver.receive_batch_nowait() is None
    sender.producer.close()
    with pytest.raises(EndOfStream):
        receiver.receive_batch_nowait()
    close(receiver)


def test_two_schemas_on_one_route_are_told_apart() -> None:
    sender, receiver = pair()
    other = pa.RecordBatch.from_pydict({"x": [1.5, 2.5]})
    for batch in (batch_of(5), other, batch_of(6), other):
        sender.send_batch_nowait(batch)
    found = [receiver.receive_batch_nowait() for _ in range(4)]
    assert [batch.schema.names for batch in found] == [["n", "text"], ["x"], ["n", "text"], ["x"]]
    assert sender.producer.stats().sent == 6  # four batches and two schemas
    close(sender, receiver)


def test_a_batch_lies_in_its_slot_until_the_last_slice_is_gone() -> None:
    sender, receiver = pair()
    free = sender.producer.pool.free_slots
    sender.send_batch_nowait(batch_of(2_000))
    batch = receiver.receive_batch_nowait()
    column = batch.column(0).slice(1_990)
    del batch
    gc.collect()
    assert receiver.consumer.leases == 1
    assert column.to_pylist() == list(range(1_990, 2_000))
    del column
    gc.collect()
    assert receiver.consumer.leases == 0
    sender.producer.try_loan(60_000)  # whoever looks for a slot takes back what came home
    assert sender.producer.pool.free_slots == free
    close(sender, receiver)


def test_columns_computed_in_the_slot_arrive_as_they_are() -> None:
    sender, receiver = pair()
    fields: list[Any] = [pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.float64(), nullable=False)]
    schema = pa.schema(fields)
    template = BatchTemplate(schema, 5_000)
    for turn in range(3):
        loan = sender.loan_batch(template)
        loan.columns["a"][:] = np.arange(5_000) + turn
        np.multiply(np.arange(5_000), 0.5, out=loan.columns["b"])
        loan.commit()
        batch = receiver.receive_batch_nowait()
        assert batch.schema.equals(schema)
        assert batch.column(0).to_pylist() == list(range(turn, 5_000 + turn))
        assert batch.column(1).to_pylist()[:3] == [0.0, 0.5, 1.0]
        del batch
    loan = sender.loan_batch(template)
    loan.abort()
    assert receiver.receive_batch_nowait() is None
    close(sender, receiver)


def test_a_batch_without_a_slot_blocks_and_is_not_half_sent() -> None:
    sender, receiver = pair(ShmSpec(classes=((1024 * 1024, 1),)))
    sender.send_batch_nowait(batch_of(5_000))
    with pytest.raises(WouldBlock, match="slots"):
        sender.send_batch_nowait(batch_of(5_000, 7))
    with pytest.raises(WouldBlock, match="slots"):
        sender.send_batch(batch_of(5_000, 7), timeout_ns=1_000_000)
    assert receiver.receive_batch_nowait().num_rows == 5_000
    assert receiver.receive_batch_nowait() is None
    gc.collect()
    sender.send_batch(batch_of(5_000, 7), timeout_ns=10_000_000_000)
    assert receiver.receive_batch(timeout_ns=10_000_000_000).column(0)[0].as_py() == 7
    close(sender, receiver)
