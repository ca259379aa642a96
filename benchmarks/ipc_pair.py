"""Timed children: forked from a quiet parent, pinned to a core each, one group of them at a time."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE_S: Final = 120.0
"""A group that takes longer is ended and counts as failed."""


PLACES: list[int] = []
"""The core of the first child and that of the others; empty for what `cores` finds."""


class TrialError(Exception):
    """What a child said before it died, or that it did not answer."""


class Bar:
    """A place where the children of a group wait for each other: each is told when all have come."""

    def __init__(self, children: int) -> None:
        self._pairs = [socket.socketpair() for _ in range(children - 1)]

    def wait(self, rank: int) -> None:
        """Child `rank`, counted from 0, has come."""
        if rank:
            sock = self._pairs[rank - 1][1]
            sock.sendall(b"h")
            _must_have(sock)
        else:
            for near, _ in self._pairs:
                _must_have(near)
            for near, _ in self._pairs:
                near.sendall(b"g")

    def close(self) -> None:
        """Close this process's copies."""
        for pair in self._pairs:
            for sock in pair:
                sock.close()


def _must_have(sock: socket.socket) -> None:
    if not sock.recv(1):
        raise TrialError("another child ended first")


def cpu_ns() -> int:
    """Processor time of this process, all its threads and the kernel's share."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def cores(*, together: bool = False) -> list[int]:
    """Where children run: two cores, or one twice (`together`, or where there is no second)."""
    found = sorted(os.sched_getaffinity(0))
    return [found[0], found[0 if together else 1 % len(found)]]


def run_group(works: Sequence[Callable[[Bar, int], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run each function in a child of its own, the first on one core and the others on the second.

    Raises: TrialError when one of them fails or all take too long.
    """
    places, bar = PLACES or cores(), Bar(len(works))
    children: list[tuple[int, int]] = []
    answers: list[dict[str, Any]] = []
    try:
        for rank, work in enumerate(works):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                _child(work, bar, rank, places[min(rank, 1)], writing)
            os.close(writing)
            children.append((pid, reading))
        bar.close()
        until = time.monotonic() + PATIENCE_S
        answers.extend(_answer(reading, until) for _, reading in children)
    finally:
        for pid, reading in children:
            if len(answers) < len(children):
                os.kill(pid, signal.SIGKILL)
            os.close(reading)
            os.waitpid(pid, 0)
    for answer in answers:
        if "error" in answer:
            raise TrialError(answer["error"])
    return answers


def _answer(reading: int, until: float) -> dict[str, Any]:
    text = b""
    while True:
        if not select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TrialError(f"no answer for {PATIENCE_S:.0f} s")
        part = os.read(reading, 65536)
        if not part:
            break
        text += part
    return json.loads(text) if text else {"error": "a child died"}


def _child(work: Callable[[Bar, int], dict[str, Any]], bar: Bar, rank: int, core: int, writing: int) -> None:
    """Never comes back: what the parent still has to do is not for its child."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.sched_setaffinity(0, {core})
        gc.disable()
        answer = work(bar, rank)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer = {"error": f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"}
    os.write(writing, json.dumps(answer).encode())
    # Neither os._exit, which leaves zenoh's segments in /dev/shm, nor sys.exit, which would clean up for the parent.
    ctypes.CDLL(None).exit(0)


def percentiles_us(took_ns: list[int]) -> dict[str, float]:
    """Median, 95th and 99th percentile in microseconds."""
    took_ns.sort()
    last = len(took_ns) - 1
    return {f"p{p}": took_ns[min(last, len(took_ns) * p // 100)] / 1e3 for p in (50, 95, 99)}
