"""Who is at the other end of a channel, and whether that process still lives.

A process is its id and a start stamp: the clock ticks from boot to its start (field 22 of /proc/<pid>/stat, proc(5))
in the lower 40 bits, its pid namespace in the upper 24. An id alone may have been given to another process, and in
another namespace it means another process.
"""

from __future__ import annotations

import os
from typing import Final, Literal

ProcessState = Literal["running", "stopped", "dead", "unknown"]

TICKS_BITS: Final = 40
NAMESPACE_BITS: Final = 24


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino & ((1 << NAMESPACE_BITS) - 1)
    except OSError:
        return 0


def _stat(pid: int) -> tuple[bytes, int] | None:
    """The state letter and the start of a process; None when there is none, or only its corpse (a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()  # the name before it may contain anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {b"Z", b"X"} else (fields[0], int(fields[19]) & ((1 << TICKS_BITS) - 1))


def _start_ticks(pid: int) -> int | None:
    found = _stat(pid)
    return None if found is None else found[1]


def own_process() -> tuple[int, int]:
    """Id and start stamp of this process; a stamp of 0 means that this system does not tell."""
    pid = os.getpid()
    try:
        return pid, _namespace() << TICKS_BITS | (_start_ticks(pid) or 0)
    except OSError:
        return pid, 0


def may_live(pid: int, stamp: int) -> bool:
    """Whether a process may still run: False only when it is certain that it does not."""
    ticks = stamp & ((1 << TICKS_BITS) - 1)
    if ticks == 0 or stamp >> TICKS_BITS != _namespace():
        return True  # of a namespace that we cannot look into
    try:
        return _start_ticks(pid) == ticks
    except OSError:
        return True


def process_state(pid: int, stamp: int | None = None) -> ProcessState:
    """What a process does now; `unknown` when it is of a namespace or a system that we cannot look into.

    Without a stamp it is the process that has this id now.
    """
    try:
        found = _stat(pid)
    except OSError:
        return "unknown"
    if stamp is not None:
        ticks = stamp & ((1 << TICKS_BITS) - 1)
        if ticks == 0 or stamp >> TICKS_BITS != _namespace():
            return "unknown"
        if found is not None and found[1] != ticks:
            return "dead"
    if found is None:
        return "dead"
    return "stopped" if found[0] in {b"T", b"t"} else "running"
