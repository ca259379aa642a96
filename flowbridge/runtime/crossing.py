"""The ends, in this process, of routes that lead to another one; they outlive the process at the other end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from flowbridge.errors import ClosedError, FlowbridgeError
from flowbridge.limits import SETTLE_NS, SETTLE_PAUSE_NS
from flowbridge.runtime.books import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowbridge.contracts import Clock
    from flowbridge.placing import CrossingSink, CrossingSource, PlacingTransport
    from flowbridge.plan import Route


class CrossingEnd:
    """One end of a route. When the process at the other end dies, it waits to be joined to that one's successor."""

    def __init__(
        self,
        transport: PlacingTransport,
        route: Route,
        port: CrossingSink | CrossingSource,
        role: Role,
        on_lost: Callable[[CrossingEnd, Exception], None],
    ) -> None:
        self.route = route
        self.port = port
        self.role = role
        self.is_lost = False
        self._transport = transport
        self._on_lost = on_lost
        self._next: Any = None  # an end that came before the loss of the last one was noticed
        port.on_lost = self._lost

    def _lost(self, error: Exception) -> None:
        self.is_lost = True
        if self._next is None:
            self._on_lost(self, error)
        else:
            asyncio.get_running_loop().call_soon(self._rejoin)

    def rejoin(self, end: Any) -> None:
        """Go on over another connection, as soon as the loss of the last one was noticed."""
        if self._next is not None:
            self._next.close()
        self._next = end
        if self.is_lost:
            self._rejoin()

    def _rejoin(self) -> None:
        end, self._next = self._next, None
        if end is None:
            return
        self.is_lost = False
        try:
            if self.role is Role.SINK:
                self._transport.rejoin_sink(cast("CrossingSink", self.port), self.route, end)
            else:
                self._transport.rejoin_source(cast("CrossingSource", self.port), self.route, end)
        except FlowbridgeError as error:  # such as for want of descriptors: nobody else would tell
            self._lost(error)

    def break_off(self, why: Exception) -> None:
        """Nobody will come back to the other end."""
        if self.is_lost:
            self.port.break_off(why)

    def close(self) -> None:
        """Leave the route. Idempotent."""
        if self._next is not None:
            self._next.close()
            self._next = None
        self.break_off(ClosedError(f"{self.route.id}: the flow has ended"))
        self.port.close()


async def open_end(
    transport: PlacingTransport,
    route: Route,
    role: Role,
    end: Any,
    on_lost: Callable[[CrossingEnd, Exception], None],
) -> CrossingEnd:
    """Turn one end of a connection into an end of its route."""
    port: CrossingSink | CrossingSource
    if role is Role.SINK:
        port = await transport.open_sink(route, end)
    else:
        port = await transport.open_source(route, end)
    return CrossingEnd(transport, route, port, role, on_lost)


async def settled(ends: Iterable[CrossingEnd], clock: Clock) -> None:
    """Return once it is known of every message sent from here how it ended, or after `SETTLE_NS`."""
    sinks = [end for end in ends if end.role is Role.SINK]
    until_ns = clock.now_ns() + SETTLE_NS
    while any(end.port.books.in_flight and not end.is_lost for end in sinks):
        now_ns = clock.now_ns()
        if now_ns >= until_ns:
            return
        await clock.sleep_until(now_ns + SETTLE_PAUSE_NS)
