"""timerfd_create(2) through libc, for the Pythons that lack it (before 3.13)."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

TIMER_ABSTIME: Final = 1  # TFD_TIMER_ABSTIME of <sys/timerfd.h>
NS_PER_S: Final = 10**9


@cache
def libc() -> ctypes.CDLL | None:
    """The C library, None where it has no timerfds."""
    if sys.platform != "linux":
        return None
    import ctypes

    if ctypes.sizeof(ctypes.c_long) != 8:  # a 32-bit time_t has two forms; not worth telling apart
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.timerfd_create.argtypes = [ctypes.c_int, ctypes.c_int]
        library.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return library


def exists() -> bool:
    """Whether this system has timerfds."""
    return libc() is not None


def open_timerfd() -> int:
    """A new descriptor on the monotonic clock, non-blocking and closed on exec. Raises: OSError when out of them."""
    import ctypes

    library = libc()
    assert library is not None, "ask exists() first"
    # TFD_NONBLOCK and TFD_CLOEXEC are defined as these two.
    fd: int = library.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def settime(fd: int, deadline_ns: int) -> None:
    """Make the descriptor readable from `deadline_ns` on, which is above 0. Raises: OSError."""
    import ctypes

    library = libc()
    assert library is not None, "ask exists() first"
    spec = (ctypes.c_long * 4)(0, 0, deadline_ns // NS_PER_S, deadline_ns % NS_PER_S)  # interval, value
    if library.timerfd_settime(fd, TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
