"""The control connection between a host and its part on a node, and that part as the host sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbridge.errors import BrokenError, LocalProtocolError, OverloadError, RemoteProtocolError
from flowbridge.transports.framed import FramedLink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.transports.quic.stream import SessionStream


class StreamPartLink:
    """Part frames over a session stream; see `placing.PartLink`. Ends of routes travel as tickets, in the frames."""

    is_same_user = False

    def __init__(self, stream: SessionStream, *, unsent_bytes_max: int | None = None) -> None:
        """With `unsent_bytes_max`, a peer that takes nothing loses the link once more than this is unsent."""
        self.peer = stream.peer
        self._unsent_bytes_max = unsent_bytes_max
        self._stream = stream
        self._link: FramedLink | None = None
        self._on_frame: Callable[[int, bytes, Sequence[Any]], None]
        self._on_lost: Callable[[Exception | None], None]
        self.gone: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """Done once the other end is gone, or this one is closed."""

    def listen(
        self,
        on_frame: Callable[[int, bytes, Sequence[Any]], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        """Call back for every frame, and once when the peer is gone."""
        assert self._link is None, f"{self.peer}: is listened to already"
        self._on_frame, self._on_lost = on_frame, on_lost
        self._link = FramedLink(self._stream.connect, on_frame=self._frame, on_lost=self._lost)

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        if header:
            raise RemoteProtocolError(f"{self.peer}: frame {kind:#x} has a header that says nothing: {header!r:.40}")
        self._on_frame(kind, body, ())

    def _lost(self, error: Exception | None) -> None:
        self._over(error)
        self._on_lost(error)

    def _over(self, error: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(error)

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        """Send a frame; never waits. Raises: BrokenError, ClosedError, OverloadError; LocalProtocolError for an end."""
        if end is not None:
            raise LocalProtocolError(f"{self.peer}: {end!r} cannot travel to another machine")
        if self._link is None:
            raise BrokenError(f"{self.peer}: nobody listens yet")
        most, unsent = self._unsent_bytes_max, self._stream.unsent_bytes
        if most is not None and unsent > most:
            error = OverloadError(f"{self.peer}: takes nothing: {unsent} bytes are unsent, of at most {most}", None)
            self._stream.fail(error)
            raise error
        self._link.send(kind, b"", body)

    def close(self) -> None:
        """Close: what was sent arrives. Idempotent."""
        if self._link is not None:
            self._link.close()
        else:
            self._stream.close()
        self._over(None)

    def __repr__(self) -> str:
        return f"<StreamPartLink {self.peer}>"


class NodeWorker:
    """A part of a flow on a node; see `placing.Worker`. The node lives on when it ends."""

    def __init__(self, name: str, stream: SessionStream) -> None:
        self.name = name
        self.link = StreamPartLink(stream)

    async def wait(self) -> str:
        """Return once the part is gone: how it ended."""
        error = await asyncio.shield(self.link.gone)
        return "has ended its part" if error is None else f"was lost: {str(error).removeprefix(f'{self.name}: ')}"

    def terminate(self) -> None:
        """Ask for the end of our part there."""
        self.link.close()

    def kill(self) -> None:
        """Cut the connection, which ends our part there."""
        self.link.close()

    def __repr__(self) -> str:
        return f"<NodeWorker {self.name}>"
