"""Plain messages between envelopes and the ring, and reports that are read whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from shm_scene import ShmConsumer, ShmProducer, channel

from flowbridge.codec.tree import tree_from_bytes, tree_to_bytes
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext, Trail
from flowbridge.errors import EndOfStream

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOSING = 14


def send(
    producer: ShmProducer,
    envelopes: Sequence[Envelope],
    trails: dict[Trail, int] | None = None,
    *,
    items: int = 99,
    size_bytes: int = 9999,
    sent_ns: int = -1,
) -> tuple[int, int, bytes | None]:
    """Send at time 10, in the lane of the first."""
    lane = envelopes[0].priority
    return producer.try_send_plain(
        envelopes, lane, items, size_bytes, 10, sent_ns, trails or {}, tree_to_bytes, CLOSING
    )


def take(consumer: ShmConsumer, trails: dict[int, Trail] | None = None) -> list[Envelope]:
    """All that is plain."""
    return consumer.take_plain(99, trails or {}, tree_from_bytes)


def fields(envelope: Envelope) -> tuple[Any, ...]:
    """All of it, to compare."""
    return tuple(getattr(envelope, name) for name in sorted(Envelope.__slots__))


def test_plain_messages_arrive_as_they_were() -> None:
    trail = Trail("a").step("b")
    sent = [
        Envelope(b"one", Priority.HIGH, 11, 1, 2, 3, 4),
        Envelope({"two": [2]}, Priority.HIGH, NO_DEADLINE, 2**63 - 1, 0, 5, 2**63 - 1, trail),
        Envelope("three", Priority.HIGH, NO_DEADLINE, 0, 0, 0, 0),
    ]
    with channel() as (producer, consumer):
        assert send(producer, sent, {trail: 7}) == (3, 8, None)
        taken = take(consumer, {7: trail})
        assert [fields(envelope) for envelope in taken] == [fields(envelope) for envelope in sent]
        assert all(type(envelope.priority) is Priority for envelope in taken)
        assert send(producer, sent[:1], sent_ns=12) == (1, 3, None)
        assert take(consumer)[0].sent_ns == 12
        assert sent[0].sent_ns == 2


@pytest.mark.parametrize(
    "other",
    [
        Envelope(b"", Priority.REALTIME),
        Envelope(b"", deadline_ns=10),
        Envelope(b"", trail=Trail("unknown")),
        Envelope(b"", trace=TraceContext("00-1-2-01")),
        Envelope(b"", headers={}),
        Envelope(b"", seq=-1),
        Envelope(b"", origin_ns=2**63),
        Envelope(b"", size_bytes=10_000),
        Envelope(b"x" * 70_000),
        Envelope(bytearray(b"x")),
        Envelope([object()]),
        Envelope([1, {2: "\ud800"}]),
    ],
    ids=repr,
)
def test_a_message_that_is_not_plain_stays_with_all_behind_it(other: Envelope) -> None:
    plain = Envelope(b"plain", size_bytes=5)
    with channel() as (producer, consumer):
        assert send(producer, [plain, plain, other, plain]) == (2, 10, None)
        assert [envelope.payload for envelope in take(consumer)] == [b"plain"] * 2
        assert consumer.take_records(9) == []


def test_a_tree_that_is_too_large_for_the_ring_is_handed_back_in_bytes() -> None:
    with channel() as (producer, consumer):
        assert send(producer, [Envelope("a"), Envelope("b" * 70_000)]) == (1, 0, tree_to_bytes("b" * 70_000))
        assert [envelope.payload for envelope in take(consumer)] == ["a"]


def test_credit_ends_where_it_was_said_to_end() -> None:
    five = [Envelope(b"x", size_bytes=4)] * 5
    with channel() as (producer, _):
        assert send(producer, five, items=3) == (3, 12, None)
        assert send(producer, five, size_bytes=11) == (2, 8, None)
        assert send(producer, five, size_bytes=-1) == (0, 0, None)
        assert send(producer, [Envelope(b"")], size_bytes=-1) == (0, 0, None)


def test_nothing_goes_to_a_consumer_that_said_it_takes_no_more() -> None:
    with channel() as (producer, consumer):
        consumer.add_counter(CLOSING)
        assert send(producer, [Envelope(b"x")]) == (0, 0, None)
    with channel() as (producer, consumer):
        consumer.close()
        assert send(producer, [Envelope(b"x")]) == (0, 0, None)
        producer.close()
        assert send(producer, [Envelope(b"x")]) == (0, 0, None)


@pytest.mark.parametrize(
    "meta",
    [{"lane": 4}, {"codec": 2}, {"tag": 1}, {"tag": 0x10000}, {"kind": 3}, {"deadline_ns": -1}, {"codec": 1}],
    ids=repr,
)
def test_a_record_that_is_not_plain_is_left_for_who_can_read_it(meta: dict[str, int]) -> None:
    with channel() as (producer, consumer):
        for payload, more in ((b"a", {}), (b"\xff", meta), (b"c", {})):
            producer.send_nowait(payload, **more)
        assert [envelope.payload for envelope in take(consumer)] == [b"a"]
        assert take(consumer) == []
        assert [bytes(record[9]) for record in consumer.take_records(9)] == [b"\xff", b"c"]
        assert consumer.stats().received == 3


def test_a_slot_between_plain_messages_keeps_its_place_round_after_round() -> None:
    with channel() as (producer, consumer):
        for number in range(500):
            assert send(producer, [Envelope(b"x" * (number % 200))])[0] == 1
            producer.send_nowait(b"y" * 3000)
            assert [len(envelope.payload) for envelope in take(consumer)] == [number % 200]
            assert take(consumer) == []
            ((*_, lease),) = consumer.take_records(1)
            assert len(lease) == 3000
            del lease


def test_the_end_is_told_after_the_last_plain_message() -> None:
    with channel() as (producer, consumer):
        assert send(producer, [Envelope(b"x")])[0] == 1
        producer.close()
        assert len(take(consumer)) == 1
        assert take(consumer) == []
        assert not consumer.arm()
        with pytest.raises(EndOfStream):
            consumer.take_records(1)


def test_a_report_is_read_once_and_whole() -> None:
    with channel() as (producer, consumer):
        assert producer.newer_report(3) is None
        consumer.write_report((1, 2**64 - 1, 3))
        assert producer.newer_report(3) == (1, 2**64 - 1, 3)
        assert producer.newer_report(3) is None
        consumer.add_counter(3)  # another one is begun
        consumer.add_counter(0, 5)
        assert producer.newer_report(3) is None
        consumer.add_counter(4)
        assert producer.newer_report(3) == (6, 2**64 - 1, 3)
        producer.close()
        assert producer.newer_report(3) is None


@pytest.mark.parametrize("count", [-1, 2**64])
def test_a_count_beyond_64_bits_writes_nothing_of_a_report(count: int) -> None:
    with channel() as (producer, consumer):
        with pytest.raises(OverflowError):
            consumer.write_report((1, count))
        assert producer.newer_report(2) is None
        assert consumer.counters == (0,) * 64
