"""The shared memory of this user's processes, found from outside: who holds which segment, and what is in it.

Segments have no name in the file system, so /proc is where they are seen: as descriptors (/proc/<pid>/fd, proc(5)) and
as mappings (/proc/<pid>/maps). They are opened through /proc for reading only; nothing here can disturb a channel, and
it works as well while its processes are stopped. A segment that is only mapped any more, since whoever had it open is
gone, can be looked into by root alone.

Also what has kept a name in /dev/shm: a process that was killed between making a segment and taking its name away.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from flowbridge.errors import ResourceError
from flowbridge.shm.peer import ProcessState, process_state
from flowbridge.shm.segment import MEMFD_PREFIX, SHM_FOLDER, posix_prefix
from flowbridge.shm.superblock import ChannelSight, NoChannelError, printable, read_channel

if TYPE_CHECKING:
    from collections.abc import Iterator

SegmentKind = Literal["channel", "pool", "unknown"]
_DELETED: Final = " (deleted)"
_KINDS: Final[tuple[SegmentKind, ...]] = ("channel", "pool")
_COMMAND_BYTES_MAX: Final = 4096
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has something to do with a segment."""

    pid: int
    command: str  # empty when it cannot be told
    state: ProcessState


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot that a consumer has had for so long."""

    slot: int
    slot_bytes: int
    held_ns: int


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel. `sight` is None when it cannot be read or believed, for which `problem` gives the reason."""

    id: str
    name: str
    size_bytes: int
    allocated_bytes: int | None
    holders: tuple[Process, ...]
    producer: Process | None
    consumer: Process | None
    pool_id: str
    leases: tuple[HeldSlot, ...]
    sight: ChannelSight | None
    problem: str


@dataclass(frozen=True, slots=True)
class Pool:
    """The slots of one producer. Allocated is what was used once; `slots_out` adds up the channels that are seen."""

    id: str
    name: str
    size_bytes: int
    allocated_bytes: int | None
    holders: tuple[Process, ...]
    producer: Process | None
    channels: tuple[str, ...]
    slots: int
    slots_out: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """A name in /dev/shm; `holders` has the processes that use what is behind it."""

    path: Path
    size_bytes: int
    holders: tuple[Process, ...]
    problem: str  # why it is not ours to judge

    @property
    def is_removable(self) -> bool:
        """Whether nobody needs the name."""
        return not self.problem and not any(process.state != "dead" for process in self.holders)


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that was found, by name and id; `unread` counts processes that we may not look into."""

    channels: tuple[Channel, ...]
    pools: tuple[Pool, ...]
    others: tuple[Channel, ...]  # segments that say they are ours, of no kind that we know
    leftovers: tuple[Leftover, ...]
    unread: int
    folder_bytes: int  # of /dev/shm, which limits them all; 0 when there is none
    folder_free_bytes: int


@dataclass(slots=True)
class _Found:
    """A segment while it is being collected."""

    kind: SegmentKind
    label: str
    size_bytes: int
    allocated_bytes: int | None = None
    pids: set[int] = field(default_factory=set[int])
    paths: list[str] = field(default_factory=list[str])


def list_segments() -> Listing:
    """Look at all processes of this user, once. What comes or goes meanwhile may be missing."""
    found, unread = _collect()
    now_ns = time.monotonic_ns()
    processes = _Processes()
    channels: list[Channel] = []
    others: list[Channel] = []
    for key, one in found.items():
        if one.kind != "pool":
            channel = _channel(key, one, processes, now_ns)
            (channels if one.kind == "channel" else others).append(channel)
    pools = [_pool(key, one, channels, processes) for key, one in found.items() if one.kind == "pool"]
    folder = _folder_bytes()
    return Listing(
        channels=tuple(sorted(channels, key=lambda one: (one.name, one.id))),
        pools=tuple(sorted(pools, key=lambda one: (one.name, one.id))),
        others=tuple(sorted(others, key=lambda one: (one.name, one.id))),
        leftovers=tuple(_leftovers(found, processes)),
        unread=unread,
        folder_bytes=folder[0],
        folder_free_bytes=folder[1],
    )


def _folder_bytes() -> tuple[int, int]:
    try:
        seen = os.statvfs(SHM_FOLDER)
    except OSError:
        return 0, 0
    return seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize


def remove_leftover(leftover: Leftover) -> bool:
    """Take a name away; False when it is gone already or has become another's.

    Nobody is harmed even if its maker lives where we cannot see it: it wants to take the name away itself.

    Raises:
        ResourceError: the system refuses.
    """
    try:
        if not _is_ours(os.stat(leftover.path, follow_symlinks=False)):
            return False
        leftover.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ResourceError(f"{leftover.path}: cannot be removed: {error.strerror}") from error
    return True


# --- looking through /proc ----------------------------------------------------------------------------------------


def _own_processes() -> Iterator[int]:
    user = os.geteuid()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # it ended
                if os.stat(f"/proc/{name}").st_uid == user:
                    yield int(name)


def _collect() -> tuple[dict[_Key, _Found], int]:
    found: dict[_Key, _Found] = {}
    unread = 0
    for pid in _own_processes():
        try:
            _collect_open(pid, found)
            _collect_mapped(pid, found)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended
        except OSError:
            unread += process_state(pid) != "dead"
    return found, unread


def named_segment(link: str) -> tuple[SegmentKind, str] | None:
    """Kind and label of a segment by its name in /proc, None when it is not one of ours."""
    name = link.removesuffix(_DELETED)
    folder, _, last = name.rpartition("/")
    if name.startswith(f"/memfd:{MEMFD_PREFIX}"):
        rest = name.removeprefix(f"/memfd:{MEMFD_PREFIX}")
    elif folder == SHM_FOLDER and last.startswith(posix_prefix()):
        rest = last.removeprefix(posix_prefix())
    else:
        return None
    kind, _, label = rest.partition(".")
    for known in _KINDS:
        if kind == known:
            return known, label
    return "unknown", rest


def _collect_open(pid: int, found: dict[_Key, _Found]) -> None:
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        path = f"{folder}/{number}"
        try:
            named = named_segment(os.readlink(path))
            seen = os.stat(path) if named is not None else None
        except FileNotFoundError:
            continue  # it was closed
        if named is None or seen is None or not stat.S_ISREG(seen.st_mode):
            continue
        one = found.setdefault((seen.st_dev, seen.st_ino), _Found(*named, seen.st_size))
        one.size_bytes, one.allocated_bytes = seen.st_size, seen.st_blocks * 512
        one.pids.add(pid)
        one.paths.insert(0, path)


def _collect_mapped(pid: int, found: dict[_Key, _Found]) -> None:
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            # address perms offset dev inode path; a space in the path is a space
            parts = line.rstrip("\n").split(None, 5)
            named = named_segment(_unescaped(parts[5])) if len(parts) == 6 else None
            if named is None:
                continue
            major, minor = (int(part, 16) for part in parts[3].split(":"))
            low, high = (int(part, 16) for part in parts[0].split("-"))
            one = found.setdefault((os.makedev(major, minor), int(parts[4])), _Found(*named, high - low))
            one.pids.add(pid)
            one.paths.append(f"/proc/{pid}/map_files/{parts[0]}")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


class _Processes:
    """What is known of each process, looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int | None], Process] = {}

    def get(self, pid: int, stamp: int | None = None) -> Process:
        """The process of that id, and of that start if one is given."""
        known = self._known.get((pid, stamp))
        if known is None:
            state = process_state(pid, stamp)
            command = _command(pid) if state in {"running", "stopped"} else ""
            known = self._known[pid, stamp] = Process(pid, command, state)
        return known

    def all(self, pids: set[int]) -> tuple[Process, ...]:
        """Those processes, by id."""
        return tuple(self.get(pid) for pid in sorted(pids))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_COMMAND_BYTES_MAX).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    first, *rest = [printable(word.decode(errors="replace")) for word in words]
    return " ".join([first.rpartition("/")[2], *rest])


# --- looking into segments ----------------------------------------------------------------------------------------


def _sight(one: _Found) -> tuple[ChannelSight | None, str]:
    problem = "it is mapped only: whoever had it open is gone, and root alone can look into it"
    for path in one.paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            seen = os.fstat(descriptor)
            one.size_bytes, one.allocated_bytes = seen.st_size, seen.st_blocks * 512
            return read_channel(descriptor, seen.st_size), ""
        except NoChannelError as error:
            return None, str(error)
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        finally:
            os.close(descriptor)
    return None, problem


def _id(key: _Key) -> str:
    return f"{key[0]:x}:{key[1]}"


def _channel(key: _Key, one: _Found, processes: _Processes, now_ns: int) -> Channel:
    sight, problem = _sight(one) if one.kind == "channel" else (None, "no kind of segment that is known here")
    holders = processes.all(one.pids)
    label = printable(one.label)
    if sight is None:
        return Channel(_id(key), label, one.size_bytes, one.allocated_bytes, holders, None, None, "", (), None, problem)
    leases = tuple(
        HeldSlot(mark.slot, mark.slot_bytes, max(0, now_ns - mark.since_ns))
        for mark in sight.leases
        if mark.since_ns <= now_ns
    )
    return Channel(
        id=_id(key),
        name=sight.name or label,
        size_bytes=one.size_bytes,
        allocated_bytes=one.allocated_bytes,
        holders=holders,
        producer=processes.get(*sight.creator),
        consumer=None if sight.consumer is None else processes.get(*sight.consumer),
        pool_id=_id((key[0], sight.pool_inode)) if sight.pool_inode else "",
        leases=leases,
        sight=sight,
        problem="",
    )


def _pool(key: _Key, one: _Found, channels: list[Channel], processes: _Processes) -> Pool:
    served = [channel for channel in channels if channel.pool_id == _id(key)]
    sights = [channel.sight for channel in served if channel.sight is not None]
    if one.allocated_bytes is None:
        with suppress(OSError):  # root alone may
            seen = os.stat(one.paths[0])
            one.size_bytes, one.allocated_bytes = seen.st_size, seen.st_blocks * 512
    return Pool(
        id=_id(key),
        name=printable(one.label),
        size_bytes=one.size_bytes,
        allocated_bytes=one.allocated_bytes,
        holders=processes.all(one.pids),
        producer=served[0].producer if served else None,
        channels=tuple(sorted(channel.name for channel in served)),
        slots=sum(slots.count for slots in sights[0].classes) if sights else 0,
        slots_out=sum(sight.slots_out for sight in sights),
    )


# --- names that were left -----------------------------------------------------------------------------------------


def _is_ours(seen: os.stat_result) -> bool:
    return stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid()


def _leftovers(found: dict[_Key, _Found], processes: _Processes) -> Iterator[Leftover]:
    with suppress(FileNotFoundError):
        for path in sorted(Path(SHM_FOLDER).glob(f"{posix_prefix()}*")):
            try:
                seen = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # its maker took it away
            user = seen.st_uid
            problem = "" if _is_ours(seen) else f"belongs to user {user}" if user != os.geteuid() else "is no file"
            one = found.get((seen.st_dev, seen.st_ino))
            yield Leftover(path, seen.st_size, processes.all(one.pids) if one else (), problem)
