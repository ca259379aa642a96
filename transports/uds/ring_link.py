"""A route over a ring in shared memory; its socket carries the descriptors, says who lives, and what fits no slot.

A payload larger than any slot goes over the socket as a BODY frame, and a record in its place says so: the order of
messages is that of the ring.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.arrays import write_array
from flowbridge.codec.route_frames import BODY, CODEC_END
from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import BrokenError, FlowbridgeError, RemoteProtocolError, ResourceError
from flowbridge.machines.outcome import COUNTS, NOTHING
from flowbridge.shm._core import KIND_CTRL, KIND_INLINE
from flowbridge.transports.route_records import RecordReader, RecordWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.codec.payload import Prepared
    from flowbridge.codec.route_frames import TrailReader
    from flowbridge.shm._core import SendRecord
    from flowbridge.shm.port import ShmConsumer, ShmProducer
    from flowbridge.transports.framed import FramedLink

_TAKE_MAX: Final = 256
_TURNS_MAX: Final = 8  # so many takes in one turn of the loop
_ON_SOCKET: Final = 0x8000
"""Set in a record's codec when the payload comes over the socket."""
_BEGUN: Final = COUNTS  # counters that tell a half-written report from a whole one
_DONE: Final = COUNTS + 1
_NO_HEADER: Final = write_array(())


def _nothing(*_: Any) -> None:
    """Nobody listens yet."""


class RingNearLink:
    """The producer's half; see `route_link.NearLink`."""

    def __init__(self, producer: ShmProducer, link: FramedLink) -> None:
        self._producer = producer
        self._link = link
        self._records = RecordWriter()
        self._inline_max = producer.spec.inline_bytes_max
        self._slot_max = max((size for size, _ in producer.spec.slot_classes), default=0)
        self._counts: tuple[int, ...] = NOTHING
        self._pending: deque[SendRecord] = deque()  # records in front of a message that had no room itself
        self._is_armed = False
        self._loop = asyncio.get_running_loop()
        self._fileno = producer.fileno()
        self._loop.add_reader(self._fileno, self._event)
        self.on_news = _nothing
        self.on_lost = _nothing

    def prepare(self, envelope: Envelope) -> Envelope:
        """The message with its payload ready to be written."""
        return self._records.prepare(envelope)

    def push(self, envelopes: Sequence[Envelope]) -> int:
        """Write messages as long as there is room; small ones together, with one look at the consumer."""
        try:
            return self._push(envelopes)
        except (ResourceError, RemoteProtocolError) as error:
            self._loop.call_soon(self._fail, error)
            return 0

    def _push(self, envelopes: Sequence[Envelope]) -> int:
        records = self._records
        batch: list[SendRecord] = []
        sent = 0
        for envelope in envelopes:
            prepared: Prepared = envelope.payload
            controls, tag = records.before(envelope, with_context=True)
            data = prepared.data
            if controls or data is None or prepared.nbytes > self._inline_max:
                if batch:
                    count = self._producer.try_send_records(batch)
                    sent += count
                    if count < len(batch):
                        return sent
                    batch = []
                if not self._push_alone(envelope, prepared, controls, tag):
                    return sent
                sent += 1
            else:
                batch.append(_record(envelope, data, prepared.codec, tag, KIND_INLINE))
        return sent + self._producer.try_send_records(batch) if batch else sent

    def _push_alone(
        self, envelope: Envelope, prepared: Prepared, controls: Sequence[tuple[int, int, bytes]], tag: int
    ) -> bool:
        """A message with control records in front, or one that is large. False when there is no room for all of it.

        Control records that went already are remembered, so they do not go again when the message is tried again.
        """
        producer, records = self._producer, self._records
        for control in controls:
            codec, number, content = control
            if producer.try_send(content, 0, codec, 0, 0, 0, 0, 0, number, KIND_CTRL):
                return False
            records.sent(control, envelope)
        if prepared.nbytes > self._slot_max and prepared.nbytes > self._inline_max:
            return self._push_on_socket(envelope, prepared, tag)
        if prepared.data is not None:
            return producer.try_send_records([_record(envelope, prepared.data, prepared.codec, tag, KIND_INLINE)]) == 1
        if prepared.nbytes <= self._inline_max:
            data = prepared.to_bytes()
            return producer.try_send_records([_record(envelope, data, prepared.codec, tag, KIND_INLINE)]) == 1
        loan = producer.try_loan(prepared.nbytes)
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
        return True

    def _push_on_socket(self, envelope: Envelope, prepared: Prepared, tag: int) -> bool:
        record = _record(envelope, b"", prepared.codec | _ON_SOCKET, tag, KIND_INLINE)
        if not self._producer.try_send_records([record]):
            return False
        self._link.send(BODY, _NO_HEADER, prepared.to_bytes())
        return True

    def push_end(self) -> bool:
        """Say that nothing more will come."""
        try:
            return self._producer.try_send(b"", 0, CODEC_END, 0, 0, 0, 0, 0, 0, KIND_CTRL) == 0
        except (ResourceError, RemoteProtocolError) as error:
            self._loop.call_soon(self._fail, error)
            return False

    def counts(self) -> Sequence[int]:
        """The newest whole report: one that is being written is left for the next call."""
        producer = self._producer
        if producer.closed:
            return self._counts
        done = producer.counter(_DONE)
        found = producer.read_counters(_DONE)
        if found[_BEGUN] == done:
            self._counts = found[:COUNTS]
        return self._counts

    def ask(self) -> bool:
        """Let `on_news` be called when the consumer does anything; True when it should be looked at once more now."""
        if self._is_armed or self._producer.closed:
            return False
        self._is_armed = True
        self._producer.arm(any_change=True)
        return True

    def _event(self) -> None:
        self._producer.clear()
        self._is_armed = False
        self.on_news()

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

    def close(self) -> None:
        """Close this half; the consumer still gets what is in the ring."""
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._fileno = -1
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


class RingFarLink:
    """The consumer's half; see `route_link.FarLink`."""

    def __init__(self, consumer: ShmConsumer, link: FramedLink, trails: TrailReader) -> None:
        self._consumer = consumer
        self._link = link
        self._records = RecordReader(trails)
        self._bodies: deque[bytes] = deque()
        self._awaiting: deque[Any] = deque()  # records taken, the first of which waits for its body on the socket
        self._counts: tuple[int, ...] = NOTHING
        self._loop = asyncio.get_running_loop()
        self._fileno = consumer.fileno()
        self._has_ended = False
        self._broken: Exception | None = None
        self.on_messages = _nothing
        self.on_end = _nothing
        self.on_lost = _nothing

    def start(self) -> None:
        """Begin to bring messages."""
        self._loop.add_reader(self._fileno, self._event)
        self._loop.call_soon(self._drain)

    def _event(self) -> None:
        self._consumer.clear()
        self._drain()

    def _drain(self) -> None:
        """Bring what is there, for a bounded time; then ask to be told of more."""
        if self._fileno < 0:
            return
        try:
            for _ in range(_TURNS_MAX):
                if self._awaiting:
                    self._deliver(())
                    if self._awaiting:
                        return  # the body that is to come calls again
                records = self._consumer.take_records(_TAKE_MAX)
                if records:
                    self._deliver(records)
                elif self._has_ended or self._broken is not None:
                    self._finish()
                    return
                elif self._consumer.arm():
                    return
        except FlowbridgeError as error:
            self._lose(error)
            return
        self._loop.call_soon(self._drain)

    def _deliver(self, records: Sequence[Any]) -> None:
        waiting = self._awaiting
        waiting.extend(records)
        messages: list[Envelope] = []
        while waiting:
            lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind, data = waiting[0]
            if kind == KIND_CTRL:
                if codec == CODEC_END:
                    self._has_ended = True
                else:
                    self._records.control(codec, tag, data)
            else:
                if codec & _ON_SOCKET:
                    if not self._bodies:
                        break
                    data = self._bodies.popleft()
                    codec &= ~_ON_SOCKET
                envelope = Envelope(None, _lane(lane), deadline_ns, origin_ns, sent_ns, size_bytes, seq)
                messages.append(self._records.message(envelope, codec, tag, data))
            waiting.popleft()
        if messages:
            self.on_messages(messages)

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the producer's end: a payload that fits no slot. Raises: RemoteProtocolError."""
        if kind == BODY:
            self._bodies.append(body)
            if self._awaiting:
                self._drain()
        elif not kind & 1:
            raise RemoteProtocolError(
                f"{self._link.peer}: frame {kind:#x} of {len(header)} + {len(body)} bytes from the producer of a ring"
            )

    def lost(self, error: Exception | None) -> None:
        """The producer's end is gone; what it sent is still brought."""
        if self._fileno < 0:
            return
        self._broken = error or BrokenError(f"{self._link.peer}: the producer vanished")
        self._drain()

    def _finish(self) -> None:
        """Everything was brought."""
        self._stop()
        if self._has_ended:
            self.on_end()
        else:
            self.on_lost(self._broken)

    def _lose(self, error: Exception) -> None:
        self._stop()
        self.on_lost(error)

    def report(self, counts: Sequence[int]) -> None:
        """Tell the producer's end what ended."""
        consumer = self._consumer
        if consumer.closed:
            return
        try:
            consumer.add_counter(_BEGUN)
            for index, (new, old) in enumerate(zip(counts, self._counts, strict=True)):
                if new != old:
                    consumer.add_counter(index, new - old)
            consumer.add_counter(_DONE)
            self._counts = tuple(counts)
            consumer.wake_producer()
        except ResourceError:
            return  # it vanished: nobody needs to know

    def _stop(self) -> None:
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._fileno = -1

    def close(self) -> None:
        """Close this half."""
        self._stop()
        self._consumer.close()
        self._link.close()


_LANES: Final = tuple(Priority)


def _lane(lane: int) -> Priority:
    if lane >= len(_LANES):
        raise RemoteProtocolError(f"a record has lane {lane}")
    return _LANES[lane]
