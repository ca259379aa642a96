"""The data port of one process: references are handed over a queue, nothing is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.plan import Delivery
from flowbridge.transports.route_queue import QueueSink, QueueSource, RouteQueue
from flowbridge.transports.settling import SettlingQueueSource

if TYPE_CHECKING:
    from flowbridge.contracts import Clock
    from flowbridge.plan import Route


class InprocDataPort:
    """Both ends of one route; see `contracts.DataPort`."""

    __slots__ = ("ends", "route", "sink", "source")

    def __init__(self, route: Route, clock: Clock) -> None:
        self.route = route
        self.ends = RouteQueue(route.id, route.qos, clock)
        self.sink = QueueSink(self.ends)
        once = route.qos.delivery is Delivery.EFFECTIVELY_ONCE
        self.source = SettlingQueueSource(self.ends) if once else QueueSource(self.ends)

    def __repr__(self) -> str:
        return f"<InprocDataPort {self.route.id} {self.ends.queue!r}>"
