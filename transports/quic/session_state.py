"""Where a session stands, who is told of it, and what it still knows of streams that are over."""

from __future__ import annotations

import enum
import logging
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from flowbridge.codec.codes import Code
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import GREASE_BEATS, GREASE_BYTES_MAX, SUCCEEDED_LEASE_MS

if TYPE_CHECKING:
    from flowbridge.codec.session_words import Auth, Error
    from flowbridge.transports.quic.connection import Connection
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.stream import SessionStream

_log: Final = logging.getLogger("flowbridge.session")


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


class Absence:
    """Since when a peer has not been heard, and how long that may last; the log has its beginning and its end."""

    __slots__ = ("_lease_ms", "_since", "lease_ms")

    def __init__(self, lease_ms: int) -> None:
        self.lease_ms = lease_ms
        self._lease_ms: Final = lease_ms
        self._since: float | None = None  # when it was last heard before it was told to be away

    def begin(self, peer: str, heard_at: float, why: str) -> None:
        """It is away. Told once."""
        if self._since is None:
            self._since = heard_at
            why = why.removeprefix(f"{peer}: ")  # an error names it, too
            _log.warning("%s is away: %s; what is sent waits, for at most %g s", peer, why, self.lease_ms / 1000)

    def hasten(self) -> None:
        """It has a successor: if it is away, that may last for less time."""
        if self._since is not None:
            self.lease_ms = min(self.lease_ms, SUCCEEDED_LEASE_MS)

    def end(self, peer: str, now: float) -> None:
        """It is heard."""
        since, self._since = self._since, None
        self.lease_ms = self._lease_ms
        if since is not None:
            _log.warning("%s is back after %.2f s; nothing was lost", peer, now - since)


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


def grease(seed: bytes, connection: Connection) -> None:
    """Send, at some heartbeats, a frame that the peer skips; see `session_frames.grease`."""
    chance = Random(seed)  # noqa: S311  # for each beat: one that is kept is as large as all the rest of a session
    if chance.randrange(GREASE_BEATS) == 0 and not connection.is_clogged:
        body = chance.randbytes(chance.randrange(GREASE_BYTES_MAX + 1))
        connection.send_grease(chance.getrandbits(32), body)
