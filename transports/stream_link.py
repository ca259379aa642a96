"""A route over a stream of bytes: frames one way, reports the other. What a tier uses where there is no ring."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from flowbridge.codec.arrays import read_array, uint, write_array
from flowbridge.codec.route_frames import (
    CONTROL,
    COUNTS,
    END,
    ITEM,
    read_counts,
    read_item,
    write_counts,
    write_item,
)
from flowbridge.errors import BrokenError, CodecError, EncodeError, RemoteProtocolError, ResourceError
from flowbridge.limits import REPORT_DELAY_S, STREAM_BYTES_HIGH
from flowbridge.machines.outcome import NOTHING
from flowbridge.time.far import SHARED
from flowbridge.transports.room import Room
from flowbridge.transports.route_records import RecordReader, RecordWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.codec.payload import Prepared
    from flowbridge.codec.route_frames import TrailReader
    from flowbridge.envelope import Envelope
    from flowbridge.time.far import Times
    from flowbridge.transports.framed import FramedLink

_NO_HEADER: Final = write_array(())
_FRAME_BYTES: Final = 64  # of keeping a frame, whatever its size
_CODEC_MAX: Final = 2**16 - 1
_TAG_MAX: Final = 2**32 - 1


def _nothing(*_: Any) -> None:
    """Nobody listens yet."""


class Course(Protocol):
    """What lies before the messages of a route, where many routes share a path that may be too slow for all."""

    def admits(self, envelope: Envelope) -> bool:
        """Whether a prepared message that is sent now can be in time."""
        ...

    def wrote(self, envelope: Envelope) -> None:
        """It was written."""
        ...


class StreamNearLink:
    """The producer's half; see `route_link.NearLink`. Frames that arrive are given to `frame`."""

    def __init__(self, link: FramedLink, times: Times = SHARED, course: Course | None = None) -> None:
        self._link = link
        self._course = course
        self._far = None if times.is_shared else times
        self._room = Room(link.stream, self._tell)
        self._counts: Sequence[int] = NOTHING
        self._is_new = False  # nobody has seen these counts yet
        self._asked = False
        self.records = RecordWriter()
        self.refused: list[Envelope] = []
        self.on_news = _nothing
        self.on_lost = _nothing

    def push(self, envelopes: Sequence[Envelope]) -> int:
        """Write messages as long as not too much is unsent, but for those that cannot be in time."""
        link, records, room, far, course = self._link, self.records, self._room, self._far, self._course
        count = 0
        try:
            for envelope in envelopes:
                if room.is_lacking or self._is_held_up(envelope):
                    break
                if course is not None and not course.admits(envelope):
                    self.refused.append(envelope)
                    count += 1
                    continue
                controls, tag = records.before(envelope, with_context=False)
                for control in controls:
                    link.send(CONTROL, write_array(control[:2]), control[2])
                    records.sent(control, envelope)
                told = envelope if far is None else far.leaving_stamped(envelope)
                self._write(told, envelope, tag, has_controls=bool(controls))
                count += 1
        except ResourceError:
            return count  # `lost` comes, and counts what has not ended
        return count

    def _is_held_up(self, envelope: Envelope) -> bool:
        """Whether a message must wait for another reason than room on the stream."""
        return False

    def _write(self, told: Envelope, envelope: Envelope, tag: int, *, has_controls: bool) -> None:
        """Send `envelope`, with the times of `told`; the frames it refers to may have gone just before it."""
        prepared: Prepared = envelope.payload
        self._link.send(ITEM, write_item(told, prepared.codec, tag), prepared.to_bytes())
        if self._course is not None:
            self._course.wrote(envelope)

    def push_plain(
        self, envelopes: Sequence[Envelope], items: int, size_bytes: int, now_ns: int, sent_ns: int
    ) -> tuple[int, int, bytes | None]:
        """None at all: every frame is made in Python."""
        return 0, 0, None

    def push_end(self) -> bool:
        """Say that nothing more will come."""
        try:
            self._link.send(END, _NO_HEADER)
        except ResourceError:
            return False
        return True

    def counts(self) -> Sequence[int]:
        """The newest report."""
        self._is_new = False
        return self._counts

    def ask(self) -> bool:
        """Let `on_news` be called when a report comes or the stream is below its low watermark."""
        self._asked = True
        if self._room.is_lacking:
            self._room.ask()
        return self._is_new

    def _tell(self) -> None:
        if self._asked:
            self._asked = False
            self.on_news()

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the consumer's end. Raises: RemoteProtocolError."""
        if kind & 1:
            return  # one that may be skipped
        if kind != COUNTS or body:
            raise RemoteProtocolError(f"{self._link.peer}: frame {kind:#x} from the consumer of a route")
        try:
            self._counts = read_counts(header)
        except CodecError as error:
            raise RemoteProtocolError(f"{self._link.peer}: {error}") from error
        self._is_new = True
        self._tell()

    def lost(self, error: Exception | None) -> None:
        """The consumer's end is gone."""
        self.on_lost(error or BrokenError(f"{self._link.peer}: the consumer vanished"))

    def fail(self, error: Exception) -> None:
        """The consumer's end broke the rules."""
        self._link.stream.fail(error)
        self.close()

    @property
    def needs_loop(self) -> bool:
        """A stream is written by the loop."""
        return True

    def close(self) -> None:
        """Close this half; what is unsent is lost."""
        self._room.close()
        self._link.close()


class StreamFarLink:
    """The consumer's half; see `route_link.FarLink`. Frames that arrive are given to `frame`."""

    report_delay_s: float = REPORT_DELAY_S

    def __init__(self, link: FramedLink, trails: TrailReader, times: Times = SHARED) -> None:
        self._link = link
        self._far = None if times.is_shared else times
        self._records = RecordReader(trails)
        self._early: list[tuple[int, bytes, bytes]] | None = []  # what came before `start`
        self._early_bytes = 0
        self._ended = False
        self._owed: Sequence[int] | None = None
        self._room = Room(link.stream, self._report_owed)
        self.on_messages = _nothing
        self.on_end = _nothing
        self.on_missed = _nothing
        self.on_lost = _nothing

    def start(self) -> None:
        """Begin to bring messages."""
        if self._early:
            self._link.stream.pause()
            asyncio.get_running_loop().call_soon(self._bring_early)
        else:
            self._early = None

    def _bring_early(self) -> None:
        early, self._early = self._early or (), None
        stream = self._link.stream
        try:
            for kind, header, body in early:
                if stream.is_lost:
                    return
                self.frame(kind, header, body)
        except RemoteProtocolError as error:
            stream.fail(error)
        stream.resume()

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the producer's end. Raises: RemoteProtocolError."""
        if self._early is not None:
            self._early.append((kind, header, body))
            self._early_bytes += len(header) + len(body) + _FRAME_BYTES
            if self._early_bytes > STREAM_BYTES_HIGH:
                self._link.stream.pause()
            return
        try:
            if self._ended:
                raise RemoteProtocolError(f"frame {kind:#x} after the end")
            if kind == ITEM:
                item = read_item(header)
                if self._far is not None:
                    self._far.arrived(item.envelope)
                self.on_messages((self._records.message(item.envelope, item.codec, item.tag, body),))
            elif kind == CONTROL:
                codec, tag = read_array(header, 2)
                self._records.control(uint(codec, "codec", _CODEC_MAX), uint(tag, "tag", _TAG_MAX), body)
            elif kind == END:
                self._ended = True
                self.on_end()
            elif not kind & 1:
                raise RemoteProtocolError(f"frame {kind:#x} from the producer of a route")
        except (CodecError, RemoteProtocolError) as error:
            raise RemoteProtocolError(f"{self._link.peer}: {error}") from error

    def lost(self, error: Exception | None) -> None:
        """The producer's end is gone."""
        self.on_lost(error or BrokenError(f"{self._link.peer}: the producer vanished"))

    def report(self, counts: Sequence[int]) -> None:
        """Tell the producer's end what ended; while it does not read, only the newest report is kept for it."""
        if self._link.stream.is_lost:  # a peer that is gone need not know
            return
        if self._room.is_lacking:
            self._owed = counts
            self._room.ask()
            return
        try:
            self._link.send(COUNTS, write_counts(counts))
        except EncodeError as error:  # beyond 64 bits: sums of what only a peer that lies can have sent
            self._link.stream.fail(RemoteProtocolError(f"{self._link.peer}: {error}"))
        except ResourceError:
            return

    def _report_owed(self) -> None:
        owed, self._owed = self._owed, None
        if owed is not None:
            self.report(owed)

    def close(self) -> None:
        """Close this half."""
        self._room.close()
        self._link.close()
