"""Who is at the other end of a Unix socket, and whether it still lives (unix(7), pidfd_open(2), proc_pid_stat(5))."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowbridge.errors import BrokenError, Effect

if TYPE_CHECKING:
    from collections.abc import Callable

_UCRED: Final = struct.Struct("iII")  # struct ucred: pid_t, uid_t, gid_t
_STATE: Final = 0  # fields of /proc/<pid>/stat, counted from the one behind the name
_START: Final = 19
_GONE: Final = frozenset({"Z", "X", "x"})  # dead, though still in the table of processes


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """What the kernel says about a peer: its process, effective user and group when it connected or listened.

    `pid` is 0 when the peer's process has no number in our namespace.
    """

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: socket.socket) -> PeerCredentials:
        """Those of a connected socket (SO_PEERCRED). Raises: BrokenError."""
        try:
            return cls(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
        except OSError as error:
            raise BrokenError(f"cannot learn who the peer of a socket is: {error}") from error


def start_ticks(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None when it is dead, a zombie or cannot be seen.

    A number of a process together with this is never used twice between two boots.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # no such process, or it went while we read
        return None
    fields = stat[stat.rindex(b")") + 1 :].decode("ascii").split()  # the name may hold anything, brackets too
    return None if fields[_STATE] in _GONE else int(fields[_START])


class PeerWatch:
    """Calls back once when a process has ended; made by `watch`."""

    def __init__(self, pid: int, pidfd: int, callback: Callable[[int], None]) -> None:
        self.pid: Final = pid
        self._pidfd = pidfd
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        if pidfd >= 0:
            self._loop.add_reader(pidfd, self._ended)
        else:
            self._soon = self._loop.call_soon(self._ended)

    def _ended(self) -> None:
        self.close()
        self._callback(self.pid)

    def close(self) -> None:
        """Watch no more; the callback is not called after this. Idempotent."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def __repr__(self) -> str:
        return f"<PeerWatch {self.pid}>"


def watch(pid: int, callback: Callable[[int], None], *, started_ticks: int | None = None) -> PeerWatch:
    """Call `callback(pid)` from the loop once that process has ended; its parent need not have waited for it.

    `started_ticks` is what `start_ticks` said when the peer was known to live: a process that has the same number but
    another start is a stranger, and the peer has ended. Without it, nobody protects against such a stranger.
    Raises: BrokenError where processes cannot be watched (before Linux 5.3, forbidden, no descriptors left): then the
    end of the socket is the only sign, and a frozen process gives none.
    """
    if pid <= 0:
        raise _cannot_watch(pid, "it has no number here")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return PeerWatch(pid, -1, callback)
    except (AttributeError, OSError) as error:
        raise _cannot_watch(pid, str(error)) from error
    # The descriptor stands for one process for good, so the comparison holds from here on.
    if started_ticks is not None and start_ticks(pid) != started_ticks:
        os.close(pidfd)
        pidfd = -1
    try:
        return PeerWatch(pid, pidfd, callback)
    except BaseException:
        if pidfd >= 0:
            os.close(pidfd)
        raise


def _cannot_watch(pid: int, why: str) -> BrokenError:
    error = BrokenError(f"cannot watch process {pid}: {why}")
    error.effect = Effect.NONE
    return error
