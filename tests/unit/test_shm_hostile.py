"""A broken peer: what it writes is checked, and never followed out of bounds."""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING

import pytest
from shm_scene import SMALL, ShmConsumer, ShmProducer, channel

from flowbridge.errors import BrokenError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

TAIL, COMPLETION_HEAD, HEAD, HEAD_SEQ, COMPLETION_TAIL = 0x1000, 0x1100, 0x2000, 0x2008, 0x2180
RING = 0x3000
COMPLETIONS = RING + 4096


@pytest.fixture
def ends() -> Iterator[tuple[ShmProducer, ShmConsumer, mmap.mmap]]:
    """A channel, and its memory to be spoilt."""
    with channel() as (producer, consumer):
        memory = mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes)
        yield producer, consumer, memory
        memory.close()


Ends = tuple[ShmProducer, ShmConsumer, mmap.mmap]


def poke(memory: mmap.mmap, at: int, value: int, form: str = "<Q") -> None:
    """Write one word."""
    struct.pack_into(form, memory, at, value)


@pytest.mark.parametrize(
    ("at", "form", "value", "problem"),
    [
        (TAIL, "<Q", 1 << 40, "the tail is outside the ring"),
        (TAIL, "<Q", 33, "the tail is outside the ring"),
        (RING, "<B", 9, "a kind of record that does not exist"),
        (RING, "<B", 0, "a pad record beyond the tail"),
        (RING + 8, "<Q", 1 << 63, "the length of an inline record"),
        (RING + 8, "<Q", 1984, "a record beyond the tail"),
        (RING + 64 + 4, "<I", 2 << 28, "a slot that does not exist"),
        (RING + 64 + 4, "<I", 4, "a slot that does not exist"),
        (RING + 64 + 8, "<Q", 4097, "the length of a slot record"),
    ],
)
def test_a_damaged_record_poisons_the_channel(ends: Ends, at: int, form: str, value: int, problem: str) -> None:
    producer, consumer, memory = ends
    producer.send_many([b"", b"x" * 3000])
    poke(memory, at, value, form)
    if at > RING + 63:  # the first record is good
        assert len(consumer.take_records(9)) == 1
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match=problem):
            consumer.take_records(9)
    with pytest.raises(RemoteProtocolError, match=problem):
        consumer.receive(10)
    with pytest.raises(BrokenError, match="poisoned"):
        producer.send_nowait(b"x")


@pytest.mark.parametrize(("at", "value"), [(HEAD, 1 << 20), (HEAD, 1), (HEAD_SEQ, 99), (HEAD, (1 << 64) - 64)])
def test_a_damaged_cursor_of_the_consumer_poisons_the_channel(ends: Ends, at: int, value: int) -> None:
    producer, consumer, memory = ends
    producer.send_many([b"x"] * 16)
    poke(memory, at, value)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="poisoned"):
            producer.send_nowait(b"x")
    assert len(consumer.take_records(99)) == 16
    with pytest.raises(RemoteProtocolError, match="the producer found the channel damaged"):
        consumer.receive_nowait()


def test_returned_slots_are_believed_only_when_they_were_lent(ends: Ends) -> None:
    producer, consumer, memory = ends
    producer.send_many([b"x" * 3000] * 2)
    lease = consumer.receive_nowait()
    assert lease is not None
    lease.release()
    assert producer.pool.free_slots == (3, 2)
    bogus = [
        1 << 32 | 0,  # twice
        2 << 32 | 1,  # another generation
        1 << 32 | 3,  # never lent
        1 << 32 | 99,  # no such slot
        1 << 32 | 5 << 28,  # no such class
    ]
    for number, word in enumerate(bogus):
        poke(memory, COMPLETIONS + 8 * (1 + number), word)
    poke(memory, COMPLETION_TAIL, 1 + len(bogus))
    assert producer.pool.free_slots == (3, 2)
    assert producer.pool.bogus_returns == producer.stats().bogus_returns == len(bogus)
    poke(memory, COMPLETION_TAIL, 1 << 50)
    assert producer.pool.free_slots == (3, 2)
    with pytest.raises(RemoteProtocolError, match="more returns than the ring holds"):
        producer.send_nowait(b"x")


def test_a_producer_that_takes_no_returns_back_costs_only_slots(ends: Ends) -> None:
    producer, consumer, memory = ends
    for _ in range(10):
        producer.send_nowait(b"x" * 3000)
        leases = consumer.receive_many(1)
        poke(memory, COMPLETION_HEAD, (1 << 64) - 8)
        leases.clear()
        assert producer.pool.bogus_returns == 0
        if consumer.stats().returns_lost:
            break
    assert consumer.stats().returns_lost > 0


def test_wait_words_may_hold_anything(ends: Ends) -> None:
    producer, consumer, memory = ends
    for value in (1, 2, 3, 0xFFFFFFFF):
        poke(memory, 0x2080, value, "<I")
        poke(memory, 0x1180, value, "<I")
        producer.send_nowait(b"x")
        assert consumer.receive_bytes_nowait() == b"x"


@pytest.mark.parametrize("at", [0x0, 0x8, 0xC, 0x10, 0x38, 0x40, 0x48, 0x50, 0x58, 0x68, 0x6C, 0x70, 0x80, 0x90, 0x200])
def test_a_damaged_superblock_is_not_joined(at: int) -> None:
    with ShmProducer(SMALL) as producer, mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes) as memory:
        memory[at] ^= 0x10
        with pytest.raises(RemoteProtocolError):
            ShmConsumer.attach(producer.descriptors())
        memory[at] ^= 0x10
        ShmConsumer.attach(producer.descriptors()).close()


def test_a_superblock_that_changes_later_changes_nothing(ends: Ends) -> None:
    producer, consumer, memory = ends
    for at in range(0x10, 0x240):
        memory[at] = 0xFF
    producer.send_many([b"x", b"y" * 60000])
    assert [bytes(lease) for lease in consumer.receive_many(9)] == [b"x", b"y" * 60000]
