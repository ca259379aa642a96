"""Run a coroutine at once, and make a task of it only when it has to wait.

What asyncio does itself from Python 3.12 on (`eager_start`), for 3.11 too. Most calls of a bus wait for nothing, and a
task costs as much as the call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator


class _Rest:
    """What is left of a coroutine that was started outside a task and now waits for `first`."""

    __slots__ = ("_coroutine", "_first")

    def __init__(self, coroutine: Coroutine[Any, Any, object], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first

    def __await__(self) -> Generator[Any, Any, object]:
        item = self._first
        while True:
            failure: BaseException | None = None
            sent: Any = None
            try:
                sent = yield item
            except BaseException as error:
                failure = error  # it goes in where the coroutine waits
            try:
                item = self._coroutine.send(sent) if failure is None else self._coroutine.throw(failure)
            except StopIteration as stop:
                return stop.value


async def _go_on(rest: _Rest) -> None:
    await rest


def run_eagerly(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run it as far as it goes: None when it is done, else the task that does the rest.

    Until it first waits, it must not ask which task it is in. What it raises before that is raised here.
    """
    try:
        first = coroutine.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_go_on(_Rest(coroutine, first)))
