"""The shared-memory port: one direction from a producer process to a consumer process on the same machine.

Two segments. The *pool* holds large payloads in slots of a few sizes; it belongs to the producer, consumers map it
read-only. The *channel*, one for each consumer, is mapped for writing by both::

    0x0000  superblock       what the channel is; written once, checksummed, copied by each side before use
    0x1000  producer page    tail, messages sent, futex word for data, wait word for space, 64 counters
    0x2000  consumer page    head, messages taken, credit, futex word for space, wait word for data, 64 counters
    0x3000  ring             records: a 64-byte header, for small payloads the bytes behind it, multiples of 64 bytes
    then    completion ring  u64 for each slot given back: generation << 32 | class << 28 | index
    then    lease table      u64 for each slot of the pool: since when the consumer has it, monotonic ns; 0: not now

Sending. A payload of at most `inline_bytes_max` bytes is copied into the ring. A larger one goes to a slot, the
smallest that fits and is free, the last one returned first because its bytes are still in the cache; the ring then
carries only the header. One store of the tail publishes a record, so that a producer killed at any moment leaves
either all of a message or nothing. Order is the order of the ring: inline, slot and control records alike.

Memory. The pool's segment is sparse: the memory of a slot is reserved when the slot is first used, and stays. When the
system has no more, slots that have memory go on being used; a payload for which not one of them fits is refused with
ShmFullError. What is not reserved is never touched.

Receiving. Inline payloads are copied out, and the place in the ring is free again. A slot is lent (`Lease`) until its
last view is gone, in any order, from any thread. A consumer that holds `max_leases` slots gets private copies from
then on, counted, so that hoarding costs it time but never stops the producer.

Waiting. Whoever finds nothing announces itself in a wait word, issues a full fence, looks again, and sleeps; whoever
publishes stores, fences, and looks at that word. While nobody sleeps there is no system call. A sleep lasts at most
100 ms; then the peer is looked at (`peer`), because it may have died between its store and its wake. With an event
loop, `arm` does the same for the eventfd of `fileno()`.

Flow control. A message needs credit (a window of `window_items` not yet taken, or what the consumer grants), a place
in the ring, and a slot if it is large; WouldBlock names which. A blocked producer is woken when the occupancy has come
down to the low watermark, not for every message taken.

Trust. The peer has our user id but may be broken: every word of it is read once and checked against private state.
What cannot be true poisons the channel (RemoteProtocolError, here and there); a slot returned twice, or that was never
lent, is counted and ignored. An unsealed segment can still be truncated by its peer, which no check survives: use
``backing="memfd"`` where that matters.

Threads of one process may share a handle. A handle used in a forked child raises ClosedError.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flowbridge.errors import (
    BrokenError,
    FlowbridgeError,
    LocalProtocolError,
    NativeUnavailableError,
    RemoteProtocolError,
    WouldBlock,
)
from flowbridge.limits import (
    SHM_CLASS_SLOTS_MAX,
    SHM_CLASSES_MAX,
    SHM_INLINE_BYTES_DEFAULT,
    SHM_RING_BYTES_DEFAULT,
    SHM_RING_BYTES_MAX,
    SHM_WINDOW_ITEMS_DEFAULT,
    SHM_WINDOW_ITEMS_MAX,
)
from flowbridge.shm import segment
from flowbridge.shm.peer import may_live, own_process

try:
    from flowbridge.shm._core import (
        REASONS,
        ConsumerCore,
        Lease,
        Loan,
        Mapping,
        PoolCore,
        ProducerCore,
    )
except ImportError as missing:
    raise NativeUnavailableError(f"the native ring is not built: {missing}") from missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from flowbridge.shm._core import Payload

__all__ = ["ConsumerStats", "Lease", "Loan", "ProducerStats", "ShmConsumer", "ShmProducer", "ShmSpec", "SlotPool"]

HEADER_BYTES: Final = 64
PAGE_BYTES: Final = 4096
RING_OFFSET: Final = 0x3000
FLAG_SEALED: Final = 1


@dataclass(frozen=True, slots=True)
class ShmSpec:
    """The shape of a channel and its pool.

    `classes` are pairs of slot bytes and number of slots; none at all makes a channel of the ring alone. `ring_bytes`
    is a power of two. A `window_items` of 0 means that the consumer grants credit explicitly. `high` and `low` are
    parts of one. `prefault` reserves and touches all memory now instead of with the first messages.
    """

    classes: tuple[tuple[int, int], ...] = ((64 * 1024, 64), (1024 * 1024, 16), (16 * 1024 * 1024, 4))
    ring_bytes: int = SHM_RING_BYTES_DEFAULT
    window_items: int = SHM_WINDOW_ITEMS_DEFAULT
    inline_bytes_max: int = SHM_INLINE_BYTES_DEFAULT
    high: float = 0.75
    low: float = 0.5
    backing: segment.Backing = "posix"
    prefault: bool = False

    def __post_init__(self) -> None:
        """Refuse a shape that cannot be.

        Raises:
            LocalProtocolError: names the field, its limit and its value.
        """
        ring, half = self.ring_bytes, self.ring_bytes // 2 - HEADER_BYTES
        _within("ring_bytes", ring, PAGE_BYTES, SHM_RING_BYTES_MAX)
        if ring & (ring - 1):
            raise LocalProtocolError(f"ring_bytes is a power of two, not {ring}")
        _within("window_items", self.window_items, 0, SHM_WINDOW_ITEMS_MAX)
        _within("inline_bytes_max", self.inline_bytes_max, 0, half)
        _within("number of classes", len(self.classes), 0, SHM_CLASSES_MAX)
        for slot_bytes, count in self.classes:
            _within("slot bytes", slot_bytes, 1, 1 << 40)
            _within("slots of a class", count, 1, SHM_CLASS_SLOTS_MAX)
        if not 0 <= self.low <= self.high <= 1 or self.high == 0:
            raise LocalProtocolError(f"0 <= low <= high <= 1 does not hold for low {self.low} and high {self.high}")
        if self.backing not in {"posix", "memfd"}:
            raise LocalProtocolError(f"backing is posix or memfd, not {self.backing}")

    @property
    def slot_classes(self) -> tuple[tuple[int, int], ...]:
        """The classes as they are laid out: sizes in multiples of 64 bytes, smallest first."""
        return tuple(sorted((_rounded(slot_bytes, HEADER_BYTES), count) for slot_bytes, count in self.classes))

    @property
    def pool_bytes(self) -> int:
        """The memory of all slots."""
        return sum(slot_bytes * count for slot_bytes, count in self.slot_classes)

    @property
    def completion_items(self) -> int:
        """Places for returned slots: as many as there are slots, rounded up to a power of two."""
        return 1 << max(self.slots - 1, 0).bit_length()

    @property
    def slots(self) -> int:
        """How many slots there are, of all sizes."""
        return sum(count for _, count in self.classes)

    @property
    def channel_bytes(self) -> int:
        """The memory of one channel."""
        return _rounded(RING_OFFSET + self.ring_bytes + 8 * (self.completion_items + self.slots), PAGE_BYTES)


SPIN_NS_MAX: Final = 200_000
"""What KVM's `halt_poll_ns` allows for the same choice, and about what two wake-ups of sleeping virtual cores cost at
p90: whoever looks that long before a sleep loses at most a small multiple of the best choice (Karlin et al., "Empirical
studies of competitive spinning", SOSP 1991)."""


def _spin_ns(peer: int) -> int:
    """Nothing where one core has to do for both: whoever looks then keeps the other from writing."""
    try:
        cores = os.sched_getaffinity(0) | os.sched_getaffinity(peer)
    except (AttributeError, OSError):  # no such call here, or the peer is gone
        return 0
    return SPIN_NS_MAX if len(cores) > 1 else 0


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise LocalProtocolError(f"{what} is {least} to {most}, not {value}")


def _rounded(nbytes: int, unit: int) -> int:
    return -(-nbytes // unit) * unit


def _mapped(what: str, descriptor: int, nbytes: int, *, writable: bool, prefault: bool = False) -> Mapping:
    try:
        return Mapping(descriptor, nbytes, writable, prefault)
    except OSError as error:
        raise BrokenError(f"{what}: {nbytes} bytes cannot be mapped: {error}") from error


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """What a producer has done, and what is in the channel now."""

    sent: int  # messages
    waiting_items: int  # sent, not yet taken
    ring_bytes: int  # of the ring in use
    slots_out: int  # with this channel's consumer, or on the way to it
    blocked_credit: int  # refused for want of credit, and so on
    blocked_ring: int
    blocked_slots: int
    wakes: int  # system calls that woke the consumer
    highs: int  # times that the high watermark was reached
    bogus_returns: int  # slots given back, by any consumer of the pool, that it did not have


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """What a consumer has done, and what it holds now."""

    received: int  # messages, and those of consumers before it on this channel
    leases: int  # slots held
    copies: int  # slots copied out, because `max_leases` were held
    wakes: int  # system calls that woke the producer
    returns_lost: int  # slots that could not be given back; the producer is broken
    late_wakes: int  # sleeps that the time-out ended with a message there: the producer died before its wake


class SlotPool:
    """Slots that serve the channels of several consumers: a message sent to all of them is copied once."""

    def __init__(self, spec: ShmSpec, *, name: str = "pool") -> None:
        """Make the segment, and reserve its smallest slot.

        Raises:
            ShmFullError: it does not fit.
            BrokenError: the system refuses for another reason.
        """
        self.spec: Final = spec
        self.name: Final = name
        self._descriptor: int | None = None
        full_error = partial(segment.full_error, name, spec.backing)
        with ExitStack() as undo:
            descriptor, mapping, self.inode = -1, None, 0
            if spec.classes:
                reserved = spec.pool_bytes if spec.prefault else spec.slot_classes[0][0]
                descriptor = segment.create_segment(
                    name, "pool", spec.pool_bytes, spec.backing, reserved_bytes=reserved
                )
                undo.callback(os.close, descriptor)
                mapping = _mapped(name, descriptor, spec.pool_bytes, writable=True, prefault=spec.prefault)
                if spec.backing == "memfd":
                    segment.seal(descriptor, read_only_for_others=True)
                self.inode = os.fstat(descriptor).st_ino
            self.core: Final = PoolCore(mapping, spec.slot_classes, descriptor, spec.prefault, full_error)
            undo.pop_all()
        if descriptor >= 0:
            self._descriptor = descriptor

    def producer(self, *, name: str = "shm") -> ShmProducer:
        """A channel to one more consumer, at most 64 at a time."""
        producer = ShmProducer(self.spec, name=name, pool=self)
        producer.lingers = True
        return producer

    def fan_send(self, producers: Sequence[ShmProducer], payload: Payload, **meta: Any) -> None:
        """Send one message on several channels of this pool, to all or to none of them.

        `meta` is that of `ShmProducer.send_nowait`.

        Raises:
            WouldBlock: one of them lacks credit, or place, or there is no slot.
            BrokenError: one of them is.
            ShmFullError: no slot that is large enough has memory.
        """
        code = self.core.try_fan_send(list(producers), payload, **meta)
        if code:
            raise WouldBlock(REASONS[code], self.name)

    @property
    def descriptor(self) -> int | None:
        """The segment, to be handed over; None for a pool without slots, or when closed."""
        return self._descriptor

    @property
    def free_slots(self) -> tuple[int, ...]:
        """Slots that are free now, by class, the smallest first."""
        return self.core.free_slots

    @property
    def bogus_returns(self) -> int:
        """Slots that a consumer gave back without having them; they were ignored."""
        return self.core.bogus_returns

    @property
    def reserved_slots(self) -> tuple[int, ...]:
        """Slots that have been used once, whose memory is therefore there, by class."""
        return self.core.reserved_slots

    def close(self) -> None:
        """Take no more producers. The descriptor goes with the last open one, the memory with the last loan."""
        self._descriptor = None
        self.core.retire()


class ShmProducer(ProducerCore):
    """The sending end. `on_high` and `on_low` are called when the tightest of credit, ring and slots crosses a mark."""

    _channel: int | None = None
    _consumer: tuple[int, int] | None = None  # the process that was joined when it was closed

    def __init__(self, spec: ShmSpec | None = None, *, name: str = "shm", pool: SlotPool | None = None) -> None:
        """Make a channel, and a pool unless one is given.

        Raises:
            ShmFullError: it does not fit.
            BrokenError: the system refuses for another reason.
        """
        self.spec: Final = pool.spec if pool is not None else spec or ShmSpec()
        spec = self.spec
        with ExitStack() as undo:
            self._own_pool = SlotPool(spec, name=name) if pool is None else None
            if self._own_pool is not None:
                undo.callback(self._own_pool.close)
            self.pool: Final = pool or self._own_pool or SlotPool(spec, name=name)
            channel = segment.create_segment(name, "channel", spec.channel_bytes, spec.backing)
            undo.callback(os.close, channel)
            mapping = _mapped(name, channel, spec.channel_bytes, writable=True, prefault=spec.prefault)
            if spec.backing == "memfd":
                segment.seal(channel, read_only_for_others=False)
            data = segment.create_event(name)
            undo.callback(os.close, data)
            space = segment.create_event(name)
            undo.pop_all()
        self._channel = channel
        pid, start = own_process()
        self._open(
            self.pool.core,
            mapping,
            data,
            space,
            name=name,
            uuid=uuid.uuid4().bytes,
            ring_bytes=spec.ring_bytes,
            completion_items=spec.completion_items,
            window_items=spec.window_items,
            inline_bytes_max=spec.inline_bytes_max,
            high_permille=round(spec.high * 1000),
            low_permille=round(spec.low * 1000),
            pid=pid,
            start=start,
            flags=FLAG_SEALED if spec.backing == "memfd" else 0,
            pool_inode=self.pool.inode,
        )

    def _peer_may_live(self) -> bool:
        found = self.consumer_process
        return found is None or may_live(*found)

    def descriptors(self) -> tuple[int, ...]:
        """What the consumer needs: channel, pool (unless there are no slots), event for data, event for space.

        They stay ours; send duplicates over a socket (SCM_RIGHTS, unix(7)).
        """
        data, space = self.event_descriptors()
        assert self._channel is not None  # it is there as long as the events are
        pool = self.pool.descriptor
        return (self._channel, data, space) if pool is None else (self._channel, pool, data, space)

    def send_nowait(self, payload: Payload, **meta: Any) -> None:
        """Send one message now.

        `meta` is what `try_send` takes: lane, codec, seq (-1: counted here), deadline_ns, origin_ns, sent_ns,
        size_bytes, tag, kind.

        Raises:
            WouldBlock: credit, ring or slots are missing; nothing was sent.
            LocalProtocolError: the payload fits in no slot.
            BrokenError: the consumer closed or vanished.
            RemoteProtocolError: the consumer damaged the channel.
            ShmFullError: no slot that is large enough has memory, and there is none to be had.
        """
        code = self.try_send(payload, **meta)
        if code:
            raise WouldBlock(REASONS[code], self.name)

    def loan(self, nbytes: int) -> Loan:
        """A slot of at least that many bytes, to be filled in place and then committed.

        Raises:
            WouldBlock: credit, ring or slots are missing.
            LocalProtocolError: no slot is that large.
            ShmFullError: no slot that is large enough has memory, and there is none to be had.
        """
        loan = self.try_loan(nbytes)
        if loan is None:
            raise WouldBlock(REASONS[self.blocked_by], self.name)
        return loan

    def stats(self) -> ProducerStats:
        """Counts since the start, and what is in the channel now."""
        return ProducerStats(*self._stats())

    def close(self) -> None:
        """Finish: the consumer still gets what was sent, then EndOfStream. A second call does nothing.

        Slots of a shared pool stay out until the consumer gives them back; should it die, see `reclaim_from_dead`.
        """
        if not self.closed:
            with suppress(FlowbridgeError):
                self._consumer = self.consumer_process
        self._close()
        channel, self._channel = self._channel, None
        if channel is not None:
            os.close(channel)
        if self._own_pool is not None:
            self._own_pool.close()

    def reclaim_from_dead(self) -> bool:
        """After `close`: take back the slots that are out with a consumer whose process is gone; False while it lives.

        A producer of a shared pool with slots out is kept alive by the pool, no longer.
        """
        if self._consumer is None or may_live(*self._consumer):
            return False
        self.reclaim()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._channel is not None:  # without `close`: the consumer is told BrokenError, not EndOfStream
            os.close(self._channel)


class ShmConsumer(ConsumerCore):
    """The receiving end; made by `attach`."""

    @classmethod
    def attach(cls, descriptors: Sequence[int], *, name: str = "shm", max_leases: int | None = None) -> Self:
        """Join the channel of these descriptors, which stay the caller's and may be closed afterwards.

        `max_leases` defaults to half of all slots.

        Raises:
            RemoteProtocolError: they are not what a producer hands over.
            LocalProtocolError: the channel has, or had, a consumer.
            BrokenError: the system refuses.
        """
        if len(descriptors) not in {3, 4}:
            raise RemoteProtocolError(f"{name}: a channel has 3 or 4 descriptors, not {len(descriptors)}")
        if max_leases is not None and max_leases < 0:
            raise LocalProtocolError(f"{name}: max_leases is at least 0, not {max_leases}")
        memory, events = descriptors[:-2], descriptors[-2:]
        sizes = [segment.segment_bytes(name, descriptor) for descriptor in memory]
        if 0 in sizes:
            raise RemoteProtocolError(f"{name}: a segment is empty")
        channel = _mapped(name, memory[0], sizes[0], writable=True)
        pool = _mapped(name, memory[1], sizes[1], writable=False) if len(memory) == 2 else None
        data = segment.duplicate_event(name, events[0])
        try:
            space = segment.duplicate_event(name, events[1])
        except BaseException:
            os.close(data)
            raise
        pid, start = own_process()
        consumer = cls()
        consumer._open(channel, pool, data, space, name=name, max_leases=max_leases, pid=pid, start=start)
        if consumer.sealed:
            for descriptor in memory:
                segment.must_be_sealed(name, descriptor)
        consumer.spin_ns_max = _spin_ns(consumer.creator_process[0])
        return consumer

    def _peer_may_live(self) -> bool:
        return may_live(*self.creator_process)

    def stats(self) -> ConsumerStats:
        """Counts since the start, and what is held now."""
        return ConsumerStats(*self._stats())

    def close(self) -> None:
        """Stop receiving: the producer is told BrokenError. Leases stay readable. A second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
