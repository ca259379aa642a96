"""The names of segments that a test leaves behind, beside other tests that make some at the same time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

PATIENCE_S = 30.0


def names() -> set[str]:
    """The names of segments in /dev/shm, of all processes."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("fb.")}


def left_since(before: AbstractSet[str]) -> set[str]:
    """The names that were not there before and stay: those of a neighbour are gone within seconds."""
    new = names() - before
    until_s = time.monotonic() + PATIENCE_S
    while new and time.monotonic() < until_s:
        time.sleep(0.05)
        new &= names()
    return new
