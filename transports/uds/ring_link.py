"""A route over a ring in shared memory; its socket carries the descriptors, says who lives, and what fits no slot.

A payload larger than any slot, or for which no slot has memory, goes over the socket as a BODY frame, and a record in
its place says so: the order of messages is that of the ring.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.arrays import write_array
from flowbridge.codec.route_frames import BODY, CODEC_END
from flowbridge.codec.tree import tree_to_bytes
from flowbridge.errors import (
    BrokenError,
    FlowbridgeError,
    RemoteProtocolError,
    ResourceError,
    ShmFullError,
)
from flowbridge.limits import LANES
from flowbridge.machines.outcome import CLOSED, COUNTS, NOTHING
from flowbridge.shm._core import KIND_CTRL, KIND_INLINE, NO_SLOT
from flowbridge.shm.port import HEADER_BYTES
from flowbridge.transports.room import Room
from flowbridge.transports.route_records import RecordWriter
from flowbridge.transports.uds.late import LateWatch, note_late

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.codec.payload import Prepared
    from flowbridge.contracts import BytesLike
    from flowbridge.envelope import Envelope
    from flowbridge.shm._core import SendRecord
    from flowbridge.shm.port import ShmProducer
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.framed import FramedLink
    from flowbridge.transports.route_records import Control

ON_SOCKET: Final = 0x8000
"""Set in a record's codec when the payload comes over the socket."""
NO_HEADER: Final = write_array(())


def nothing(*_: Any) -> None:
    """Nobody listens yet."""


class RingNearLink:
    """The producer's half; see `route_link.NearLink`."""

    def __init__(self, producer: ShmProducer, link: FramedLink, notes: EdgeBooks) -> None:
        self._producer = producer
        self._link = link
        self._room = Room(link.stream, self._tell)
        self._inline_max = producer.spec.inline_bytes_max
        self._slot_max = max((size for size, _ in producer.spec.slot_classes), default=0)
        self._control_max = producer.spec.ring_bytes // 2 - HEADER_BYTES
        self._counts: tuple[int, ...] = NOTHING
        self._written = 0  # records of any kind
        self._pushed = 0  # messages
        self._is_armed = False
        self._has_sent_bodies = False
        self._loop = asyncio.get_running_loop()
        self._fileno = producer.fileno()
        self._loop.add_reader(self._fileno, self._event)
        self._watch = LateWatch(self._fileno, self._look, partial(note_late, notes))
        self.records = RecordWriter()
        self.refused: list[Envelope] = []  # none: the ring has no queue before it
        self.on_news = nothing
        self.on_lost = nothing

    def push(self, envelopes: Sequence[Envelope]) -> int:
        """Write messages as long as there is room; small ones together, with one look at the consumer."""
        before = self._pushed
        try:
            self._push(envelopes)
        except FlowbridgeError as error:  # the consumer is gone, or damaged the ring; what went before that counts
            self._loop.call_soon(self._fail, error)
        return self._pushed - before

    def push_plain(
        self, envelopes: Sequence[Envelope], items: int, size_bytes: int, now_ns: int, sent_ns: int
    ) -> tuple[int, int, bytes | None]:
        """Write messages of one inline record each straight into the ring."""
        records = self.records
        if records.is_between:
            return 0, 0, None
        lane = envelopes[0].priority
        went = self._producer.try_send_plain(
            envelopes, lane, items, size_bytes, now_ns, sent_ns, records.trails, tree_to_bytes, CLOSED
        )
        self._written += went[0]
        self._pushed += went[0]
        return went

    def _push(self, envelopes: Sequence[Envelope]) -> None:
        records = self.records
        batch: list[SendRecord] = []
        for envelope in envelopes:
            prepared: Prepared = envelope.payload
            controls, tag = records.before(envelope, with_context=True)
            data = prepared.data
            if controls or data is None or prepared.nbytes > self._inline_max or records.has_context(envelope):
                if batch and not self._write(batch):
                    return
                batch = []
                if not self._push_alone(envelope, prepared, controls, tag):
                    return
                records.passed()
            else:
                batch.append(_record(envelope, data, prepared.codec, tag, KIND_INLINE))
        if batch:
            self._write(batch)

    def _write(self, batch: list[SendRecord], *, messages: bool = True) -> bool:
        """Write records, as many as there is room for; True when that was all."""
        producer = self._producer
        count = 0
        try:
            count = producer.try_send_records(batch)
        except BaseException:
            count = producer.stats().sent - self._written  # before it raised, some may have gone
            raise
        finally:
            self._written += count
            if messages:
                self._pushed += count
        return count == len(batch)

    def _push_alone(self, envelope: Envelope, prepared: Prepared, controls: Sequence[Control], tag: int) -> bool:
        """A message with control records in front, or one that is large. False when there is no room for all of it.

        Control records that went already are remembered, so they do not go again when the message is tried again.
        """
        for control in controls:
            if not self._push_control(control):
                return False
            self.records.sent(control, envelope)
        if prepared.nbytes > self._slot_max and prepared.nbytes > self._inline_max:
            return self._push_on_socket(envelope, prepared, tag)
        try:
            if prepared.data is not None or prepared.nbytes <= self._inline_max:
                went = self._write([_record(envelope, prepared.to_bytes(), prepared.codec, tag, KIND_INLINE)])
            else:
                went = self._push_in_place(envelope, prepared, tag)
        except ShmFullError:  # no slot that is large enough has memory
            return self._push_on_socket(envelope, prepared, tag)
        if went or prepared.nbytes <= self._inline_max or not self._is_starved():
            return went
        return self._push_on_socket(envelope, prepared, tag)

    def _is_starved(self) -> bool:
        """No slot is free although the consumer is done with everything sent: it keeps payloads, or others do.

        Nothing that it still has to do would bring a slot back, so waiting for one might never end.
        """
        return self._producer.blocked_by == NO_SLOT and sum(self.counts()[:LANES]) >= self._pushed

    def _push_in_place(self, envelope: Envelope, prepared: Prepared, tag: int) -> bool:
        loan = self._producer.try_loan(prepared.nbytes)
        if loan is None:
            return False
        with memoryview(loan) as target:
            prepared.write_into(target)
        loan.commit(
            prepared.nbytes,
            envelope.priority,
            prepared.codec,
            envelope.seq,
            envelope.deadline_ns,
            envelope.origin_ns,
            envelope.sent_ns,
            envelope.size_bytes,
            tag,
        )
        self._written += 1
        self._pushed += 1
        return True

    def _push_control(self, control: Control) -> bool:
        codec, number, content = control
        if len(content) <= self._control_max:
            return self._write([(content, 0, codec, 0, 0, 0, 0, 0, number, KIND_CTRL)], messages=False)
        if self._is_socket_full():
            return False
        record = (b"", 0, codec | ON_SOCKET, 0, 0, 0, 0, 0, number, KIND_CTRL)
        return self._write([record], messages=False) and self._send_body(content)

    def _push_on_socket(self, envelope: Envelope, prepared: Prepared, tag: int) -> bool:
        if self._is_socket_full():
            return False
        record = _record(envelope, b"", prepared.codec | ON_SOCKET, tag, KIND_INLINE)
        return self._write([record]) and self._send_body(prepared.to_bytes())

    def _is_socket_full(self) -> bool:
        if self._room.is_lacking:
            self._room.ask()
        return self._room.is_lacking

    def _send_body(self, data: BytesLike) -> bool:
        """After its record, so that a consumer that finds a body without one knows that it is lied to."""
        self._has_sent_bodies = True
        with suppress(ResourceError):  # then `lost` comes, and the message counts as sent until then
            self._link.send(BODY, NO_HEADER, data)
        return True

    def push_end(self) -> bool:
        """Say that nothing more will come."""
        try:
            return self._write([(b"", 0, CODEC_END, 0, 0, 0, 0, 0, 0, KIND_CTRL)], messages=False)
        except FlowbridgeError as error:
            self._loop.call_soon(self._fail, error)
            return False

    @property
    def needs_loop(self) -> bool:
        """Only payloads that go over the socket wait for the loop."""
        return self._has_sent_bodies and self._link.stream.unsent_bytes > 0

    def counts(self) -> Sequence[int]:
        """The newest whole report: one that is being written is left for the next call."""
        found = self._producer.newer_report(COUNTS)
        if found is not None:
            self._counts = found
        return self._counts

    def ask(self) -> bool:
        """Let `on_news` be called when the consumer does anything; True when it should be looked at once more now."""
        if self._is_armed or self._producer.closed:
            return False
        self._is_armed = True  # even if it is gone and cannot be armed: the socket tells that
        self._producer.arm(any_change=True)
        return True

    def _tell(self) -> None:
        self.on_news()

    def _event(self) -> None:
        self._producer.clear()
        self._watch.woken()
        self._is_armed = False
        self.on_news()

    def _look(self) -> bool:
        if not self._is_armed or self._producer.closed:
            return False
        before = self._counts
        is_new = self.counts() is not before  # since it was armed: what was there then has been read
        self.on_news()
        return is_new

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the consumer's end, which sends none. Raises: RemoteProtocolError."""
        if not kind & 1:
            raise RemoteProtocolError(
                f"{self._link.peer}: frame {kind:#x} of {len(header)} + {len(body)} bytes from the consumer of a ring"
            )

    def lost(self, error: Exception | None) -> None:
        """The consumer's end is gone."""
        self.on_lost(error or BrokenError(f"{self._link.peer}: the consumer vanished"))

    def _fail(self, error: Exception) -> None:
        self.on_lost(error)

    def fail(self, error: Exception) -> None:
        """The consumer's end broke the rules."""
        self._link.stream.fail(error)
        self.close()

    def close(self) -> None:
        """Close this half; the consumer still gets what is in the ring."""
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._fileno = -1
            self._watch.close()
            self._room.close()
            self.counts()
            self._producer.close()
            self._link.close()


def _record(envelope: Envelope, data: Any, codec: int, tag: int, kind: int) -> SendRecord:
    return (
        data,
        envelope.priority,
        codec,
        envelope.seq,
        envelope.deadline_ns,
        envelope.origin_ns,
        envelope.sent_ns,
        envelope.size_bytes,
        tag,
        kind,
    )
