"""Leases and loans: who holds a slot, and for how long."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pyarrow as pa
import pytest
from shm_scene import Lease, Loan, ShmConsumer, ShmProducer, _core, channel

from flowbridge.errors import BlockReason, ClosedError, LocalProtocolError, WouldBlock


def received(consumer: ShmConsumer) -> Lease:
    """The next message, which is there."""
    lease = consumer.receive_nowait()
    assert lease is not None
    return lease


def free(producer: ShmProducer) -> int:
    """Free slots of all classes."""
    return sum(producer.pool.free_slots)


def test_a_lease_can_be_read_and_not_written() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        with memoryview(received(consumer)) as view:
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 1
        producer.send_nowait(b"y" * 3000)
        array = np.frombuffer(memoryview(received(consumer)), np.uint8)
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)


def test_the_last_view_gives_the_slot_back() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(bytes(4096))
        lease = received(consumer)
        view, buffer, array = memoryview(lease), pa.py_buffer(lease), np.frombuffer(memoryview(lease), np.float64)
        del lease
        gc.collect()
        assert free(producer) == 5
        del view, buffer
        assert free(producer) == 5
        del array
        assert free(producer) == 6


def test_a_lease_is_not_released_under_its_views() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        lease = received(consumer)
        assert not lease.copied
        view = memoryview(lease)
        with pytest.raises(BufferError, match="1 views"):
            lease.release()
        view.release()
        lease.release()
        lease.release()
        assert free(producer) == 6
        with pytest.raises(BufferError, match="released"):
            memoryview(lease)
        with pytest.raises(BufferError, match="released"):
            lease.to_bytes()


def test_a_lease_may_be_dropped_in_another_thread() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        held = [received(consumer)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        assert free(producer) == 6


def test_a_lease_outlives_both_ends() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        lease = received(consumer)
    del producer, consumer
    gc.collect()
    assert lease.to_bytes() == b"x" * 3000
    del lease


def test_a_lease_says_when_it_was_made() -> None:
    with channel() as (producer, consumer):
        producer.send_many([b"x" * 3000, b"y"])
        first, second = consumer.receive_many(2)
        assert 0 < first.held_since_ns <= second.held_since_ns


def test_a_loan_is_filled_in_place_and_sent_with_its_words() -> None:
    with channel() as (producer, consumer):
        loan = producer.loan(5000)
        assert (len(loan), loan.nbytes) == (5000, 5000)
        array = np.frombuffer(memoryview(loan), np.uint8)
        array[:] = 7
        with pytest.raises(BufferError, match="1 views"):
            loan.commit()
        del array
        producer.send_nowait(b"before")
        loan.commit(4000, lane=2, tag=5, seq=9)
        first, second = consumer.receive_many(9)
        assert (bytes(first), bytes(second)) == (b"before", b"\7" * 4000)
        assert (second.lane, second.tag, second.seq, second.kind) == (2, 5, 9, _core.KIND_SLOT)
        for call in (loan.commit, loan.abort):
            with pytest.raises(LocalProtocolError, match="once"):
                call()


def test_a_loan_that_is_dropped_or_aborted_was_never_sent() -> None:
    with channel() as (producer, consumer):
        loan = producer.loan(5000)
        assert free(producer) == 5
        del loan
        loan = producer.loan(5000)
        loan.abort()
        assert free(producer) == 6
        assert consumer.receive_nowait() is None


def test_a_loan_without_credit_stays_the_callers() -> None:
    with channel() as (producer, consumer):
        loan = producer.loan(300)
        with memoryview(loan) as view:
            view[:] = b"z" * 300
        producer.send_many([b"x"] * 16)
        with pytest.raises(WouldBlock) as caught:
            loan.commit()
        assert caught.value.reason is BlockReason.CREDIT_ITEMS
        with pytest.raises(WouldBlock):
            producer.loan(300)
        consumer.take_records(16)
        loan.commit()
        assert consumer.receive_bytes_nowait() == b"z" * 300


def test_a_loan_of_no_slot_names_the_reason() -> None:
    with channel() as (producer, _):
        loans = [producer.loan(10) for _ in range(6)]
        with pytest.raises(WouldBlock) as caught:
            producer.loan(10)
        assert caught.value.reason is BlockReason.SLOTS
        with pytest.raises(LocalProtocolError, match="10 bytes, 11 were committed"):
            loans[0].commit(11)


def test_a_loan_outlives_its_producer_but_is_not_sent() -> None:
    with channel() as (producer, _):
        loan = producer.loan(5000)
    with memoryview(loan) as view:
        view[:] = bytes(5000)
    with pytest.raises(ClosedError):
        loan.commit()
    del producer, loan


def test_nobody_makes_a_lease_or_a_loan_of_his_own() -> None:
    for kind in (Lease, Loan):
        with pytest.raises(TypeError, match="comes from"):
            kind()
