"""Tasks that wait until somebody says that they may look again."""

from __future__ import annotations

import asyncio


class Waiters:
    """Those who wait for one thing, such as room in a stream. Truthy while there are any."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return at the next `wake`; whoever waits looks again whether it was for it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            if future.cancelled() and future in self._futures:
                self._futures.remove(future)

    def wake(self) -> None:
        """Let all of them look."""
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)

    def __bool__(self) -> bool:
        return bool(self._futures)

    def __repr__(self) -> str:
        return f"<Waiters {len(self._futures)}>"
