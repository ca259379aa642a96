"""The envelope's header as one CBOR array of fixed positions (RFC 8949); the payload travels beside it.

    0 version      1
    1 topic        text: a topic, or the id of a route
    2 seq          0..2**63-1
    3 ttl_us       what is left of the deadline, rounded down, 0 when it passed; null without a deadline
    4 sent_ns      the sender's own clock
    5 priority     0..3
    6 trace        26 bytes: version, trace-id (16), span-id (8), flags; or null
    7 tracestate   text or null; null without a trace
    8 age_us       how long ago the first ancestor entered the flow; null when unknown
    9 size_bytes   0..2**63-1
    10 headers     map of text to text or 64-bit integer, or null

Rules.
1. A deadline travels as what is left and is re-anchored to the receiver's clock, so it may shrink but never grows.
2. There is one form of every header (section 4.2.1, deterministic encoding), and the decoder accepts no other: it
   writes again what it read and compares. So tags, indefinite lengths, long integers, unsorted maps and trailing bytes
   all fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from flowbridge.codec.arrays import NOT_AGREED, read_plain
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX, TOPICS_CACHED_MAX
from flowbridge.machines.topics import problem_with_topic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.contracts import BytesLike

VERSION: Final = 1
_POSITIONS: Final = 11
_ARRAY: Final = bytes([0x80 | _POSITIONS])
_UINT_MAX: Final = 2**63 - 1
_US_MAX: Final = _UINT_MAX // 1000
_INT_MIN: Final = -(2**63)
_DEPTH_MAX: Final = 2  # the array and the map of headers
_TRACE_BYTES: Final = 26


class CborCodec:
    """Keeps `contracts.Codec`. What is constant of a topic's header is encoded once and remembered.

    Does not promise: the trail, which is of use in its own process only. Times of the receiver are exact to the
    microsecond below.
    """

    __slots__ = ("_prefixes",)

    def __init__(self) -> None:
        self._prefixes: dict[str, bytes] = {}  # by topic; a topic in here is well formed

    @property
    def name(self) -> str:
        """Compared by the peers when they meet."""
        return f"cbor-{VERSION}"

    def encode(self, envelope: Envelope, *, topic: str, now_ns: int) -> bytes:
        """The header alone. Raises: EncodeError, naming the position that cannot be written."""
        deadline_ns, origin_ns = envelope.deadline_ns, envelope.origin_ns
        trace, tracestate = _trace_out(envelope.trace)
        rest = (
            _uint_out(envelope.seq, "seq"),
            None if deadline_ns >= NO_DEADLINE else _clamped_us(deadline_ns - now_ns),
            _uint_out(envelope.sent_ns, "sent_ns"),
            _uint_out(envelope.priority, "priority", Priority.BEST_EFFORT),
            trace,
            tracestate,
            _clamped_us(now_ns - origin_ns) if origin_ns else None,
            _uint_out(envelope.size_bytes, "size_bytes"),
            _headers_out(envelope.headers),
        )
        problem = "" if topic in self._prefixes else problem_with_topic(topic)
        if problem:
            raise EncodeError(f"position topic {problem}")
        try:
            header = self._write(topic, rest)
        except (cbor2.CBOREncodeError, ValueError) as error:  # a lone surrogate is a ValueError
            raise EncodeError(f"a header on topic {topic!r} cannot be written: {error}") from error
        if len(header) > HEADER_BYTES_MAX:
            raise EncodeError(f"a header on topic {topic!r} exceeds {HEADER_BYTES_MAX} bytes: {len(header)}")
        return header

    def decode(self, header: BytesLike, *, now_ns: int) -> tuple[str, Envelope]:
        """Topic and an envelope without payload. Raises: DecodeError, and nothing else, for any bytes."""
        size = header.nbytes if isinstance(header, memoryview) else len(header)
        if size > HEADER_BYTES_MAX:
            raise DecodeError(f"a header exceeds {HEADER_BYTES_MAX} bytes: {size}")
        data = bytes(header)
        items = _read(data)
        version, topic, seq, ttl_us, sent_ns, priority, trace, tracestate, age_us, size_bytes, headers = items
        if version != VERSION or type(version) is not int:
            raise DecodeError(f"position version is {_shown(version)}, not {VERSION}")
        self._check_topic(topic)
        _check_uint(seq, "seq")
        _check_uint(sent_ns, "sent_ns")
        _check_uint(priority, "priority", Priority.BEST_EFFORT)
        _check_uint(size_bytes, "size_bytes")
        if ttl_us is not None:
            _check_uint(ttl_us, "ttl_us", _US_MAX)
        if age_us is not None:
            _check_uint(age_us, "age_us", _US_MAX)
        context = _trace_in(trace, tracestate)
        if headers is not None:
            _check_headers(headers)
        # Rule 2. Every value has its exact type by now, so writing cannot fail.
        if self._write(topic, tuple(items[2:])) != data:
            raise DecodeError("a header is not in deterministic form (RFC 8949 section 4.2.1), or bytes follow it")
        return topic, Envelope(
            None,
            Priority(priority),
            NO_DEADLINE if ttl_us is None else min(now_ns + ttl_us * 1000, NO_DEADLINE - 1),
            0 if age_us is None else now_ns - age_us * 1000,
            sent_ns,
            size_bytes,
            seq,
            None,
            context,
            headers,
        )

    def _write(self, topic: str, rest: tuple[object, ...]) -> bytes:
        prefix = self._prefixes.get(topic)
        if prefix is None:
            if len(self._prefixes) >= TOPICS_CACHED_MAX:
                self._prefixes.clear()
            prefix = self._prefixes[topic] = _ARRAY + cbor2.dumps(VERSION) + cbor2.dumps(topic)
        # An array of less than 24 items has a head of one byte, which is part of the prefix here.
        return prefix + cbor2.dumps(rest, canonical=True)[1:]

    def _check_topic(self, topic: object) -> None:
        if type(topic) is not str:
            raise DecodeError(f"position topic is {_shown(topic)}, not text")
        if topic not in self._prefixes:
            problem = problem_with_topic(topic)
            if problem:
                raise DecodeError(f"position topic {problem}")

    def __repr__(self) -> str:
        return f"<CborCodec {self.name}, {len(self._prefixes)} topics known>"


# --- out ------------------------------------------------------------------------------------------------------------


def _uint_out(value: object, name: str, value_max: int = _UINT_MAX) -> int:
    if not isinstance(value, int) or not 0 <= value <= value_max:
        raise EncodeError(f"position {name} is {_shown(value)}, not in 0..{value_max}")
    return int(value)


def _clamped_us(duration_ns: int) -> int:
    return min(max(0, duration_ns // 1000), _US_MAX)


def _trace_out(trace: TraceContext | None) -> tuple[bytes | None, str | None]:
    if trace is None:
        return None, None
    try:
        binary = bytes.fromhex(trace.traceparent.replace("-", ""))
    except ValueError as error:
        raise EncodeError(f"position trace is no traceparent: {trace.traceparent[:64]!r}") from error
    if _problem_with_trace(binary) or _traceparent(binary) != trace.traceparent:
        raise EncodeError(f"position trace is no traceparent: {trace.traceparent[:64]!r}")
    if not _printable(trace.tracestate):
        raise EncodeError("position tracestate is not printable ASCII")
    return binary, trace.tracestate or None


def _headers_out(headers: Mapping[str, str | int] | None) -> dict[str, str | int] | None:
    if headers is None:
        return None
    for key, value in headers.items():
        problem = _problem_with_header(key, value)
        if problem:
            raise EncodeError(problem)
    return dict(headers)


# --- in -------------------------------------------------------------------------------------------------------------


def _read(data: bytes) -> list[Any]:
    if data[:1] != _ARRAY:
        raise DecodeError(f"a header starts with {_ARRAY.hex()}, an array of {_POSITIONS}, not with {data[:1].hex()!r}")
    try:
        items = read_plain(data, _DEPTH_MAX)
    except NOT_AGREED as error:
        raise DecodeError(f"a header is not CBOR as agreed: {error}") from error
    return cast(list[Any], items)


def _check_uint(value: object, name: str, value_max: int = _UINT_MAX) -> None:
    if type(value) is not int or not 0 <= value <= value_max:
        raise DecodeError(f"position {name} is {_shown(value)}, not in 0..{value_max}")


def _trace_in(trace: object, tracestate: object) -> TraceContext | None:
    if trace is None:
        if tracestate is not None:
            raise DecodeError("position tracestate is there without a trace")
        return None
    if type(trace) is not bytes or _problem_with_trace(trace):
        raise DecodeError(f"position trace is no trace context: {_shown(trace)}")
    if tracestate is None:
        return TraceContext(_traceparent(trace))
    if type(tracestate) is not str or not tracestate or not _printable(tracestate):
        raise DecodeError(f"position tracestate is not printable ASCII: {_shown(tracestate)}")
    return TraceContext(_traceparent(trace), tracestate)


def _check_headers(headers: object) -> None:
    if type(headers) is not dict:
        raise DecodeError(f"position headers is {_shown(headers)}, not a map")
    for key, value in cast(dict[object, object], headers).items():
        problem = _problem_with_header(key, value)
        if problem:
            raise DecodeError(problem)


def _shown(value: object) -> str:
    """A value of a peer, cut short: it may be long, and it goes into a log."""
    return repr(value)[:48]


# --- both -----------------------------------------------------------------------------------------------------------


def _problem_with_trace(trace: bytes) -> bool:
    """Length, and the values that W3C Trace Context forbids: version ff, all-zero ids."""
    return len(trace) != _TRACE_BYTES or trace[0] == 0xFF or not any(trace[1:17]) or not any(trace[17:25])


def _traceparent(trace: bytes) -> str:
    text = trace.hex()
    return f"{text[:2]}-{text[2:34]}-{text[34:50]}-{text[50:]}"


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _problem_with_header(key: object, value: object) -> str:
    if type(key) is not str:
        return f"position headers has a key that is not text: {_shown(key)}"
    if type(value) is str or (type(value) is int and _INT_MIN <= value <= _UINT_MAX):
        return ""
    return f"position headers has under {_shown(key)} neither text nor a 64-bit integer: {_shown(value)}"
