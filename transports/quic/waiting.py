"""What waits on the streams of a session, by rank: each is asked again only after it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.machines.queued import Queued

if TYPE_CHECKING:
    from flowbridge.machines.admission import Rank
    from flowbridge.transports.quic.stream import SessionStream


class Waiting:
    """The streams of a session, as far as something waits on them or aside of them."""

    __slots__ = ("_asides", "_changed", "_sums")

    def __init__(self) -> None:
        self._sums = Queued()
        self._changed: set[SessionStream] = set()
        self._asides: set[SessionStream] = set()

    def changed(self, stream: SessionStream) -> None:
        """What waits on a stream, its rank, or what it has aside may have changed."""
        self._changed.add(stream)

    def forget(self, stream: SessionStream) -> None:
        """It is over."""
        self._changed.discard(stream)
        self._asides.discard(stream)
        self._sums.put(stream.number, stream.rank, 0)

    def before(self, stream: SessionStream, rank: Rank) -> int:
        """What goes before bytes of this rank on a stream."""
        while self._changed:
            one = self._changed.pop()
            self._sums.put(one.number, one.rank, one.waiting_bytes)
            (self._asides.add if one.aside is not None else self._asides.discard)(one)
        queued = self._sums.before(stream.number, rank)
        if self._asides:
            queued += sum([one.aside.before(rank) for one in self._asides if one.aside is not None])
        return queued

    def __repr__(self) -> str:
        return f"<Waiting {self._sums!r}, {len(self._asides)} have something aside>"
