"""Bytes and descriptors on a connected Unix socket, driven by the event loop (unix(7), SCM_RIGHTS).

Not asyncio's streams: those cannot pass descriptors, and cost two more task switches per message.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from flowbridge.errors import BrokenError, ClosedError, LocalProtocolError, RemoteProtocolError, ResourceError
from flowbridge.limits import (
    DESCRIPTORS_MAX,
    STREAM_BYTES_HIGH,
    STREAM_BYTES_LOW,
    STREAM_PARTS_MAX,
    STREAM_READ_BYTES,
    STREAM_WRITE_BYTES,
)
from flowbridge.transports.uds.hangup import HangUps
from flowbridge.transports.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike

_INT_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_LEN(DESCRIPTORS_MAX * _INT_BYTES)
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


_streams: Final[weakref.WeakSet[UdsStream]] = weakref.WeakSet()


def _forked() -> None:
    """In a child that was forked: what it wrote would stand in the middle of what its parent writes."""
    for stream in tuple(_streams):
        stream.abandon()


os.register_at_fork(after_in_child=_forked)


class UdsStream:
    """One end of a connected socket. Writing never waits: what the kernel does not take is kept.

    - `on_data(data, descriptors)` is called for what arrives; the callee owns the descriptors. They belong to the last
      piece that the peer wrote of `data`. With `descriptors=False` passed descriptors are closed by the kernel, unseen.
    - `on_lost(error)` is called once, when nothing more will come: None when the bytes have ended. A peer that was
      killed looks the same as one that closed, unless it left something unread.
    - When writing fails, what the peer sent before is still read: it may say why. `on_lost` comes after that.
    - Both are called from the loop, never from within a call of this object's user. While paused, nothing is called.

    Raises: ResourceError when there is no descriptor left to watch the first socket of a loop.
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
        self._receive = sock.recv  # bound once: they are called for every message
        self._send = sock.send
        self._loop = asyncio.get_running_loop()
        self._on_data = on_data
        self._on_lost = on_lost
        self.descriptors = descriptors
        self._out: deque[memoryview] = deque()
        self.unsent_bytes = 0
        """What the kernel has not taken yet."""
        self._passing: deque[tuple[int, tuple[int, ...]]] = deque()  # (bytes written before them, our duplicates)
        self._written = 0  # bytes that the kernel took while something waited; only differences matter
        self._waiters = Waiters()
        self._failure: Exception | None = None
        self._is_closed = False
        _streams.add(self)
        self._is_ended = False  # the peer sends no more
        self._is_lost_told = False
        self._is_paused = False
        self._is_writing = False  # the loop calls `_writable`
        self._shuts = False  # shut down our half once everything is written
        self._is_hung_up = False  # the loop may not call us any more
        self._reads_on = False  # `_read_rest` is due
        self._fileno = sock.fileno()
        self._hang_ups = HangUps.watch(self._fileno, self._hung_up)
        self._loop.add_reader(self._fileno, self._readable)

    # --- out --------------------------------------------------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_closed or self._failure is not None

    def write(self, *parts: BytesLike, descriptors: Sequence[int] = ()) -> None:
        """Write parts one after another; the caller keeps its descriptors and may close them at once.

        What the kernel does not take at once is kept by reference: do not change it. Raises: ClosedError, also after
        `end`; BrokenError; LocalProtocolError for too many descriptors, closed ones or nothing to go with;
        ResourceError when descriptors have to wait and there is no room to keep duplicates of them.
        """
        if self._failure is not None or self._is_closed or self._shuts:
            self._check_writable()
        if descriptors:
            self._check_descriptors(parts, descriptors)
        if self._out:
            if descriptors:
                self._keep(descriptors)
        else:
            rest = self._write_now(parts, descriptors)
            if not rest:
                return
            parts = rest
        for part in parts:
            view = memoryview(part).cast("B")
            if view.nbytes:
                self._out.append(view)
                self.unsent_bytes += view.nbytes
        if self._out and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._fileno, self._writable)

    def _write_now(self, parts: tuple[BytesLike, ...], descriptors: Sequence[int]) -> tuple[BytesLike, ...]:
        """Write what the kernel takes at once and return the rest."""
        try:
            if descriptors:
                sent = socket.send_fds(self._sock, parts[:STREAM_PARTS_MAX], list(descriptors))
            elif len(parts) == 1:
                sent = self._send(parts[0])
            else:
                sent = self._sock.sendmsg(parts[:STREAM_PARTS_MAX])
        except (BlockingIOError, InterruptedError):
            if descriptors:
                self._keep(descriptors)
            return parts
        except OSError as error:
            if descriptors and error.errno == errno.EBADF:
                raise LocalProtocolError(
                    f"{self.peer}: cannot pass descriptors {list(descriptors)}: {error}"
                ) from error
            self._fail_writing(error)
            raise self._broken() from error
        if len(parts) == 1 and type(parts[0]) is bytes and sent == len(parts[0]):
            return ()
        rest: list[BytesLike] = []
        for part in parts:
            size = part.nbytes if isinstance(part, memoryview) else len(part)
            if sent >= size:
                sent -= size
            else:
                rest.append(memoryview(part).cast("B")[sent:])
                sent = 0
        return tuple(rest)

    def _check_descriptors(self, parts: tuple[BytesLike, ...], descriptors: Sequence[int]) -> None:
        if len(descriptors) > DESCRIPTORS_MAX:
            raise LocalProtocolError(
                f"{self.peer}: at most {DESCRIPTORS_MAX} descriptors go at once: {len(descriptors)}"
            )
        if not any(len(part) for part in parts):
            raise LocalProtocolError(f"{self.peer}: descriptors need at least one byte to go with")

    def _keep(self, descriptors: Sequence[int]) -> None:
        """Keep duplicates until what is unsent has gone."""
        copies: list[int] = []
        try:
            copies.extend(os.dup(descriptor) for descriptor in descriptors)
        except OSError as error:
            for copy in copies:
                os.close(copy)
            kind = LocalProtocolError if error.errno == errno.EBADF else ResourceError
            raise kind(f"{self.peer}: cannot keep descriptors {list(descriptors)}: {error}") from error
        self._passing.append((self._written + self.unsent_bytes, tuple(copies)))

    def _writable(self) -> None:
        end = self._written + STREAM_WRITE_BYTES  # a peer that reads as fast as we write must not stop our loop
        while self._out and self._written < end:
            view = self._out[0]
            try:
                sent = self._send_some(view)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._fail_writing(error)
                return
            self._written += sent
            self.unsent_bytes -= sent
            if sent < view.nbytes:
                self._out[0] = view[sent:]
            else:
                self._out.popleft()
        if not self._out:
            self._is_writing = False
            self._loop.remove_writer(self._fileno)
            if self._shuts:
                self._shut()
        if self.unsent_bytes <= STREAM_BYTES_LOW:
            self._waiters.wake()

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
        while self.unsent_bytes > STREAM_BYTES_HIGH or (self._waiters and self.unsent_bytes > STREAM_BYTES_LOW):
            await self._waiters.wait()
        self._check()

    async def flushed(self) -> None:
        """Return once the kernel has everything; what it has, a peer that dies may never read.

        Raises: ClosedError, BrokenError; something may be unsent then.
        """
        while self.unsent_bytes:
            await self._waiters.wait()
        self._check()

    def _check(self) -> None:
        if self._is_closed:
            raise ClosedError(f"{self.peer}: closed")
        if self._failure is not None:
            raise self._broken() from self._failure

    def _check_writable(self) -> None:
        self._check()
        raise ClosedError(f"{self.peer}: writing was ended")

    def _broken(self) -> BrokenError:
        return BrokenError(f"{self.peer}: the connection is gone: {self._failure}")

    # --- in ---------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more for now: the kernel's buffer fills and the peer has to wait. Its end is told after that."""
        if not self._is_paused and self._reads():
            self._loop.remove_reader(self._fileno)
        self._is_paused = True

    def resume(self) -> None:
        """Read on after `pause`."""
        if self._is_paused and self._reads():
            self._is_paused = False
            if self._is_hung_up:
                self._read_on()
            else:
                self._loop.add_reader(self._fileno, self._readable)
        self._is_paused = False

    def _reads(self) -> bool:
        return self._fileno >= 0 and not self._is_ended

    def _readable(self) -> None:
        descriptors: Sequence[int] = ()
        try:
            if self.descriptors:
                data, descriptors = self._receive_with()
            else:
                data = self._receive(STREAM_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, RemoteProtocolError) as error:
            self._fail(error)
            return
        if not data:
            self._is_ended = True
            self._loop.remove_reader(self._fileno)
            self._lose(self._failure)
            if self._failure is not None:
                self._drop()
            return
        try:
            self._on_data(data, descriptors)
        except RemoteProtocolError as error:
            self._fail(error)
        except Exception as error:
            self._fail(error)
            raise  # our own mistake: the loop's exception handler reports it

    def _hung_up(self) -> None:
        """The peer is gone: nothing can be written, but what it sent can be read, without the loop's watching."""
        self._is_hung_up = True
        if self._out:
            self._writable()
        if self._reads():
            self._loop.remove_reader(self._fileno)
            self._read_on()

    def _read_on(self) -> None:
        if not self._reads_on and not self._is_paused and self._reads():
            self._reads_on = True
            self._loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        self._reads_on = False
        if not self._is_paused and self._reads():
            self._readable()
            self._read_on()

    def _receive_with(self) -> tuple[bytes, Sequence[int]]:
        data, messages, flags, _ = self._sock.recvmsg(STREAM_READ_BYTES, _ANCILLARY_BYTES, _CLOEXEC)
        if not messages and not flags & socket.MSG_CTRUNC:
            return data, ()
        numbers = array.array("i")
        for level, kind, value in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(value[: len(value) - len(value) % _INT_BYTES])
        if flags & socket.MSG_CTRUNC:  # the kernel closed those that found no room
            for descriptor in numbers:
                os.close(descriptor)
            if len(numbers) < DESCRIPTORS_MAX:
                raise OSError(errno.EMFILE, "this process has no room for the descriptors that came")
            raise RemoteProtocolError(f"{self.peer}: sent more than {DESCRIPTORS_MAX} descriptors at once")
        if not _CLOEXEC:
            for descriptor in numbers:
                os.set_inheritable(descriptor, False)
        return data, numbers

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
            self._fail_writing(error)

    def fail(self, error: Exception) -> None:
        """End it because of the peer: every later call raises BrokenError with this cause; `on_lost` is told."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Nothing can be read, or nothing read is worth anything."""
        if self._is_closed or self._fileno < 0:
            return
        if self._failure is None:
            self._failure = error
        self._drop()
        self._loop.call_soon(self._lose, error)

    def _fail_writing(self, error: OSError) -> None:
        """Nothing can be written: give up what is unsent, but read what the peer sent before it went."""
        if self._failure is None and not self._is_closed:
            self._failure = error
            if self._is_ended:
                self._drop()
            else:
                self._drop_unsent()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closed and not self._is_lost_told:
            self._is_lost_told = True
            self._on_lost(error)

    def abandon(self) -> None:
        """Take it as closed, and leave descriptor and loop alone: they are those of the parent of this process."""
        self._is_closed = True

    def close(self) -> None:
        """Close at once; what is unsent is lost, and `on_lost` is not called any more. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        if self._fileno >= 0:
            self._drop_unsent()
            self._hang_ups.forget(self._fileno)
            self._loop.remove_reader(self._fileno)
            self._fileno = -1
            self._sock.close()

    def _drop_unsent(self) -> None:
        self._is_writing = False
        self._loop.remove_writer(self._fileno)
        for _, descriptors in self._passing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._passing.clear()
        self._out.clear()
        self.unsent_bytes = 0
        self._waiters.wake()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "broken" if self._failure is not None else "open"
        return f"<UdsStream {self.peer} {state}, {self.unsent_bytes} bytes unsent>"
