"""The message that travels: a payload, and what every hop must know about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_DEADLINE: Final = 2**63 - 1
"""The deadline of a message that has none: later than any clock, so that comparing needs no special case."""


class Priority(enum.IntEnum):
    """The four lanes, most urgent first; the number is the index of the lane."""

    REALTIME = 0
    HIGH = 1
    NORMAL = 2
    BEST_EFFORT = 3

    @property
    def word(self) -> str:
        """The word of the flow language: ``best-effort`` for BEST_EFFORT."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_word(cls, word: str) -> Priority:
        """The priority a word of the flow language means; ValueError for any other word."""
        for priority in cls:
            if priority.word == word:
                return priority
        raise ValueError(f"priority {word!r} is none of {', '.join(p.word for p in cls)}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C Trace Context, as text: https://www.w3.org/TR/trace-context/."""

    traceparent: str
    tracestate: str = ""


class Trail:
    """The nodes a message has come through, as one link of an interned tree.

    Equal paths are the same object, so following a path costs one dictionary look-up per hop and comparing two
    costs nothing. A message that goes round a feedback edge keeps the trail it had.
    """

    __slots__ = ("_children", "node", "parent")

    def __init__(self, node: str, parent: Trail | None = None) -> None:
        self.node: Final = node
        self.parent: Final = parent
        self._children: dict[str, Trail] = {}

    def step(self, node: str) -> Trail:
        """The trail that continues this one with `node`."""
        child = self._children.get(node)
        if child is None:
            child = self._children[node] = Trail(node, self)
        return child

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ids of the nodes, first one first."""
        names: list[str] = []
        trail: Trail | None = self
        while trail is not None:
            names.append(trail.node)
            trail = trail.parent
        return tuple(reversed(names))

    def __repr__(self) -> str:
        return f"<Trail {' -> '.join(self.nodes)}>"


class Envelope:
    """One message on one route. Treat it as frozen: it may be shared by several consumers.

    All times are monotonic nanoseconds of this machine. `deadline_ns` is absolute and `NO_DEADLINE` when there is
    none; `origin_ns` is when the message's first ancestor entered the flow; `sent_ns` is when this hop accepted it.
    `seq` counts per route from 0. `size_bytes` is what the message costs in byte credit. `headers` carries what few
    messages need (`topic`, `reply_to`, `correlation`).
    """

    __slots__ = (
        "deadline_ns",
        "headers",
        "origin_ns",
        "payload",
        "priority",
        "sent_ns",
        "seq",
        "size_bytes",
        "trace",
        "trail",
    )

    # Positional on purpose: this is built once per message and hop, and keywords would cost a third more.
    def __init__(
        self,
        payload: Any,
        priority: int = Priority.NORMAL,
        deadline_ns: int = NO_DEADLINE,
        origin_ns: int = 0,
        sent_ns: int = 0,
        size_bytes: int = 0,
        seq: int = 0,
        trail: Trail | None = None,
        trace: TraceContext | None = None,
        headers: Mapping[str, str | int] | None = None,
    ) -> None:
        self.payload = payload
        self.priority = priority
        self.deadline_ns = deadline_ns
        self.origin_ns = origin_ns
        self.sent_ns = sent_ns
        self.size_bytes = size_bytes
        self.seq = seq
        self.trail = trail
        self.trace = trace
        self.headers = headers

    def __repr__(self) -> str:
        deadline = "none" if self.deadline_ns == NO_DEADLINE else str(self.deadline_ns)
        lane = Priority(self.priority).word
        return f"<Envelope {self.seq} {lane} deadline_ns={deadline} {self.size_bytes} B {type(self.payload).__name__}>"


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a route that will not come, because a process died; an operator hears of it by its hook `on_gap`.

    The numbers are those of `Envelope.seq`, the last one included. A number is None where nobody knows it: after a
    producer died, what it had not sent, and what it would have counted to; `count` is the most that can be missing.
    """

    from_seq: int | None
    to_seq: int | None
    why: str
    count: int | None = None

    def __str__(self) -> str:
        """Such as ``at most 3 messages are missing from 17 to 19: the consumer died``."""
        how_many = "messages are" if self.count is None else f"at most {self.count} messages are"
        first = "" if self.from_seq is None else f" from {self.from_seq}"
        last = "" if self.to_seq is None else f" to {self.to_seq}"
        return f"{how_many} missing{first}{last}: {self.why}"
