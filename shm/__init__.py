"""Bytes in shared memory: the data plane of processes on one machine.

`port` holds the channel, `segment` the memory, `peer` who is at the other end. The channel needs a compiled
extension; `native_problem` tells whether it is there.
"""

from __future__ import annotations

import os
from importlib import import_module

if __name__ != "flowbridge.shm":
    raise ImportError(f"this is flowbridge.shm, not {__name__}: import flowbridge.shm")


def native_problem() -> str | None:
    """Why shared memory cannot be used here, None when it can. `FLOWBRIDGE_NATIVE=0` in the environment forbids it."""
    if os.environ.get("FLOWBRIDGE_NATIVE") == "0":
        return "the native ring is switched off by FLOWBRIDGE_NATIVE=0"
    try:
        import_module("flowbridge.shm._core")
    except ImportError as error:
        return f"the native ring is not built: {error}"
    return None
