"""The ends that an input can be joined to, and the topics of the bus: how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flowbridge.adapters import unit
from flowbridge.limits import TOPIC_CHARACTERS_MAX, TOPIC_TOKENS_MAX
from flowbridge.plan import Plane

RESERVED: Final = {"bus": Plane.BUS, "timer": Plane.TIMER}
"""Words that stand before the slash instead of a node's id."""

_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")


class EndpointError(ValueError):
    """A text names no end; `hint` suggests what was meant, or is empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint: Final = hint


class TopicError(EndpointError):
    """A text is no topic or pattern."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end: ``a/out``, ``timer/100ms`` or ``bus/robot.cmd.*``."""

    plane: Plane
    node: str
    port: str
    period_ns: int | None = None

    def __str__(self) -> str:
        return f"{self.node}/{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """The end that a text names; EndpointError, TopicError or unit.UnitError otherwise."""
    node, slash, port = text.partition("/")
    if not slash or not node or not port:
        hint = f"did you mean {text}/out?" if len(text) <= 60 and _WORD.fullmatch(text) and text not in RESERVED else ""
        raise EndpointError(f"{text[:60]!r} names no end", hint or "write node/port, timer/100ms or bus/topic")
    plane = RESERVED.get(node, Plane.DATA)
    if plane is Plane.BUS:
        check_topic(port, pattern=True)
    elif plane is Plane.TIMER:
        return Endpoint(plane, node, port, unit.parse_period(port))
    elif "/" in port:
        raise EndpointError(f"{text[:60]!r} has more than one slash", "write node/port")
    return Endpoint(plane, node, port)


def check_topic(text: str, *, pattern: bool) -> None:
    """Nothing for a topic (or pattern); TopicError otherwise."""
    kind = "pattern" if pattern else "topic"
    if len(text) > TOPIC_CHARACTERS_MAX:
        raise TopicError(f"{kind} of {len(text)} characters exceeds the limit of {TOPIC_CHARACTERS_MAX}")
    words = text.split(".")
    if len(words) > TOPIC_TOKENS_MAX:
        raise TopicError(f"{kind} of {len(words)} words exceeds the limit of {TOPIC_TOKENS_MAX}")
    for index, word in enumerate(words):
        if _WORD.fullmatch(word):
            continue
        if word in ("*", ">"):
            if not pattern:
                raise TopicError(f"topic {text!r}: {word} belongs in a pattern", "a message has one exact topic")
            if word == "*" or index == len(words) - 1:
                continue
            raise TopicError(f"pattern {text!r}: > stands before the end")
        what = f"{word[:20]!r} is no word" if word else "a word is empty"
        raise TopicError(f"{kind} {text!r}: {what}", "words of letters, digits, _ and - joined by dots")
