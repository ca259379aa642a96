"""The books of one edge: every message offered ends in exactly one column.

    sent = delivered + sum(dropped) + expired + refused + in flight

holds at any moment. `in_flight` is not derived from the other columns: the queue counts what it holds, so that
`balances` can fail. `missed` stands beside the books: an expired message is missed too, and so is a message that was
delivered but finished late.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence


_COUNTS: Final = 5  # that every account has


class Stage(enum.Enum):
    """Where the time of a message that missed its deadline went. Exactly one per miss."""

    LATE = "late"  # the deadline had passed when it was offered
    TRANSPORT = "transport"  # it passed while waiting for credit or on the way
    QUEUED = "queued"  # it passed between arrival and dispatch
    EXECUTING = "executing"  # it passed while the operator ran


@dataclass(slots=True)
class Missed:
    """Misses by stage."""

    late: int = 0
    transport: int = 0
    queued: int = 0
    executing: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.late + self.transport + self.queued + self.executing

    def merge(self, other: Missed) -> None:
        """Add the misses of another account of the same edge."""
        self.late += other.late
        self.transport += other.transport
        self.queued += other.queued
        self.executing += other.executing


@dataclass(slots=True)
class EdgeBooks:
    """Counts of one edge, from its start; `latency` is sent to dispatched, in nanoseconds."""

    sent: int = 0
    delivered: int = 0
    expired: int = 0
    refused: int = 0
    in_flight: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])  # by policy, `abort` and `lost`
    missed: Missed = field(default_factory=Missed)
    latency: Histogram = field(default_factory=Histogram)
    # Beside the books: how often a Gap was told, and what `delivery` did; a message still counts once as sent.
    gaps: int = 0
    redelivered: int = 0  # sent once more to the successor of a process that died
    repeated: int = 0  # ... and known there from its snapshot, so not handled again
    late_wakes: int = 0
    """How often an end was not woken for what was there, and found it by itself a little later."""
    without_ring: int = 0
    """How often a connection of tier `ipc` was made over a socket alone, for want of memory or the native module."""

    def drop(self, policy: str, count: int = 1) -> None:
        """Count messages dropped by a named policy."""
        self.dropped[policy] = self.dropped.get(policy, 0) + count

    @property
    def dropped_total(self) -> int:
        """Drops under every policy."""
        return sum(self.dropped.values())

    @property
    def balances(self) -> bool:
        """Whether nothing was lost and nothing invented."""
        out = self.delivered + self.dropped_total + self.expired + self.refused + self.in_flight
        return self.sent == out

    def merge(self, other: EdgeBooks) -> None:
        """Add the counts of another account of the same edge, such as that of an earlier process."""
        self.sent += other.sent
        self.delivered += other.delivered
        self.expired += other.expired
        self.refused += other.refused
        self.in_flight += other.in_flight
        for cause, count in other.dropped.items():
            self.drop(cause, count)
        self.missed.merge(other.missed)
        self.latency.merge(other.latency)
        self.gaps += other.gaps
        self.redelivered += other.redelivered
        self.repeated += other.repeated
        self.late_wakes += other.late_wakes
        self.without_ring += other.without_ring

    def lose(self) -> int:
        """Count what is in flight as dropped by `lost`, because its process is gone; returns how many."""
        count, self.in_flight = self.in_flight, 0
        if count:
            self.drop("lost", count)
        return count

    def to_plain(self) -> list[Any]:
        """What travels between processes: the counts by position, five more if any, then drops, misses and latency."""
        missed = self.missed
        more = (self.late_wakes, self.without_ring, self.gaps, self.redelivered, self.repeated)
        return [
            *(self.sent, self.delivered, self.expired, self.refused, self.in_flight),
            *(more if any(more) else ()),
            dict(self.dropped),
            [missed.late, missed.transport, missed.queued, missed.executing],
            self.latency.to_plain(),
        ]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> EdgeBooks:
        """What `to_plain` gave. Raises: ValueError, TypeError when it did not."""
        *counts, dropped, missed, latency = plain
        if len(counts) == _COUNTS:
            counts += [0] * 5
        sent, delivered, expired, refused, in_flight, *more = map(int, counts)
        late_wakes, without_ring, gaps, redelivered, repeated = more
        return cls(
            sent=sent,
            delivered=delivered,
            expired=expired,
            refused=refused,
            in_flight=in_flight,
            dropped={str(cause): int(count) for cause, count in dropped.items()},
            missed=Missed(*map(int, missed)),
            latency=Histogram.from_plain(latency),
            gaps=gaps,
            redelivered=redelivered,
            repeated=repeated,
            late_wakes=late_wakes,
            without_ring=without_ring,
        )
