"""Wait until nothing more happens, without asking any clock.

A task can run on when it waits for nothing, or for something that is done already. When no task can, for a few turns
of the loop, nothing happens until a timer, a descriptor or another thread says so.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from flowbridge.errors import FlowbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CALM_TURNS: Final = 16
"""So many turns without a task that can run: a chain of bare callbacks takes some of them, and one that goes over a
socket of this process and comes back takes a dozen."""

TURNS_MAX: Final = 200_000
"""Beyond this something runs round in circles: FlowbridgeError."""

PATIENCE_TURNS: Final = 2_000
"""So often half a millisecond is waited for what is under way; what is still there then is held up by a test."""

_LOOK_S: Final = 0.0005

_under_way: list[Callable[[], bool]] = []
_watchers: list[asyncio.Task[Any]] = []


def _can_run(task: asyncio.Task[Any]) -> bool:
    waits_for: Any = getattr(task, "_fut_waiter", None)  # asyncio's own name, in its C and its Python form
    return waits_for is None or waits_for.done()


@contextmanager
def quiet_after(is_under_way: Callable[[], bool]) -> Generator[None]:
    """Let `quiet` wait meanwhile for what no task of the loop waits for, such as bytes between two sockets."""
    _under_way.append(is_under_way)
    try:
        yield
    finally:
        _under_way.remove(is_under_way)


async def quiet() -> None:
    """Return when no other task of this loop can run on.

    A task that waits in this function itself counts as idle for those who came later, so it may be used within itself.
    Does not promise: anything about other threads, processes or sockets, but for what `quiet_after` looks at.
    """
    me = asyncio.current_task()
    assert me is not None
    earlier = tuple(_watchers)
    _watchers.append(me)
    try:
        calm = looks = 0
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)
            others = (task for task in asyncio.all_tasks() if task is not me and task not in earlier)
            calm = 0 if any(_can_run(task) for task in others) else calm + 1
            if calm < CALM_TURNS:
                continue
            if looks == PATIENCE_TURNS or not any(is_under_way() for is_under_way in _under_way):
                return
            calm, looks = 0, looks + 1
            await asyncio.sleep(_LOOK_S)
        raise FlowbridgeError(f"still not quiet after {TURNS_MAX} turns of the loop")
    finally:
        _watchers.remove(me)
