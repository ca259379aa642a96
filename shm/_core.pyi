"""The native core of the shared-memory port: mappings, the slot pool, and both ends of a channel."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from typing_extensions import Buffer

from flowbridge.envelope import Envelope, Trail
from flowbridge.errors import BlockReason, ShmFullError

Payload: TypeAlias = Buffer
SendRecord: TypeAlias = tuple[Payload, int, int, int, int, int, int, int, int, int]
"""payload, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind"""
TakenRecord: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, bytes | Lease]
"""lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind, payload"""

COUNTERS: Final[int]
PORTS_PER_POOL: Final[int]
KIND_INLINE: Final[int]
KIND_SLOT: Final[int]
KIND_CTRL: Final[int]
SENT: Final[int]
NO_CREDIT: Final[int]
NO_RING: Final[int]
NO_SLOT: Final[int]
REASONS: Final[tuple[BlockReason, ...]]
"""The reason of each code that `try_send` gives."""

class Mapping:
    """A shared mapping of a descriptor, unmapped with its last reference. The descriptor itself is not kept."""

    nbytes: Final[int]
    writable: Final[bool]
    def __init__(self, fd: int, nbytes: int, writable: bool, populate: bool = False) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class PoolCore:
    """The books of a slot pool, which may serve several channels; `mapping` is None for a pool without slots.

    The descriptor is owned from here on, unless this fails. Without `retire` it is closed with the last reference,
    after it with the last open producer. The memory of the first slot is reserved, or all of it; that of other slots
    is when they are first used. `full_error` makes the error for so many bytes that cannot be had.
    """

    def __init__(
        self,
        mapping: Mapping | None,
        classes: Iterable[tuple[int, int]],
        fd: int,
        is_reserved: bool,
        full_error: Callable[[int], ShmFullError],
    ) -> None: ...
    def retire(self) -> None:
        """Take no more producers, and close the descriptor with the last one."""
    @property
    def reserved_slots(self) -> tuple[int, ...]:
        """Slots whose memory is there, by class."""
    @property
    def bogus_returns(self) -> int: ...
    @property
    def free_slots(self) -> tuple[int, ...]: ...
    def try_fan_send(
        self,
        producers: list[ProducerCore],
        payload: Payload,
        lane: int = 0,
        codec: int = 0,
        seq: int = -1,
        deadline_ns: int = ...,
        origin_ns: int = 0,
        sent_ns: int = 0,
        size_bytes: int = 0,
        tag: int = 0,
    ) -> int: ...

class ProducerCore:
    """The sending end of a channel: cursors, credit, wake-ups."""

    on_high: Callable[[], object] | None
    """Called when the tightest of credit, ring and slots reaches the high watermark."""
    on_low: Callable[[], object] | None
    """Called when it has come down to the low one."""
    lingers: bool
    """Of a shared pool: slots stay out after a close, until the consumer gives them back."""

    def __init__(self) -> None: ...
    def _open(
        self,
        pool: PoolCore,
        chan: Mapping,
        data_fd: int,
        space_fd: int,
        *,
        name: str,
        uuid: bytes,
        ring_bytes: int,
        completion_items: int,
        window_items: int,
        inline_bytes_max: int,
        high_permille: int,
        low_permille: int,
        pid: int,
        start: int,
        flags: int,
        pool_inode: int,
    ) -> None: ...
    def _close(self) -> None: ...
    def _peer_may_live(self) -> bool: ...
    def _stats(self) -> tuple[int, int, int, int, int, int, int, int, int, int]: ...
    @property
    def name(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def above_high(self) -> bool:
        """Whether the high watermark was reached, and the low one not yet."""
    @property
    def blocked_by(self) -> int:
        """The code of what the last refused call needed, 0 when none was refused."""
    @property
    def consumer_process(self) -> tuple[int, int] | None:
        """Process id and start stamp of the consumer as it wrote them, None while there is none."""
    def try_send(
        self,
        payload: Payload,
        lane: int = 0,
        codec: int = 0,
        seq: int = -1,
        deadline_ns: int = ...,
        origin_ns: int = 0,
        sent_ns: int = 0,
        size_bytes: int = 0,
        tag: int = 0,
        kind: int = 1,
    ) -> int:
        """Send one message now: 0, or NO_CREDIT, NO_RING, NO_SLOT. Raises as `ShmProducer.send_nowait` does."""
    def try_send_records(self, records: list[SendRecord]) -> int:
        """Send what goes now, with one fence and at most one wake-up; the number of messages sent."""
    def try_send_plain(
        self,
        envelopes: Iterable[Envelope],
        lane: int,
        items: int,
        size_bytes: int,
        now_ns: int,
        sent_ns: int,
        trails: dict[Trail, int],
        encode: Callable[[Any], bytes],
        closing: int,
    ) -> tuple[int, int, bytes | None]:
        """Send what goes now of messages that are one inline record each, up to the first that is not.

        Such a message is of that lane, in time at `now_ns`, within `items` messages and `size_bytes`, has no trace and
        no headers, no trail or one of `trails`, and its payload is bytes or what `encode` takes: dict, list, str. A
        negative `sent_ns` leaves each its own. Returns how many went, their `size_bytes`, and the encoded payload of
        the next if it was that far. Nothing goes once the
        consumer's counter `closing` is not 0. Errors are not raised: the next try to send has them.
        """
    def send_many(self, payloads: Iterable[Payload]) -> int:
        """The same for payloads alone. What was sent before one that raises stays sent."""
    def send(
        self,
        payload: Payload,
        timeout_ns: int | None = None,
        lane: int = 0,
        codec: int = 0,
        seq: int = -1,
        deadline_ns: int = ...,
        origin_ns: int = 0,
        sent_ns: int = 0,
        size_bytes: int = 0,
        tag: int = 0,
        kind: int = 1,
    ) -> None:
        """Send one message, waiting without the interpreter lock; WouldBlock after the time-out."""
    def try_loan(self, nbytes: int) -> Loan | None:
        """A slot to be filled in place; None when something is missing: see `blocked_by`."""
    def wait_space(self, wait_ns: int) -> int:
        """Sleep until what was missing may be there: 0 woken, 1 timed out, 2 interrupted."""
    def arm(self, any_change: bool = False) -> bool:
        """Ask for an event on `fileno()`: when what was missing is there, or at the low watermark if above it.

        False when there is nothing to wait for. `any_change` asks for whatever the consumer does next; look at the
        counters again after arming.
        """
    def disarm(self) -> None:
        """Take `arm` back."""
    def clear(self) -> None:
        """Take note of an event: to be called when `fileno()` is readable."""
    def fileno(self) -> int:
        """The descriptor that becomes readable: space."""
    def event_descriptors(self) -> tuple[int, int]:
        """The events for data and for space."""
    def wake_consumer(self) -> None:
        """Wake the consumer if it waits, as after `add_counter`."""
    def add_counter(self, index: int, n: int = 1) -> None:
        """Add to a counter that the consumer can read."""
    def counter(self, index: int) -> int:
        """A counter of the consumer."""
    def read_counters(self, count: int = 64) -> tuple[int, ...]:
        """The first counters of the consumer."""
    def newer_report(self, count: int) -> tuple[int, ...] | None:
        """What the consumer last wrote with `write_report`, whole; None when that was read, or after `close`."""
    @property
    def counters(self) -> tuple[int, ...]:
        """Our own counters."""
    def peer_lost(self) -> None:
        """Say that the consumer is dead: BrokenError from now on, until `reclaim`."""
    def reclaim(self) -> int:
        """Take everything back from a consumer that is dead; the channel is free for another one.

        Gives the number of messages that it had not taken. The consumer must be dead: one that was only stopped
        finds out at its next call, but may have read slots that were used again.
        """

class Loan:
    """A slot to be filled by the caller: writable buffer, then `commit` or `abort`; dropped means aborted."""

    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def commit(
        self,
        nbytes: int | None = None,
        lane: int = 0,
        codec: int = 0,
        seq: int = -1,
        deadline_ns: int = ...,
        origin_ns: int = 0,
        sent_ns: int = 0,
        size_bytes: int = 0,
        tag: int = 0,
    ) -> None:
        """Send the first `nbytes`. After WouldBlock the loan is still yours. BufferError while views are open."""
    def abort(self) -> None:
        """Give the slot back; nothing is sent. BufferError while views are open."""

class Lease:
    """One received message: a read-only buffer, and what its sender said about it.

    A payload that travelled in a slot stays there, and the slot is out, until the lease and every view of it are
    gone; any thread may drop the last one. A small payload is a private copy (`copied`). Times are monotonic
    nanoseconds; `held_since_ns` is when the lease was made.
    """

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def release(self) -> None:
        """Give the slot back now. BufferError while views are open."""
    def to_bytes(self) -> bytes:
        """A private copy."""
    @property
    def nbytes(self) -> int: ...
    @property
    def copied(self) -> bool: ...
    @property
    def held_since_ns(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def lane(self) -> int: ...
    @property
    def codec(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def deadline_ns(self) -> int: ...
    @property
    def origin_ns(self) -> int: ...
    @property
    def sent_ns(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def tag(self) -> int: ...

class ConsumerCore:
    """The receiving end of a channel."""

    def __init__(self) -> None: ...
    def _open(
        self,
        chan: Mapping,
        pool: Mapping | None,
        data_fd: int,
        space_fd: int,
        *,
        name: str,
        max_leases: int | None,
        pid: int,
        start: int,
    ) -> None: ...
    spin_ns_max: int
    """How long a blocking receive looks at most before it sleeps."""

    def _close(self) -> None: ...
    def _peer_may_live(self) -> bool: ...
    def _stats(self) -> tuple[int, int, int, int, int, int]: ...
    @property
    def name(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def leases(self) -> int:
        """Slots that are held now."""
    @property
    def sealed(self) -> bool:
        """Whether the producer says that its segments are sealed memfds."""
    @property
    def creator_process(self) -> tuple[int, int]:
        """Process id and start stamp of the producer as it wrote them."""
    def wait_data(self, timeout_ns: int, spin_ns: int | None = None) -> bool:
        """Whether there is something to take, a message or the end; waiting for it without the interpreter lock.

        At most `spin_ns` (never more than `spin_ns_max`) are spent looking, as by `receive`. Nobody is told by the
        event of `fileno` of what comes during it or after it, until `arm` is called. Takes nothing, and does not look
        whether the producer lives.
        """
    def receive_nowait(self) -> Lease | None:
        """The next message, None when there is none now.

        Raises EndOfStream after the producer closed and everything is received, BrokenError after it vanished,
        RemoteProtocolError when it damaged the channel.
        """
    def receive(self, timeout_ns: int | None = None, spin_ns: int | None = None) -> Lease | None:
        """The next message, waiting without the interpreter lock; None after the time-out.

        At most `spin_ns` (None: `spin_ns_max`) are spent looking before the sleep, and only while the last waits were
        shorter: a wait that outlasts them costs no more than the sleep would have, a core that never sleeps nothing.
        """
    def receive_bytes_nowait(self) -> bytes | None:
        """The next payload as a private copy."""
    def receive_bytes(self, timeout_ns: int | None = None, spin_ns: int | None = None) -> bytes | None:
        """The next payload as a private copy, waiting for it."""
    def receive_many(self, limit: int) -> list[Lease]:
        """What is there now, at most `limit` messages."""
    def take_records(self, limit: int) -> list[TakenRecord]:
        """What is there now as plain tuples: small payloads as bytes, slots as leases while `max_leases` allows."""
    def take_plain(self, limit: int, trails: dict[int, Trail], decode: Callable[[bytes], Any]) -> list[Envelope]:
        """The messages that are there now, up to the first that is more than an inline record of bytes or a tree.

        What cannot be read is left for `take_records` too. Nothing is raised at the end of the stream.
        """
    def grant(self, n: int) -> None:
        """Let the producer send n more messages; for a `window_items` of 0."""
    def arm(self) -> bool:
        """Ask for an event on `fileno()` when something comes; False when something is there already."""
    def disarm(self) -> None:
        """Take `arm` back."""
    def clear(self) -> None:
        """Take note of an event: to be called when `fileno()` is readable."""
    def fileno(self) -> int:
        """The descriptor that becomes readable: data."""
    def wake_producer(self) -> None:
        """Wake the producer if it waits, as after `add_counter`."""
    def add_counter(self, index: int, n: int = 1) -> None:
        """Add to a counter that the producer can read."""
    def write_report(self, counts: tuple[int, ...]) -> None:
        """Set the first counters, between two more that count reports begun and done, and wake the producer.

        Raises: OverflowError for a count that is not in 0..2**64-1; nothing is written then.
        """
    def counter(self, index: int) -> int:
        """A counter of the producer."""
    def read_counters(self, count: int = 64) -> tuple[int, ...]:
        """The first counters of the producer."""
    @property
    def counters(self) -> tuple[int, ...]:
        """Our own counters."""
    def peer_lost(self) -> None:
        """Say that the producer is dead: what it sent is still received, then BrokenError."""
