"""That one side of a session is about to leave: what it says, and what follows from it for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowbridge.codec.codes import Code, error_as, name_of
from flowbridge.codec.session_words import Error, Goaway, Scope

if TYPE_CHECKING:
    from flowbridge.errors import FlowbridgeError


class Leaving(NamedTuple):
    """Until when it finishes what runs, and from when on it may be asked anew, in seconds of the loop."""

    until_s: float
    again_s: float

    @classmethod
    def told(cls, frame: Goaway, now: float, before: Leaving | None) -> Leaving:
        """What a GOAWAY says; another one can only lower what the first one said."""
        until_s, again_s = now + frame.grace_ms / 1000, now + frame.retry_after_ms / 1000
        if before is None:
            return cls(until_s, again_s)
        return cls(min(before.until_s, until_s), min(before.again_s, again_s))

    def frame(self, now: float) -> Goaway:
        """As it is told now."""
        return Goaway(Code.GOING_AWAY, _ms(self.until_s - now), _ms(self.again_s - now))

    def error(self, peer: str, now: float) -> FlowbridgeError:
        """What is asked of it anew was not done."""
        again_s = max(0.0, self.again_s - now)
        text = f"{peer}: is draining and takes nothing new; ask again in {again_s:.1f} s ({name_of(Code.GOING_AWAY)})"
        return error_as(Code.GOING_AWAY, text, int(again_s * 1e9))

    def refusal(self, stream: int, now: float) -> Error:
        """What the peer is told of a stream that it opened after that: nothing of it was read."""
        return Error(Code.GOING_AWAY, Scope.STREAM, stream, "draining", _ms(self.again_s - now))

    def line(self, peer: str, now: float) -> str:
        """What a person is told."""
        return f"{peer} is draining: it takes nothing new, and ends within {max(0.0, self.until_s - now):.0f} s"


def _ms(seconds: float) -> int:
    return max(0, min(round(seconds * 1000), 2**32 - 1))
