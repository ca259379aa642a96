"""``python -m flowbridge.worker FD``: a process that runs a part of a flow for the host that started it.

It ignores SIGINT, because Ctrl-C goes to the whole group of a terminal and the host drains; SIGTERM asks the host to
drain, and once the host has told its nodes to stop it ends the process. When the host is gone, so is it.
"""

from __future__ import annotations

import time

_STARTED_NS = time.monotonic_ns()

import asyncio  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from typing import TYPE_CHECKING, Final  # noqa: E402

from flowbridge.limits import WORKER_STOP_NS  # noqa: E402
from flowbridge.runtime.clock import SystemClock  # noqa: E402
from flowbridge.runtime.part import Part  # noqa: E402
from flowbridge.runtime.tier_set import TierSet  # noqa: E402
from flowbridge.telemetry.far_spans import FarInstrument  # noqa: E402
from flowbridge.telemetry.log import configure_logging  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

HOST_GONE: Final = 3
"""The exit code when the host died."""
STOPPED: Final = 128 + signal.SIGTERM
"""The exit code when SIGTERM ended nodes that did not stop."""


def main() -> int:
    """Serve the host at the other end of the descriptor that the command line names; returns the exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("flowbridge.worker: is started by a host, with the descriptor of its connection\n")
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(json=False, level="WARNING")
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        from uvloop import new_event_loop
    except ImportError:
        pass  # not on every system
    else:
        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(sys.argv[1]))


async def _serve(address: str) -> int:
    clock = SystemClock()
    tiers = TierSet(clock)  # the host says with what options
    link = await (await tiers.placing("ipc")).meet_host(address)
    part = Part(link, tiers, clock, instrument=FarInstrument, owns_loop=True)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_watch, args=(int(address), part), name="host watch", daemon=True).start()

    def on_terminate(_number: int, _frame: object) -> None:
        if part.is_stopping:
            os._exit(STOPPED)  # an operator holds the loop
        loop.call_soon_threadsafe(part.terminated)

    signal.signal(signal.SIGTERM, on_terminate)
    try:
        await part.run(time.monotonic_ns() - _STARTED_NS)
    finally:
        await tiers.aclose()
    return 0 if part.has_left else HOST_GONE


def _watch(descriptor: int, part: Part) -> None:
    """End the process soon after its host is gone, also when an operator holds the loop."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP and POLLERR are always told
    poll.poll()
    time.sleep(WORKER_STOP_NS / 1e9)
    os._exit(0 if part.has_left else HOST_GONE)


if __name__ == "__main__":
    sys.exit(main())
