"""The frames of a route between two processes.

On one machine the clock is shared and times are absolute; between machines their positions hold what `time.far` says.

    OPEN      [version, route id, descriptors, producer, lost]
              the first frame; so many descriptors of a ring, 0 without one; which run of the producer it is, as the
              numbers of two runs cannot be compared; and how many messages were lost with the last consumer
    ITEM      [codec, tag, seq, deadline_ns, origin_ns, sent_ns, priority, size_bytes, context]   body: the payload
    CONTROL   [codec, tag]                       body: what a later ITEM refers to by its tag (a schema, a trail)
    END       []                                 nothing more will come
    BODY      []                                 body: a payload whose record stands in the ring
    COUNTS    [16 numbers]                       consumer to producer; see `machines.outcome`
    SINGLE    [number, and what an ITEM has]     body: the payload; a message that may overtake, see `machines.singles`
    GONE      [priority, number, size_bytes, is_stale]   a SINGLE was given up
    SETTLED   [priority, number, ...]            consumer to producer: these SINGLEs came, or are known to be gone

`context` is null, or [traceparent, tracestate, headers].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from flowbridge.codec.arrays import read_array, uint, write_array
from flowbridge.envelope import Envelope, Priority, TraceContext, Trail
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX, SETTLED_MAX
from flowbridge.machines.outcome import COUNTS as COUNTS_NUMBER

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 2
OPEN: Final = 0x28
ITEM: Final = 0x2A
END: Final = 0x2C
CONTROL: Final = 0x2E
COUNTS: Final = 0x30
BODY: Final = 0x34
SINGLE: Final = 0x3C
SETTLED: Final = 0x3E
GONE: Final = 0x26

CODEC_CONTEXT: Final = 0x40
"""A control record with the context of the very next message; the codecs below are those of payloads."""
CODEC_TRAIL: Final = 0x41
"""A control record with a trail; its tag is the trail's number."""
CODEC_END: Final = 0x42
"""A control record that ends the stream."""

_TAG_MAX: Final = 2**32 - 1
_CODEC_MAX: Final = 2**16 - 1
TRAIL_NODES_MAX: Final = 1024
REMEMBERED_NODES_MAX: Final = 65_536
_CONTEXT_BYTES_MAX: Final = HEADER_BYTES_MAX - 96  # what the other positions of an ITEM leave
_INT_MIN: Final = -(2**63)


class Item(NamedTuple):
    """An ITEM header: where the payload is to be decoded, and the envelope without it."""

    codec: int
    tag: int
    envelope: Envelope


def context_of(envelope: Envelope) -> list[object] | None:
    """What few messages carry, in plain values."""
    trace, headers = envelope.trace, envelope.headers
    if trace is None and headers is None:
        return None
    if trace is None:
        return [None, "", None if headers is None else dict(headers)]
    return [trace.traceparent, trace.tracestate, None if headers is None else dict(headers)]


def check_context(envelope: Envelope) -> None:
    """Whether trace and headers can be written into any frame, and read again. Raises: EncodeError."""
    trace, headers = envelope.trace, envelope.headers
    characters = 0
    is_ascii = True
    if trace is not None:
        characters = len(trace.traceparent) + len(trace.tracestate)
        is_ascii = trace.traceparent.isascii() and trace.tracestate.isascii()
    for key, value in (headers or {}).items():
        characters += len(key) + 16
        if type(value) is str:
            characters += len(value)
            is_ascii = is_ascii and value.isascii()
        elif type(value) is not int or not _INT_MIN <= value < 2**64:
            raise EncodeError(f"header {repr(key)[:24]} is neither text nor a number of 64 bits: {repr(value)[:24]}")
        if type(key) is not str:
            raise EncodeError(f"the name of a header is no text: {repr(key)[:24]}")
        is_ascii = is_ascii and key.isascii()
    if not is_ascii or characters > _CONTEXT_BYTES_MAX - 32:  # the rare case, in which only writing it tells
        size = len(write_array(context_of(envelope) or ()))
        if size > _CONTEXT_BYTES_MAX:
            raise EncodeError(f"trace and headers exceed {_CONTEXT_BYTES_MAX} bytes: {size}")


def read_context(context: object, envelope: Envelope) -> None:
    """Put trace and headers into an envelope. Raises: DecodeError."""
    if type(context) is not list or len(cast("list[object]", context)) != 3:
        raise DecodeError("position context is no list of three")
    traceparent, tracestate, headers = cast("list[object]", context)
    if type(tracestate) is not str or not (traceparent is None or type(traceparent) is str):
        raise DecodeError("position context holds a trace that is no text")
    if type(traceparent) is str:
        envelope.trace = TraceContext(traceparent, tracestate)
    if headers is not None:
        if type(headers) is not dict:
            raise DecodeError("position context holds headers that are no map")
        for key, value in cast("dict[object, object]", headers).items():
            if type(key) is not str or type(value) not in (str, int):
                raise DecodeError(f"a header is neither text nor a number: {repr(key)[:24]}: {repr(value)[:24]}")
        envelope.headers = cast("dict[str, str | int]", headers)


def write_item(envelope: Envelope, codec: int, tag: int) -> bytes:
    """The header of an ITEM. Raises: EncodeError."""
    return write_array(_item(envelope, codec, tag))


def _item(envelope: Envelope, codec: int, tag: int) -> tuple[object, ...]:
    return (
        codec,
        tag,
        envelope.seq,
        envelope.deadline_ns,
        envelope.origin_ns,
        envelope.sent_ns,
        int(envelope.priority),
        envelope.size_bytes,
        context_of(envelope),
    )


def read_item(header: bytes) -> Item:
    """The header of an ITEM. Raises: DecodeError."""
    return _read_item(read_array(header, 9))


def _read_item(items: list[Any]) -> Item:
    codec, tag, seq, deadline_ns, origin_ns, sent_ns, priority, size_bytes, context = items
    envelope = Envelope(
        None,
        Priority(uint(priority, "priority", Priority.BEST_EFFORT)),
        uint(deadline_ns, "deadline_ns"),
        uint(origin_ns, "origin_ns"),
        uint(sent_ns, "sent_ns"),
        uint(size_bytes, "size_bytes"),
        uint(seq, "seq"),
    )
    if context is not None:
        read_context(context, envelope)
    return Item(uint(codec, "codec", _CODEC_MAX), uint(tag, "tag", _TAG_MAX), envelope)


def write_single(number: int, envelope: Envelope, codec: int, tag: int) -> bytes:
    """The header of a SINGLE. Raises: EncodeError."""
    return write_array((number, *_item(envelope, codec, tag)))


def read_single(header: bytes) -> tuple[int, Item]:
    """The number of a SINGLE, and what it has of an ITEM. Raises: DecodeError."""
    number, *items = read_array(header, 10)
    return uint(number, "number"), _read_item(items)


def write_gone(priority: int, number: int, size_bytes: int, is_stale: bool) -> bytes:
    """The header of a GONE: `is_stale` when a newer one took its place, else its deadline passed."""
    return write_array((int(priority), number, size_bytes, int(is_stale)))


def read_gone(header: bytes) -> tuple[int, int, int, bool]:
    """What `write_gone` was told. Raises: DecodeError."""
    priority, number, size_bytes, is_stale = read_array(header, 4)
    return (
        uint(priority, "priority", Priority.BEST_EFFORT),
        uint(number, "number"),
        uint(size_bytes, "size_bytes"),
        bool(uint(is_stale, "is_stale", 1)),
    )


def write_settled(settled: Sequence[tuple[int, int]]) -> bytes:
    """The header of a SETTLED: priorities and numbers, at most `SETTLED_MAX` pairs."""
    return write_array([one for pair in settled for one in pair])


def read_settled(header: bytes) -> list[tuple[int, int]]:
    """Priorities and numbers. Raises: DecodeError."""
    items = read_array(header, None)
    if len(items) % 2 or not 0 < len(items) <= 2 * SETTLED_MAX:
        raise DecodeError(f"{len(items)} positions are no 1..{SETTLED_MAX} pairs")
    lanes = [uint(lane, "priority", Priority.BEST_EFFORT) for lane in items[::2]]
    return list(zip(lanes, [uint(number, "number") for number in items[1::2]], strict=True))


class RouteOpen(NamedTuple):
    """What an OPEN says beside the route."""

    descriptors: int = 0
    producer: int = 0
    lost: int = 0


def write_open(route: str, opened: RouteOpen) -> bytes:
    """The header of an OPEN."""
    return write_array((VERSION, route, *opened))


def read_open(header: bytes, route: str) -> RouteOpen:
    """What an OPEN says. Raises: DecodeError when it is for another route or version."""
    items = read_array(header, None)
    version = items[0] if items else None
    if version != VERSION or type(version) is not int:
        raise DecodeError(f"the producer speaks version {repr(version)[:24]} of the route protocol, not {VERSION}")
    _, name, descriptors, producer, lost = read_array(header, 5)
    if name != route:
        raise DecodeError(f"the producer opens route {repr(name)[:80]}, not {route}")
    return RouteOpen(uint(descriptors, "descriptors", 4), uint(producer, "producer"), uint(lost, "lost"))


def write_counts(counts: Sequence[int]) -> bytes:
    """The header of a COUNTS frame."""
    return write_array(counts)


def read_counts(header: bytes) -> tuple[int, ...]:
    """The sixteen counts. Raises: DecodeError."""
    return tuple(uint(count, "count") for count in read_array(header, COUNTS_NUMBER))


def write_trail(trail: Trail) -> bytes:
    """The nodes of a trail."""
    return write_array(trail.nodes)


class TrailReader:
    """Makes trails of what a peer sends; equal trails become the same object.

    It remembers about `REMEMBERED_NODES_MAX` nodes, whatever routes come and go; then it begins anew.
    """

    __slots__ = ("_nodes", "_roots")

    def __init__(self) -> None:
        self._roots: dict[str, Trail] = {}
        self._nodes = 0  # that were read since it began; those that many trails share count for each

    def read(self, data: bytes, nodes_max: int = TRAIL_NODES_MAX) -> tuple[Trail, int]:
        """A trail and how many nodes it has. Raises: DecodeError."""
        items = read_array(data, None)
        nodes_max = min(nodes_max, TRAIL_NODES_MAX)
        if not 1 <= len(items) <= nodes_max or not all(type(item) is str for item in items):
            raise DecodeError(f"a trail is no list of up to {nodes_max} nodes")
        self._nodes += len(items)
        if self._nodes > REMEMBERED_NODES_MAX:
            self._roots.clear()
            self._nodes = len(items)
        first = items[0]
        trail = self._roots.get(first)
        if trail is None:
            trail = self._roots[first] = Trail(first)
        for node in items[1:]:
            trail = trail.step(node)
        return trail, len(items)
