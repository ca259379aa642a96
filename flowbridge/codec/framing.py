"""Frames on a stream of bytes: a type, a header and a body, each length in front.

    frame := type(varint) header_length(varint) body_length(varint) header body

Variable-length integers are those of QUIC (RFC 9000, section 16) in their shortest form. The header is one CBOR array
or empty; what a body means, the header says. A frame of an odd type that is not known may be skipped, of an even type
not: that is for the reader's user to decide.
"""

from __future__ import annotations

from typing import Final

from flowbridge.errors import EncodeError, RemoteProtocolError
from flowbridge.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX

_TYPE_MAX: Final = 0x3FFF
_LENGTHS: Final = (1, 2, 4, 8)
_LEAST: Final = (0, 0x40, 0x4000, 0x4000_0000)  # the smallest value that needs so many bytes


def varint(value: int) -> bytes:
    """A value below 2**62 in its shortest form. Raises: EncodeError."""
    if 0 <= value < 0x40:
        return value.to_bytes(1, "big")
    if 0 <= value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if 0 <= value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if 0 <= value < 1 << 62:
        return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
    raise EncodeError(f"a variable-length integer is {value}, not in 0..2**62-1")


def prefix(kind: int, header_bytes: int, body_bytes: int) -> bytes:
    """What stands in front of header and body."""
    if kind < 0x40 and header_bytes < 0x40 and body_bytes < 0x40:
        return bytes((kind, header_bytes, body_bytes))
    return varint(kind) + varint(header_bytes) + varint(body_bytes)


class FrameReader:
    """Cuts a stream into frames. Holds at most one incomplete frame.

    A length beyond its limit is refused as soon as it is read, before any of what it announces is kept.
    """

    __slots__ = ("_body_max", "_chunks", "_have", "_header_max", "_need")

    def __init__(self, *, header_bytes_max: int = HEADER_BYTES_MAX, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._header_max = header_bytes_max
        self._body_max = body_bytes_max
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 1  # with fewer bytes there is no use in looking

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete frame is here."""
        return self._have

    def feed(self, data: bytes) -> list[tuple[int, bytes, bytes]]:
        """The frames that `data` completes, as (type, header, body). Raises: RemoteProtocolError."""
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._have = 0
        frames: list[tuple[int, bytes, bytes]] = []
        at, end = 0, len(data)
        while at < end:
            start = at
            kind, at = self._number(data, at, end)
            header_bytes, at = self._number(data, at, end)
            body_bytes, at = self._number(data, at, end)
            if kind > _TYPE_MAX:
                raise RemoteProtocolError(f"frame type {kind:#x} exceeds {_TYPE_MAX:#x}")
            if header_bytes > self._header_max:
                raise RemoteProtocolError(f"frame header exceeds {self._header_max} bytes: {header_bytes}")
            if body_bytes > self._body_max:
                raise RemoteProtocolError(f"frame body exceeds {self._body_max} bytes: {body_bytes}")
            if at < 0 or end - at < header_bytes + body_bytes:
                self._chunks.append(data[start:])
                self._have = end - start
                self._need = self._have + 1 if at < 0 else at - start + header_bytes + body_bytes
                break
            middle = at + header_bytes
            at = middle + body_bytes
            frames.append((kind, data[middle - header_bytes : middle], data[middle:at]))
        return frames

    @staticmethod
    def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
        """A variable-length integer and where it ends; (0, -1) when it is not all here."""
        if at < 0 or at >= end:
            return 0, -1
        first = data[at]
        if first < 0x40:
            return first, at + 1
        size = _LENGTHS[first >> 6]
        if end - at < size:
            return 0, -1
        value = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
        if value < _LEAST[first >> 6]:
            raise RemoteProtocolError(f"a variable-length integer of {size} bytes holds {value}, which needs fewer")
        return value, at + size

    def __repr__(self) -> str:
        return f"<FrameReader {self._have} bytes held>"
