"""Segments: anonymous pieces of shared memory, reached by their descriptor alone.

Two kinds: `channel` and `pool`; the kind stands in the name that /proc shows for an open segment.

`posix` opens a name in /dev/shm and unlinks it at once, so that nothing is left behind whoever dies. `memfd` is the
hardened form: its seals (fcntl(2)) keep the other side from truncating what we have mapped, which would end us with
SIGBUS, and from mapping the pool for writing.

Memory that is missing when it is touched ends the process, so what is touched is reserved before (posix_fallocate): a
channel in full when it is made, a slot of a pool when it is first used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from contextlib import suppress
from typing import Final, Literal

from flowbridge.errors import BrokenError, RemoteProtocolError, ShmFullError

Backing = Literal["posix", "memfd"]
Kind = Literal["channel", "pool"]

SEAL_FUTURE_WRITE: Final = 0x0010  # F_SEAL_FUTURE_WRITE of linux/fcntl.h, Linux 5.1; not in the fcntl module of 3.11
MEMFD_PREFIX: Final = "flowbridge."
SHM_FOLDER: Final = "/dev/shm"  # noqa: S108 - not a temporary file: where shm_open(3) keeps its names


def posix_prefix() -> str:
    """How the names of this user's segments begin in /dev/shm."""
    return f"fb.{os.getuid()}."


def create_segment(what: str, kind: Kind, nbytes: int, backing: Backing, *, reserved_bytes: int | None = None) -> int:
    """The descriptor of a new segment of that many bytes, zeroed; the first of them, or all, are reserved.

    Raises:
        ShmFullError: it does not fit.
        BrokenError: the system refuses for another reason, such as too many descriptors.
    """
    try:
        descriptor = _open_memfd(what, kind) if backing == "memfd" else _open_posix(kind)
    except OSError as error:
        raise BrokenError(f"{what}: no segment of {nbytes} bytes: {error}") from error
    try:
        os.ftruncate(descriptor, nbytes)
        os.posix_fallocate(descriptor, 0, nbytes if reserved_bytes is None else reserved_bytes)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EFBIG:
            raise ShmFullError(what, nbytes, None, "raise the limit on file sizes: ulimit -f") from error
        if error.errno in {errno.ENOSPC, errno.ENOMEM}:
            raise full_error(what, backing, nbytes if reserved_bytes is None else reserved_bytes) from error
        raise BrokenError(f"{what}: no segment of {nbytes} bytes: {error}") from error
    return descriptor


def _open_memfd(what: str, kind: Kind) -> int:
    label = what.encode(errors="replace")[:200].decode(errors="ignore")  # 249 bytes in all: memfd_create(2)
    return os.memfd_create(f"{MEMFD_PREFIX}{kind}.{label}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _open_posix(kind: Kind) -> int:
    import posix_ipc

    name = f"/{posix_prefix()}{kind}.{uuid.uuid4().hex}"
    try:
        segment = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.Error as error:  # some of them are no OSError
        raise OSError(errno.EACCES, str(error)) from error
    with suppress(posix_ipc.ExistentialError):  # whoever cleans up was faster, which does no harm
        segment.unlink()  # the name lives for microseconds
    return int(segment.fd)


def full_error(what: str, backing: Backing, nbytes: int) -> ShmFullError:
    """What to raise when the system has no memory for so many bytes."""
    if backing == "memfd":
        return ShmFullError(what, nbytes, None, "give the machine or the container more memory")
    hint = "enlarge /dev/shm: mount -o remount,size=... /dev/shm, or --shm-size of the container"
    try:
        found = os.statvfs(SHM_FOLDER)
    except OSError:
        return ShmFullError(what, nbytes, None, hint)
    return ShmFullError(what, nbytes, found.f_bavail * found.f_frsize, hint)


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
