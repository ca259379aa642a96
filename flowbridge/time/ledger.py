"""The books of one edge: every message offered ends in exactly one column.

    sent = delivered + sum(dropped) + expired + refused + in flight

holds at any moment. `in_flight` is not derived from the other columns: the queue counts what it holds, so that
`balances` can fail. `missed` stands beside the books: an expired message is missed too, and so is a message that was
delivered but finished late.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from flowbridge.time.histogram import Histogram


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


@dataclass(slots=True)
class EdgeBooks:
    """Counts of one edge, from its start; `latency` is sent to dispatched, in nanoseconds."""

    sent: int = 0
    delivered: int = 0
    expired: int = 0
    refused: int = 0
    in_flight: int = 0
    dropped: dict[str, int] = field(default_factory=dict[str, int])  # by policy, and `abort`
    missed: Missed = field(default_factory=Missed)
    latency: Histogram = field(default_factory=Histogram)

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
