"""What came in and was not used yet: the books behind the receive windows.

A peer may send as much as was consumed, and a window more, of each stream and of all together. aioquic raises its
limits by what arrived, whoever reads it: here only `consume` raises them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.connection import Limit
    from aioquic.quic.stream import QuicStream

UPDATES_PER_WINDOW: Final = 4
"""A limit is raised when it would rise by a quarter of the window: seldom, and before the peer has to wait."""


class _Stream:
    """One stream's bytes; `is_unseen` once nobody wants them, `is_over` once no more can come."""

    __slots__ = ("consumed", "delivered", "is_held", "is_over", "is_unseen")

    def __init__(self) -> None:
        self.delivered = 0
        self.consumed = 0
        self.is_unseen = False
        self.is_over = False
        self.is_held = False


class Inflow:
    """The bytes of all streams of a connection that were received, and those that were consumed."""

    __slots__ = (
        "_connection_window",
        "_consumed",
        "_limit",
        "_raise_at",
        "_release",
        "_stream_step",
        "_stream_window",
        "_streams",
    )

    def __init__(
        self, limit: Limit, stream_window: int, connection_window: int, release: Callable[[int], None]
    ) -> None:
        """Keep the books of `limit`, that of the connection; `release` is told of streams that were `held`."""
        self._limit: Final = limit
        self._stream_window: Final = stream_window
        self._connection_window: Final = connection_window
        self._release: Final = release
        self._stream_step: Final = stream_window // UPDATES_PER_WINDOW
        self._consumed = 0
        self._raise_at = connection_window // UPDATES_PER_WINDOW
        self._streams: Final[dict[int, _Stream]] = {}

    @property
    def unconsumed_bytes(self) -> int:
        """Of all streams, delivered and not yet consumed."""
        return sum(stream.delivered - stream.consumed for stream in self._streams.values())

    def received(self, stream_id: int, size_bytes: int, is_last: bool) -> bool:
        """Bytes came in order; False when nobody wants them."""
        entry = self._streams.get(stream_id)
        if entry is None:
            entry = self._streams[stream_id] = _Stream()
        entry.delivered += size_bytes
        entry.is_over = is_last
        if entry.is_unseen:
            entry.consumed += size_bytes
            self._credit(size_bytes)
        if is_last and entry.consumed == entry.delivered:
            self._drop(stream_id, entry)
        return not entry.is_unseen

    def reset(self, stream_id: int, final_bytes: int) -> bool:
        """The peer gave up: all its bytes, whether they came or not, are consumed. False when nobody wanted them."""
        entry = self._streams.get(stream_id) or _Stream()
        self._credit(final_bytes - entry.consumed)
        self._drop(stream_id, entry)
        return not entry.is_unseen

    def stop(self, stream_id: int) -> None:
        """Nobody wants what came and what comes."""
        entry = self._streams.setdefault(stream_id, _Stream())
        entry.is_unseen = True
        self._credit(entry.delivered - entry.consumed)
        entry.consumed = entry.delivered
        if entry.is_over:
            self._drop(stream_id, entry)

    def discard(self, stream_id: int) -> None:
        """Nobody wants what came of a stream that is complete."""
        entry = self._streams.get(stream_id)
        if entry is not None:
            entry.is_over = True
            self.stop(stream_id)

    def consume(self, stream_id: int, size_bytes: int, stream: QuicStream | None) -> None:
        """Delivered bytes were used; more than were delivered count as all of them."""
        entry = self._streams.get(stream_id)
        if entry is None:
            return
        size_bytes = min(size_bytes, entry.delivered - entry.consumed)
        if size_bytes <= 0:
            return
        entry.consumed += size_bytes
        self._consumed += size_bytes  # as `_credit`, without its call: this is done for every packet
        if self._consumed >= self._raise_at:
            self._raise()
        if entry.is_over:
            if entry.consumed == entry.delivered:
                self._drop(stream_id, entry)
        elif stream is not None:
            limit = entry.consumed + self._stream_window
            if limit - stream.max_stream_data_local >= self._stream_step:
                stream.max_stream_data_local = limit

    def hold(self, stream_id: int) -> bool:
        """The engine forgets a stream; True when bytes of it are unconsumed, and `release` comes when they are."""
        entry = self._streams.get(stream_id)
        if entry is None:
            return False
        entry.is_held = True
        return True

    def _credit(self, size_bytes: int) -> None:
        self._consumed += size_bytes
        if self._consumed >= self._raise_at:
            self._raise()

    def _raise(self) -> None:
        """Raise the limit of the connection, and note when it is raised next."""
        self._limit.value = self._consumed + self._connection_window
        self._raise_at = self._consumed + self._connection_window // UPDATES_PER_WINDOW

    def _drop(self, stream_id: int, entry: _Stream) -> None:
        self._streams.pop(stream_id, None)
        if entry.is_held:
            self._release(stream_id)
