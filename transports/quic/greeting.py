"""What a process says of itself when it greets another one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbridge.codec.session_words import SessionLimits
from flowbridge.limits import (
    BODY_BYTES_MAX,
    HEARTBEAT_NS,
    LEASE_NS,
    REPLAY_BYTES_MAX,
    SESSION_STREAMS_MAX,
)

if TYPE_CHECKING:
    from flowbridge.contracts import Clock


def _incarnation() -> int:
    """Another number for every start of a process; a later one is greater unless the wall clock was set back."""
    return time.time_ns()


def _limits() -> SessionLimits:
    return SessionLimits(
        BODY_BYTES_MAX, REPLAY_BYTES_MAX, SESSION_STREAMS_MAX, LEASE_NS // 10**6, HEARTBEAT_NS // 10**6
    )


@dataclass(frozen=True, slots=True)
class Own:
    """This end: its name, which start of its process it is, its clock, and what it can take."""

    node: str
    clock: Clock
    incarnation: int = field(default_factory=_incarnation)
    limits: SessionLimits = field(default_factory=_limits)


def new_session_id() -> bytes:
    """16 bytes that nobody guesses: who knows them can take a session over, if its certificate is of the same node."""
    return os.urandom(16)
