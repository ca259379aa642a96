"""TimeManager: what a node runs next, what it refuses because it is late, and when it must look again.

Rules.
1. The lane comes first: the most urgent one with work, but none is passed over more than `STARVATION_TURNS_MAX` times.
2. Inside a lane the earliest deadline goes first; equal ones in the order they were sent. Work without a deadline is
   ordered as if it had `VIRTUAL_DEADLINE_NS` from when it was sent, so it cannot be put off for ever.
3. Messages of one stream (one route) and lane stay in order, because a consumer relies on that: an urgent message lends
   its deadline to those in front of it (precedence-adjusted earliest deadline first) for as long as it is not late.
4. Work that is late is refused on arrival and given up before it runs; it is never returned by `pop`.
5. Each stream has room of its own in each lane; a full lane does not stop another.
6. A timer is due at start + n * period; what was missed is skipped, counted, and moves no later tick.

No waiting, no clock: `now_ns` is an argument. Call `next_wakeup_ns` again after `add_timer` and `poll`.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, islice, takewhile
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from flowbridge.envelope import NO_DEADLINE
from flowbridge.limits import LANES, SLICE_ITEMS_MAX, VIRTUAL_DEADLINE_NS
from flowbridge.machines.lane import LaneTurns

if TYPE_CHECKING:
    from collections.abc import Sequence


class Timed(Protocol):
    """What the manager must know of a piece of work; an `Envelope` is one."""

    priority: int
    deadline_ns: int
    sent_ns: int


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """Consecutive work of one stream and lane, to be done in this order."""

    stream: int
    items: list[T]


@dataclass(frozen=True, slots=True)
class Tick:
    """A timer is due. `at_ns` is when it was due, `index` counts from 0, `skipped` how many were missed before it."""

    timer: int
    index: int
    at_ns: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Deadline(Generic[T]):
    """A deadline passed while the work waited; it is out of the manager."""

    stream: int
    item: T


@dataclass(frozen=True, slots=True)
class Admission(Generic[T]):
    """What became of work that was offered: `late` and `full` are in nobody's hands but the caller's."""

    admitted: int
    late: Sequence[T] = ()
    full: Sequence[T] = ()


class _Timer:
    __slots__ = ("index", "period_ns", "start_ns")

    def __init__(self, start_ns: int, period_ns: int) -> None:
        self.start_ns: Final = start_ns
        self.period_ns: Final = period_ns
        self.index = 0


def urgency(item: Timed) -> int:
    """The deadline by which work is ordered."""
    return item.deadline_ns if item.deadline_ns != NO_DEADLINE else item.sent_ns + VIRTUAL_DEADLINE_NS


class _Stream(Generic[T]):
    """The work of one stream in one lane."""

    __slots__ = ("queue",)

    def __init__(self) -> None:
        self.queue: deque[T] = deque()

    def key(self, now_ns: int) -> tuple[int, int]:
        """What the head is worth: the least deadline of all in the stream that can still be kept, and when it was sent.

        A stream with nothing but late work comes first, to be rid of it.
        """
        least_ns = min([urgency(item) for item in self.queue if item.deadline_ns > now_ns], default=0)
        return least_ns, self.queue[0].sent_ns

    def take(self, limit: int, rival: tuple[int, int] | None, now_ns: int) -> list[T]:
        """At least one item and at most `limit`, as long as this stream is worth more than its rival."""
        queue = self.queue
        if rival is not None and limit > 1:
            limit = min(limit, self._lead(rival, now_ns))
        if len(queue) <= limit:
            items = list(queue)
            queue.clear()
            return items
        return [queue.popleft() for _ in range(limit)]

    def _lead(self, rival: tuple[int, int], now_ns: int) -> int:
        """How many items go before a rival: the head, and each behind it while what is left is worth as much."""
        worth = (urgency(item) if item.deadline_ns > now_ns else NO_DEADLINE for item in reversed(self.queue))
        keys = zip(reversed(list(accumulate(worth, min))), self.queue, strict=True)
        return 1 + sum(1 for _ in takewhile(lambda key: (key[0], key[1].sent_ns) <= rival, islice(keys, 1, None)))


class TimeManager(Generic[T]):
    """A machine, not a service: one per node."""

    def __init__(self, *, capacity_items: int = SLICE_ITEMS_MAX) -> None:
        self._capacity = capacity_items
        self._lanes: list[dict[int, _Stream[T]]] = [{} for _ in range(LANES)]  # only streams with work
        self._turns = LaneTurns()
        self._timers: list[tuple[int, int]] = []  # heap of (due, timer)
        self._schedule: dict[int, _Timer] = {}
        self._gone: list[Deadline[T]] = []  # found late by `pop`, not yet handed out

    # --- work -------------------------------------------------------------------------------------------------------

    def room(self, stream: int, lane: int) -> int:
        """How much more work of this stream and lane would be admitted."""
        held = self._lanes[lane].get(stream)
        return self._capacity if held is None else self._capacity - len(held.queue)

    def admit(self, items: Sequence[T], *, stream: int = 0, now_ns: int) -> Admission[T]:
        """Take in consecutive work of one stream, all of one lane; late work and work beyond the room is refused."""
        late: Sequence[T] = [item for item in items if item.deadline_ns <= now_ns]
        if late:
            items = [item for item in items if item.deadline_ns > now_ns]
        if not items:
            return Admission(0, late)
        streams = self._lanes[items[0].priority]
        held = streams.get(stream)
        if held is None:
            held = streams[stream] = _Stream()
        room = self._capacity - len(held.queue)
        if len(items) <= room:
            held.queue.extend(items)
            return Admission(len(items), late)
        held.queue.extend(items[:room])
        if not held.queue:
            del streams[stream]
        return Admission(room, late, items[room:])

    def pop(self, *, now_ns: int, limit: int = 1) -> Run[T] | None:
        """The next run of at most `limit` items, none of them late at `now_ns`; None when there is no work.

        Work found late on the way is given up. Call `expire` again after this.
        """
        while mask := self.waiting:
            streams = self._lanes[self._turns.choose(mask)]
            while streams:  # a lane that had only late work up to here keeps its turn
                rival: tuple[int, int] | None = None
                if len(streams) == 1:
                    stream, held = next(iter(streams.items()))
                else:
                    ranked = heapq.nsmallest(2, ((entry.key(now_ns), stream) for stream, entry in streams.items()))
                    stream, rival = ranked[0][1], ranked[1][0]
                    held = streams[stream]
                items = held.take(limit, rival, now_ns)
                if not held.queue:
                    del streams[stream]
                late = [item for item in items if item.deadline_ns <= now_ns]
                if late:
                    self._gone.extend(Deadline(stream, item) for item in late)
                    items = [item for item in items if item.deadline_ns > now_ns]
                if items:
                    return Run(stream, items)
        return None

    def urgency(self) -> tuple[int, int] | None:
        """The most urgent lane with work and the earliest deadline at the head of a stream in it."""
        for lane, streams in enumerate(self._lanes):
            if streams:
                return lane, min([urgency(held.queue[0]) for held in streams.values()])
        return None

    @property
    def waiting(self) -> int:
        """Which lanes have work, as bits."""
        mask = 0
        for lane, streams in enumerate(self._lanes):
            if streams:
                mask |= 1 << lane
        return mask

    def expire(self, *, now_ns: int) -> list[Deadline[T]]:
        """Give up everything that is late now; each late item is handed out once, in no promised order."""
        gone, self._gone = self._gone, []
        for streams in self._lanes:
            for stream in list(streams):
                queue = streams[stream].queue
                if all(item.deadline_ns > now_ns for item in queue):
                    continue
                gone.extend(Deadline(stream, item) for item in queue if item.deadline_ns <= now_ns)
                keep = [item for item in queue if item.deadline_ns > now_ns]
                queue.clear()
                queue.extend(keep)
                if not keep:
                    del streams[stream]
        return gone

    @property
    def has_expired(self) -> bool:
        """Whether `pop` came upon late work that `expire` has not handed out."""
        return bool(self._gone)

    def clear(self) -> list[Run[T]]:
        """Hand back all work, as runs."""
        runs = [Run(stream, list(held.queue)) for streams in self._lanes for stream, held in streams.items()]
        for streams in self._lanes:
            streams.clear()
        return runs

    # --- time -------------------------------------------------------------------------------------------------------

    def add_timer(self, timer: int, *, period_ns: int, start_ns: int) -> None:
        """Start a timer whose first tick is due at `start_ns`; one that runs by that name starts over."""
        assert period_ns > 0, f"timer {timer}: period_ns must be above 0, not {period_ns}"
        self._schedule[timer] = _Timer(start_ns, period_ns)
        self._timers = [entry for entry in self._timers if entry[1] != timer]
        self._timers.append((start_ns, timer))
        heapq.heapify(self._timers)

    def poll(self, *, now_ns: int) -> list[Tick]:
        """The ticks that are due, each timer once, in the order they were due."""
        ticks: list[Tick] = []
        while self._timers and self._timers[0][0] <= now_ns:
            _, name = heapq.heappop(self._timers)
            timer = self._schedule[name]
            index = (now_ns - timer.start_ns) // timer.period_ns
            at_ns = timer.start_ns + index * timer.period_ns
            ticks.append(Tick(name, index, at_ns, index - timer.index))
            timer.index = index + 1
            heapq.heappush(self._timers, (timer.start_ns + timer.index * timer.period_ns, name))
        return ticks

    def next_wakeup_ns(self) -> int | None:
        """When a timer is due or waiting work becomes late, whichever is sooner; None when neither will."""
        wakeup = self._timers[0][0] if self._timers else NO_DEADLINE
        for streams in self._lanes:
            for held in streams.values():
                wakeup = min(wakeup, *[item.deadline_ns for item in held.queue])
        return None if wakeup == NO_DEADLINE else wakeup

    def __len__(self) -> int:
        return sum(len(held.queue) for streams in self._lanes for held in streams.values())

    def __repr__(self) -> str:
        depth = "/".join(str(sum(len(held.queue) for held in streams.values())) for streams in self._lanes)
        return f"<TimeManager {depth} waiting, {len(self._schedule)} timers>"
