"""The frames of a session between two machines (grammar in ``session.cddl``).

The header of each is one CBOR array of fixed positions (RFC 8949, section 4.2.1), the body is empty. The control stream
carries the first eight; a session stream begins with OPEN one way and ACCEPT the other, and what follows are the bytes
of the link above. SINGLE begins a unidirectional stream, and what follows is one message of that link.

    0x02 HELLO      version, node, incarnation, session, epoch, caps, limits, auth, streams, now_ns
    0x04 HELLO_ACK  version, node, incarnation, session, epoch, caps, limits, resumed, streams, t1, t2, t3
    0x06 AUTH       auth                                a new proof of identity
    0x08 PING       n, t1, acks
    0x0a PONG       n, t1, t2, t3, acks
    0x0c GOAWAY     code, grace_ms, retry_after_ms
    0x0e ERROR      code, scope, ref, reason, retry_after_ms
    0x32 ACK        acks
    0x36 OPEN       number, kind, label, key, from_bytes
    0x38 ACCEPT     number, from_bytes
    0x3a SINGLE     number

`streams` and `acks` are pairs of a stream's number and how many bytes of it have come, by rising numbers. Times are
nanoseconds of the clock of whoever wrote them.

A frame of an odd type that is not known is skipped; so a minor version adds capabilities and odd frames, and never a
position. A writer and a reader of a frame look at the same table, so that what was written can be read.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, cast

from flowbridge.codec.arrays import INT_MAX, read_array, uint, write_array
from flowbridge.codec.codes import Code
from flowbridge.codec.framing import FirstFrame, FrameReader, prefix
from flowbridge.codec.session_words import (
    ACCEPT,
    ACK,
    AUTH,
    ERROR,
    GOAWAY,
    HELLO,
    HELLO_ACK,
    OPEN,
    PING,
    PONG,
    SESSION_ID_BYTES,
    SINGLE,
    U64_MAX,
    VERSION,
    Accept,
    Ack,
    Auth,
    ControlFrame,
    Error,
    Goaway,
    Hello,
    HelloAck,
    Open,
    Ping,
    Pong,
    Received,
    Resumed,
    Scope,
    SessionLimits,
    Single,
    StreamKind,
)
from flowbridge.errors import DecodeError, EncodeError, RemoteProtocolError
from flowbridge.limits import (
    BODY_BYTES_MAX,
    CAPABILITIES_MAX,
    GREETING_BYTES_MAX,
    HEADER_BYTES_MAX,
    KEY_BYTES_MAX,
    LABEL_BYTES_MAX,
    NODE_BYTES_MAX,
    REASON_BYTES_MAX,
    SESSION_ACKS_MAX,
    SESSION_REPLAY_BYTES_MAX,
    SESSION_SKIPPED_BYTES_MAX,
    SESSION_STREAMS_MAX,
    TOKEN_BYTES_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_U32_MAX: Final = 2**32 - 1
_FRAME_BYTES_MIN: Final = HEADER_BYTES_MAX
_JWT: Final = 1
_ODD_TYPES: Final = 0x2000


# --- positions: each check returns the value as a reader gives it ----------------------------------------------------


def _bad(name: str, value: object, wanted: str) -> DecodeError:
    return DecodeError(f"position {name} is {repr(value)[:48]}, not {wanted}")


def _u64(value: object, name: str) -> int:
    return uint(value, name, U64_MAX)


def _u63(value: object, name: str) -> int:
    return uint(value, name, INT_MAX)


def _u32(value: object, name: str) -> int:
    return uint(value, name, _U32_MAX)


def _u32_or_null(value: object, name: str) -> int | None:
    return None if value is None else uint(value, name, _U32_MAX)


def _version(value: object, name: str) -> tuple[int, int]:
    items = cast("Sequence[object]", value)
    if not isinstance(value, list | tuple) or len(items) != 2:
        raise _bad(name, items, "a major and a minor version")
    major, minor = (_u32(one, name) for one in items)
    if major != VERSION[0]:
        error = DecodeError(f"the peer speaks version {major}.{minor}, here it is {VERSION[0]}.{VERSION[1]}")
        error.code = Code.VERSION
        raise error
    return major, minor


def _text(bytes_max: int, bytes_min: int = 0) -> Callable[[object, str], str]:
    def check(value: object, name: str) -> str:
        if type(value) is not str or not bytes_min <= len(value.encode()) <= bytes_max:
            raise _bad(name, value, f"text of {bytes_min}..{bytes_max} bytes")
        return value

    return check


def _bytes(bytes_min: int, bytes_max: int) -> Callable[[object, str], bytes]:
    def check(value: object, name: str) -> bytes:
        if type(value) is not bytes or not bytes_min <= len(value) <= bytes_max:
            raise _bad(name, value, f"{bytes_min}..{bytes_max} bytes")
        return value

    return check


def _member(kinds: type[enum.IntEnum]) -> Callable[[object, str], enum.IntEnum]:
    known = {int(kind): kind for kind in kinds}

    def check(value: object, name: str) -> enum.IntEnum:
        if not isinstance(value, int) or type(value) is bool or value not in known:
            raise _bad(name, value, f"in {min(known)}..{max(known)}")
        return known[value]

    return check


def _items(value: object, name: str, items_max: int) -> Sequence[object]:
    items = cast("Sequence[object]", value)
    if not isinstance(value, list | tuple):
        raise _bad(name, items, "a list")
    if len(items) > items_max:
        raise DecodeError(f"position {name} has more than {items_max} items: {len(items)}")
    return items


def _caps(value: object, name: str) -> tuple[int, ...]:
    return tuple(_u32(one, name) for one in _items(value, name, CAPABILITIES_MAX))


def _limits(value: object, name: str) -> SessionLimits:
    items = _items(value, name, len(_LIMITS))
    if len(items) != len(_LIMITS):
        raise DecodeError(f"position {name} has {len(items)} items, not {len(_LIMITS)}")
    for (part, least, most), one in zip(_LIMITS, items, strict=True):
        if uint(one, f"{name}.{part}", most) < least:
            raise _bad(f"{name}.{part}", one, f"in {least}..{most}")
    return SessionLimits(*cast("Sequence[int]", items))


_LIMITS: Final = (
    ("frame_bytes_max", _FRAME_BYTES_MIN, BODY_BYTES_MAX),
    ("replay_bytes", _FRAME_BYTES_MIN, SESSION_REPLAY_BYTES_MAX),
    ("streams_max", 1, SESSION_STREAMS_MAX),
    ("lease_ms", 1, _U32_MAX),
    ("hb_ms", 1, _U32_MAX),
)


def _auth(value: object, name: str) -> object:
    """The token of `[1, token]`, which `_write` wraps again. No message shows any of it."""
    items = cast("list[object]", value) if type(value) is list else []
    if len(items) != 2 or items[0] != _JWT or type(items[0]) is not int:
        raise DecodeError(f"position {name} is not [{_JWT}, a token]")
    token = items[1]
    if type(token) is not str or not 1 <= len(token.encode()) <= TOKEN_BYTES_MAX:
        raise DecodeError(f"position {name} holds no token of 1..{TOKEN_BYTES_MAX} bytes")
    return token


def _auth_or_null(value: object, name: str) -> object:
    return None if value is None else _auth(value, name)


def _received(items_max: int) -> Callable[[object, str], Received]:
    def check(value: object, name: str) -> Received:
        found: list[tuple[int, int]] = []
        last = -1
        for one in _items(value, name, items_max):
            pair = _items(one, name, 2)
            if len(pair) != 2:
                raise _bad(name, one, "a number and a count")
            number = _u63(pair[0], name)
            if number <= last:
                raise DecodeError(f"position {name} has stream {number} behind stream {last}")
            last = number
            found.append((number, _u64(pair[1], name)))
        return tuple(found)

    return check


_STREAMS: Final = _received(SESSION_STREAMS_MAX)
_ACKS: Final = _received(SESSION_ACKS_MAX)
_GREETING: Final = (
    *(_version, _text(NODE_BYTES_MAX, 1), _u64, _bytes(SESSION_ID_BYTES, SESSION_ID_BYTES), _u64, _caps, _limits),
)
_FRAMES: Final[dict[int, tuple[Any, tuple[Callable[[object, str], object], ...]]]] = {
    HELLO: (Hello, (*_GREETING, _auth_or_null, _STREAMS, _u63)),
    HELLO_ACK: (HelloAck, (*_GREETING, _member(Resumed), _STREAMS, _u63, _u63, _u63)),
    AUTH: (Auth, (_auth,)),
    PING: (Ping, (_u63, _u63, _ACKS)),
    PONG: (Pong, (_u63, _u63, _u63, _u63, _ACKS)),
    GOAWAY: (Goaway, (_u32, _u32, _u32)),
    ERROR: (Error, (_u32, _member(Scope), _u63, _text(REASON_BYTES_MAX), _u32_or_null)),
    ACK: (Ack, (_ACKS,)),
    OPEN: (Open, (_u63, _member(StreamKind), _text(LABEL_BYTES_MAX), _bytes(0, KEY_BYTES_MAX), _u64)),
    ACCEPT: (Accept, (_u63, _u64)),
    SINGLE: (Single, (_u63,)),
}
_CONTROL: Final = frozenset({HELLO, HELLO_ACK, AUTH, PING, PONG, GOAWAY, ERROR, ACK})
_LONG: Final = frozenset({HELLO, HELLO_ACK})


def _bytes_max(kind: int) -> int:
    return GREETING_BYTES_MAX if kind in _LONG else HEADER_BYTES_MAX


def _read(kind: int, header: bytes) -> Any:
    shape, checks = _FRAMES[kind]
    items = read_array(header, None, _bytes_max(kind))
    if kind in _LONG and items:
        _version(items[0], "version")  # before the others: another version may have others
    if len(items) != len(checks):
        raise DecodeError(f"a frame header has {len(items)} positions, not {len(checks)}")
    names = shape._fields
    return shape(*[check(item, name) for check, item, name in zip(checks, items, names, strict=True)])


def _write(kind: int, frame: Any) -> bytes:
    shape, checks = _FRAMES[kind]
    items = [int(item) if isinstance(item, enum.IntEnum) else item for item in frame]
    if "auth" in shape._fields:
        at = shape._fields.index("auth")
        items[at] = None if items[at] is None else [_JWT, items[at]]
    try:
        for check, item, name in zip(checks, items, shape._fields, strict=True):
            check(item, name)
    except (DecodeError, UnicodeEncodeError) as error:
        raise EncodeError(f"{shape.__name__.upper()}: {error}") from error
    return write_array(items, _bytes_max(kind))


# --- one pair for each frame -----------------------------------------------------------------------------------------


def write_hello(frame: Hello) -> bytes:
    """The header of a HELLO. Raises: EncodeError."""
    return _write(HELLO, frame)


def read_hello(header: bytes) -> Hello:
    """A HELLO. Raises: DecodeError, its code `VERSION` when the peer is of another major version."""
    return cast("Hello", _read(HELLO, header))


def write_hello_ack(frame: HelloAck) -> bytes:
    """The header of a HELLO_ACK. Raises: EncodeError."""
    return _write(HELLO_ACK, frame)


def read_hello_ack(header: bytes) -> HelloAck:
    """A HELLO_ACK. Raises: DecodeError, its code `VERSION` when the peer is of another major version."""
    return cast("HelloAck", _read(HELLO_ACK, header))


def write_auth(frame: Auth) -> bytes:
    """The header of an AUTH. Raises: EncodeError."""
    return _write(AUTH, frame)


def read_auth(header: bytes) -> Auth:
    """An AUTH. Raises: DecodeError."""
    return cast("Auth", _read(AUTH, header))


def write_ping(frame: Ping) -> bytes:
    """The header of a PING. Raises: EncodeError."""
    return _write(PING, frame)


def read_ping(header: bytes) -> Ping:
    """A PING. Raises: DecodeError."""
    return cast("Ping", _read(PING, header))


def write_pong(frame: Pong) -> bytes:
    """The header of a PONG. Raises: EncodeError."""
    return _write(PONG, frame)


def read_pong(header: bytes) -> Pong:
    """A PONG. Raises: DecodeError."""
    return cast("Pong", _read(PONG, header))


def write_goaway(frame: Goaway) -> bytes:
    """The header of a GOAWAY. Raises: EncodeError."""
    return _write(GOAWAY, frame)


def read_goaway(header: bytes) -> Goaway:
    """A GOAWAY. Raises: DecodeError."""
    return cast("Goaway", _read(GOAWAY, header))


def write_error(frame: Error) -> bytes:
    """The header of an ERROR; its reason must be short (see `codes.cut`). Raises: EncodeError."""
    return _write(ERROR, frame)


def read_error(header: bytes) -> Error:
    """An ERROR. Raises: DecodeError."""
    return cast("Error", _read(ERROR, header))


def write_ack(frame: Ack) -> bytes:
    """The header of an ACK. Raises: EncodeError."""
    return _write(ACK, frame)


def read_ack(header: bytes) -> Ack:
    """An ACK. Raises: DecodeError."""
    return cast("Ack", _read(ACK, header))


def write_open(frame: Open) -> bytes:
    """The header of an OPEN. Raises: EncodeError."""
    return _write(OPEN, frame)


def read_open(header: bytes) -> Open:
    """An OPEN. Raises: DecodeError."""
    return cast("Open", _read(OPEN, header))


def write_accept(frame: Accept) -> bytes:
    """The header of an ACCEPT. Raises: EncodeError."""
    return _write(ACCEPT, frame)


def read_accept(header: bytes) -> Accept:
    """An ACCEPT. Raises: DecodeError."""
    return cast("Accept", _read(ACCEPT, header))


def write_single(frame: Single) -> bytes:
    """The header of a SINGLE. Raises: EncodeError."""
    return _write(SINGLE, frame)


def read_single(header: bytes) -> Single:
    """A SINGLE. Raises: DecodeError."""
    return cast("Single", _read(SINGLE, header))


# --- whole frames ----------------------------------------------------------------------------------------------------

_KINDS: Final = {shape: kind for kind, (shape, _) in _FRAMES.items()}


def control_reader() -> FrameReader:
    """What cuts a control stream into frames."""
    return FrameReader(header_bytes_max=GREETING_BYTES_MAX, body_bytes_max=SESSION_SKIPPED_BYTES_MAX)


def first_frame() -> FirstFrame:
    """What takes OPEN or ACCEPT off the front of a session stream."""
    return FirstFrame(header_bytes_max=HEADER_BYTES_MAX)


def whole(frame: ControlFrame | Open | Accept | Single) -> bytes:
    """A frame as it goes over the stream. Raises: EncodeError."""
    kind = _KINDS[type(frame)]
    header = _write(kind, frame)
    return prefix(kind, len(header), 0) + header


def grease(number: int, body: bytes = b"") -> bytes:
    """A frame that every reader must skip, of the odd type that a random number picks (as RFC 8701 does).

    Whoever sends one now and then keeps peers honest about what they skip. Raises: EncodeError for a long body.
    """
    if len(body) > SESSION_SKIPPED_BYTES_MAX:
        raise EncodeError(f"the body of a frame to skip exceeds {SESSION_SKIPPED_BYTES_MAX} bytes: {len(body)}")
    return prefix(2 * (number % _ODD_TYPES) + 1, 0, len(body)) + body


def read_control(kind: int, header: bytes, body: bytes) -> ControlFrame | None:
    """A frame of the control stream; None for one that is to be skipped.

    Raises: RemoteProtocolError, with a code, for any other bytes.
    """
    if kind & 1:
        return None
    if kind not in _CONTROL:
        raise _refused(Code.UNEXPECTED, f"frame type {kind:#x} is none of a control stream")
    return cast("ControlFrame", _checked(kind, header, body))


def read_first(kind: int, header: bytes, body: bytes) -> Open | Accept:
    """The first frame of a session stream. Raises: RemoteProtocolError, with a code, for any other bytes."""
    if kind not in (OPEN, ACCEPT):
        raise _refused(Code.UNEXPECTED, f"frame type {kind:#x} does not begin a session stream")
    return cast("Open | Accept", _checked(kind, header, body))


def read_front(kind: int, header: bytes, body: bytes) -> Single:
    """The first frame of a unidirectional stream. Raises: RemoteProtocolError, with a code, for any other bytes."""
    if kind != SINGLE:
        raise _refused(Code.UNEXPECTED, f"frame type {kind:#x} does not begin a unidirectional stream")
    return cast("Single", _checked(kind, header, body))


def _checked(kind: int, header: bytes, body: bytes) -> Any:
    if body:
        raise _refused(Code.FRAME, f"frame {kind:#x} has a body of {len(body)} bytes, and no use for one")
    try:
        return _read(kind, header)
    except DecodeError as error:
        told = str(error) if error.code == Code.VERSION else f"frame {kind:#x}: {error}"
        raise _refused(error.code or Code.CBOR, told) from error


def _refused(code: int, told: str) -> RemoteProtocolError:
    error = RemoteProtocolError(told)
    error.code = code
    return error
