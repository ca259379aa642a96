"""What a peer does that closes its connection."""

from __future__ import annotations

from flowbridge.errors import RemoteProtocolError


def refused(code: int, told: str) -> RemoteProtocolError:
    """What closes a connection with a code."""
    error = RemoteProtocolError(told)
    error.code = code
    return error
