"""W3C Trace Context as text and as values: https://www.w3.org/TR/trace-context/ (level 2 flags included).

Strict on what it accepts: a header that breaks a rule is None, never an error and never half read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
TRACESTATE_MEMBERS_MAX: Final = 32  # a longer list is discarded

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY: Final = re.compile(r"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}")
_VALUE: Final = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The four fields of a `traceparent`; neither id is zero."""

    trace_id: int
    parent_id: int
    flags: int = 0

    @property
    def sampled(self) -> bool:
        """Whether the caller recorded the trace."""
        return bool(self.flags & SAMPLED)


def parse_traceparent(text: str) -> TraceParent | None:
    """The values of a header, None when it is not valid.

    A version after 00 is read as 00, as the specification asks: its first four fields, and of its flags those known.
    """
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    parent = TraceParent(int(trace_id, 16), int(parent_id, 16), int(flags, 16) & (SAMPLED | RANDOM))
    return parent if parent.trace_id and parent.parent_id else None


def format_traceparent(parent: TraceParent) -> str:
    """The header, version 00. ValueError for an id that is zero or too long."""
    if not (0 < parent.trace_id < 1 << 128 and 0 < parent.parent_id < 1 << 64):
        raise ValueError(
            f"trace id {parent.trace_id:x} and parent id {parent.parent_id:x} must be 1..2**128-1, 1..2**64-1"
        )
    return f"00-{parent.trace_id:032x}-{parent.parent_id:016x}-{parent.flags & (SAMPLED | RANDOM):02x}"


def parse_tracestate(text: str) -> tuple[tuple[str, str], ...] | None:
    """The members in order, () for an empty header, None when any member is not valid or a key comes twice."""
    members: dict[str, str] = {}
    for part in text.split(","):
        member = part.strip(" \t")
        if not member:
            continue  # empty members are allowed
        key, equals, value = member.partition("=")
        if not equals or key in members or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            return None
        members[key] = value
    return tuple(members.items()) if len(members) <= TRACESTATE_MEMBERS_MAX else None


def format_tracestate(members: tuple[tuple[str, str], ...]) -> str:
    """The header of members that `parse_tracestate` gave."""
    return ",".join(f"{key}={value}" for key, value in members)
