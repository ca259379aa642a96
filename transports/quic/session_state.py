"""Where a session stands, who is told of it, and what it still knows of streams that are over."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowbridge.codec.session_words import Error
    from flowbridge.transports.quic.session import Session


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
