"""Where a session stands, who is told of it, and what it still knows of streams that are over."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.codec.codes import Code
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import GREASE_BEATS, GREASE_BYTES_MAX

if TYPE_CHECKING:
    from random import Random

    from flowbridge.codec.session_words import Auth, Error
    from flowbridge.transports.quic.connection import Connection
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.stream import SessionStream


class SessionState(enum.Enum):
    """Where a session stands."""

    APART = "apart"  # no connection now
    CONNECTED = "connected"
    SUSPECT = "suspect"  # a connection, and nothing was heard for some heartbeats
    OVER = "over"


class SessionOwner(Protocol):
    """Who keeps a session connected, or waits for the peer to."""

    def apart(self, session: Session, why: Exception) -> None:
        """The connection is gone, the session is not."""
        ...

    def suspicious(self, session: Session) -> None:
        """The peer is silent; it may be heard again."""
        ...

    def ended(self, session: Session, why: Exception) -> None:
        """The session is over. Told once."""
        ...


class Grave:
    """What is still to be known of a stream that is over, until the peer knows it."""

    __slots__ = ("count", "error", "ping")

    def __init__(self, count: int, error: Error | None, ping: int) -> None:
        self.count = count
        self.error = error
        self.ping = ping  # once this one is answered, everything sent before it has arrived


GOES_ON: Final = frozenset({Code.SUPERSEDED, Code.CANCELLED, Code.PEER_GONE})
"""Codes that end a connection and not its session: another one took over, or it came too late for who dialled it."""

GRAVES: Final = 64
"""With so many streams that are over the peer is asked at once, and not with the next heartbeat, whether it knows."""


def unwanted(stream: SessionStream) -> None:
    """Take no stream of the peer."""
    stream.fail(RemoteProtocolError(f"{stream.peer}: nobody takes streams here"))


def unproved(connection: Connection, frame: Auth) -> None:
    """Take no proof of identity. Raises: RemoteProtocolError."""
    raise RemoteProtocolError("a new proof of identity came, and none was needed")


def grease(chance: Random, connection: Connection) -> None:
    """Send, at some heartbeats, a frame that the peer skips; see `session_frames.grease`."""
    if chance.randrange(GREASE_BEATS) == 0 and not connection.is_clogged:
        body = chance.randbytes(chance.randrange(GREASE_BYTES_MAX + 1))
        connection.send_grease(chance.getrandbits(32), body)
