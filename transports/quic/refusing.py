"""What a peer does that closes its connection."""

from __future__ import annotations

from flowbridge.codec.codes import Code
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import SESSION_STREAMS_MAX


def refused(code: int, told: str) -> RemoteProtocolError:
    """What closes a connection with a code."""
    error = RemoteProtocolError(told)
    error.code = code
    return error


def check_room(peer: str, streams: int, over: int, streams_max: int) -> None:
    """Whether a peer may open one more, having so many, and so many that are over and that it may not know of.

    Raises: RemoteProtocolError.
    """
    if streams >= streams_max:
        raise refused(Code.LIMIT, f"{peer}: a session has at most {streams_max} streams")
    if streams + over >= SESSION_STREAMS_MAX:
        told = f"{peer}: opens streams and answers no ping: {over} that are over are remembered"
        raise refused(Code.LIMIT, told)
