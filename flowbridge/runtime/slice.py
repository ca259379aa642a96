"""One slice of a node's work: what it handled, when, how long it took, and the plain results not yet sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.limits import SLICE_NS_MAX, SLICES_PER_DEADLINE

if TYPE_CHECKING:
    from flowbridge.envelope import Envelope
    from flowbridge.runtime.outlet import Outlet


def slice_ns(remaining_ns: int) -> int:
    """How long a slice may last when its first message has this long to go.

    At most `SLICE_NS_MAX`; less when that would eat up the deadline, because results are sent when the slice ends.
    """
    return max(1, min(SLICE_NS_MAX, remaining_ns // SLICES_PER_DEADLINE))


class Slice:
    """Lists that the hot loop appends to; `waits` and `busy` have one entry per message that ran.

    `ends` has one per message that ran to its end, `cut` holds those that were cut off at their deadline.
    """

    __slots__ = ("busy", "cut", "ends", "late", "likes", "outlet", "results", "times_ns", "waits")

    def __init__(self, outlet: Outlet | None) -> None:
        self.outlet = outlet
        self.waits: list[int] = []  # sent to started
        self.busy: list[int] = []  # started to ended
        self.ends: list[int] = []
        self.late: list[Envelope] = []
        self.cut: list[Envelope] = []
        self.results: list[Any] = []  # with `likes` and `times_ns` side by side
        self.likes: list[Envelope] = []
        self.times_ns: list[int] = []

    def line_up(self) -> None:
        """Turn the results into messages on their routes."""
        if self.results and self.outlet is not None:
            results, likes, times_ns = self.results, self.likes, self.times_ns
            self.results, self.likes, self.times_ns = [], [], []
            self.outlet.emit_many(results, likes, times_ns)

    async def send(self) -> None:
        """Send the results, waiting for credit."""
        self.line_up()
        if self.outlet is not None and not self.outlet.push():
            await self.outlet.flush()
