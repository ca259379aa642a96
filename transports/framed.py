"""Frames on a byte stream: what the byte tiers have in common below their ports and buses."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.codec.framing import FrameReader, prefix
from flowbridge.errors import EncodeError, RemoteProtocolError
from flowbridge.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX

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

    `on_frame(kind, header, body)` is called for each frame in order; when it raises RemoteProtocolError the connection
    is ended. `on_lost(error)` is called once when the peer is gone: None when it ended its half properly and between
    two frames. Descriptors that came with a frame are taken by `take_descriptors` while `on_frame` runs.
    """

    def __init__(
        self,
        connect: Callable[..., ByteStream],
        *,
        on_frame: Callable[[int, bytes, bytes], None],
        on_lost: Callable[[Exception | None], None],
        body_bytes_max: int = BODY_BYTES_MAX,
        descriptors: bool = False,
    ) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader(body_bytes_max=body_bytes_max)
        self._body_bytes_max = body_bytes_max
        self._descriptors: deque[int] = deque()
        self.stream = connect(on_data=self._arrived, on_lost=self._lost, descriptors=descriptors)

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        return self.stream.peer

    def send(self, kind: int, header: bytes, body: BytesLike = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a frame; never waits. A body that is not `bytes` must not be changed until it is sent.

        Raises: EncodeError when it is too large; ClosedError; BrokenError.
        """
        size = body.nbytes if isinstance(body, memoryview) else len(body)
        if len(header) > HEADER_BYTES_MAX or size > self._body_bytes_max:
            raise EncodeError(
                f"{self.peer}: a frame of {len(header)} + {size} bytes exceeds {HEADER_BYTES_MAX} + "
                f"{self._body_bytes_max}"
            )
        front = prefix(kind, len(header), size) + header
        if size <= _JOINED_BYTES_MAX:
            self.stream.write(front + body if size else front, descriptors=descriptors)
        else:
            self.stream.write(front, body, descriptors=descriptors)

    def take_descriptors(self, count: int) -> tuple[int, ...]:
        """The next descriptors that came; the caller owns them. Raises: RemoteProtocolError when there are fewer."""
        if len(self._descriptors) < count:
            raise RemoteProtocolError(f"{self.peer}: a frame needs {count} descriptors, {len(self._descriptors)} came")
        return tuple(self._descriptors.popleft() for _ in range(count))

    def _arrived(self, data: bytes, descriptors: Sequence[int]) -> None:
        self._descriptors.extend(descriptors)
        for kind, header, body in self._reader.feed(data):
            self._on_frame(kind, header, body)
            if self.stream.is_lost:
                return

    def _lost(self, error: Exception | None) -> None:
        self._close_descriptors()
        if error is None and self._reader.held_bytes:
            error = RemoteProtocolError(f"{self.peer}: ended within a frame, after {self._reader.held_bytes} bytes")
        self._on_lost(error)

    def close(self) -> None:
        """Close at once; `on_lost` is not called any more. Idempotent."""
        self._close_descriptors()
        self.stream.close()

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def __repr__(self) -> str:
        return f"<FramedLink {self.stream!r}>"


def connector(stream: Callable[..., ByteStream], *args: Any, **given: Any) -> Callable[..., ByteStream]:
    """A stream class and what it is made of, for `FramedLink` to put its own callbacks in."""

    def connect(**callbacks: Any) -> ByteStream:
        return stream(*args, **given, **callbacks)

    return connect
