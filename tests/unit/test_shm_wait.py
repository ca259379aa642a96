"""Waiting on a shared-memory channel: threads that sleep in a call, and event loops."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from shm_scene import ShmConsumer, ShmSpec, _core, channel

from flowbridge.errors import BlockReason, BrokenError, ClosedError, EndOfStream, WouldBlock

SECOND = 1_000_000_000


def readable(descriptor: int) -> bool:
    """Whether a descriptor is readable now."""
    return bool(select.select([descriptor], [], [], 0)[0])


def test_a_receive_without_message_ends_with_its_time() -> None:
    with channel() as (producer, consumer):
        assert consumer.receive(0) is None
        assert consumer.receive(1000, spin_ns=1000) is None
        assert consumer.receive_bytes(1000) is None
        assert consumer.receive(-(10**30)) is None
        producer.send_nowait(b"x")
        assert consumer.receive_bytes(10**30) == b"x"


def test_a_send_without_credit_ends_with_its_time() -> None:
    with channel() as (producer, _):
        producer.send_many([b"x"] * 16)
        with pytest.raises(WouldBlock) as caught:
            producer.send(b"x", 1000)
        assert caught.value.reason is BlockReason.CREDIT_ITEMS


@pytest.mark.parametrize("spin_ns", [0, 20_000])
def test_every_message_between_two_waiting_threads_arrives_once_and_in_order(spin_ns: int) -> None:
    payloads = [str(number).encode() * (1 + number % 90) for number in range(3000)]
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:

        def receive() -> list[bytes | None]:
            return [consumer.receive_bytes(30 * SECOND, spin_ns) for _ in payloads]

        received = pool.submit(receive)
        for payload in payloads:
            producer.send(payload, 30 * SECOND)
        assert received.result() == payloads
        assert producer.stats().slots_out == 0


@pytest.mark.parametrize(("cores", "looks"), [({3}, False), ({1, 3}, True)])
def test_a_receiver_looks_before_it_sleeps_only_if_its_peer_can_run_meanwhile(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], looks: bool
) -> None:
    def affinity(_: int) -> set[int]:
        return cores

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    with channel() as (_, consumer):
        assert (consumer.spin_ns_max > 0) is looks


def test_a_waiting_receiver_learns_of_the_end() -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(consumer.receive, 30 * SECOND)
        producer.close()
        with pytest.raises(EndOfStream):
            waiting.result()


def test_a_close_wakes_the_waiting_threads_of_its_own_side() -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(consumer.receive)
        producer.send_nowait(b"started")
        assert waiting.result() is not None
        waiting = pool.submit(consumer.receive)
        consumer.close()
        with pytest.raises(ClosedError):
            waiting.result()
    with channel() as (producer, consumer), ThreadPoolExecutor(2) as pool:
        producer.send_many([b"x"] * 16)
        sending = pool.submit(producer.send, b"x")
        producer.close()
        with pytest.raises(ClosedError):
            sending.result()


def test_a_waiting_sender_learns_that_the_consumer_closed() -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:
        producer.send_many([b"x"] * 16)
        waiting = pool.submit(producer.send, b"x")
        consumer.close()
        with pytest.raises(BrokenError):
            waiting.result()


def test_a_lost_peer_ends_both_ways_of_waiting() -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:
        producer.send_nowait(b"last")
        consumer.peer_lost()
        assert consumer.receive_bytes() == b"last"
        waiting = pool.submit(consumer.receive)
        with pytest.raises(BrokenError, match="producer vanished after 1 messages"):
            waiting.result()
        producer.peer_lost()
        with pytest.raises(BrokenError, match="consumer vanished"):
            producer.send(b"x")


def test_an_armed_consumer_is_woken_once_and_a_busy_one_never() -> None:
    with channel() as (producer, consumer):
        producer.send_many([b"a", b"b"])
        assert not consumer.arm()
        consumer.take_records(9)
        assert consumer.arm()
        assert not readable(consumer.fileno())
        producer.send_nowait(b"c")
        producer.send_nowait(b"d")
        assert readable(consumer.fileno())
        assert producer.stats().wakes == 1
        consumer.clear()
        assert not readable(consumer.fileno())
        assert len(consumer.take_records(9)) == 2
        assert consumer.arm()
        consumer.disarm()
        producer.send_nowait(b"e")
        assert producer.stats().wakes == 1


def test_an_armed_producer_is_woken_at_the_low_watermark() -> None:
    with channel() as (producer, consumer):
        assert not producer.arm()
        producer.send_many([b"x"] * 17)
        assert producer.arm()
        consumer.take_records(7)
        assert not readable(producer.fileno())
        consumer.take_records(1)
        assert readable(producer.fileno())
        assert consumer.stats().wakes == 1
        producer.clear()
        assert not readable(producer.fileno())
        assert not producer.arm()  # nothing was refused since, and the low watermark is reached


def test_an_armed_producer_is_woken_by_a_slot_and_by_a_grant() -> None:
    with channel(max_leases=9) as (producer, consumer):
        producer.send_many([b"x" * 300] * 7)
        leases = consumer.receive_many(9)
        assert producer.blocked_by == _core.NO_SLOT
        assert producer.arm()
        leases.pop()
        assert readable(producer.fileno())
    with channel(ShmSpec(classes=(), window_items=0)) as (producer, consumer):
        producer.try_send(b"x")
        assert producer.arm()
        consumer.grant(1)
        assert readable(producer.fileno())


def test_a_producer_above_high_may_wait_for_low_without_being_refused() -> None:
    low: list[int] = []
    with channel() as (producer, consumer):
        producer.on_low = lambda: low.append(1)
        producer.send_many([b"x"] * 13)
        assert producer.arm()
        consumer.take_records(5)
        assert readable(producer.fileno())
        producer.clear()
        assert low == [1]


def test_a_change_of_counters_wakes_whoever_asked_for_it() -> None:
    with channel() as (producer, consumer):
        consumer.add_counter(3)
        consumer.wake_producer()
        assert not readable(producer.fileno())
        assert producer.arm(any_change=True)
        consumer.add_counter(3)
        assert not readable(producer.fileno())
        consumer.wake_producer()
        assert readable(producer.fileno())
        assert producer.counter(3) == 2
        producer.clear()
        assert consumer.arm()
        producer.wake_consumer()
        assert readable(consumer.fileno())


def test_a_close_is_an_event() -> None:
    with channel() as (producer, consumer):
        assert consumer.arm()
        producer.close()
        assert readable(consumer.fileno())
        assert not consumer.arm()
    with channel() as (producer, consumer):
        assert producer.arm(any_change=True)
        consumer.close()
        assert readable(producer.fileno())


async def messages(consumer: ShmConsumer) -> list[bytes]:
    """Everything until the end, with the consumer's event in the loop."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    found: list[bytes] = []
    loop.add_reader(consumer.fileno(), event.set)
    try:
        while True:
            found += [bytes(record[-1]) for record in consumer.take_records(64)]
            if consumer.arm():
                await event.wait()
                event.clear()
                consumer.clear()
    except EndOfStream:
        return found
    finally:
        loop.remove_reader(consumer.fileno())


def test_an_event_loop_receives_what_a_thread_sends() -> None:
    payloads = [bytes([number % 256]) * (number % 700) for number in range(2000)]

    with channel() as (producer, consumer):

        def send() -> None:
            for payload in payloads:
                producer.send(payload, 30 * SECOND)
            producer.close()

        thread = threading.Thread(target=send)
        thread.start()
        try:
            assert asyncio.run(messages(consumer)) == payloads
        finally:
            thread.join()


def test_a_wait_for_data_takes_nothing() -> None:
    with channel() as (producer, consumer):
        assert consumer.wait_data(0) is False
        assert consumer.wait_data(1000) is False
        assert consumer.wait_data(1000, spin_ns=500) is False
        producer.send_nowait(b"x")
        assert consumer.wait_data(0) is True
        assert consumer.wait_data(30 * SECOND) is True
        assert consumer.receive_bytes_nowait() == b"x"
        assert consumer.wait_data(0) is False
        producer.close()
        assert consumer.wait_data(30 * SECOND) is True, "the end is something to look at"
        with pytest.raises(EndOfStream):
            consumer.receive_nowait()


@pytest.mark.parametrize("spin_ns", [0, 20_000])
def test_a_wait_for_data_ends_with_every_message(spin_ns: int) -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:

        def receive() -> list[bytes | None]:
            found: list[bytes | None] = []
            while len(found) < 2000:
                assert consumer.wait_data(30 * SECOND, spin_ns)
                found.append(consumer.receive_bytes_nowait())
            return found

        received = pool.submit(receive)
        for number in range(2000):
            producer.send(str(number).encode(), 30 * SECOND)
        assert received.result() == [str(number).encode() for number in range(2000)]


def test_a_wait_for_data_ends_when_its_consumer_is_closed() -> None:
    with channel() as (_, consumer), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(consumer.wait_data, 30 * SECOND, 0)
        while not waiting.running():
            pass
        consumer.close()
        with pytest.raises(ClosedError):
            waiting.result()


def test_after_a_wait_for_data_the_event_is_asked_for_anew() -> None:
    with channel() as (producer, consumer):
        assert consumer.arm()
        assert consumer.wait_data(1000) is False
        producer.send_nowait(b"x")
        assert not readable(consumer.fileno())
        assert consumer.arm() is False, "something is there already"
        assert consumer.receive_bytes_nowait() == b"x"
        assert consumer.arm()
        producer.send_nowait(b"y")
        assert readable(consumer.fileno())
