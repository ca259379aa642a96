"""What two machines tell each other about their session: types, numbers and plain values; see `session_frames`."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

VERSION: Final = (1, 0)
"""Major and minor: peers of one major version understand each other, the smaller minor version holds."""

HELLO: Final = 0x02
HELLO_ACK: Final = 0x04
AUTH: Final = 0x06
PING: Final = 0x08
PONG: Final = 0x0A
GOAWAY: Final = 0x0C
ERROR: Final = 0x0E
ACK: Final = 0x32
OPEN: Final = 0x36
ACCEPT: Final = 0x38
SINGLE: Final = 0x3A

U64_MAX: Final = 2**64 - 1
SESSION_ID_BYTES: Final = 16

Received: TypeAlias = "tuple[tuple[int, int], ...]"
"""Pairs of a stream's number and how many bytes of it have come, by rising numbers."""


class Resumed(enum.IntEnum):
    """What became of the session that a client asked for."""

    NEW = 0
    RESUMED = 1
    LOST = 2  # the server is another incarnation, or has forgotten it


class Scope(enum.IntEnum):
    """What an ERROR is about."""

    CONNECTION = 0
    STREAM = 1  # `ref` is its number


class StreamKind(enum.IntEnum):
    """What a session stream carries."""

    PART = 1
    BUS = 2
    ROUTE = 3


class SessionLimits(NamedTuple):
    """What one side can take; the smaller of both sides' holds. Times in milliseconds."""

    frame_bytes_max: int
    replay_bytes: int
    streams_max: int
    lease_ms: int
    hb_ms: int

    def agreed(self, other: SessionLimits) -> SessionLimits:
        """The smaller of each."""
        return SessionLimits(*map(min, self, other))


class Hello(NamedTuple):
    """The client's greeting: the first frame of a control stream. `auth` is a JSON Web Token (RFC 7519)."""

    version: tuple[int, int]
    node: str
    incarnation: int
    session: bytes
    epoch: int
    caps: tuple[int, ...]
    limits: SessionLimits
    auth: str | None
    streams: Received
    now_ns: int

    def __repr__(self) -> str:
        return f"<Hello of {self.node!r}, incarnation {self.incarnation}, epoch {self.epoch}>"  # and no token


class HelloAck(NamedTuple):
    """The server's answer: `t1_ns` is the client's `now_ns`, the others when HELLO came and this was written."""

    version: tuple[int, int]
    node: str
    incarnation: int
    session: bytes
    epoch: int
    caps: tuple[int, ...]
    limits: SessionLimits
    resumed: Resumed
    streams: Received
    t1_ns: int
    t2_ns: int
    t3_ns: int


class Auth(NamedTuple):
    """A new proof of identity, before the old one expires."""

    auth: str

    def __repr__(self) -> str:
        return "<Auth>"  # and no token


class Ping(NamedTuple):
    """Asks whether the peer is there, and what its clock shows."""

    number: int
    t1_ns: int
    acks: Received


class Pong(NamedTuple):
    """The answer to a `Ping`, with when that came and when this was written."""

    number: int
    t1_ns: int
    t2_ns: int
    t3_ns: int
    acks: Received


class Goaway(NamedTuple):
    """Open nothing more: this connection ends in `grace_ms`."""

    code: int
    grace_ms: int
    retry_after_ms: int


class Error(NamedTuple):
    """What went wrong with a connection or a stream; see `codes.error_of`."""

    code: int
    scope: Scope
    ref: int
    reason: str
    retry_after_ms: int | None


class Ack(NamedTuple):
    """How much has come; it need not be kept any more."""

    acks: Received


class Open(NamedTuple):
    """The first frame of a session stream; the bytes behind it begin at `from_bytes`."""

    number: int
    kind: StreamKind
    label: str
    key: bytes
    from_bytes: int


class Accept(NamedTuple):
    """The first frame of the other direction; the bytes behind it begin at `from_bytes`."""

    number: int
    from_bytes: int


class Single(NamedTuple):
    """The first frame of a unidirectional stream; what follows is one message of the session stream `number`."""

    number: int


ControlFrame: TypeAlias = "Hello | HelloAck | Auth | Ping | Pong | Goaway | Error | Ack"
