"""How processes of one user find each other: `listen` and `connect` on Unix sockets (unix(7), flock(2))."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import weakref
from typing import TYPE_CHECKING, Final

from flowbridge.errors import BrokenError, BusyError, DeadlineExceeded, Effect, ResourceError, Retry
from flowbridge.limits import (
    ACCEPT_PAUSE_NS,
    ACCEPTS_PER_TURN_MAX,
    BACKLOG_MAX,
    CONNECT_RETRY_NS,
    CONNECTIONS_MAX,
)
from flowbridge.transports.uds.peer import PeerCredentials
from flowbridge.transports.uds.place import NEW_SUFFIX, SocketLock, answers, check_socket_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log: Final = logging.getLogger("flowbridge.uds")
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Accepts connections of our own user; made by `listen`.

    `on_connection(sock, credentials)` is called from the loop and owns the socket, which does not block. What it raises
    goes to the loop's exception handler and costs that connection only. A connection counts as open until its socket
    object is closed.
    """

    def __init__(
        self,
        path: Path,
        sock: socket.socket,
        lock: SocketLock,
        on_connection: Callable[[socket.socket, PeerCredentials], None],
        connections_max: int,
    ) -> None:
        self.path: Final = path
        self.accepted = 0
        """How many were given to `on_connection`."""
        self.strangers = 0
        """How many were closed as they came from another user."""
        self.refused = 0
        """How many were closed as there were too many."""
        self.pauses = 0
        """How often accepting paused for want of descriptors or memory."""
        self._sock = sock
        self._lock = lock
        self._on_connection = on_connection
        self._connections_max = connections_max
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._said: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._loop.add_reader(sock.fileno(), self._acceptable)

    @property
    def connections(self) -> int:
        """How many accepted connections are open."""
        for sock in [sock for sock in self._open if sock.fileno() < 0]:
            self._open.discard(sock)
        return len(self._open)

    def _acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN_MAX):
            if self._is_closed:  # by what `on_connection` did
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it went before we came
                continue
            except OSError as error:
                self._pause(error)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            peer = PeerCredentials.of(sock)
            if peer.uid != os.geteuid():
                self.strangers += 1
                self._say_once("user", "%s: refused process %d of user %d", self.path, peer.pid, peer.uid)
                sock.close()
            elif len(self._open) >= self._connections_max and self.connections >= self._connections_max:
                self.refused += 1
                self._say_once("many", "%s: refused a connection beyond %d", self.path, self._connections_max)
                sock.close()
            else:
                sock.setblocking(False)
                self._open.add(sock)
                self.accepted += 1
                self._on_connection(sock, peer)
        except Exception as error:
            sock.close()
            self._loop.call_exception_handler({"message": f"{self.path}: a connection failed", "exception": error})

    def _pause(self, error: OSError) -> None:
        # The waiting connection keeps the socket readable: without a pause the loop would spin until one goes.
        self.pauses += 1
        why = "descriptors or memory are short" if error.errno in _SHORT else "accepting failed"
        self._say_once("pause", "%s: accepts no connections for now, %s: %s", self.path, why, error)
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(ACCEPT_PAUSE_NS / 1e9, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _say_once(self, what: str, text: str, *about: object) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning(text + " (said once; see the counters)", *about)

    def close(self) -> None:
        """Accept no more and remove socket and lock file; connections stay. Idempotent. Raises: ResourceError."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
        try:
            self._lock.remove()
        finally:
            self._sock.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "paused" if self._timer is not None else "open"
        return f"<Listener {self.path} {state}, {self.connections} connections>"


def listen(
    path: Path,
    on_connection: Callable[[socket.socket, PeerCredentials], None],
    *,
    connections_max: int = CONNECTIONS_MAX,
) -> Listener:
    """Listen at a path that ends in `.sock`; a socket that a dead owner left there is replaced.

    Whoever sees the path can connect: it appears when everything is ready, for our user only (0600).
    Raises: BusyError when somebody listens there; LocalProtocolError when the path is none; ResourceError.
    """
    check_socket_path(path)
    lock = SocketLock.take(path, create=True)
    if lock is None:
        raise BusyError(f"{path}: another process listens there")
    sock: socket.socket | None = None
    try:
        if answers(path):  # its lock file was removed by hand: it is alive all the same
            lock.remove_file()
            raise BusyError(f"{path}: a process listens there without a lock")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        _appear(sock, path)
        return Listener(path, sock, lock, on_connection, connections_max)
    except BaseException as error:
        if sock is None:
            lock.let_go()  # nothing of ours is there yet, and what is there we could not judge
        else:
            sock.close()
            lock.remove()
        if isinstance(error, OSError):
            raise ResourceError(f"{path}: cannot listen: {error.strerror}") from error
        raise


def _appear(sock: socket.socket, path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise ResourceError(f"{path}: is there, and is no socket")
    new = path.with_suffix(NEW_SUFFIX)
    new.unlink(missing_ok=True)
    sock.bind(os.fspath(new))
    new.chmod(0o600)
    sock.listen(BACKLOG_MAX)
    new.rename(path)


async def connect(path: Path, *, timeout_ns: int) -> socket.socket:
    """A connected socket that does not block, to a listener of our own user.

    Waits at most `timeout_ns` while the listener's backlog is full. Raises: BrokenError, nothing having happened, when
    nobody listens, it is forbidden, or the listener is of another user; DeadlineExceeded; LocalProtocolError.
    """
    check_socket_path(path)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ns / 1e9
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _unreachable(path, f"no socket can be made: {error.strerror}") from error
    try:
        # Not the loop's sock_connect: here "again" means that the backlog is full, not that it is under way.
        while not _connected(sock, path):
            left = deadline - loop.time()
            if left <= 0:
                raise DeadlineExceeded(f"{path}: connecting", round(deadline * 1e9), round(loop.time() * 1e9))
            await asyncio.sleep(min(left, CONNECT_RETRY_NS / 1e9))
        peer = PeerCredentials.of(sock)
        if peer.uid != os.geteuid():
            raise _unreachable(path, f"the listener is of user {peer.uid}, not of {os.geteuid()}", Retry.NEVER)
    except BaseException:
        sock.close()
        raise
    return sock


def _connected(sock: socket.socket, path: Path) -> bool:
    try:
        sock.connect(os.fspath(path))
    except (BlockingIOError, InterruptedError):
        return False
    except FileNotFoundError as error:
        raise _unreachable(path, "no such socket: is the host running?") from error
    except ConnectionRefusedError as error:
        raise _unreachable(path, "nobody listens: the socket is stale, its host is gone") from error
    except PermissionError as error:
        raise _unreachable(path, "permission denied: is it the socket of another user?", Retry.NEVER) from error
    except OSError as error:
        raise _unreachable(path, f"cannot connect: {error.strerror}") from error
    return True


def _unreachable(path: Path, why: str, retry: Retry = Retry.LATER) -> BrokenError:
    error = BrokenError(f"{path}: {why}")
    error.effect = Effect.NONE
    error.retry = retry
    return error
