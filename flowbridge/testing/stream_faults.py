"""A clogged twin of a byte stream: what is read comes in random pieces, and what is written goes out in such.

The kernel mostly keeps the pieces of a sender together, so that a reader which relies on it works until it matters.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

from flowbridge.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike


class CloggedStream:
    """Wraps the stream that `connect` makes and keeps its contract: order, one `on_lost`, nothing while paused.

    Each piece has 1 to `piece_bytes_max` bytes, from a seed, and each that is read comes in a turn of its own. What has
    been read but not handed on is not bounded: it is the same bytes, cut.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        *,
        seed: int,
        piece_bytes_max: int,
        on_data: Callable[[bytes, Sequence[int]], None],
        on_lost: Callable[[Exception | None], None],
        **given: Any,
    ) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeatable is the point
        self._piece_bytes_max = piece_bytes_max
        self._on_data = on_data
        self._on_lost = on_lost
        self._pieces: deque[tuple[bytes, Sequence[int]]] = deque()
        self._end: list[Exception | None] = []  # what `on_lost` is to be told
        self._soon: asyncio.Handle | None = None
        self._is_paused = False
        self._stream = connect(on_data=self._read, on_lost=self._lost, **given)

    def __getattr__(self, name: str) -> Any:
        """Whatever needs no clogging is the stream's own."""
        return getattr(self._stream, name)

    def _cut(self, data: BytesLike) -> list[memoryview]:
        view = memoryview(data).cast("B")
        pieces: list[memoryview] = []
        at = 0
        while at < view.nbytes:
            size = self._random.randint(1, self._piece_bytes_max)
            pieces.append(view[at : at + size])
            at += size
        return pieces

    def write(self, *parts: BytesLike, descriptors: Sequence[int] = ()) -> None:
        """As the stream's, in pieces; descriptors go with the first."""
        pieces = [piece for part in parts for piece in self._cut(part)]
        if not pieces:
            self._stream.write(*parts, descriptors=descriptors)
        for piece in pieces:
            self._stream.write(piece, descriptors=descriptors)
            descriptors = ()

    def _read(self, data: bytes, descriptors: Sequence[int]) -> None:
        pieces = [(bytes(piece), ()) for piece in self._cut(data)]
        self._pieces.extend(pieces[:-1])
        self._pieces.append((pieces[-1][0], descriptors))  # they are of the last piece that was sent of a read
        self._arrange()

    def _lost(self, error: Exception | None) -> None:
        self._end.append(error)
        self._arrange()

    def _arrange(self) -> None:
        if self._soon is None and not self._is_paused and (self._pieces or self._end):
            self._soon = asyncio.get_running_loop().call_soon(self._hand_on)

    def _hand_on(self) -> None:
        self._soon = None
        if self._pieces:
            data, descriptors = self._pieces.popleft()
            try:
                self._on_data(data, descriptors)
            except RemoteProtocolError as error:
                self.fail(error)
            except Exception as error:
                self.fail(error)
                raise  # the loop's exception handler reports it, as with the stream itself
        elif self._end:
            self._on_lost(self._end.pop())
        self._arrange()

    def pause(self) -> None:
        """As the stream's."""
        self._is_paused = True
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._stream.pause()

    def resume(self) -> None:
        """As the stream's."""
        self._is_paused = False
        self._stream.resume()
        self._arrange()

    def fail(self, error: Exception) -> None:
        """As the stream's; what was read and not handed on is dropped."""
        self._drop()
        self._stream.fail(error)

    def close(self) -> None:
        """As the stream's; what was read and not handed on is dropped."""
        self._drop()
        self._end.clear()
        self._is_paused = True
        self._stream.close()

    def _drop(self) -> None:
        for _, descriptors in self._pieces:
            for descriptor in descriptors:
                os.close(descriptor)
        self._pieces.clear()

    def __repr__(self) -> str:
        return f"<CloggedStream {self._stream!r}, {len(self._pieces)} pieces waiting>"


def clogged(connect: Callable[..., Any], *, seed: int, piece_bytes_max: int = 1) -> Callable[..., Any]:
    """What `FramedLink` takes to connect; gives a `CloggedStream`, which has all that the stream has."""

    def connect_clogged(**callbacks: Any) -> CloggedStream:
        return CloggedStream(connect, seed=seed, piece_bytes_max=piece_bytes_max, **callbacks)

    return connect_clogged
