"""Segments: anonymous pieces of shared memory, reached by their descriptor alone.

`posix` opens a name in /dev/shm and unlinks it at once, so that nothing is left behind whoever dies. `memfd` is the
hardened form: its seals (fcntl(2)) keep the other side from truncating what we have mapped, which would end us with
SIGBUS, and from mapping the pool for writing. Both are reserved in full when they are made (posix_fallocate), since
memory that is missing later ends the process that touches it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from typing import Final, Literal

from flowbridge.errors import BrokenError, RemoteProtocolError, ShmFullError

Backing = Literal["posix", "memfd"]

SEAL_FUTURE_WRITE: Final = 0x0010  # F_SEAL_FUTURE_WRITE of linux/fcntl.h, Linux 5.1; not in the fcntl module of 3.11
SHM_FOLDER: Final = "/dev/shm"  # noqa: S108 - not a temporary file: where shm_open(3) keeps its names


def create_segment(what: str, nbytes: int, backing: Backing) -> int:
    """The descriptor of a new segment of that many bytes, zeroed and reserved.

    Raises:
        ShmFullError: it does not fit.
        BrokenError: the system refuses for another reason, such as too many descriptors.
    """
    try:
        descriptor = _open_memfd(what) if backing == "memfd" else _open_posix()
    except OSError as error:
        raise BrokenError(f"{what}: no segment of {nbytes} bytes: {error}") from error
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.ENOSPC, errno.EFBIG, errno.ENOMEM}:
            raise _full(what, nbytes, backing, error) from error
        raise BrokenError(f"{what}: no segment of {nbytes} bytes: {error}") from error
    return descriptor


def _open_memfd(what: str) -> int:
    return os.memfd_create(f"flowbridge.{what}"[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _open_posix() -> int:
    import posix_ipc

    name = f"/fb.{os.getuid()}.{uuid.uuid4().hex}"
    try:
        segment = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.Error as error:  # some of them are no OSError
        raise OSError(errno.EACCES, str(error)) from error
    segment.unlink()  # the name lives for microseconds, so that nobody has to clean up
    return int(segment.fd)


def _full(what: str, nbytes: int, backing: Backing, error: OSError) -> ShmFullError:
    free = None
    if error.errno == errno.EFBIG:
        hint = "raise the limit on file sizes: ulimit -f"
    elif backing == "memfd":
        hint = "give the machine or the container more memory"
    else:
        hint = "enlarge /dev/shm: mount -o remount,size=... /dev/shm, or --shm-size of the container"
        found = os.statvfs(SHM_FOLDER)
        free = found.f_bavail * found.f_frsize
    return ShmFullError(what, nbytes, free, hint)


def seal(descriptor: int, *, read_only_for_others: bool) -> None:
    """Fix the size of a memfd for good; map it for writing before you forbid that to others."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | (SEAL_FUTURE_WRITE if read_only_for_others else 0))


def must_be_sealed(what: str, descriptor: int) -> None:
    """Check that nobody can shrink a segment any more.

    Raises:
        RemoteProtocolError: somebody can.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # EINVAL: not a memfd at all
        seals = 0
    if not seals & fcntl.F_SEAL_SHRINK:
        raise RemoteProtocolError(f"{what}: the segment is said to be sealed, and is not")


def segment_bytes(what: str, descriptor: int) -> int:
    """The size of a segment that a peer has handed over.

    Raises:
        RemoteProtocolError: the descriptor is open on something else.
    """
    try:
        found = os.fstat(descriptor)
    except OSError as error:
        raise RemoteProtocolError(f"{what}: descriptor {descriptor}: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RemoteProtocolError(f"{what}: descriptor {descriptor} is open on something else than memory")
    return found.st_size


def create_event(what: str) -> int:
    """A new eventfd(2), non-blocking.

    Raises:
        BrokenError: the system refuses, such as for too many descriptors.
    """
    try:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        raise BrokenError(f"{what}: no eventfd: {error}") from error


def duplicate_event(what: str, descriptor: int) -> int:
    """A descriptor of our own for an eventfd that a peer has handed over.

    Raises:
        RemoteProtocolError: it is something else, or would make us wait.
        BrokenError: the system refuses.
    """
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != "anon_inode:[eventfd]" or os.get_blocking(descriptor):
            raise RemoteProtocolError(f"{what}: descriptor {descriptor} is not a non-blocking eventfd")
        return os.dup(descriptor)
    except OSError as error:
        raise BrokenError(f"{what}: descriptor {descriptor}: {error}") from error
