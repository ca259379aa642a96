"""Headers of a bus link in the form that nearly all have, read by hand: a third of what a general decoder takes.

That is: one number in front of an envelope, or one and a short topic; a deadline, no trace, times of eight bytes or 0,
small numbers in all else, and no headers or a short topic alone. What does not look like that is not refused here but
left to the general decoder, which reads what is accepted here as the same values.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from flowbridge.codec.bus_items import UINT_MAX
from flowbridge.limits import LANES

_BOTH_TIMES: Final = struct.Struct(">BQBQBQBBBH").unpack_from  # deadline, origin, sent, and the rest up to the headers
_NO_ORIGIN: Final = struct.Struct(">BQBBQBBBH").unpack_from
_NO_TIMES: Final = struct.Struct(">BQBBBBBH").unpack_from
_BOTH_TIMES_BYTES: Final = 32
_NO_ORIGIN_BYTES: Final = 24
_NO_TIMES_BYTES: Final = 16
_DEADLINE_BYTES: Final = 9
_EIGHT_BYTES: Final = 0x1B
_SMALL: Final = 24  # a number below is its own head
_NO_TRACE: Final = 0xF6F6
_NULL: Final = 0xF6
_TOPIC_ONLY: Final = b"\xa1\x65topic"
_MALFORMED: Final = (IndexError, UnicodeDecodeError, struct.error)


def usual_in(header: bytes, *, has_topic: bool) -> list[Any] | None:
    """The positions of a header of the usual form: ten of an envelope behind those in front. None: it has another."""
    try:
        if header[0] != (0x8C if has_topic else 0x8B):
            return None
        call = header[1]
        at = 2
        if call >= _SMALL:
            call, at = _number(header, 1)
        if not has_topic:
            return _envelope(header, at, [call])
        size = header[at] - 0x60
        if not 0 <= size < _SMALL:
            return None
        end = at + 1 + size
        return _envelope(header, end, [call, header[at + 1 : end].decode()])
    except _MALFORMED:
        return None


def _number(header: bytes, at: int) -> tuple[int, int]:
    """A number of one to four bytes behind its head, and where it ends. Raises: IndexError for another."""
    head = header[at]
    if head == 0x19:
        return header[at + 1] << 8 | header[at + 2], at + 3
    if head == 0x18:
        return header[at + 1], at + 2
    if head == 0x1A and at + 5 <= len(header):
        return int.from_bytes(header[at + 1 : at + 5], "big"), at + 5
    raise IndexError


def _envelope(header: bytes, at: int, front: list[Any]) -> list[Any] | None:
    seq = header[at]
    if seq < _SMALL:
        at += 1
    else:
        seq, at = _number(header, at)
    origin_ns = sent_ns = 0
    heads = _EIGHT_BYTES
    if header[at + _DEADLINE_BYTES]:
        head, deadline_ns, second, origin_ns, heads, sent_ns, lane, size, codec, trace = _BOTH_TIMES(header, at)
        at += _BOTH_TIMES_BYTES
        if second != _EIGHT_BYTES:
            return None
    elif header[at + _DEADLINE_BYTES + 1]:
        head, deadline_ns, _, heads, sent_ns, lane, size, codec, trace = _NO_ORIGIN(header, at)
        at += _NO_ORIGIN_BYTES
    else:
        head, deadline_ns, _, _, lane, size, codec, trace = _NO_TIMES(header, at)
        at += _NO_TIMES_BYTES
    is_usual = (
        head == _EIGHT_BYTES
        and heads == _EIGHT_BYTES
        and trace == _NO_TRACE
        and lane < LANES
        and size < _SMALL
        and codec < _SMALL
        and deadline_ns | origin_ns | sent_ns <= UINT_MAX
    )
    if not is_usual:
        return None
    headers: dict[str, str] | None = None
    if header[at] == _NULL:
        if at + 1 != len(header):
            return None
    else:
        end = at + len(_TOPIC_ONLY)
        if not header.startswith(_TOPIC_ONLY, at) or not 0x60 <= header[end] < 0x60 + _SMALL:
            return None
        if end + header[end] - 0x5F != len(header):
            return None
        headers = {"topic": header[end + 1 :].decode()}
    front += (seq, deadline_ns, origin_ns, sent_ns, lane, size, codec, None, None, headers)
    return front
