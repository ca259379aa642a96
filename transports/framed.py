"""Frames on a byte stream: what the byte tiers have in common below their ports and buses."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.codec.framing import FrameReader, prefix
from flowbridge.errors import EncodeError, RemoteProtocolError, ResourceError
from flowbridge.limits import BODY_BYTES_MAX, CORKED_BYTES_MAX, DESCRIPTORS_MAX, HEADER_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike

_JOINED_BYTES_MAX = 4096
"""A body up to this size is copied behind its header, which is cheaper than a system call with two parts."""


class ByteStream(Protocol):
    """Ordered bytes both ways. A tier's own; `UdsStream` says what each call promises."""

    descriptors: bool

    @property
    def peer(self) -> str: ...
    @property
    def unsent_bytes(self) -> int: ...
    @property
    def is_lost(self) -> bool: ...
    def write(self, *parts: BytesLike, descriptors: Sequence[int] = ()) -> None: ...
    async def drained(self) -> None: ...
    async def flushed(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def close(self) -> None: ...


class FramedLink:
    """Sends and receives frames over a stream that `connect` makes.

    - `on_frame(kind, header, body)` is called for each frame in order. When it raises RemoteProtocolError the
      connection is ended with that; anything else it raises is our fault, goes to the loop's exception handler, and
      ends the connection too, as frames behind it would otherwise be lost unseen.
    - `on_lost(error)` is called once when nothing more will come: None when the bytes stopped between two frames. A
      process that was killed ends its bytes like one that closed: only a frame can say that the end was meant.
    - Descriptors that came with a frame are taken by `take_descriptors` while its `on_frame` runs. Those that it leaves
      are closed when the next frame comes or the stream stands between two frames.
    - With `corks`, what is sent while the frames of one read are handled goes out with one system call, when the last
      of them was. That the connection is gone is then told by `on_lost` alone.
    """

    def __init__(
        self,
        connect: Callable[..., ByteStream],
        *,
        on_frame: Callable[[int, bytes, bytes], None],
        on_lost: Callable[[Exception | None], None],
        body_bytes_max: int = BODY_BYTES_MAX,
        descriptors: bool = False,
        corks: bool = False,
    ) -> None:
        self._corks = corks
        self._is_corked = False
        self._corked: list[bytes] = []  # frames that wait for `uncork`
        self._corked_bytes = 0
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader(body_bytes_max=body_bytes_max)
        self._body_bytes_max = body_bytes_max
        self._descriptors: deque[int] = deque()  # of the frame that is being handled or is not complete yet
        self._descriptors_next: deque[int] = deque()  # of a frame behind it
        self.stream = connect(on_data=self._arrived, on_lost=self._lost, descriptors=descriptors)

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        return self.stream.peer

    def send(self, kind: int, header: bytes, body: BytesLike = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a frame; never waits. A body that is not `bytes` must not be changed until it is sent.

        Raises: EncodeError when it is too large; ClosedError; BrokenError.
        """
        size = len(body) if type(body) is bytes else memoryview(body).nbytes
        if len(header) > HEADER_BYTES_MAX or size > self._body_bytes_max:
            raise EncodeError(
                f"{self.peer}: a frame of {len(header)} + {size} bytes exceeds {HEADER_BYTES_MAX} + "
                f"{self._body_bytes_max}"
            )
        front = prefix(kind, len(header), size) + header
        if self._is_corked:
            if size <= _JOINED_BYTES_MAX and not descriptors:
                self._keep(front + body if size else front)
                return
            self._write_corked()
        if size <= _JOINED_BYTES_MAX and not descriptors:
            self.stream.write(front + body if size else front)
        elif size <= _JOINED_BYTES_MAX:
            self.stream.write(front + body if size else front, descriptors=descriptors)
        else:
            self.stream.write(front, body, descriptors=descriptors)

    def cork(self) -> None:
        """Keep what is sent until `uncork`, up to `CORKED_BYTES_MAX`; a large body or a descriptor lets it all go."""
        self._is_corked = True

    def cork_turn(self) -> None:
        """Keep what is sent until the loop has run what is ready now; that the peer is gone is told by `on_lost`."""
        if not self._is_corked:
            self._is_corked = True
            asyncio.get_running_loop().call_soon(self._uncork_turn)

    def _uncork_turn(self) -> None:
        with suppress(ResourceError):
            self.uncork()

    def uncork(self) -> None:
        """Write what was kept, with one system call. Raises: ClosedError; BrokenError."""
        self._is_corked = False
        self._write_corked()

    def _keep(self, frame: bytes) -> None:
        if self.stream.is_lost:
            self.stream.write(frame)  # which raises
        self._corked.append(frame)
        self._corked_bytes += len(frame)
        if self._corked_bytes > CORKED_BYTES_MAX:
            self._write_corked()

    def _write_corked(self) -> None:
        if self._corked:
            kept = self._corked
            self._corked = []
            self._corked_bytes = 0
            self.stream.write(b"".join(kept))

    def take_descriptors(self, count: int) -> tuple[int, ...]:
        """The next descriptors that came; the caller owns them. Raises: RemoteProtocolError when there are fewer."""
        if len(self._descriptors) < count:
            raise RemoteProtocolError(f"{self.peer}: a frame needs {count} descriptors, {len(self._descriptors)} came")
        return tuple(self._descriptors.popleft() for _ in range(count))

    def _arrived(self, data: bytes, descriptors: Sequence[int]) -> None:
        if descriptors or self._descriptors:
            self._arrived_with(data, descriptors)
            return
        frame = self._reader.whole(data)
        if frame is not None:
            self._on_frame(*frame)
            return
        frames = self._reader.feed(data)
        if len(frames) == 1:
            self._on_frame(*frames[0])
            if self.stream.is_lost:
                return
        elif self._corks and frames:
            self.cork()
            try:
                self._hand_on(frames)
            finally:
                self._uncork_turn()
        else:
            self._hand_on(frames)
        if (failure := self._reader.failure) is not None:
            raise failure

    def _hand_on(self, frames: list[tuple[int, bytes, bytes]]) -> None:
        for kind, header, body in frames:
            self._on_frame(kind, header, body)
            if self.stream.is_lost:
                return

    def _arrived_with(self, data: bytes, descriptors: Sequence[int]) -> None:
        # Descriptors travel with the first byte of their frame, and a read ends with the piece that carried them
        # (unix(7)). So what an earlier read brought is of the frame that this one completes first; what this one
        # brought is of that frame only if nothing is waiting.
        is_first = bool(self._descriptors)
        (self._descriptors_next if is_first else self._descriptors).extend(descriptors)
        for kind, header, body in self._reader.feed(data):
            self._on_frame(kind, header, body)
            if self.stream.is_lost:
                self._close_descriptors()
                return
            if is_first:
                is_first = False
                self._close_descriptors_of_frame()
                self._descriptors, self._descriptors_next = self._descriptors_next, self._descriptors
        if (failure := self._reader.failure) is not None:
            raise failure
        if not self._reader.held_bytes:
            self._close_descriptors()
        elif (waiting := len(self._descriptors) + len(self._descriptors_next)) > DESCRIPTORS_MAX:
            raise RemoteProtocolError(f"{self.peer}: at most {DESCRIPTORS_MAX} descriptors go with a frame: {waiting}")

    def _lost(self, error: Exception | None) -> None:
        self._close_descriptors()
        if error is None and self._reader.held_bytes:
            error = RemoteProtocolError(f"{self.peer}: ended within a frame, after {self._reader.held_bytes} bytes")
        self._on_lost(error)

    def close(self) -> None:
        """Close at once; `on_lost` is not called any more. Idempotent."""
        if self._corked:
            with suppress(ResourceError):
                self._write_corked()
        self._close_descriptors()
        self.stream.close()

    def _close_descriptors(self) -> None:
        self._close_descriptors_of_frame()
        while self._descriptors_next:
            os.close(self._descriptors_next.popleft())

    def _close_descriptors_of_frame(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def __repr__(self) -> str:
        return f"<FramedLink {self.stream!r}>"


def connector(stream: Callable[..., ByteStream], *args: Any, **given: Any) -> Callable[..., ByteStream]:
    """A stream class and what it is made of, for `FramedLink` to put its own callbacks in."""

    def connect(**callbacks: Any) -> ByteStream:
        return stream(*args, **given, **callbacks)

    return connect
