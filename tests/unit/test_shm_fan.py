"""One pool, several consumers: a message sent to all of them is copied once."""

from __future__ import annotations

import gc
from contextlib import ExitStack

import pytest
from shm_scene import SMALL, ShmConsumer, ShmProducer, ShmSpec, SlotPool, _core

from flowbridge.errors import BlockReason, BrokenError, LocalProtocolError, WouldBlock


@pytest.fixture
def pool() -> SlotPool:
    """A small pool."""
    return SlotPool(SMALL)


def joined(stack: ExitStack, pool: SlotPool, count: int) -> list[tuple[ShmProducer, ShmConsumer]]:
    """That many channels of a pool."""
    ends: list[tuple[ShmProducer, ShmConsumer]] = []
    for _ in range(count):
        producer = stack.enter_context(pool.producer())
        ends.append((producer, stack.enter_context(ShmConsumer.attach(producer.descriptors()))))
    return ends


def test_a_message_to_all_takes_one_slot_until_the_last_lets_go(pool: SlotPool) -> None:
    with ExitStack() as stack:
        ends = joined(stack, pool, 3)
        producers = [producer for producer, _ in ends]
        ends[1][0].send_nowait(b"only the second")
        pool.fan_send(producers, b"x" * 3000, lane=1, tag=4)
        pool.fan_send(producers, b"small")
        assert pool.free_slots == (3, 2)
        taken = [consumer.receive_many(9) for _, consumer in ends]
        assert [[bytes(lease)[:5] for lease in leases] for leases in taken] == [
            [b"xxxxx", b"small"],
            [b"only ", b"xxxxx", b"small"],
            [b"xxxxx", b"small"],
        ]
        assert [(lease.seq, lease.lane, lease.tag) for lease in taken[1]] == [(0, 0, 0), (1, 1, 4), (2, 0, 0)]
        del taken[0], taken[0]
        assert pool.free_slots == (3, 2)
        taken.clear()
        gc.collect()
        assert pool.free_slots == (4, 2)


def test_a_message_goes_to_all_or_to_none(pool: SlotPool) -> None:
    with ExitStack() as stack:
        (first, _), (second, second_consumer) = joined(stack, pool, 2)
        second.send_many([b"x"] * 16)
        with pytest.raises(WouldBlock) as caught:
            pool.fan_send([first, second], b"y" * 3000)
        assert caught.value.reason is BlockReason.CREDIT_ITEMS
        assert (first.stats().sent, pool.free_slots) == (0, (4, 2))
        assert (first.blocked_by, second.blocked_by) == (0, _core.NO_CREDIT)
        second_consumer.take_records(16)
        pool.fan_send([first, second], b"y" * 3000)
        assert first.stats().sent == 1


def test_slots_run_out_for_all_together(pool: SlotPool) -> None:
    with ExitStack() as stack:
        (first, _), (second, _) = joined(stack, pool, 2)
        for _ in range(6):
            first.send_nowait(b"x" * 3000)
        with pytest.raises(WouldBlock) as caught:
            pool.fan_send([first, second], b"y" * 3000)
        assert caught.value.reason is BlockReason.SLOTS
        assert second.try_send(b"y" * 3000) == _core.NO_SLOT


def test_the_slots_of_a_dead_consumer_come_back_and_the_others_keep_theirs(pool: SlotPool) -> None:
    with ExitStack() as stack:
        (first, first_consumer), (second, second_consumer) = joined(stack, pool, 2)
        pool.fan_send([first, second], b"x" * 3000)
        first.send_nowait(b"y" * 3000)
        dead = first_consumer.receive_many(1)
        first.peer_lost()
        with pytest.raises(BrokenError):
            pool.fan_send([first, second], b"z")
        assert first.reclaim() == 1
        assert pool.free_slots == (3, 2)
        dead.clear()  # of an older epoch: the return is dropped
        assert bytes(second_consumer.receive_many(1)[0]) == b"x" * 3000
        assert pool.free_slots == (4, 2)
        with pytest.raises(BrokenError, match="took the channel back"):
            first_consumer.receive_nowait()
        with ShmConsumer.attach(first.descriptors()) as heir:
            pool.fan_send([first, second], b"new")
            assert heir.receive_bytes_nowait() == b"new"


def test_a_closed_channel_of_a_pool_leaves_its_slots_out_until_they_are_read(pool: SlotPool) -> None:
    with ExitStack() as stack:
        (first, first_consumer), (second, _) = joined(stack, pool, 2)
        pool.fan_send([first], b"x" * 3000)
        first.close()
        assert pool.free_slots == (3, 2)
        for _ in range(5):
            second.send_nowait(b"y" * 3000)
        (lease,) = first_consumer.receive_many(9)
        assert bytes(lease) == b"x" * 3000
        lease.release()
        assert pool.free_slots == (1, 0)


def test_a_pool_serves_only_its_own_channels_each_once(pool: SlotPool) -> None:
    with ExitStack() as stack, ShmProducer(SMALL) as stranger:
        (first, _), (_, _) = joined(stack, pool, 2)
        with pytest.raises(LocalProtocolError, match="of another pool"):
            pool.fan_send([first, stranger], b"x")
        with pytest.raises(LocalProtocolError, match="named twice"):
            pool.fan_send([first, first], b"x")
        with pytest.raises(LocalProtocolError, match="this one has 70000"):
            pool.fan_send([first], bytes(70000))
        pool.fan_send([], b"nobody hears")


def test_a_pool_serves_at_most_sixty_four_channels_at_a_time() -> None:
    pool = SlotPool(ShmSpec(classes=((4096, 1),), ring_bytes=4096, inline_bytes_max=256))
    with ExitStack() as stack:
        producers = [stack.enter_context(pool.producer()) for _ in range(_core.PORTS_PER_POOL)]
        with pytest.raises(LocalProtocolError, match="serves 64 channels"):
            pool.producer()
        producers[5].close()
        pool.producer().close()
    pool.close()
    pool.close()
