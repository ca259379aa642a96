"""What the tests of the shared-memory port start from: the port, if it is built, and helpers around a channel."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from flowbridge.shm import native_problem

PROBLEM: Final = native_problem()
if PROBLEM is not None:
    if os.environ.get("FLOWBRIDGE_REQUIRE_NATIVE") == "1":
        raise RuntimeError(PROBLEM)
    pytest.skip(PROBLEM, allow_module_level=True)

from flowbridge.shm import _core  # noqa: E402 - only after the question whether it is there
from flowbridge.shm.port import (  # noqa: E402
    Lease,
    Loan,
    ShmConsumer,
    ShmProducer,
    ShmSpec,
    SlotPool,
)

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "SMALL",
    "Lease",
    "Loan",
    "ShmConsumer",
    "ShmProducer",
    "ShmSpec",
    "SlotPool",
    "_core",
    "channel",
    "open_descriptors",
    "started",
]

SMALL: Final = ShmSpec(
    classes=((4096, 4), (65536, 2)), ring_bytes=4096, window_items=16, inline_bytes_max=256, high=0.75, low=0.5
)
"""A channel that is soon full."""


@contextmanager
def channel(spec: ShmSpec = SMALL, max_leases: int | None = None) -> Generator[tuple[ShmProducer, ShmConsumer]]:
    """Both ends of a channel in this process."""
    with ShmProducer(spec) as producer, ShmConsumer.attach(producer.descriptors(), max_leases=max_leases) as consumer:
        yield producer, consumer


def open_descriptors() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


@contextmanager
def started(script: str, producer: ShmProducer) -> Generator[subprocess.Popen[str]]:
    """Another process with the descriptors of a channel in `fds`; it says what it has done on its standard output."""
    prelude = (
        "import os, signal, sys, time\n"
        "from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec\n"
        "fds = tuple(map(int, sys.argv[1:]))\n"
        "def say(word):\n    print(word, flush=True)\n"
    )
    fds = producer.descriptors()
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + script, *map(str, fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
        cwd=Path(__file__).parents[2],
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
