"""Tells once when a stream that held too much has room again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import ResourceError
from flowbridge.limits import STREAM_BYTES_HIGH

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.framed import ByteStream


class Room:
    """What a link asks before it writes, so that what is unsent stays bounded."""

    __slots__ = ("_stream", "_task", "_tell")

    def __init__(self, stream: ByteStream, tell: Callable[[], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    @property
    def is_lacking(self) -> bool:
        """Whether too much is unsent to write more."""
        return self._stream.unsent_bytes > STREAM_BYTES_HIGH

    def ask(self) -> None:
        """Have it told when there is room. Not when the stream is lost: others say that."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        try:
            await self._stream.drained()
        except ResourceError:
            return
        finally:
            self._task = None
        self._tell()

    def close(self) -> None:
        """Tell nothing any more."""
        if self._task is not None:
            self._task.cancel()
