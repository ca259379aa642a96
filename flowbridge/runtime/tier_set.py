"""The transports of one process: each tier is opened when it is first asked for, with the options given for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flowbridge import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.contracts import Clock, Transport
    from flowbridge.placing import PlacingTransport


class TierSet:
    """Opens transports by tier, each once."""

    def __init__(self, clock: Clock, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._clock = clock
        self.options: Mapping[str, Mapping[str, Any]] = options or {}
        """By tier, what its transport is made with; what is open already keeps its own."""
        self._open: dict[str, Transport] = {}

    async def get(self, tier: str) -> Transport:
        """The transport of a tier. Raises: FlowbridgeError when it is not installed."""
        transport = self._open.get(tier)
        if transport is None:
            options = self.options.get(tier, {})
            transport = self._open[tier] = registry.transport(tier, self._clock, **options)
        return transport

    async def placing(self, tier: str) -> PlacingTransport:
        """As `get`, for a tier that is known to reach other processes."""
        return cast("PlacingTransport", await self.get(tier))

    async def aclose(self) -> None:
        """Close every transport. Idempotent."""
        opened, self._open = self._open, {}
        for transport in opened.values():
            await transport.aclose()
