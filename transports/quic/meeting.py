"""Where streams of a peer and those who expect them meet: by a key that only both of them know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbridge.errors import BrokenError, ClosedError
from flowbridge.limits import MEETING_NS, MEETINGS_MAX, MEETINGS_PER_PEER_MAX

if TYPE_CHECKING:
    from flowbridge.transports.quic.stream import SessionStream


class Meeting:
    """Streams that came and wait to be taken, and those who wait for one. Either comes first, and waits for a while."""

    def __init__(self) -> None:
        self._came: dict[bytes, tuple[SessionStream, asyncio.TimerHandle]] = {}
        self._expected: dict[bytes, asyncio.Future[SessionStream]] = {}

    def came(self, stream: SessionStream) -> None:
        """A stream of a peer: give it to whoever expects it, or keep it for a while."""
        expected = self._expected.pop(stream.key, None)
        if expected is not None and not expected.done():
            expected.set_result(stream)
        elif stream.key in self._came or len(self._came) >= MEETINGS_MAX or self._is_greedy(stream):
            stream.fail(BrokenError(f"{stream.peer}: nobody expects it"))
        else:
            timer = asyncio.get_running_loop().call_later(MEETING_NS / 1e9, self._forget, stream.key)
            self._came[stream.key] = stream, timer

    def _is_greedy(self, stream: SessionStream) -> bool:
        """Whether its peer has enough streams waiting: the others need room too."""
        return sum(other.keeper is stream.keeper for other, _ in self._came.values()) >= MEETINGS_PER_PEER_MAX

    def _forget(self, key: bytes) -> None:
        stream, _ = self._came.pop(key)
        stream.fail(BrokenError(f"{stream.peer}: nobody took it within {MEETING_NS / 1e9:g} s"))

    async def expect(self, key: bytes, what: str) -> SessionStream:
        """The stream of this key. Raises: BrokenError when it does not come."""
        found = self._came.pop(key, None)
        if found is not None:
            found[1].cancel()
            return found[0]
        future: asyncio.Future[SessionStream] = asyncio.get_running_loop().create_future()
        self._expected[key] = future
        try:
            return await asyncio.wait_for(future, MEETING_NS / 1e9)
        except TimeoutError:
            raise BrokenError(f"{what}: the other end did not come within {MEETING_NS / 1e9:g} s") from None
        finally:
            if self._expected.get(key) is future:
                del self._expected[key]

    def close(self) -> None:
        """Take nothing more. Idempotent."""
        for stream, timer in self._came.values():
            timer.cancel()
            stream.fail(ClosedError(f"{stream.peer}: this end has closed"))
        self._came.clear()
        for future in self._expected.values():
            if not future.done():
                future.set_exception(ClosedError("this end has closed"))
        self._expected.clear()

    def __repr__(self) -> str:
        return f"<Meeting {len(self._came)} came, {len(self._expected)} are expected>"
