"""A source that settles in the order of arrival, or when a snapshot is safe; see `machines.settlement`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.machines.settlement import Settlement
from flowbridge.transports.route_queue import QueueSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.envelope import Envelope
    from flowbridge.transports.route_queue import RouteQueue


class Settling(QueueSource):
    """What stands between whoever handles messages and a source: a source is derived from this first."""

    __slots__ = ()

    _settlement: Settlement

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        """Borrow up to `limit` messages of one lane."""
        taken = super().take(limit, lane)
        self._settlement.lent(taken)
        return taken

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a `take`."""
        self._settlement.returned(taken)
        super().give_back(taken)

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """They are done; the credit comes back with those that may be settled."""
        self._settlement.finished(taken, expired)
        self._settle(self._settlement.settle())

    def _settle(self, settled: Sequence[tuple[list[Envelope], int]]) -> None:
        for taken, expired in settled:
            super().settle(taken, expired=expired)

    # --- snapshots --------------------------------------------------------------------------------------------------

    @property
    def is_ahead(self) -> bool:
        """Whether something is done that no snapshot knows."""
        return self._settlement.is_ahead

    def mark(self, number: int) -> list[int]:
        """A snapshot is taken now."""
        return self._settlement.mark(number)

    def resume(self, known: Sequence[int]) -> None:
        """Begin, with the state of a snapshot that knew this. Within a process none outlives the messages."""

    def is_safe(self, number: int) -> None:
        """This snapshot will be restored after a death, or a later one: settle what it knows."""
        self._settle(self._settlement.is_safe(number))

    def rewind(self) -> None:
        """The state is that of the last snapshot again: what was taken since is to be taken once more."""
        for again in self._settlement.rewind():
            if again:
                super().give_back(again)

    async def aclose(self) -> None:
        """Take no more; what is done is settled."""
        self._settle(self._settlement.close())
        await super().aclose()


class SettlingQueueSource(Settling):
    """The consumer's end of a queue in one process."""

    __slots__ = ("_settlement",)

    def __init__(self, ends: RouteQueue) -> None:
        super().__init__(ends)
        self._settlement = Settlement(waits=True)
