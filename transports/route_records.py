"""Messages of one route to records and back, the same for a socket and a ring.

A record is a codec, a tag and bytes. What many messages share (an Arrow schema, a trail) is sent once, as a control
record in front of the first that needs it; a message refers to it by its tag: the schema's number in the upper, the
trail's in the lower sixteen bits, 0 for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.arrays import INT_MAX, read_array, write_array
from flowbridge.codec.payload import TREE, PayloadReader, PayloadWriter, Prepared
from flowbridge.codec.route_frames import (
    CODEC_CONTEXT,
    CODEC_TRAIL,
    TRAIL_NODES_MAX,
    TrailReader,
    check_context,
    context_of,
    read_context,
    write_trail,
)
from flowbridge.envelope import Envelope
from flowbridge.errors import CodecError, DecodeError, EncodeError, RemoteProtocolError
from flowbridge.limits import BODY_BYTES_MAX, PATHS_MAX

if TYPE_CHECKING:
    from flowbridge.envelope import Trail

_NUMBER_MAX: Final = 0xFFFF
NODES_MAX: Final = 16_384
"""Of all trails of a route together; further ones travel without, and are RemoteProtocolError from a peer."""
_NO_CONTEXT: Final = write_array((None, "", None))

Control = tuple[int, int, bytes]
"""Codec, tag and content of a control record."""


class RecordWriter:
    """The producer's end of a route."""

    __slots__ = ("_context_for", "_nodes", "_payloads", "_sent", "trails")

    def __init__(self) -> None:
        self._payloads = PayloadWriter()
        self.trails: dict[Trail, int] = {}
        """Those that went over the link by their number, 0 for one that travels without."""
        self._nodes = 0  # of all trails that were sent
        self._sent: set[int] = set()  # the schemas the other end has
        self._context_for: Envelope | None = None  # its context was sent, itself not yet

    def prepare(self, envelope: Envelope, tree: bytes | None = None) -> Envelope:
        """A copy whose payload is a `Prepared`, and that can be sent for sure. Raises: EncodeError.

        `tree` is the payload as a tree in bytes if they are at hand.
        """
        trace, headers, payload = envelope.trace, envelope.headers, envelope.payload
        try:
            if type(payload) is memoryview:
                payload = memoryview(payload)  # ours, which the sender cannot release before it is written
            prepared = self._payloads.prepare(payload) if tree is None else Prepared(TREE, 0, tree, len(tree))
            numbers = envelope.seq | envelope.origin_ns | envelope.size_bytes
            if not 0 <= numbers <= INT_MAX or envelope.deadline_ns > INT_MAX:
                raise EncodeError(f"a number is not in 0..2**63-1: {envelope!r} of {envelope.origin_ns}")
            if trace is not None or headers is not None:
                check_context(envelope)
        except (TypeError, ValueError) as error:
            raise EncodeError(f"message {envelope.seq!r} cannot be written: {error}") from error
        if prepared.nbytes > BODY_BYTES_MAX:
            raise EncodeError(f"a payload exceeds {BODY_BYTES_MAX} bytes: {prepared.nbytes}")
        return Envelope(
            prepared,
            envelope.priority,
            envelope.deadline_ns,
            envelope.origin_ns,
            envelope.sent_ns,
            envelope.size_bytes,
            envelope.seq,
            envelope.trail,
            trace,
            headers,
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
            number = self.trails.get(trail, -1)
            if number < 0:
                number = self._trail(trail, controls)
        if with_context and self._context_for is not envelope:
            context = context_of(envelope)
            if context is not None:
                controls.append((CODEC_CONTEXT, 0, write_array(context)))
            elif self._context_for is not None:  # of a message that had no room and that this one overtakes
                controls.append((CODEC_CONTEXT, 0, _NO_CONTEXT))
        return controls, prepared.tag << 16 | number

    def _trail(self, trail: Trail, controls: list[Control]) -> int:
        if len(self.trails) >= PATHS_MAX:
            return 0  # so many paths that reports add them up as "(others)" anyhow
        number = len(self.trails) + 1
        nodes = len(trail.nodes)
        try:
            if nodes > TRAIL_NODES_MAX or self._nodes + nodes > NODES_MAX:
                raise EncodeError(f"the trails of a route exceed {NODES_MAX} nodes")
            content = write_trail(trail)
        except EncodeError:
            self.trails[trail] = 0  # travels without
            return 0
        controls.append((CODEC_TRAIL, number, content))
        return number

    def sent(self, control: Control, envelope: Envelope) -> None:
        """A control record in front of this message went over the link."""
        codec, tag, content = control
        if codec == CODEC_TRAIL and envelope.trail is not None:
            self.trails[envelope.trail] = tag
            self._nodes += len(envelope.trail.nodes)
        elif codec == CODEC_CONTEXT:
            self._context_for = None if content is _NO_CONTEXT else envelope
        else:
            self._sent.add(tag >> 16)

    def has_context(self, envelope: Envelope) -> bool:
        """Whether the context of just this message went over the link already."""
        return self._context_for is envelope

    @property
    def is_between(self) -> bool:
        """Whether the context of a message went over the link and the message did not yet."""
        return self._context_for is not None

    def passed(self) -> None:
        """A message went over the link, and with it the context in front of it."""
        self._context_for = None

    def reset(self) -> None:
        """Forget what the other end has: it is a new one."""
        self.trails.clear()
        self._sent.clear()
        self._nodes = 0
        self._context_for = None


class RecordReader:
    """The consumer's end of a route. Whatever a peer sends that cannot be read is a RemoteProtocolError."""

    __slots__ = ("_context", "_nodes", "_payloads", "_trees", "trails")

    def __init__(self, trees: TrailReader) -> None:
        self._payloads = PayloadReader()
        self._trees = trees
        self.trails: dict[int, Trail] = {}
        """Those that came, by number."""
        self._nodes = 0
        self._context: list[Any] | None = None

    def control(self, codec: int, tag: int, data: bytes) -> None:
        """Take in a control record."""
        try:
            if codec == CODEC_TRAIL:
                if not 0 < tag <= PATHS_MAX or tag in self.trails:
                    raise DecodeError(f"a trail has the number {tag}, which is taken or not in 1..{PATHS_MAX}")
                trail, nodes = self._trees.read(data, NODES_MAX - self._nodes)
                self._nodes += nodes
                self.trails[tag] = trail
            elif codec == CODEC_CONTEXT:
                self._context = read_array(data, 3)
            else:
                self._payloads.control(codec, tag >> 16, data)
        except CodecError as error:
            raise RemoteProtocolError(f"a control record cannot be read: {error}") from error

    @property
    def is_between(self) -> bool:
        """Whether a context came whose message did not come yet."""
        return self._context is not None

    def message(self, envelope: Envelope, codec: int, tag: int, data: Any) -> Envelope:
        """Put payload, trail and context into an envelope."""
        try:
            envelope.payload = self._payloads.read(codec, tag >> 16, data)
            number = tag & _NUMBER_MAX
            if number:
                trail = self.trails.get(number)
                if trail is None:
                    raise DecodeError(f"trail {number} was never sent")
                envelope.trail = trail
            context, self._context = self._context, None
            if context is not None:
                read_context(context, envelope)
        except CodecError as error:
            raise RemoteProtocolError(f"message {envelope.seq} cannot be read: {error}") from error
        return envelope
