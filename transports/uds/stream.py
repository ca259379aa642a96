"""Bytes and descriptors on a connected Unix socket, driven by the event loop (unix(7), SCM_RIGHTS).

Not asyncio's streams: those cannot pass descriptors, and cost two more task switches per message.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from flowbridge.errors import BrokenError, ClosedError, RemoteProtocolError
from flowbridge.limits import DESCRIPTORS_MAX, STREAM_BYTES_HIGH, STREAM_BYTES_LOW, STREAM_READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike


class UdsStream:
    """One end of a connected socket. Writing never waits: what the kernel does not take is kept.

    `on_data(data, descriptors)` is called for what arrives; the callee owns the descriptors. `on_lost(error)` is called
    once, with None when the peer closed its end properly. Both are called from the loop, never from within a call of
    this object's user. With `descriptors=False` passed descriptors are closed by the kernel, unseen.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        peer: str,
        on_data: Callable[[bytes, Sequence[int]], None],
        on_lost: Callable[[Exception | None], None],
        descriptors: bool = False,
    ) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_data = on_data
        self._on_lost = on_lost
        self.descriptors = descriptors
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0
        self._passing: deque[tuple[int, tuple[int, ...]]] = deque()  # (bytes written before them, descriptors)
        self._written = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._failure: Exception | None = None
        self._is_closed = False
        self._is_ended = False  # the peer sends no more
        self._is_paused = False
        self._shuts = False  # shut down our half once everything is written
        self._fileno = sock.fileno()
        self._loop.add_reader(self._fileno, self._readable)

    # --- out --------------------------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return self._out_bytes

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_closed or self._failure is not None

    def write(self, *parts: BytesLike, descriptors: Sequence[int] = ()) -> None:
        """Write parts one after another; descriptors are duplicated, so the caller keeps its own.

        What the kernel does not take at once is kept by reference: do not change it. Raises: ClosedError, BrokenError.
        """
        self._check()
        if descriptors:
            self._pass(descriptors)
        if not self._out and not self._passing:
            parts = self._write_now(parts)
        for part in parts:
            view = memoryview(part).cast("B")
            if view.nbytes:
                self._out.append(view)
                self._out_bytes += view.nbytes
        if self._out:
            self._loop.add_writer(self._fileno, self._writable)
            if self._passing and self._failure is None:
                self._writable()

    def _write_now(self, parts: tuple[BytesLike, ...]) -> tuple[BytesLike, ...]:
        try:
            sent = self._sock.send(parts[0]) if len(parts) == 1 else self._sock.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return parts
        except OSError as error:
            self._fail(error)
            return ()
        self._written += sent
        rest: list[BytesLike] = []
        for part in parts:
            size = part.nbytes if isinstance(part, memoryview) else len(part)
            if sent >= size:
                sent -= size
            else:
                rest.append(memoryview(part).cast("B")[sent:])
                sent = 0
        return tuple(rest)

    def _pass(self, descriptors: Sequence[int]) -> None:
        if len(descriptors) > DESCRIPTORS_MAX:
            raise RemoteProtocolError(f"{self.peer}: at most {DESCRIPTORS_MAX} descriptors go at once")
        copies = tuple(os.dup(descriptor) for descriptor in descriptors)
        self._passing.append((self._written + self._out_bytes, copies))

    def _writable(self) -> None:
        while self._out:
            view = self._out[0]
            try:
                sent = self._send_some(view)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._fail(error)
                return
            self._written += sent
            self._out_bytes -= sent
            if sent < view.nbytes:
                self._out[0] = view[sent:]
            else:
                self._out.popleft()
        if not self._out:
            self._loop.remove_writer(self._fileno)
            if self._shuts:
                self._shut()
        if self._out_bytes <= STREAM_BYTES_LOW:
            self._wake()

    def _send_some(self, view: memoryview) -> int:
        if not self._passing:
            return self._sock.send(view)
        before, descriptors = self._passing[0]
        if before > self._written:  # they travel with the first byte of what they belong to
            return self._sock.send(view[: before - self._written])
        sent = socket.send_fds(self._sock, [view], list(descriptors))
        self._passing.popleft()
        for descriptor in descriptors:
            os.close(descriptor)
        return sent

    async def drained(self) -> None:
        """Return once little is unsent. Raises: ClosedError, BrokenError."""
        while self._out_bytes > STREAM_BYTES_HIGH or (self._waiters and self._out_bytes > STREAM_BYTES_LOW):
            self._check()
            await self._wait()
        self._check()

    async def flushed(self) -> None:
        """Return once the kernel has everything. Raises: ClosedError, BrokenError."""
        while self._out_bytes:
            self._check()
            await self._wait()

    async def _wait(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(future)
        await future

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _check(self) -> None:
        if self._failure is not None:
            raise BrokenError(f"{self.peer}: the connection is gone") from self._failure
        if self._is_closed:
            raise ClosedError(f"{self.peer}: closed")

    # --- in ---------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more for now: the kernel's buffer fills and the peer has to wait."""
        if not self._is_paused and not self._is_closed and not self._is_ended:
            self._is_paused = True
            self._loop.remove_reader(self._fileno)

    def resume(self) -> None:
        """Read on after `pause`."""
        if self._is_paused and not self._is_closed:
            self._is_paused = False
            self._loop.add_reader(self._fileno, self._readable)

    def _readable(self) -> None:
        descriptors: Sequence[int] = ()
        try:
            if self.descriptors:
                data, descriptors, flags, _ = socket.recv_fds(self._sock, STREAM_READ_BYTES, DESCRIPTORS_MAX)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                if flags & socket.MSG_CTRUNC:
                    for descriptor in descriptors:
                        os.close(descriptor)
                    raise RemoteProtocolError(f"{self.peer}: sent more than {DESCRIPTORS_MAX} descriptors at once")
            else:
                data = self._sock.recv(STREAM_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        except RemoteProtocolError as error:
            self._fail(error)
            return
        if data:
            try:
                self._on_data(data, descriptors)
            except RemoteProtocolError as error:
                self._fail(error)
        else:
            self._is_ended = True
            self._loop.remove_reader(self._fileno)
            self._lose(None)

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Send no more: the peer sees the end after everything written. Idempotent."""
        if not self._shuts and not self.is_lost:
            self._shuts = True
            if not self._out:
                self._shut()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    def fail(self, error: Exception) -> None:
        """End it because of the peer: every later call raises BrokenError with this cause; `on_lost` is told."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failure is None and not self._is_closed:
            self._failure = error
            self._drop()
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closed:
            self._on_lost(error)

    def close(self) -> None:
        """Close at once; what is unsent is lost, and `on_lost` is not called any more. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        if self._fileno >= 0:
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._fileno = -1
            self._sock.close()
        for _, descriptors in self._passing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._passing.clear()
        self._out.clear()
        self._out_bytes = 0
        self._wake()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "broken" if self._failure is not None else "open"
        return f"<UdsStream {self.peer} {state}, {self._out_bytes} bytes unsent>"
