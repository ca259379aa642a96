"""The shared-memory channel in one process: order, credit, ring, slots, watermarks, ends."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from shm_scene import SMALL, Lease, ShmConsumer, ShmProducer, ShmSpec, _core, channel

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import (
    BlockReason,
    BrokenError,
    ClosedError,
    EndOfStream,
    LocalProtocolError,
    WouldBlock,
)


def address(lease: Lease) -> int:
    """Where the payload lies."""
    return int(np.frombuffer(memoryview(lease), np.uint8).ctypes.data)


def test_a_message_arrives_with_what_was_said_about_it() -> None:
    with channel() as (producer, consumer):
        meta = {"lane": 3, "codec": 258, "seq": 77, "deadline_ns": 1 << 60, "origin_ns": -5, "sent_ns": 12}
        producer.send_nowait(b"payload", size_bytes=1 << 40, tag=0xFFFFFFFF, **meta)
        assert consumer.take_records(9) == [(3, 258, 77, 1 << 60, -5, 12, 1 << 40, 0xFFFFFFFF, 1, b"payload")]
        producer.send_nowait(b"", **meta)
        lease = consumer.receive_nowait()
        assert lease is not None
        assert (lease.lane, lease.codec, lease.seq, lease.deadline_ns) == (3, 258, 77, 1 << 60)
        assert (lease.origin_ns, lease.sent_ns, lease.size_bytes, lease.tag) == (-5, 12, 0, 0)
        assert (lease.nbytes, bytes(lease), lease.copied) == (0, b"", True)


def test_messages_without_a_number_are_counted_by_the_channel() -> None:
    with channel() as (producer, consumer):
        assert producer.send_many([b"a", b"b" * 3000, b"c"]) == 3
        assert [lease.seq for lease in consumer.receive_many(9)] == [0, 1, 2]
        producer.send_nowait(b"d")
        assert [record[:5] for record in consumer.take_records(9)] == [(0, 0, 3, NO_DEADLINE, 0)]


def test_inline_slot_and_control_records_keep_one_order() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"one")
        producer.send_nowait(b"2" * 5000)
        producer.send_nowait(b"schema" * 100, kind=_core.KIND_CTRL, tag=9)
        producer.send_nowait(memoryview(bytearray(b"four")))
        kinds = [(record[8], record[7], bytes(record[9])) for record in consumer.take_records(9)]
        assert kinds == [(1, 0, b"one"), (2, 0, b"2" * 5000), (3, 9, b"schema" * 100), (1, 0, b"four")]


def test_the_ring_goes_round_with_records_of_every_size() -> None:
    with channel() as (producer, consumer):
        for size in [*range(257), *range(256, -1, -1)]:
            producer.send_nowait(bytes([size % 251]) * size)
            assert consumer.receive_bytes_nowait() == bytes([size % 251]) * size
        assert consumer.receive_bytes_nowait() is None
        assert producer.stats().ring_bytes == 0


def test_a_producer_without_credit_is_told_so() -> None:
    with channel() as (producer, consumer):
        assert producer.send_many([b"x"] * 20) == 16
        with pytest.raises(WouldBlock) as caught:
            producer.send_nowait(b"x")
        assert caught.value.reason is BlockReason.CREDIT_ITEMS
        assert producer.blocked_by == _core.NO_CREDIT
        assert len(consumer.take_records(1)) == 1
        assert producer.try_send(b"x") == _core.SENT
        assert producer.blocked_by == 0
        assert producer.stats().blocked_credit == 2


def test_a_full_ring_blocks_before_the_credit_is_spent() -> None:
    with channel() as (producer, consumer):
        sent = producer.send_many([b"x" * 256] * 16)
        assert sent == 4096 // (256 + 64)
        with pytest.raises(WouldBlock) as caught:
            producer.send_nowait(b"x" * 256)
        assert caught.value.reason is BlockReason.RING
        consumer.take_records(sent)
        assert producer.try_send(b"x" * 256) == _core.SENT


def test_slots_run_out_only_when_the_larger_ones_are_out_too() -> None:
    with channel(max_leases=9) as (producer, consumer):
        for _ in range(6):
            producer.send_nowait(b"x" * 300)
        with pytest.raises(WouldBlock) as caught:
            producer.send_nowait(b"x" * 300)
        assert caught.value.reason is BlockReason.SLOTS
        leases = consumer.receive_many(9)
        assert producer.try_send(b"x" * 300) == _core.NO_SLOT
        del leases[3]
        assert producer.try_send(b"x" * 300) == _core.SENT
        assert producer.pool.free_slots == (0, 0)
        leases.clear()
        assert producer.pool.free_slots == (3, 2)


def test_the_slot_given_back_last_is_used_first() -> None:
    with channel(max_leases=9) as (producer, consumer):
        producer.send_many([b"a" * 400, b"b" * 400, b"c" * 400])
        first, second, third = consumer.receive_many(9)
        where = address(second)
        for lease in (first, third, second):
            lease.release()
        producer.send_nowait(b"z" * 400)
        (lease,) = consumer.receive_many(9)
        assert address(lease) == where
        assert bytes(lease) == b"z" * 400


def test_a_payload_that_fits_nowhere_is_a_mistake_of_the_caller() -> None:
    with channel() as (producer, _):
        with pytest.raises(LocalProtocolError, match="at most 65536 bytes fits, this one has 65537"):
            producer.send_nowait(bytes(65537))
        with pytest.raises(LocalProtocolError, match="control record has at most 1984 bytes"):
            producer.send_nowait(bytes(1985), kind=_core.KIND_CTRL)
        with pytest.raises(LocalProtocolError, match="kind 1 or 3, not 2"):
            producer.send_nowait(b"", kind=_core.KIND_SLOT)
        with pytest.raises(LocalProtocolError, match="this one has 65537"):
            producer.loan(65537)
        assert producer.stats().sent == 0


def test_a_channel_without_slots_has_three_descriptors() -> None:
    spec = ShmSpec(classes=(), inline_bytes_max=1000)
    with ShmProducer(spec) as producer:
        assert len(producer.descriptors()) == 3
        with ShmConsumer.attach(producer.descriptors()) as consumer:
            producer.send_nowait(b"x" * 1000)
            assert consumer.receive_bytes_nowait() == b"x" * 1000
            with pytest.raises(LocalProtocolError, match="at most 1000 bytes fits, this one has 1001"):
                producer.send_nowait(b"x" * 1001)


def test_explicit_credit_is_what_the_consumer_grants() -> None:
    with channel(ShmSpec(classes=(), window_items=0)) as (producer, consumer):
        assert producer.try_send(b"x") == _core.NO_CREDIT
        consumer.grant(2)
        assert producer.send_many([b"x"] * 5) == 2
        consumer.take_records(5)
        assert producer.try_send(b"x") == _core.NO_CREDIT
        consumer.grant(1)
        assert producer.send_many([b"x"] * 5) == 1
    with channel() as (_, consumer), pytest.raises(LocalProtocolError, match="window of 16"):
        consumer.grant(1)


def test_a_consumer_at_its_limit_of_leases_gets_copies() -> None:
    with channel(max_leases=2) as (producer, consumer):
        held: list[Lease] = []
        for round_number in range(8):
            producer.send_nowait(bytes([round_number]) * 4000)
            held += consumer.receive_many(9)
        producer.send_nowait(b"8" * 4000)
        ((*_, last),) = consumer.take_records(9)
        assert [lease.copied for lease in held] == [False] * 2 + [True] * 6
        assert [bytes(lease)[0] for lease in held] == list(range(8))
        assert last == b"8" * 4000
        assert (consumer.stats().copies, consumer.leases) == (7, 2)
        assert producer.pool.free_slots == (2, 2)
        assert isinstance(last, bytes)


def test_receive_bytes_holds_no_slot() -> None:
    with channel() as (producer, consumer):
        payload = bytes(range(256)) * 256
        for _ in range(5):
            producer.send_nowait(payload)
            assert consumer.receive_bytes_nowait() == payload
        assert producer.pool.free_slots == (4, 2)


def test_watermarks_are_crossed_once_in_each_direction() -> None:
    crossed: list[str] = []
    with channel(max_leases=9) as (producer, consumer):
        producer.on_high = lambda: crossed.append("high")
        producer.on_low = lambda: crossed.append("low")
        producer.send_many([b"x"] * 11)
        assert crossed == []
        producer.send_nowait(b"x")
        producer.send_nowait(b"x")
        assert (crossed, producer.above_high) == (["high"], True)
        consumer.take_records(4)
        producer.clear()
        assert crossed == ["high"]  # 9 of 16: above the low one
        consumer.take_records(1)
        producer.clear()
        assert (crossed, producer.above_high) == (["high", "low"], False)
        consumer.take_records(99)
        producer.send_many([b"x" * 300] * 4)  # three quarters of all slots are out, and half of them by count
        producer.send_many([b"x" * 5000])
        assert crossed == ["high", "low", "high"]
        consumer.receive_many(99).clear()
        producer.clear()
        assert crossed == ["high", "low", "high", "low"]
        assert producer.stats().highs == 2


def test_records_in_a_batch_stop_where_something_is_missing() -> None:
    with channel() as (producer, consumer):
        record = (b"x", 1, 2, 3, NO_DEADLINE, 5, 6, 7, 8, 1)
        assert producer.try_send_records([record] * 20) == 16
        assert consumer.take_records(20) == [(1, 2, 3, NO_DEADLINE, 5, 6, 7, 8, 1, b"x")] * 16
        with pytest.raises(TypeError):
            producer.send_many([b"sent", "not bytes"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
        assert consumer.receive_bytes_nowait() == b"sent"


def test_a_closed_producer_is_the_end_after_everything_was_received() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        producer.close()
        producer.close()
        with pytest.raises(ClosedError):
            producer.send_nowait(b"x")
        lease = consumer.receive_nowait()
        assert lease is not None
        assert bytes(lease) == b"x" * 3000
        for _ in range(2):
            with pytest.raises(EndOfStream, match="finished after 1 messages"):
                consumer.receive_nowait()
        with pytest.raises(EndOfStream):
            consumer.take_records(1)


def test_a_producer_that_was_only_dropped_is_broken_not_ended() -> None:
    producer = ShmProducer(SMALL)
    with ShmConsumer.attach(producer.descriptors()) as consumer:
        producer.send_nowait(b"last")
        del producer
        gc.collect()
        assert consumer.receive_bytes_nowait() == b"last"
        with pytest.raises(BrokenError, match="vanished after 1 messages"):
            consumer.receive_nowait()


def test_a_closed_consumer_breaks_its_producer_and_keeps_its_leases() -> None:
    with channel() as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        lease = consumer.receive_nowait()
        assert lease is not None
        consumer.close()
        consumer.close()
        with pytest.raises(BrokenError, match="closed its end"):
            producer.send_nowait(b"x")
        with pytest.raises(ClosedError):
            consumer.receive_nowait()
        assert bytes(lease) == b"x" * 3000
        lease.release()
        assert producer.pool.free_slots == (4, 2)


def test_counters_cross_in_both_directions() -> None:
    with channel() as (producer, consumer):
        consumer.add_counter(0, 5)
        consumer.add_counter(63)
        producer.add_counter(7, 1 << 63)
        assert (producer.counter(0), producer.counter(63), producer.counter(1)) == (5, 1, 0)
        assert producer.read_counters(2) == (5, 0)
        assert len(producer.read_counters()) == 64
        assert consumer.counter(7) == consumer.read_counters(8)[7] == producer.counters[7] == 1 << 63
        assert consumer.counters[0] == 5
        for side in (producer, consumer):
            with pytest.raises(LocalProtocolError, match="0 to 63, not 64"):
                side.add_counter(64)


def test_a_second_consumer_is_refused() -> None:
    with channel() as (producer, _), pytest.raises(LocalProtocolError, match="one consumer"):
        ShmConsumer.attach(producer.descriptors())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ring_bytes", 5000, "power of two, not 5000"),
        ("ring_bytes", 2048, "ring_bytes is 4096 to 1073741824, not 2048"),
        ("window_items", -1, "window_items is 0 to 4294967296, not -1"),
        ("inline_bytes_max", 1 << 18, "inline_bytes_max is 0 to 131008, not 262144"),
        ("classes", ((64, 1),) * 17, "number of classes is 0 to 16, not 17"),
        ("classes", ((0, 1),), "slot bytes is 1 to"),
        ("classes", ((64, 0),), "slots of a class is 1 to"),
        ("low", 0.9, "low 0.9 and high 0.75"),
        ("backing", "named", "posix or memfd, not named"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        ShmSpec(**{field: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
