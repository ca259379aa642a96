"""The consumer's half of a route over a ring in shared memory; see `ring_link` for the other half."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from flowbridge.codec.arrays import INT_MAX
from flowbridge.codec.route_frames import BODY, CODEC_END
from flowbridge.codec.tree import tree_from_bytes
from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import BrokenError, EndOfStream, FlowbridgeError, RemoteProtocolError
from flowbridge.limits import LOOK_NS_MAX, STREAM_BYTES_HIGH
from flowbridge.shm._core import KIND_CTRL
from flowbridge.transports.route_records import RecordReader
from flowbridge.transports.uds.late import LateWatch, note_late
from flowbridge.transports.uds.ring_link import NO_HEADER, ON_SOCKET, nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.codec.route_frames import TrailReader
    from flowbridge.shm._core import TakenRecord
    from flowbridge.shm.port import ShmConsumer
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.framed import FramedLink

_TAKE_MAX: Final = 256
_TURNS_MAX: Final = 8  # so many takes in one turn of the loop
_BODY_BYTES: Final = 64  # of keeping a body, whatever its size


class RingFarLink:
    """The consumer's half; see `route_link.FarLink`."""

    report_delay_s: float = 0.0  # it is written to shared memory

    def __init__(self, consumer: ShmConsumer, link: FramedLink, trails: TrailReader, notes: EdgeBooks) -> None:
        self._consumer = consumer
        self._link = link
        self._records = RecordReader(trails)
        self._bodies: deque[bytes] = deque()
        self._bodies_bytes = 0
        self._awaiting: deque[TakenRecord] = deque()  # records taken, the first of which waits for its body
        self._loop = asyncio.get_running_loop()
        self._fileno = consumer.fileno()
        self._notes = notes
        self._watch: LateWatch | None = None
        self._is_started = False
        self._has_ended = False
        self._is_armed = False  # the loop is told of what comes
        self._broken: Exception | None = None
        self.on_messages = nothing
        self.on_end = nothing
        self.on_missed = nothing
        self.on_lost = nothing

    def start(self) -> None:
        """Begin to bring messages."""
        self._is_started = True
        self._loop.add_reader(self._fileno, self._event)
        self._watch = LateWatch(self._fileno, self._look, partial(note_late, self._notes))
        self._loop.call_soon(self._drain)

    def _event(self) -> None:
        self._is_armed = False
        self._consumer.clear()
        if self._watch is not None:
            self._watch.woken()
        self._drain()

    def _look(self) -> bool:
        if not self._is_armed or self._consumer.closed:
            return False
        before = self._consumer.stats().received
        self._drain()
        return self._consumer.stats().received != before

    def _drain(self) -> None:
        """Bring what is there, for a bounded time; then ask to be told of more."""
        try:
            for _ in range(_TURNS_MAX):
                if self._fileno < 0 or not self._is_started or self._is_drained():
                    return
        except EndOfStream:
            self._lose(BrokenError(f"{self._link.peer}: the producer closed its end without finishing"))
        except FlowbridgeError as error:
            self._lose(error)
        else:
            self._loop.call_soon(self._drain)

    def wait(self, timeout_ns: int) -> bool:
        """Bring what is there without the loop, waiting for it; see `route_link.BlockingLink`."""
        if self._fileno < 0 or not self._is_started or self._awaiting or self._bodies or self._broken is not None:
            return False
        consumer = self._consumer
        try:
            if self._is_armed:
                self._is_armed = False
                consumer.disarm()  # the producer would go to the kernel for an event that nobody waits for
            if not consumer.wait_data(timeout_ns, LOOK_NS_MAX):
                return False
            if not self._records.is_between:
                messages = consumer.take_plain(_TAKE_MAX, self._records.trails, tree_from_bytes)
                if messages:
                    self.on_messages(messages)
                    return True
        except FlowbridgeError:
            pass  # it is found again, and told, by what follows
        self._drain()
        return True

    def leave_to_loop(self) -> None:
        """Let the loop bring messages again."""
        if self._fileno >= 0 and self._is_started and not self._is_armed:
            self._drain()

    def _arm(self) -> bool:
        self._is_armed = self._consumer.arm()
        return self._is_armed

    def _is_drained(self) -> bool:
        """Bring some of what is there; True when something has to happen first."""
        if not self._awaiting:
            if not (self._bodies or self._broken or self._records.is_between):
                messages = self._consumer.take_plain(_TAKE_MAX, self._records.trails, tree_from_bytes)
                if messages:
                    self.on_messages(messages)
                    return self._fileno < 0 or (len(messages) < _TAKE_MAX and self._arm())
            self._awaiting.extend(self._consumer.take_records(_TAKE_MAX))
        if self._awaiting:
            self._deliver()
            if self._has_ended and self._fileno >= 0:
                self._stop()
                self.on_end()
            if not self._awaiting or self._broken is None:
                return bool(self._awaiting)  # the body that is to come calls again
        if self._broken is not None:
            self._lose(self._broken)
            return True
        if self._bodies:  # it would have been written before its body was
            raise RemoteProtocolError(f"{self._link.peer}: a payload came without a record of it")
        return self._arm()

    def _deliver(self) -> None:
        waiting = self._awaiting
        messages: list[Envelope] = []
        try:
            while waiting:
                if self._has_ended:
                    raise RemoteProtocolError(f"{self._link.peer}: a record came after the end")
                record = waiting[0]
                codec, tag, data = record[1], record[7], record[9]
                if codec & ON_SOCKET:
                    if not self._bodies:
                        break
                    codec &= ~ON_SOCKET
                    data = self._take_body()
                waiting.popleft()
                if record[8] != KIND_CTRL:
                    messages.append(self._records.message(_envelope(record), codec, tag, data))
                elif codec == CODEC_END:
                    self._has_ended = True
                else:
                    self._records.control(codec, tag, bytes(data))
        finally:
            if messages:
                self.on_messages(messages)

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the producer's end: a payload that fits no slot. Raises: RemoteProtocolError."""
        if kind & 1:
            return  # one that may be skipped
        if kind != BODY or header != NO_HEADER:
            raise RemoteProtocolError(
                f"{self._link.peer}: frame {kind:#x} of {len(header)} + {len(body)} bytes from the producer of a ring"
            )
        self._bodies.append(body)
        self._bodies_bytes += len(body) + _BODY_BYTES
        if self._bodies_bytes > STREAM_BYTES_HIGH:
            self._link.stream.pause()
        self._drain()

    def _take_body(self) -> bytes:
        body = self._bodies.popleft()
        self._bodies_bytes -= len(body) + _BODY_BYTES
        if self._bodies_bytes <= STREAM_BYTES_HIGH:
            self._link.stream.resume()
        return body

    def lost(self, error: Exception | None) -> None:
        """The producer's end is gone; what it sent is still brought, unless this was not started yet."""
        why = error or BrokenError(f"{self._link.peer}: the producer vanished")
        if self._fileno < 0 or not self._is_started:
            self._lose(why)
            return
        self._broken = why
        self._drain()

    def _lose(self, error: Exception) -> None:
        self._stop()
        self.on_lost(error)

    def report(self, counts: Sequence[int]) -> None:
        """Tell the producer's end what ended."""
        consumer = self._consumer
        if consumer.closed:
            return
        try:
            consumer.write_report(tuple(counts))
        except OverflowError:  # beyond 64 bits: sums of what only a peer that lies can have sent
            self._link.stream.fail(RemoteProtocolError(f"{self._link.peer}: counts exceed 64 bits"))
        except FlowbridgeError:
            return  # it vanished, or what it did shows elsewhere: nobody needs to know

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._fileno = -1

    def close(self) -> None:
        """Close this half."""
        self._stop()
        self._awaiting.clear()
        self._bodies.clear()
        with suppress(FlowbridgeError):  # it has ended, or was closed before
            while self._consumer.take_records(_TAKE_MAX):
                pass  # so that the slots of what nobody takes go back
        self._consumer.close()
        self._link.close()


_LANES: Final = tuple(Priority)


def _envelope(record: TakenRecord) -> Envelope:
    lane, _, seq, deadline_ns, origin_ns, sent_ns, size_bytes, *_ = record
    if lane >= len(_LANES):
        raise RemoteProtocolError(f"a record has lane {lane}")
    if not 0 <= (seq | origin_ns | sent_ns | size_bytes | deadline_ns) <= INT_MAX:
        raise RemoteProtocolError(
            f"a record has a number that is not in 0..2**63-1: {(seq, deadline_ns, origin_ns, sent_ns, size_bytes)}"
        )
    return Envelope(None, _LANES[lane], deadline_ns, origin_ns, sent_ns, size_bytes, seq)
