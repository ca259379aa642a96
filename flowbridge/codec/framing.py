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
_PIECE_BYTES_MIN: Final = 4096
_SHORT_FRONT_BYTES: Final = 5
_LENGTHS: Final = (1, 2, 4, 8)
_LEAST: Final = (0, 0x40, 0x4000, 0x4000_0000)  # the smallest value that needs so many bytes
_SHORT: Final = tuple(
    (value if value < 0x40 else value | 0x4000).to_bytes(1 if value < 0x40 else 2, "big") for value in range(1024)
)
"""The forms of the values that nearly every frame has in front."""


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
    """What stands in front of header and body. Raises: EncodeError for a type outside 0..0x3fff."""
    if 0 <= kind < 1024 and 0 <= header_bytes < 1024 and 0 <= body_bytes < 1024:
        return _SHORT[kind] + _SHORT[header_bytes] + _SHORT[body_bytes]
    if kind > _TYPE_MAX:
        raise EncodeError(f"frame type {kind:#x} exceeds {_TYPE_MAX:#x}")
    return varint(kind) + varint(header_bytes) + varint(body_bytes)


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


class FrameReader:
    """Cuts a stream into frames. Holds at most one incomplete frame, and of it only what has come.

    A length beyond its limit is refused as soon as it is read, before any of what it announces is kept. How the stream
    is cut into pieces makes no difference: frames in front of a violation are still delivered, nothing behind it is.
    """

    __slots__ = ("_body_max", "_failure", "_header_max", "_held", "_need", "_next", "_pieces", "_pieces_bytes")

    def __init__(self, *, header_bytes_max: int = HEADER_BYTES_MAX, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._header_max = header_bytes_max
        self._body_max = body_bytes_max
        self._pieces: list[bytes] = []  # of an incomplete frame; then what came in small ones:
        self._pieces_bytes = 0
        self._held = bytearray()
        self._need = 0  # the size of the incomplete frame; 0 while its lengths are not all here
        self._next = (0, 0, 0)  # its type, where its header begins and where its body does
        self._failure: str = ""

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete frame is here."""
        return self._pieces_bytes + len(self._held)

    @property
    def failure(self) -> RemoteProtocolError | None:
        """The violation behind the frames that the last `feed` returned; the next `feed` raises it."""
        return RemoteProtocolError(self._failure) if self._failure else None

    def whole(self, data: bytes) -> tuple[int, bytes, bytes] | None:
        """The frame that `data` is, when it is just one of the usual sizes and nothing was held; None: `feed` it.

        Nearly every read brings one frame, and this is a third of the work.
        """
        end = len(data)
        if end < _SHORT_FRONT_BYTES or self._held or self._pieces or self._failure:
            return None
        at = 3
        kind, header_bytes, body_bytes = data[0], data[1], data[2]
        if header_bytes >= 0x40:
            header_bytes = (header_bytes & 0x3F) << 8 | body_bytes if header_bytes < 0x80 else 0
            if header_bytes < 0x40:
                return None
            body_bytes = data[3]
            at = 4
        if body_bytes >= 0x40:
            body_bytes = (body_bytes & 0x3F) << 8 | data[at] if body_bytes < 0x80 else 0
            if body_bytes < 0x40:
                return None
            at += 1
        middle = at + header_bytes
        if kind >= 0x40 or middle + body_bytes != end:
            return None
        if header_bytes > self._header_max or body_bytes > self._body_max:
            return None  # `feed` says what is wrong
        return kind, data[at:middle], data[middle:]

    def feed(self, data: bytes) -> list[tuple[int, bytes, bytes]]:
        """The frames that `data` completes, as (type, header, body).

        Raises: RemoteProtocolError when the peer breaks the rules, and from then on; after frames that were in order,
        it is left in `failure` instead.
        """
        if self._failure:
            raise RemoteProtocolError(self._failure)
        frames: list[tuple[int, bytes, bytes]] = []
        at = 0
        if self._held or self._pieces:
            if self._need:
                at = self._need - self._pieces_bytes - len(self._held)
                if len(data) < at:
                    self._keep(data)
                    return frames
                self._keep(data[:at] if at < len(data) else data)
                frames.append(self._complete())
            else:
                data = bytes(self._held) + data
                self._held.clear()
        try:
            self._cut(data, at, frames)
        except RemoteProtocolError as error:
            self._failure = str(error)
            if not frames:
                raise
        return frames

    def _keep(self, data: bytes) -> None:
        # Large pieces as they are: they are joined once. Small ones are put together first: a peer that sends single
        # bytes must not cost 40 times what it sends.
        if len(data) < _PIECE_BYTES_MIN:
            self._held += data
            if len(self._held) < _PIECE_BYTES_MIN:
                return
            data = b""
        for piece in (bytes(self._held), data):
            if piece:
                self._pieces.append(piece)
                self._pieces_bytes += len(piece)
        self._held.clear()

    def _complete(self) -> tuple[int, bytes, bytes]:
        kind, header_at, body_at = self._next
        self._pieces.append(bytes(self._held))
        first = self._pieces[0]
        if len(first) < body_at:
            first = b"".join(self._pieces)
            self._pieces = [first]
        self._pieces[0] = first[body_at:]
        frame = kind, first[header_at:body_at], b"".join(self._pieces)
        self._pieces = []
        self._pieces_bytes = 0
        self._held = bytearray()
        self._need = 0
        return frame

    def _cut(self, data: bytes, at: int, frames: list[tuple[int, bytes, bytes]]) -> None:
        end = len(data)
        while at < end:
            start = at
            is_usual = False
            kind = header_bytes = body_bytes = 0
            if end - at >= _SHORT_FRONT_BYTES:  # nearly every frame: a type of one byte, lengths of one or two
                kind, header_bytes = data[at], data[at + 1]
                is_usual = kind < 0x40
                at += 2
                if header_bytes >= 0x40:
                    is_usual = is_usual and header_bytes < 0x80
                    header_bytes = (header_bytes & 0x3F) << 8 | data[at]
                    is_usual = is_usual and header_bytes >= 0x40
                    at += 1
                body_bytes = data[at]
                at += 1
                if body_bytes >= 0x40:
                    is_usual = is_usual and body_bytes < 0x80
                    body_bytes = (body_bytes & 0x3F) << 8 | data[at]
                    is_usual = is_usual and body_bytes >= 0x40
                    at += 1
            if not is_usual:
                at = start
                kind, at = _number(data, at, end)
                if kind > _TYPE_MAX:
                    raise RemoteProtocolError(f"frame type {kind:#x} exceeds {_TYPE_MAX:#x}")
                header_bytes, at = _number(data, at, end)
                body_bytes, at = _number(data, at, end)
            if header_bytes > self._header_max:
                raise RemoteProtocolError(f"frame header exceeds {self._header_max} bytes: {header_bytes}")
            if body_bytes > self._body_max:
                raise RemoteProtocolError(f"frame body exceeds {self._body_max} bytes: {body_bytes}")
            middle = at + header_bytes
            stop = middle + body_bytes
            if at < 0 or stop > end:
                self._held += data[start:]
                self._need = 0 if at < 0 else stop - start
                self._next = kind, at - start, middle - start
                return
            frames.append((kind, data[at:middle], data[middle:stop]))
            at = stop

    def __repr__(self) -> str:
        return f"<FrameReader {self.held_bytes} bytes held>"


class FirstFrame:
    """Takes one frame off the front of a stream and leaves what follows as it came."""

    __slots__ = ("_body_max", "_header_max", "_held")

    def __init__(self, *, header_bytes_max: int = HEADER_BYTES_MAX, body_bytes_max: int = 0) -> None:
        self._header_max = header_bytes_max
        self._body_max = body_bytes_max
        self._held = b""

    @property
    def held_bytes(self) -> int:
        """How much of the frame is here."""
        return len(self._held)

    def feed(self, data: bytes) -> tuple[int, bytes, bytes, bytes] | None:
        """Type, header, body and the bytes behind them; None while it is not all here. Raises: RemoteProtocolError."""
        data = self._held + data
        end = len(data)
        kind, at = _number(data, 0, end)
        if kind > _TYPE_MAX:
            raise RemoteProtocolError(f"frame type {kind:#x} exceeds {_TYPE_MAX:#x}")
        header_bytes, at = _number(data, at, end)
        body_bytes, at = _number(data, at, end)
        if header_bytes > self._header_max:
            raise RemoteProtocolError(f"frame header exceeds {self._header_max} bytes: {header_bytes}")
        if body_bytes > self._body_max:
            raise RemoteProtocolError(f"frame body exceeds {self._body_max} bytes: {body_bytes}")
        middle = at + header_bytes
        stop = middle + body_bytes
        if at < 0 or stop > end:
            self._held = data
            return None
        self._held = b""
        return kind, data[at:middle], data[middle:stop], data[stop:]

    def __repr__(self) -> str:
        return f"<FirstFrame {self.held_bytes} bytes held>"
