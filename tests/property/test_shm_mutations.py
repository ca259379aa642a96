"""Random damage to a channel ends in RemoteProtocolError or in wrong bytes, never in a crash, a hang or a wild read."""

from __future__ import annotations

import contextlib
import mmap
import struct
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from shm_scene import ShmConsumer, ShmProducer, ShmSpec

from flowbridge.errors import FlowbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = ShmSpec(classes=((512, 3),), ring_bytes=4096, window_items=8, inline_bytes_max=128)
WORDS = st.sampled_from([0, 1, 63, 64, 4096, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 64, (1 << 64) - 1])
PLACES = st.integers(0, SPEC.channel_bytes // 8 - 1) | st.sampled_from(
    [0x0, 0x8, 0x48, 0x240, 0x248, 0x1000, 0x1008, 0x1100, 0x1180, 0x2000, 0x2008, 0x2010, 0x2080, 0x2180, 0x2200]
).map(lambda at: at // 8)
RECORD_PLACES = st.integers(0x3000 // 8, 0x3400 // 8)
DAMAGE = st.lists(st.tuples(PLACES | RECORD_PLACES, WORDS | st.integers(0, (1 << 64) - 1)), min_size=1, max_size=6)


def spoil(memory: mmap.mmap, damage: list[tuple[int, int]]) -> None:
    """Write words where they do not belong."""
    for place, word in damage:
        struct.pack_into("<Q", memory, place * 8, word)


@settings(max_examples=300, deadline=None)
@given(damage=DAMAGE)
def test_a_damaged_channel_is_joined_or_refused(damage: list[tuple[int, int]]) -> None:
    with ShmProducer(SPEC) as producer, mmap.mmap(producer.descriptors()[0], SPEC.channel_bytes) as memory:
        producer.send_many([b"a" * 100, b"b" * 500])
        spoil(memory, damage)
        with contextlib.suppress(FlowbridgeError), ShmConsumer.attach(producer.descriptors()) as consumer:
            for record in consumer.take_records(99):
                assert len(bytes(record[9])) <= max(4096 // 2, 512)


@settings(max_examples=300, deadline=None)
@given(damage=DAMAGE, steps=st.lists(st.sampled_from("siltrcwaug"), min_size=1, max_size=12))
def test_no_call_follows_damaged_words_out_of_bounds(damage: list[tuple[int, int]], steps: list[str]) -> None:
    with (
        ShmProducer(SPEC) as producer,
        ShmConsumer.attach(producer.descriptors()) as consumer,
        mmap.mmap(producer.descriptors()[0], SPEC.channel_bytes) as memory,
    ):
        producer.send_many([b"a" * 100, b"b" * 500, b"c" * 128])
        held = consumer.receive_many(2)
        spoil(memory, damage)
        calls: dict[str, tuple[Callable[[], object], ...]] = {
            "s": (lambda: producer.try_send(b"d" * 100),),
            "i": (lambda: producer.send_many([b"e" * 128] * 20),),
            "l": (lambda: producer.loan(300).commit(),),
            "t": (lambda: [bytes(record[9]) for record in consumer.take_records(99)],),
            "r": (lambda: consumer.receive(1000),),
            "c": (held.clear,),
            "w": (producer.arm, consumer.arm, producer.clear, consumer.clear),
            "a": (lambda: consumer.add_counter(1), producer.read_counters, consumer.wake_producer),
            "u": (producer.stats, lambda: producer.pool.free_slots),
            "g": (producer.reclaim,),
        }
        for step in steps:
            for call in calls[step]:
                with contextlib.suppress(FlowbridgeError):
                    call()
        held.clear()
        assert all(0 <= free <= 3 for free in producer.pool.free_slots)
