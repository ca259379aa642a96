"""Messages of one route to records and back, the same for a socket and a ring.

A record is a codec, a tag and bytes. What many messages share (an Arrow schema, a trail) is sent once, as a control
record in front of the first that needs it; a message refers to it by its tag: the schema's number in the upper, the
trail's in the lower sixteen bits, 0 for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.arrays import read_array, write_array
from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.codec.route_frames import (
    CODEC_CONTEXT,
    CODEC_TRAIL,
    TrailReader,
    context_of,
    read_context,
    write_trail,
)
from flowbridge.envelope import Envelope
from flowbridge.errors import CodecError, DecodeError, EncodeError, RemoteProtocolError

if TYPE_CHECKING:
    from flowbridge.codec.payload import Prepared
    from flowbridge.envelope import Trail

_NUMBER_MAX: Final = 0xFFFF

Control = tuple[int, int, bytes]
"""Codec, tag and content of a control record."""


class RecordWriter:
    """The producer's end of a route."""

    __slots__ = ("_payloads", "_sent", "_trails")

    def __init__(self) -> None:
        self._payloads = PayloadWriter()
        self._trails: dict[Trail, int] = {}
        self._sent: set[int] = set()  # the schemas the other end has

    def prepare(self, envelope: Envelope) -> Envelope:
        """A copy whose payload is a `Prepared`. Raises: EncodeError."""
        return Envelope(
            self._payloads.prepare(envelope.payload),
            envelope.priority,
            envelope.deadline_ns,
            envelope.origin_ns,
            envelope.sent_ns,
            envelope.size_bytes,
            envelope.seq,
            envelope.trail,
            envelope.trace,
            envelope.headers,
        )

    def before(self, envelope: Envelope, *, with_context: bool) -> tuple[list[Control], int]:
        """The control records that must precede a prepared message, and its tag.

        Nothing is remembered before `sent` is called for each: a link may have no room for them.
        """
        prepared: Prepared = envelope.payload
        controls: list[Control] = []
        for codec, tag, data in prepared.before:
            if tag not in self._sent:
                controls.append((codec, tag << 16, data))
        trail = envelope.trail
        number = 0
        if trail is not None:
            number = self._trails.get(trail, -1)
            if number < 0:
                number = self._trail(trail, controls)
        if with_context and (envelope.trace is not None or envelope.headers is not None):
            controls.append((CODEC_CONTEXT, 0, write_array(context_of(envelope) or ())))
        return controls, prepared.tag << 16 | number

    def _trail(self, trail: Trail, controls: list[Control]) -> int:
        if len(self._trails) >= _NUMBER_MAX:
            return 0  # so many paths that reports add them up as "(others)" anyhow
        number = len(self._trails) + 1
        try:
            controls.append((CODEC_TRAIL, number, write_trail(trail)))
        except EncodeError:
            self._trails[trail] = 0  # longer than a header may be
            return 0
        return number

    def sent(self, control: Control, envelope: Envelope) -> None:
        """A control record in front of this message went over the link."""
        codec, tag, _ = control
        if codec == CODEC_TRAIL and envelope.trail is not None:
            self._trails[envelope.trail] = tag
        elif codec != CODEC_CONTEXT:
            self._sent.add(tag >> 16)

    def reset(self) -> None:
        """Forget what the other end has: it is a new one."""
        self._trails.clear()
        self._sent.clear()


class RecordReader:
    """The consumer's end of a route. Whatever a peer sends that cannot be read is a RemoteProtocolError."""

    __slots__ = ("_context", "_payloads", "_trails", "_trees")

    def __init__(self, trees: TrailReader) -> None:
        self._payloads = PayloadReader()
        self._trees = trees
        self._trails: dict[int, Trail] = {}
        self._context: list[Any] | None = None

    def control(self, codec: int, tag: int, data: bytes) -> None:
        """Take in a control record."""
        try:
            if codec == CODEC_TRAIL:
                if not 0 < tag <= _NUMBER_MAX or len(self._trails) >= _NUMBER_MAX:
                    raise DecodeError(f"a trail has the number {tag}")
                self._trails[tag] = self._trees.read(data)
            elif codec == CODEC_CONTEXT:
                self._context = read_array(data, 3)
            else:
                self._payloads.control(codec, tag >> 16, data)
        except CodecError as error:
            raise RemoteProtocolError(f"a control record cannot be read: {error}") from error

    def message(self, envelope: Envelope, codec: int, tag: int, data: Any) -> Envelope:
        """Put payload, trail and context into an envelope."""
        try:
            envelope.payload = self._payloads.read(codec, tag >> 16, data)
            number = tag & _NUMBER_MAX
            if number:
                trail = self._trails.get(number)
                if trail is None:
                    raise DecodeError(f"trail {number} was never sent")
                envelope.trail = trail
            context, self._context = self._context, None
            if context is not None:
                read_context(context, envelope)
        except CodecError as error:
            raise RemoteProtocolError(f"message {envelope.seq} cannot be read: {error}") from error
        return envelope
