"""The tier of one process: references are handed over, nothing is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from flowbridge.transports.inproc.port import InprocDataPort

if TYPE_CHECKING:
    from flowbridge.contracts import Clock, EventBus
    from flowbridge.plan import Route

__all__ = ["InprocDataPort", "InprocTransport"]


class InprocTransport:
    """Makes the ports and the bus of one process; see `contracts.Transport`."""

    tier = "inproc"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ports: list[InprocDataPort] = []
        self._bus: EventBus | None = None

    async def open_port(self, route: Route) -> InprocDataPort:
        """Open a route of plane DATA."""
        port = InprocDataPort(route, self._clock)
        self._ports.append(port)
        return port

    async def open_bus(self) -> EventBus:
        """The bus of this process; every call gives the same one."""
        if self._bus is None:
            from flowbridge.transports.bus import LocalEventBus

            self._bus = LocalEventBus(self._clock)
        return self._bus

    async def aclose(self) -> None:
        """Close the ports' receiving ends and the bus."""
        for port in self._ports:
            await port.source.aclose()
        self._ports.clear()
        if self._bus is not None:
            await self._bus.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
