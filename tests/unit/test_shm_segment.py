"""Segments, descriptors and processes: what a channel is made of, once."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys

import pytest
from shm_scene import SMALL, ShmConsumer, ShmProducer, ShmSpec, _core, channel, open_descriptors

from flowbridge.errors import NativeUnavailableError, RemoteProtocolError, ResourceError
from flowbridge.shm import native_problem, segment
from flowbridge.shm.peer import may_live, own_process

SEALED = ShmSpec(classes=((4096, 4),), ring_bytes=4096, inline_bytes_max=256, backing="memfd", prefault=True)


def names() -> set[str]:
    """What of us has a name in shared memory."""
    return {name for name in os.listdir(segment.SHM_FOLDER) if name.startswith(f"fb.{os.getuid()}.")}


def test_a_segment_has_no_name_and_its_full_size() -> None:
    descriptor = segment.create_segment("test", 10_000, "posix")
    try:
        assert names() == set()
        found = os.fstat(descriptor)
        assert (found.st_size, found.st_nlink, found.st_mode & 0o777) == (10_000, 0, 0o600)
        assert found.st_blocks * 512 >= 10_000
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_thousand_channels_leave_nothing() -> None:
    before = open_descriptors()
    for number in range(1000):
        producer = ShmProducer(SMALL)
        consumer = ShmConsumer.attach(producer.descriptors())
        producer.send_nowait(b"x" * 1000)
        lease = consumer.receive_nowait()
        if number % 2:
            consumer.close()
            producer.close()
        del producer, consumer, lease
    assert open_descriptors() == before
    assert names() == set()


def test_a_sealed_channel_works_and_cannot_be_cut_or_written() -> None:
    with channel(SEALED) as (producer, consumer):
        producer.send_nowait(b"x" * 3000)
        assert consumer.receive_bytes_nowait() == b"x" * 3000
        assert consumer.sealed
        chan, pool = producer.descriptors()[:2]
        for descriptor in (chan, pool):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(pool, 4096)
        with pytest.raises(PermissionError):
            fcntl.fcntl(pool, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_what_is_said_to_be_sealed_must_be() -> None:
    with channel() as (producer, _), pytest.raises(RemoteProtocolError, match="said to be sealed"):
        segment.must_be_sealed("test", producer.descriptors()[0])


@pytest.mark.parametrize("place", range(4))
def test_a_wrong_descriptor_is_refused_and_nothing_stays_open(place: int) -> None:
    reader, writer = os.pipe()
    before = open_descriptors()
    with ShmProducer(SMALL) as producer:
        descriptors = list(producer.descriptors())
        descriptors[place] = reader
        with pytest.raises(RemoteProtocolError, match=f"descriptor {reader} is"):
            ShmConsumer.attach(descriptors)
        with pytest.raises(RemoteProtocolError, match="3 or 4 descriptors, not 2"):
            ShmConsumer.attach(descriptors[:2])
    assert open_descriptors() == before
    os.close(reader)
    os.close(writer)


def test_a_blocking_event_is_refused() -> None:
    event = os.eventfd(0)
    try:
        with pytest.raises(RemoteProtocolError, match="non-blocking eventfd"):
            segment.duplicate_event("test", event)
    finally:
        os.close(event)


def test_a_segment_that_is_shorter_than_it_says_is_refused() -> None:
    with ShmProducer(SMALL) as producer:
        chan, pool, data, space = producer.descriptors()
        os.ftruncate(pool, 4096)
        with pytest.raises(RemoteProtocolError, match="pool is shorter"):
            ShmConsumer.attach((chan, pool, data, space))
        os.ftruncate(chan, 0x3000)
        with pytest.raises(RemoteProtocolError, match="at least 16384 bytes, this one 12288"):
            ShmConsumer.attach((chan, pool, data, space))
        os.ftruncate(chan, 0)
        with pytest.raises(RemoteProtocolError, match="empty"):
            ShmConsumer.attach((chan, pool, data, space))
        os.ftruncate(chan, SMALL.channel_bytes)  # the producer still has it mapped
        os.ftruncate(pool, SMALL.pool_bytes)


def test_a_closed_descriptor_is_refused() -> None:
    with ShmProducer(SMALL) as producer:
        descriptors = producer.descriptors()
    with pytest.raises(RemoteProtocolError):
        ShmConsumer.attach(descriptors)


def test_a_mapping_that_cannot_be_is_broken() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.Mapping(-1, 4096, True)


def test_this_process_lives_and_another_one_with_its_id_does_not() -> None:
    pid, stamp = own_process()
    assert may_live(pid, stamp)
    assert not may_live(pid, stamp ^ 1)
    assert may_live(pid, 0), "a system that does not tell"
    assert may_live(pid, stamp ^ (1 << 63)), "another namespace"


def test_a_process_that_has_ended_is_dead_before_it_is_buried() -> None:
    script = "from flowbridge.shm.peer import own_process; print(*own_process())"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, stamp = map(int, process.stdout.read().split())
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not may_live(pid, stamp)
    assert not may_live(pid, stamp)


def test_the_native_ring_is_there() -> None:
    assert native_problem() is None


def test_without_the_extension_the_port_says_so() -> None:
    script = (
        "import sys; sys.modules['flowbridge.shm._core'] = None\n"
        "from flowbridge.errors import NativeUnavailableError\n"
        "from flowbridge.shm import native_problem\n"
        "assert native_problem().startswith('the native ring is not built')\n"
        "try:\n    import flowbridge.shm.port\n"
        "except NativeUnavailableError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("the native ring is not built")
    assert issubclass(NativeUnavailableError, ResourceError)
