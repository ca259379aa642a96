"""Shared memory seen from outside: what is there, and what only says so."""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shm_scene import SMALL, ShmConsumer, ShmProducer, ShmSpec, SlotPool, channel

from flowbridge.shm import segment, superblock
from flowbridge.shm.listing import Channel, Leftover, list_segments, named_segment, remove_leftover
from flowbridge.shm.peer import own_process, process_state
from flowbridge.shm.superblock import NoChannelError, crc32c, read_channel

if TYPE_CHECKING:
    from collections.abc import Generator


def seen(producer: ShmProducer) -> Channel:
    """What the listing says of a channel."""
    inode = os.fstat(producer.descriptors()[0]).st_ino
    (found,) = [one for one in list_segments().channels if one.id.endswith(f":{inode}")]
    return found


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("backing", ["posix", "memfd"])
def test_a_channel_is_seen_with_what_is_in_it(backing: segment.Backing) -> None:
    spec = replace(SMALL, backing=backing)
    with (
        ShmProducer(spec, name="länge [red] -> x") as producer,
        ShmConsumer.attach(producer.descriptors(), max_leases=9) as consumer,
    ):
        producer.send_many([b"a" * 300, b"b" * 5000, b"c" * 300, b"small"])
        first, second = consumer.receive_many(2)
        second.release()
        found = seen(producer)
        sight = found.sight
        assert sight is not None
        assert (found.name, sight.state, sight.sealed) == ("länge [red] -> x", "open", backing == "memfd")
        assert (sight.sent, sight.waiting_items, sight.ring_used_bytes) == (4, 2, 64 + 128)
        assert (sight.slots_waiting, sight.slots_returned, sight.slots_out) == (1, 1, 3)
        assert [(lease.slot, lease.slot_bytes) for lease in found.leases] == [(0, 4096)]
        assert found.leases[0].held_ns > 0
        assert found.size_bytes == spec.channel_bytes <= (found.allocated_bytes or 0)
        assert found.producer == found.consumer
        assert found.producer is not None
        assert (found.producer.pid, found.producer.state) == (os.getpid(), "running")
        assert [one.pid for one in found.holders] == [os.getpid()]
        (pool,) = [one for one in list_segments().pools if one.id == found.pool_id]
        assert (pool.size_bytes, pool.allocated_bytes) == (spec.pool_bytes, 2 * 4096 + 65536)
        assert (pool.channels, pool.slots, pool.slots_out) == ((found.name,), 6, 3)
        first.release()
        assert seen(producer).leases == ()


def test_states_follow_the_channel() -> None:
    with channel() as (producer, consumer):
        consumer.close()
        found = seen(producer)
        assert found.sight is not None
        assert found.sight.consumer_left
        with mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes) as memory:
            struct.pack_into("<Q", memory, 0x2000, 64)
            producer.stats()
        found = seen(producer)
        assert found.problem == "head and tail of the ring cannot be true"


def test_a_channel_without_slots_or_consumer_is_seen_too() -> None:
    with ShmProducer(ShmSpec(classes=()), name="bare") as producer:
        producer.send_many([b"x" * 100] * 3)
        found = seen(producer)
        assert (found.consumer, found.pool_id, found.leases) == (None, "", ())
        assert found.sight is not None
        assert (found.sight.waiting_items, found.sight.classes) == (3, ())


def test_a_name_is_cut_between_characters() -> None:
    with ShmProducer(SMALL, name="ä" * 100) as producer:
        assert seen(producer).name == "ä" * 64
    with ShmProducer(replace(SMALL, backing="memfd"), name="x" + "ä" * 300) as producer:
        assert seen(producer).name == "x" + "ä" * 63


def test_what_a_stranger_wrote_does_not_reach_the_terminal() -> None:
    with ShmProducer(SMALL, name="\x1b[2Jboo\n") as producer:
        assert seen(producer).name == "�[2Jboo�"


def test_nothing_is_seen_of_what_is_closed() -> None:
    with ShmProducer(SMALL) as producer:
        inode = os.fstat(producer.descriptors()[0]).st_ino
    del producer
    assert not [one for one in list_segments().channels if one.id.endswith(f":{inode}")]


def test_a_pool_of_several_channels_names_them() -> None:
    pool = SlotPool(SMALL)
    with pool.producer(name="b") as first, pool.producer(name="a") as second:
        found = seen(first)
        assert seen(second).pool_id == found.pool_id
        (seen_pool,) = [one for one in list_segments().pools if one.id == found.pool_id]
        assert seen_pool.channels == ("a", "b")
        pool.close()


@pytest.mark.parametrize(
    ("at", "data", "problem"),
    [
        (0x0, bytes(8), "half-made: it has no superblock yet"),
        (0x0, b"other ma", "no channel of flowbridge"),
        (0x8, b"\2", "layout 2.1, this is 1.1"),
        (0xA, b"\0", "layout 1.0, this is 1.1"),
        (0x50, b"\1", "the checksum of the superblock is wrong"),
        (0x240, b"\x09", "state 9, which there is not"),
        (0x1000, b"\xff" * 8, "head and tail of the ring cannot be true"),
        (0x2000, b"\1", "head and tail of the ring cannot be true"),
    ],
)
def test_a_damaged_channel_is_shown_as_such(at: int, data: bytes, problem: str) -> None:
    with ShmProducer(SMALL) as producer, mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes) as memory:
        memory[at : at + len(data)] = data
        found = seen(producer)
        assert (found.sight, found.problem) == (None, problem)


@pytest.mark.parametrize(
    ("at", "form", "value", "problem"),
    [
        (0x10, "<Q", 1 << 60, "and has 16384"),
        (0x40, "<Q", 5000, "a ring of 5000 bytes"),
        (0x50, "<Q", 0, "with 0 completions"),
        (0x38, "<Q", 64, "not where they belong"),
        (0x78, "<Q", 0x4000, "not where they belong"),
        (0x6C, "<I", 17, "17 slot classes"),
        (0x90, "<I", (1 << 32) - 1, "the lease table does not fit"),
    ],
)
def test_a_checksum_makes_nothing_true(at: int, form: str, value: int, problem: str) -> None:
    spec = ShmSpec(classes=((4096, 4),), ring_bytes=4096, inline_bytes_max=256)
    with ShmProducer(spec) as producer:
        data = bytearray(os.pread(producer.descriptors()[0], 1 << 20, 0))
    data = data[:0x4000].ljust(0x4000, b"\0")
    struct.pack_into("<Q", data, 0x10, 0x4000)
    struct.pack_into(form, data, at, value)
    struct.pack_into("<I", data, 0x200, crc32c(bytes(data[:0x200])))
    with pytest.raises(NoChannelError, match=problem), stranger(bytes(data)) as descriptor:
        read_channel(descriptor, len(data))


def test_what_waits_is_read_only_as_far_as_it_can_be_true() -> None:
    with ShmProducer(SMALL) as producer, mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes) as memory:
        producer.send_many([b"x" * 300, b"y", b"z" * 300])
        struct.pack_into("<Q", memory, 0x3000 + 64 + 8, (1 << 64) - 1)  # the second one's length
        struct.pack_into("<Q", memory, 0x3000 + 4096 + 8 * SMALL.completion_items, (1 << 64) - 1)
        found = seen(producer)
        assert found.sight is not None
        assert found.sight.slots_waiting == 1
        assert found.leases == (), "a lease that begins in the future"


@contextmanager
def stranger(data: bytes, name: str = "flowbridge.channel.stranger") -> Generator[int]:
    """A segment that somebody else made."""
    descriptor = os.memfd_create(name)
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 0x3FFF, 0x4000])
def test_a_half_made_segment_is_no_channel(size: int) -> None:
    with stranger(bytes(size)) as descriptor:
        inode = os.fstat(descriptor).st_ino
        (found,) = [one for one in list_segments().channels if one.id.endswith(f":{inode}")]
        assert found.sight is None
        assert found.problem.startswith(("half-made", "too short"))


def test_a_segment_of_no_known_kind_is_shown_apart() -> None:
    with stranger(b"", "flowbridge.later version") as descriptor:
        inode = os.fstat(descriptor).st_ino
        (found,) = [one for one in list_segments().others if one.id.endswith(f":{inode}")]
        assert (found.name, found.problem) == ("later version", "no kind of segment that is known here")


def test_a_segment_that_shrinks_while_it_is_read_is_no_channel() -> None:
    with stranger(bytes(0x4000)) as descriptor:
        os.ftruncate(descriptor, 0x800)
        with pytest.raises(NoChannelError, match="shorter"):
            read_channel(descriptor, 0x4000)


def test_only_as_much_is_read_as_the_limits_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superblock, "SHM_LISTED_SLOTS_MAX", 2)
    monkeypatch.setattr(superblock, "SHM_LISTED_RECORDS_MAX", 3)
    with channel() as (producer, consumer):
        producer.send_many([b"x" * 300] * 3)
        leases = consumer.receive_many(3)
        producer.send_many([b"x"] * 5)
        sight = seen(producer).sight
        assert sight is not None
        assert (len(sight.leases), sight.waiting_items, sight.is_partial) == (2, 5, True)
        leases.clear()


# --- names in /dev/shm --------------------------------------------------------------------------------------------


@contextmanager
def named(name: str, *, link: bool = False) -> Generator[Path]:
    """A name that somebody left in /dev/shm."""
    path = Path(segment.SHM_FOLDER) / name
    if link:
        path.symlink_to("/dev/null")
    else:
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def leftover(path: Path) -> Leftover:
    """What the listing says of a name."""
    (found,) = [one for one in list_segments().leftovers if one.path == path]
    return found


def test_a_name_that_nobody_uses_is_removed() -> None:
    with named(f"{segment.posix_prefix()}pool.test1") as path:
        found = leftover(path)
        assert (found.is_removable, found.holders) == (True, ())
        assert remove_leftover(found)
        assert not path.exists()
        assert not remove_leftover(found)


def test_a_name_that_a_living_process_uses_is_left() -> None:
    with named(f"{segment.posix_prefix()}channel.test2") as path, path.open("rb"):
        found = leftover(path)
        assert not found.is_removable
        assert [one.pid for one in found.holders] == [os.getpid()]


def test_a_link_is_not_ours_to_judge() -> None:
    with named(f"{segment.posix_prefix()}channel.test3", link=True) as path:
        found = leftover(path)
        assert (found.is_removable, found.problem) == (False, "is no file")
        assert not remove_leftover(found)
        assert path.is_symlink()


def test_other_names_are_not_looked_at() -> None:
    with named("fb.999999.channel.test4") as other, named("sem.flowbridge") as semaphore:
        assert not {other, semaphore} & {one.path for one in list_segments().leftovers}


def test_a_maker_whose_name_was_taken_away_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    posix_ipc: Any = import_module("posix_ipc")
    real = posix_ipc.SharedMemory

    def made(name: str, *args: object, **more: object) -> Any:
        found = real(name, *args, **more)
        os.unlink(segment.SHM_FOLDER + name)
        return found

    monkeypatch.setattr(posix_ipc, "SharedMemory", made)
    with channel() as (producer, consumer):
        producer.send_nowait(b"x")
        assert consumer.receive_bytes_nowait() == b"x"


# --- processes ----------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_its_start() -> None:
    pid, stamp = own_process()
    assert process_state(pid) == process_state(pid, stamp) == "running"
    assert process_state(pid, stamp ^ 1) == "dead"
    assert process_state(pid, 0) == process_state(pid, stamp ^ (1 << 63)) == "unknown"
    assert process_state(2**22 + 1) == "dead"


def test_names_of_proc_are_understood() -> None:
    prefix = f"/dev/shm/{segment.posix_prefix()}"
    assert named_segment(f"{prefix}channel.0a (deleted)") == ("channel", "0a")
    assert named_segment("/memfd:flowbridge.pool.a.b -> c (deleted)") == ("pool", "a.b -> c")
    assert named_segment("/memfd:flowbridge.other (deleted)") == ("unknown", "other")
    for foreign in ("/dev/shm/fb.999999.channel.0 (deleted)", "/memfd:other (deleted)", "/tmp/x", "socket:[1]"):
        assert named_segment(foreign) is None
