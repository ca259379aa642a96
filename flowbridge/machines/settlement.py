"""Which messages of a route are not settled yet, at its two ends, where a consumer that dies must lose none.

The producer keeps what it sent until the consumer's counts say that it is settled. Counts are numbers and name no
message, so the consumer settles in the order of arrival: one that is done before an earlier one waits for it. Where an
effect must be there once, a message is settled only when a snapshot that knows it is safe.

All of it is by lane: within one the order of a route is kept, between two there is none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from flowbridge.limits import LANES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.envelope import Envelope


class Unsettled:
    """The producer's end: what was sent and may have to be sent again. As long as the credit allows, no longer."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: list[deque[Envelope]] = [deque() for _ in range(LANES)]

    def sent(self, envelopes: Sequence[Envelope]) -> None:
        """These were sent, after all before them."""
        for envelope in envelopes:
            self._lanes[envelope.priority].append(envelope)

    def settle(self, lane: int, left: int) -> None:
        """The consumer has settled the oldest of a lane; so many are left."""
        kept = self._lanes[lane]
        while len(kept) > left:
            kept.popleft()

    def take_all(self) -> list[list[Envelope]]:
        """What is not settled, by lane and in order; nothing is kept afterwards."""
        lanes = [list(kept) for kept in self._lanes]
        for kept in self._lanes:
            kept.clear()
        return lanes

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    def __repr__(self) -> str:
        return f"<Unsettled {'/'.join(str(len(kept)) for kept in self._lanes)}>"


class _Lane:
    """One lane of the consumer's end; counts are of messages since the beginning."""

    __slots__ = ("done", "known", "lent", "marked", "settled")

    def __init__(self) -> None:
        self.lent: deque[Envelope] = deque()  # from the first that is not done, in the order of arrival
        self.done: deque[Envelope] = deque()  # all before it that are not settled
        self.settled = 0  # all before those
        self.marked = 0  # how many the last snapshot knows
        self.known = -1  # the seq of the last of them, or of the last one that a restored snapshot knew

    def done_items(self) -> int:
        return self.settled + len(self.done)


class Settlement:
    """The consumer's end: what was lent, what of it is done, and what of that may be settled.

    `waits` says that it may be settled only when a snapshot that knows it is safe.
    """

    __slots__ = ("_done", "_lanes", "_marks", "_returned", "_waits")

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self._lanes = [_Lane() for _ in range(LANES)]
        self._done: dict[int, bool] = {}  # by the id of what is held and done: whether it expired
        self._returned: set[int] = set()  # by id: in their queue again
        self._marks: deque[tuple[int, tuple[int, ...]]] = deque()  # snapshots that are not safe yet: number, done

    def lent(self, taken: Sequence[Envelope]) -> None:
        """These were taken from the queue."""
        for envelope in taken:
            if id(envelope) in self._returned:
                self._returned.remove(id(envelope))
            else:
                self._lanes[envelope.priority].lent.append(envelope)

    def returned(self, taken: Sequence[Envelope]) -> None:
        """These went back to the head of their queue. They keep their place: later ones may be done, and expired."""
        self._returned.update(map(id, taken))

    def finished(self, taken: Sequence[Envelope], expired: int = 0) -> None:
        """These are done, `expired` of them because they were late."""
        if not taken:
            return
        for number, envelope in enumerate(taken):
            self._done[id(envelope)] = number < expired
        lane = self._lanes[taken[0].priority]
        while lane.lent and id(lane.lent[0]) in self._done:
            lane.done.append(lane.lent.popleft())

    def settle(self) -> list[tuple[list[Envelope], int]]:
        """What may be settled now: messages of one lane each, and how many of them expired."""
        if self._waits:
            return []
        return self._settle([lane.done_items() for lane in self._lanes])

    def _settle(self, until: Sequence[int]) -> list[tuple[list[Envelope], int]]:
        found: list[tuple[list[Envelope], int]] = []
        for lane, count in zip(self._lanes, until, strict=True):
            taken = [lane.done.popleft() for _ in range(count - lane.settled)]
            if taken:
                lane.settled = count
                found.append((taken, sum([self._done.pop(id(envelope)) for envelope in taken])))
        return found

    # --- snapshots --------------------------------------------------------------------------------------------------

    @property
    def is_ahead(self) -> bool:
        """Whether something is done that the last snapshot does not know."""
        return any(lane.done_items() > lane.marked for lane in self._lanes)

    def mark(self, number: int) -> list[int]:
        """A snapshot is taken now; returns the last seq of each lane that it knows, -1 for none."""
        for lane in self._lanes:
            done = lane.done_items()
            if done > lane.marked:
                lane.known, lane.marked = lane.done[-1].seq, done
        self._marks.append((number, tuple(lane.marked for lane in self._lanes)))
        return [lane.known for lane in self._lanes]

    def resume(self, known: Sequence[int]) -> None:
        """The state is that of a snapshot which knew these, as `mark` returned them; nothing was lent yet."""
        for lane, seq in zip(self._lanes, known, strict=True):
            lane.known = seq

    def is_safe(self, number: int) -> list[tuple[list[Envelope], int]]:
        """This snapshot, and those before it, are safe: what it knows may be settled."""
        until: tuple[int, ...] | None = None
        while self._marks and self._marks[0][0] <= number:
            until = self._marks.popleft()[1]
        return [] if until is None else self._settle(until)

    def rewind(self) -> list[list[Envelope]]:
        """The state is that of the last snapshot again: what was done since goes back to its queue, by lane.

        What was lent is back there already. What is done and waits for such a one has expired, and stays so.
        """
        lanes: list[list[Envelope]] = []
        for lane in self._lanes:
            again = [lane.done.pop() for _ in range(lane.done_items() - lane.marked)]
            lane.lent.extendleft(again)
            again.reverse()
            for envelope in again:
                del self._done[id(envelope)]
            self.returned(again)
            lanes.append(again)
        return lanes

    def close(self) -> list[tuple[list[Envelope], int]]:
        """Nothing will be restored any more: whatever is done may be settled, in order or not."""
        self._marks.clear()
        self._waits = False
        for lane in self._lanes:
            done = [envelope for envelope in lane.lent if id(envelope) in self._done]
            for envelope in done:
                lane.lent.remove(envelope)
            lane.done.extend(done)
        return self._settle([lane.done_items() for lane in self._lanes])

    def __repr__(self) -> str:
        shown = "/".join(f"{len(lane.lent)}+{len(lane.done)}" for lane in self._lanes)
        return f"<Settlement {shown} lent+done{', waits' if self._waits else ''}>"
