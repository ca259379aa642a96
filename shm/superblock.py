"""What a channel says about itself, read from outside and believed only as far as it can be true.

The layout is that of ring.h, version 1.1. Whoever looks needs neither the native module nor the help of the two ends,
which may be stopped, dead or broken; nothing is written.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowbridge.limits import SHM_LISTED_RECORDS_MAX, SHM_LISTED_SLOTS_MAX, SHM_RING_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = 0x00314D4853424C46
MAJOR: Final = 1
MINOR: Final = 1
ENDIAN: Final = 0x01020304
RING_OFFSET: Final = 0x3000
CHANNEL_BYTES_MIN: Final = 0x4000

_HEAD: Final = struct.Struct("<QHHIQ16sIIQQQQQQQIIIIQ")
_SHAPE: Final = struct.Struct("<QQII")
_SHAPES_OFFSET: Final = 0x80
_CLASSES_MAX: Final = 16
_CRC_OFFSET: Final = 0x200
_STATE_OFFSET: Final = 0x240
_INODE_OFFSET: Final = 0x250
_NAME: Final = slice(0x280, 0x300)
_PRODUCER_PAGE: Final = 0x1000
_CONSUMER_PAGE: Final = 0x2000
_PAGES_END: Final = 0x2210
_LINE: Final = 64
_PAD, _SLOT = 0, 2
_TRIES: Final = 5  # both ends go on while we read
STATES: Final = ("starting", "open", "abandoned", "closed", "damaged")
ATTACHED: Final = 2
DETACHED: Final = 3


class NoChannelError(ValueError):
    """What was read cannot be a channel; the message says why."""


@dataclass(frozen=True, slots=True)
class SlotClass:
    """Slots of one size."""

    slot_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class LeaseMark:
    """A slot that the consumer has: its number in the pool, its size, since when (monotonic ns)."""

    slot: int
    slot_bytes: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class ChannelSight:
    """One look at a channel. Processes are pairs of id and start stamp, see `peer`."""

    uuid: str
    name: str
    state: str
    sealed: bool
    creator: tuple[int, int]
    consumer: tuple[int, int] | None
    consumer_left: bool
    pool_bytes: int
    pool_inode: int
    classes: tuple[SlotClass, ...]
    ring_bytes: int
    ring_used_bytes: int
    sent: int
    waiting_items: int
    slots_waiting: int  # named by records that are not taken yet
    slots_returned: int  # given back, not yet taken back by the producer
    leases: tuple[LeaseMark, ...]
    is_partial: bool  # there was more than the bounds in limits.py let us read

    @property
    def slots_out(self) -> int:
        """Slots that the producer has not got back."""
        return len(self.leases) + self.slots_waiting + self.slots_returned


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), reflected. Source: RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Geometry:
    total_bytes: int
    uuid: bytes
    creator: tuple[int, int]
    flags: int
    ring_bytes: int
    completion_items: int
    pool_bytes: int
    lease_offset: int
    classes: tuple[SlotClass, ...]


def _geometry(data: bytes, size: int) -> _Geometry:
    magic, major, minor, endian, total, uuid, pid, flags, start, *rest = _HEAD.unpack_from(data)
    ring_offset, ring, completions, items, pool_bytes, _, _, classes, _, _, leases = rest
    if not magic:
        raise NoChannelError("half-made: it has no superblock yet")
    if magic != MAGIC:
        raise NoChannelError("no channel of flowbridge")
    if (major, endian) != (MAJOR, ENDIAN) or minor < MINOR:
        raise NoChannelError(f"layout {major}.{minor}, this is {MAJOR}.{MINOR}")
    if struct.unpack_from("<I", data, _CRC_OFFSET)[0] != crc32c(data[:_CRC_OFFSET]):
        raise NoChannelError("the checksum of the superblock is wrong")
    if total > size:
        raise NoChannelError(f"it says {total} bytes and has {size}")
    if ring & (ring - 1) or not 4096 <= ring <= SHM_RING_BYTES_MAX or items & (items - 1) or not items:
        raise NoChannelError(f"a ring of {ring} bytes with {items} completions")
    if (ring_offset, completions, leases) != (RING_OFFSET, RING_OFFSET + ring, RING_OFFSET + ring + 8 * items):
        raise NoChannelError("its parts are not where they belong")
    if classes > _CLASSES_MAX:
        raise NoChannelError(f"{classes} slot classes")
    shapes = [_SHAPE.unpack_from(data, _SHAPES_OFFSET + number * _SHAPE.size) for number in range(classes)]
    slots = tuple(SlotClass(slot_bytes, count) for slot_bytes, _, count, _ in shapes)
    if leases + 8 * sum(one.count for one in slots) > total:
        raise NoChannelError("the lease table does not fit")
    return _Geometry(total, uuid, (pid, start), flags, ring, items, pool_bytes, leases, slots)


def read_channel(descriptor: int, size: int) -> ChannelSight:
    """Look at the channel behind a descriptor that is open for reading and has that many bytes.

    Raises:
        NoChannelError: it is none, or damaged.
        OSError: it cannot be read.
    """
    if size < CHANNEL_BYTES_MIN:
        raise NoChannelError(f"half-made: {size} bytes" if not size else f"too short: {size} bytes")
    data = os.pread(descriptor, 0x1000, 0)
    if len(data) < 0x1000:
        raise NoChannelError("it became shorter while it was read")
    shape = _geometry(data, size)
    (state,) = struct.unpack_from("<I", data, _STATE_OFFSET)
    (pool_inode,) = struct.unpack_from("<Q", data, _INODE_OFFSET)
    if state >= len(STATES):
        raise NoChannelError(f"state {state}, which there is not")
    pages, head, tail = _cursors(descriptor, shape.ring_bytes)
    attach, consumer_pid, consumer_start = struct.unpack_from("<IIQ", pages, _CONSUMER_PAGE - _PRODUCER_PAGE + 0x200)
    sent, taken = _word(pages, 0x008), _word(pages, 0x1008)
    completed, returned = _word(pages, 0x100), _word(pages, 0x1180)
    waiting = [0, 0]
    for number, kind in enumerate(_records(descriptor, shape.ring_bytes, head, tail)):
        waiting = [number + 1, waiting[1] + (kind == _SLOT)]
    slots = sum(one.count for one in shape.classes)
    return ChannelSight(
        uuid=shape.uuid.hex(),
        name=printable(data[_NAME].partition(b"\0")[0].decode(errors="replace")),
        state=STATES[state],
        sealed=bool(shape.flags & 1),
        creator=shape.creator,
        consumer=(consumer_pid, consumer_start) if attach in {ATTACHED, DETACHED} and consumer_pid else None,
        consumer_left=attach == DETACHED,
        pool_bytes=shape.pool_bytes,
        pool_inode=pool_inode,
        classes=shape.classes,
        ring_bytes=shape.ring_bytes,
        ring_used_bytes=tail - head,
        sent=sent,
        waiting_items=max(0, min(sent - taken, shape.ring_bytes // _LINE)),
        slots_waiting=waiting[1],
        slots_returned=returned - completed if 0 <= returned - completed <= slots else 0,
        leases=tuple(_leases(descriptor, shape)),
        is_partial=slots > SHM_LISTED_SLOTS_MAX or waiting[0] >= SHM_LISTED_RECORDS_MAX,
    )


def _word(pages: bytes, at: int) -> int:
    return int.from_bytes(pages[at : at + 8], "little")


def _cursors(descriptor: int, ring_bytes: int) -> tuple[bytes, int, int]:
    """Both pages, head and tail, which belong together."""
    for _ in range(_TRIES):
        pages = os.pread(descriptor, _PAGES_END - _PRODUCER_PAGE, _PRODUCER_PAGE)
        if len(pages) < _PAGES_END - _PRODUCER_PAGE:
            break
        tail, head = _word(pages, 0), _word(pages, _CONSUMER_PAGE - _PRODUCER_PAGE)
        if 0 <= tail - head <= ring_bytes and not tail % _LINE and not head % _LINE:
            return pages, head, tail
    raise NoChannelError("head and tail of the ring cannot be true")


def _records(descriptor: int, ring_bytes: int, head: int, tail: int) -> Iterator[int]:
    """The kinds of the messages that wait; it ends at what cannot be true, as when the consumer overtakes us."""
    for _ in range(SHM_LISTED_RECORDS_MAX):
        here = head % ring_bytes
        header = os.pread(descriptor, _LINE, RING_OFFSET + here) if head < tail else b""
        if len(header) < _LINE:
            return
        kind, length = header[0], _word(header, 8)
        if kind == _PAD:
            head += ring_bytes - here
            continue
        yield kind
        head += _LINE if kind == _SLOT else _LINE + -(-length // _LINE) * _LINE


def _leases(descriptor: int, shape: _Geometry) -> Iterator[LeaseMark]:
    sizes = [(one.slot_bytes, min(one.count, SHM_LISTED_SLOTS_MAX)) for one in shape.classes]
    count = min(sum(number for _, number in sizes), SHM_LISTED_SLOTS_MAX)
    data = os.pread(descriptor, 8 * count, shape.lease_offset)
    slot = 0
    for slot_bytes, number in sizes:
        for _ in range(number):
            since_ns = _word(data, 8 * slot)
            if since_ns:
                yield LeaseMark(slot, slot_bytes, since_ns)
            slot += 1


def printable(text: str) -> str:
    """What a stranger wrote, without control characters that would act on a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
