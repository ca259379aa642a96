"""The pieces that headers of a bus link are written of: CBOR in deterministic form (RFC 8949, section 4.2.1), by hand.

A general encoder takes twice the time for the few forms that are needed here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import cbor2

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import EncodeError
from flowbridge.limits import LANES, TOPICS_CACHED_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.envelope import Envelope

UINT_MAX: Final = 2**63 - 1
INT_MIN: Final = -(2**63)
_NULL: Final = b"\xf6"
SMALL: Final = tuple(cbor2.dumps(number) for number in range(1024))
_TEXT_HEADS: Final = tuple(cbor2.dumps(" " * size)[:-size] if size else b"\x60" for size in range(256))
_LARGE: Final = 0xFFFF_FFFF  # a number above this takes nine bytes
_LARGE_PAIR: Final = struct.Struct(">BQBQ").pack
_LARGE_NUMBER: Final = struct.Struct(">BQ").pack
_texts: dict[str, bytes] = {}  # words that come again: topics, patterns, names of headers


def uint(value: int) -> bytes:
    """An unsigned integer in its shortest form. Raises: EncodeError."""
    if 0 <= value < 1024:
        return SMALL[value]
    if _LARGE < value <= UINT_MAX:
        return _LARGE_NUMBER(0x1B, value)
    if not 0 <= value <= UINT_MAX:
        raise EncodeError(f"a number in a frame is {value}, not in 0..{UINT_MAX}")
    return b"\x1a" + value.to_bytes(4, "big") if value > 0xFFFF else b"\x19" + value.to_bytes(2, "big")


def text(value: str) -> bytes:
    """A text. Raises: EncodeError for one that is not Unicode."""
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"a text in a frame cannot be written: {error}") from error
    size = len(data)
    if size < 256:
        return _TEXT_HEADS[size] + data
    return b"\x79" + size.to_bytes(2, "big") + data if size < 65536 else cbor2.dumps(value)


def word(value: str) -> bytes:
    """A text that comes again and again, so that it is worth remembering."""
    found = _texts.get(value)
    if found is None:
        if len(_texts) >= TOPICS_CACHED_MAX:
            _texts.clear()
        found = _texts[value] = text(value)
    return found


def headers_out(headers: Mapping[str, str | int] | None) -> bytes:
    """Headers of an envelope, keys in deterministic order. Raises: EncodeError."""
    if headers is None:
        return _NULL
    if len(headers) == 1 and type(topic := headers.get("topic")) is str:
        return b"\xa1\x65topic" + (text(topic) if topic[:1] == "_" else word(topic))  # a reply's is never used again
    pairs: list[bytes] = []
    for key, value in headers.items():
        if type(key) is not str:
            raise EncodeError(f"an envelope has a header whose name is not text: {_shown(key)}")
        if key == "topic" and type(value) is str:
            pairs.append(b"\x65topic" + word(value))
        elif type(value) is str:
            pairs.append(word(key) + text(value))
        elif type(value) is int and INT_MIN <= value <= UINT_MAX:
            pairs.append(word(key) + (uint(value) if value >= 0 else cbor2.dumps(value)))
        else:
            raise EncodeError(f"header {key[:48]!r} is neither text nor a 64-bit integer: {_shown(value)}")
    if len(pairs) > 1:
        pairs.sort()  # shorter keys sort first, because their length stands in front
    count = len(pairs)
    if count < 24:
        head = bytes((0xA0 | count,))
    elif count < 256:
        head = bytes((0xB8, count))
    elif count < 65536:
        head = b"\xb9" + count.to_bytes(2, "big")
    else:
        raise EncodeError(f"an envelope has {count} headers, more than a frame can hold")
    return head + b"".join(pairs)


def priority_out(envelope: Envelope) -> bytes:
    """The lane of an envelope. Raises: EncodeError."""
    if not 0 <= envelope.priority < LANES:
        raise EncodeError(f"the priority of an envelope is {envelope.priority}, not in 0..{LANES - 1}")
    return SMALL[envelope.priority]


def envelope_out(envelope: Envelope, codec: int, deadline_ns: int | None = None) -> bytes:
    """The ten positions of an envelope whose payload is written by a codec; `deadline_ns` replaces its own.

    Raises: EncodeError.
    """
    if deadline_ns is None:
        deadline_ns = envelope.deadline_ns
    origin_ns, sent_ns = envelope.origin_ns, envelope.sent_ns
    priority, size_bytes = envelope.priority, envelope.size_bytes
    trace = envelope.trace
    headers = envelope.headers
    return b"".join(
        (
            uint(envelope.seq),
            _NULL
            if deadline_ns >= NO_DEADLINE
            else _LARGE_NUMBER(0x1B, deadline_ns)
            if deadline_ns > _LARGE
            else uint(max(0, deadline_ns)),
            _LARGE_PAIR(0x1B, origin_ns, 0x1B, sent_ns)
            if _LARGE < origin_ns <= UINT_MAX and _LARGE < sent_ns <= UINT_MAX
            else uint(origin_ns) + uint(sent_ns),
            SMALL[priority] if 0 <= priority < LANES else priority_out(envelope),
            SMALL[size_bytes] if 0 <= size_bytes < 1024 else uint(size_bytes),
            SMALL[codec],
            b"\xf6\xf6" if trace is None else text(trace.traceparent) + text(trace.tracestate),
            _NULL if headers is None else headers_out(headers),
        )
    )


def _shown(value: object) -> str:
    return repr(value)[:48]
