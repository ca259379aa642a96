"""The channel against a plain model of it: the same messages, the same refusals, the same free slots."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from shm_scene import Lease, Loan, ShmConsumer, ShmProducer, ShmSpec, _core

RING, WINDOW, INLINE = 4096, 12, 256
CLASSES = ((1024, 3), (4096, 2))
MAX_LEASES = 3


@dataclass
class Model:
    """What a channel is in words: a queue, a ring counted in bytes, and two numbers of free slots."""

    queue: deque[tuple[int, bytes, int | None, int]] = field(default_factory=deque)  # end in the ring, payload, class
    tail: int = 0
    head: int = 0
    sent: int = 0
    free: list[int] = field(default_factory=lambda: [count for _, count in CLASSES])

    def span(self, nbytes: int) -> int:
        """Bytes of the ring for a record: a line for the header, whole lines for the payload, and the pad before."""
        record = 64 + -(-nbytes // 64) * 64
        rest = RING - self.tail % RING
        return record if record <= rest else rest + record

    def send(self, payload: bytes, slot: int | None = None) -> int:
        """Send, in a slot that is held already if one is given."""
        large = len(payload) > INLINE or slot is not None
        span = self.span(0 if large else len(payload))
        if len(self.queue) >= WINDOW:
            return _core.NO_CREDIT
        if self.tail + span - self.head > RING:
            return _core.NO_RING
        if large and slot is None:
            slot = self.take(len(payload))
            if slot is None:
                return _core.NO_SLOT
        self.tail += span
        self.queue.append((self.tail, payload, slot, self.sent))
        self.sent += 1
        return _core.SENT

    def take(self, nbytes: int) -> int | None:
        """The smallest class that fits and has a slot."""
        for number, (slot_bytes, _) in enumerate(CLASSES):
            if nbytes <= slot_bytes and self.free[number]:
                self.free[number] -= 1
                return number
        return None

    def receive(self) -> tuple[bytes, int | None, int]:
        """The next message."""
        self.head, payload, slot, number = self.queue.popleft()
        return payload, slot, number


class Channel(RuleBasedStateMachine):
    """Both, side by side."""

    def __init__(self) -> None:
        """Open a channel."""
        super().__init__()
        self.spec = ShmSpec(classes=CLASSES, ring_bytes=RING, window_items=WINDOW, inline_bytes_max=INLINE)
        self.producer = ShmProducer(self.spec)
        self.consumer = ShmConsumer.attach(self.producer.descriptors(), max_leases=MAX_LEASES)
        self.model = Model()
        self.leases: list[tuple[Lease, bytes, int]] = []
        self.loans: list[tuple[Loan, int]] = []
        self.copies = 0
        self.counter = 0

    def payload(self, nbytes: int) -> bytes:
        """Bytes that no other message has."""
        self.counter += 1
        return (self.counter.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]

    @rule(nbytes=st.integers(0, INLINE) | st.integers(0, 4096))
    def send(self, nbytes: int) -> None:
        """Send one message."""
        payload = self.payload(nbytes)
        assert self.producer.try_send(payload) == self.model.send(payload)

    @rule(sizes=st.lists(st.integers(0, 4096) | st.just(10), max_size=20))
    def send_many(self, sizes: list[int]) -> None:
        """Send a batch: as many as one by one."""
        payloads = [self.payload(nbytes) for nbytes in sizes]
        expected = 0
        for payload in payloads:
            if self.model.send(payload) != _core.SENT:
                break
            expected += 1
        assert self.producer.send_many(payloads) == expected

    @rule(nbytes=st.integers(0, 4096))
    def borrow(self, nbytes: int) -> None:
        """Take a loan."""
        loan = self.producer.try_loan(nbytes)
        ring_full = self.model.tail + self.model.span(0) - self.model.head > RING
        if len(self.model.queue) >= WINDOW or ring_full:
            assert loan is None
            return
        slot = self.model.take(nbytes)
        assert (loan is None) == (slot is None)
        if loan is not None and slot is not None:
            self.loans.append((loan, slot))

    @precondition(lambda self: self.loans)
    @rule(data=st.data(), commit=st.booleans())
    def end_loan(self, data: Any, commit: bool) -> None:
        """Send a loan, or drop it."""
        loan, slot = self.loans.pop(data.draw(st.integers(0, len(self.loans) - 1)))
        payload = self.payload(loan.nbytes)
        if commit and len(self.model.queue) < WINDOW and self.model.tail + self.model.span(0) - self.model.head <= RING:
            with memoryview(loan) as view:
                view[:] = payload
            assert self.model.send(payload, slot) == _core.SENT
            loan.commit()
        else:
            loan.abort()
            self.model.free[slot] += 1

    @rule(limit=st.integers(1, 20), records=st.booleans())
    def receive(self, limit: int, records: bool) -> None:
        """Receive some."""
        got: list[tuple[int, Lease | bytes]] = (
            [(record[2], record[9]) for record in self.consumer.take_records(limit)]
            if records
            else [(lease.seq, lease) for lease in self.consumer.receive_many(limit)]
        )
        assert len(got) == min(limit, len(self.model.queue))
        for seq, payload in got:
            expected, slot, number = self.model.receive()
            assert (seq, bytes(payload)) == (number, expected)
            if slot is None:
                assert isinstance(payload, bytes) or payload.copied
            elif len(self.leases) >= MAX_LEASES:
                assert isinstance(payload, bytes) or payload.copied
                self.model.free[slot] += 1
                self.copies += 1
            else:
                assert isinstance(payload, Lease)
                self.leases.append((payload, expected, slot))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        """Give one slot back, whichever."""
        lease, expected, slot = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        assert bytes(lease) == expected
        lease.release()
        self.model.free[slot] += 1

    @invariant()
    def agree(self) -> None:
        """Everything that both can tell is the same."""
        stats = self.producer.stats()
        assert self.producer.pool.free_slots == tuple(self.model.free)
        assert (stats.sent, stats.waiting_items) == (self.model.sent, len(self.model.queue))
        assert stats.ring_bytes == self.model.tail - self.model.head
        assert self.consumer.leases == len(self.leases)
        assert self.consumer.stats().copies == self.copies
        for lease, expected, _ in self.leases:
            assert bytes(lease) == expected

    def teardown(self) -> None:
        """Close, and give everything back."""
        self.leases.clear()
        self.loans.clear()
        self.consumer.close()
        self.producer.close()


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
