"""Where the sockets of one user live, and which of them a dead owner left.

Each socket has a lock file beside it (`host-7-0badcafe.sock.lock`), on which its owner holds flock(2) for life. The
kernel lets go of it when the owner dies, however it dies. So nothing is ever judged by its age or by a process number:

- whoever holds the lock may bind, replace and remove the socket, nobody else;
- a lock that can be taken was left by the dead; a lock file that is missing says nothing, so such a socket is let be;
- a lock file is removed only while its lock is held, and whoever takes a lock looks whether the file is still there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowbridge.errors import LocalProtocolError, ResourceError
from flowbridge.limits import LOCK_RETRY_NS, LOCK_TRIES_MAX, SOCKET_PATH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

SOCKET_SUFFIX: Final = ".sock"
LOCK_SUFFIX: Final = ".lock"
NEW_SUFFIX: Final = ".new"
"""A socket that does not listen yet: `host-7-0badcafe.new`. Not longer than the name it will have."""


def check_socket_path(path: Path) -> None:
    """Raises: LocalProtocolError when a path cannot be that of a socket."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES_MAX:
        raise LocalProtocolError(f"socket path exceeds {SOCKET_PATH_BYTES_MAX} bytes: {size}: {path}")
    if path.suffix != SOCKET_SUFFIX:
        raise LocalProtocolError(f"socket path does not end in {SOCKET_SUFFIX}: {path}")


def lock_path(path: Path) -> Path:
    """The lock file of a socket."""
    return path.with_name(path.name + LOCK_SUFFIX)


class SocketLock:
    """The right to a socket's path, held for life: flock(2) on the file beside it.

    A process that is forked, not started anew, keeps it held after its parent, as it keeps the socket.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path: Final = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, create: bool = False) -> SocketLock | None:
        """Take the lock of a socket; None when it is held, or is not there and is not to be created.

        Who creates it tries for a moment, in which somebody who only looks lets go. Raises: ResourceError when the file
        cannot be opened or locked, or is not ours.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        tries = LOCK_TRIES_MAX if create else 1
        while True:
            try:
                descriptor = os.open(lock_path(path), flags, 0o600)
            except FileNotFoundError as error:
                if not create:
                    return None
                raise ResourceError(f"{lock_path(path)}: {error.strerror}") from error
            except OSError as error:
                raise ResourceError(f"{lock_path(path)}: cannot be opened: {error.strerror}") from error
            try:
                if cls._holds(path, descriptor):
                    lock = cls(path, descriptor)
                    descriptor = -1
                    return lock
            except BlockingIOError:
                tries -= 1
                if tries <= 0:
                    return None
                time.sleep(LOCK_RETRY_NS / 1e9)
            except OSError as error:
                raise ResourceError(f"{lock_path(path)}: cannot be locked: {error.strerror}") from error
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    @staticmethod
    def _holds(path: Path, descriptor: int) -> bool:
        """Lock it, and see whether it still is the file of that name: its last owner may just have removed it."""
        ours = os.fstat(descriptor)
        if ours.st_uid != os.geteuid() or not stat.S_ISREG(ours.st_mode):
            raise ResourceError(f"{lock_path(path)}: belongs to user {ours.st_uid} or is no file")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            there = os.stat(lock_path(path), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def let_go(self) -> None:
        """Let go and leave the file: somebody only looked. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the socket, then the lock file, then let go. Idempotent. Raises: ResourceError."""
        if self._descriptor >= 0:
            try:
                for path in (self.path, self.path.with_suffix(NEW_SUFFIX)):
                    _remove_socket(path)
                lock_path(self.path).unlink(missing_ok=True)
            except OSError as error:
                raise ResourceError(f"{self.path}: cannot be removed: {error.strerror}") from error
            finally:
                self.let_go()

    def remove_file(self) -> None:
        """Remove the lock file only, and let go: the socket is somebody else's."""
        lock_path(self.path).unlink(missing_ok=True)
        self.let_go()


def _remove_socket(path: Path) -> None:
    try:
        if stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            path.unlink()
    except FileNotFoundError:
        pass  # it never came so far, or somebody removed it by hand


def answers(path: Path) -> bool:
    """Whether somebody listens at a path, whatever its lock says: its file may have been removed by hand.

    Raises: ResourceError when it cannot be told.
    """
    try:
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # not knowing must never mean "dead"
        raise ResourceError(f"{path}: cannot see whether somebody listens: {error.strerror}") from error
    with probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # its backlog is full, or something that is not for us to judge
            return True
        return True


class SocketPlace:
    """A folder for sockets that only its user can enter."""

    def __init__(self, folder: Path) -> None:
        """Make the folder when it is missing, its parents not.

        Raises: ResourceError when it is not ours alone; LocalProtocolError when its path is too long.
        """
        self.folder: Final = folder
        check_socket_path(self._path(2**22, "0" * 8))  # the largest process number of Linux (proc(5), pid_max)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass  # whose it is, the descriptor says
        except OSError as error:
            raise ResourceError(f"{folder}: cannot be made: {error.strerror}") from error
        problem = _why_not_private(folder)
        if problem:
            raise ResourceError(f"{folder}: {problem}")

    @classmethod
    def of_user(cls, environ: Mapping[str, str] | None = None, *, fallback: Path = Path("/tmp")) -> SocketPlace:  # noqa: S108
        """`$XDG_RUNTIME_DIR/flowbridge` when that is set and ours alone, else `/tmp/flowbridge-<uid>`.

        Raises: ResourceError, LocalProtocolError. Source: XDG Base Directory Specification.
        """
        runtime = Path((os.environ if environ is None else environ).get("XDG_RUNTIME_DIR", ""))
        if runtime.is_absolute() and not _why_not_private(runtime):
            return cls(runtime / "flowbridge")
        return cls(fallback / f"flowbridge-{os.geteuid()}")

    def _path(self, pid: int, tail: str) -> Path:
        return self.folder / f"host-{pid}-{tail}{SOCKET_SUFFIX}"

    def new_path(self) -> Path:
        """A path for a socket of this process that nobody has: `host-<pid>-<8 random hex digits>.sock`."""
        return self._path(os.getpid(), secrets.token_hex(4))

    def sockets(self) -> list[Path]:
        """Every socket that has an owner or had one, by name."""
        names = (path.name.removesuffix(LOCK_SUFFIX) for path in self.folder.glob(f"*{SOCKET_SUFFIX}{LOCK_SUFFIX}"))
        return sorted(self.folder / name for name in names)

    def live_sockets(self) -> list[Path]:
        """Those whose owner lives, by name."""
        stale = set(self.stale_sockets())
        return [path for path in self.sockets() if path not in stale and path.exists()]

    def stale_sockets(self) -> list[Path]:
        """Those that a dead owner left, by name; nothing is changed. The socket itself may be gone already."""
        found: list[Path] = []
        for path in self.sockets():
            with _looking(path) as lock:
                if lock is not None and not answers(path):
                    found.append(path)
        return found

    def remove_stale(self) -> list[Path]:
        """Remove what dead owners left, and return the paths. Whatever somebody holds is not touched."""
        removed: list[Path] = []
        for path in self.sockets():
            with _looking(path) as lock:
                if lock is None:
                    continue
                if answers(path):
                    lock.remove_file()
                else:
                    lock.remove()
                    removed.append(path)
        return removed

    def __repr__(self) -> str:
        return f"<SocketPlace {self.folder}>"


@contextmanager
def _looking(path: Path) -> Generator[SocketLock | None]:
    """The lock of a dead owner for a moment; None when somebody has it, or it is not ours to judge."""
    try:
        lock = SocketLock.take(path)
    except ResourceError:
        lock = None
    try:
        yield lock
    finally:
        if lock is not None:
            lock.let_go()


def _why_not_private(folder: Path) -> str:
    """Why a folder is not ours alone; empty when it is. Looks at what it opened, so nothing can be put in between."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        return "is no folder, or a symbolic link"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to {os.geteuid()}"
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return f"others may enter (mode {mode:04o}): chmod 700 {folder}"
    return ""
