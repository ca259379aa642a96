"""Notices that a socket hung up, on loops that stop watching a descriptor once it has an error.

A Unix socket whose peer closed with something unread has an error (unix(7), ECONNRESET). libuv, and so uvloop, then
calls the reader once and never again: what the peer had sent would stay unread, and its end unseen. An epoll(7) of our
own, which asks for nothing, reports errors and hang-ups only, and to any loop it is just readable. It costs one
descriptor per loop, and nothing per message.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from flowbridge.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable


class HangUps:
    """The sockets of one loop that are watched; there while there are any."""

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, HangUps]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        try:
            self._epoll = select.epoll()
        except OSError as error:
            raise ResourceError(f"cannot watch for sockets that hang up: {error.strerror}") from error
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._reported)

    @classmethod
    def watch(cls, fileno: int, callback: Callable[[], None]) -> HangUps:
        """Call back from the running loop when that socket hangs up, once. Raises: ResourceError."""
        loop = asyncio.get_running_loop()
        found = cls._of_loop.get(loop)
        if found is None:
            found = cls._of_loop[loop] = cls(loop)
        try:
            found._epoll.register(fileno, 0)
        except OSError as error:
            found._close_if_unused()
            raise ResourceError(f"cannot watch for socket {fileno} to hang up: {error.strerror}") from error
        found._callbacks[fileno] = callback
        return found

    def forget(self, fileno: int) -> None:
        """Watch that socket no more; to be called before it is closed. Idempotent."""
        if self._callbacks.pop(fileno, None) is not None:
            self._epoll.unregister(fileno)
            self._close_if_unused()

    def _reported(self) -> None:
        for fileno, _event in self._epoll.poll(0):
            callback = self._callbacks.get(fileno)
            if callback is not None:
                self.forget(fileno)  # it stays hung up, and would be reported for ever
                callback()
            if self._epoll.closed:
                return

    def _close_if_unused(self) -> None:
        if not self._callbacks:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            del self._of_loop[self._loop]
