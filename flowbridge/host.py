"""Host: what a program embeds to run flows, and what the command line uses. The composition root."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TextIO

from flowbridge.addresses import parse_nodes
from flowbridge.errors import ClosedError, FlowbridgeError
from flowbridge.limits import DRAIN_NS_DEFAULT
from flowbridge.placing import node_options
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.launch import launch
from flowbridge.runtime.tier_set import TierSet
from flowbridge.runtime.turn import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.addresses import NodeAddress, TlsFiles
    from flowbridge.contracts import Clock, EventBus, Instrument
    from flowbridge.plan import Plan
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow


class Host:
    """Runs compiled flows in this process, and in the worker processes that they name.

        async with Host() as host:
            report = await host.run(load("flow.yaml"))

    `operators` are functions, classes or objects that a flow names as ``host:NAME``. `drain_ns` bounds
    every drain. `stdout` is where operators that print for people write; None is the process's own.
    `nodes` says where hosts are that a flow names, as ``{"edge-1": "quic://edge-1.example:4433"}``; `tls` has the files
    with which this one proves to them who it is, and `engine` is what speaks QUIC with them: "auto", "aioquic" or
    "qh3". Raises: LocalProtocolError for an address that is none.
    """

    def __init__(
        self,
        *,
        operators: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        instruments: Sequence[Instrument] = (),
        drain_ns: int = DRAIN_NS_DEFAULT,
        stdout: TextIO | None = None,
        nodes: Mapping[str, str | NodeAddress] | None = None,
        tls: TlsFiles | None = None,
        engine: str = "auto",
    ) -> None:
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._operators = dict(operators or {})
        self._instruments = tuple(instruments)
        self._drain_ns = drain_ns
        self._stdout = stdout
        self._turns = Turns()
        self._nodes = parse_nodes(nodes or {})
        self._tiers = TierSet(self.clock, _options(self._nodes, tls, engine))
        self._flows: list[RunningFlow] = []
        self._started = 0  # how many flows, ever
        self._bus: EventBus | None = None

    async def __aenter__(self) -> Self:
        self._bus = await (await self._tiers.get("inproc")).open_bus()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def bus(self) -> EventBus:
        """The event bus that every flow of this host shares. ClosedError outside ``async with``."""
        if self._bus is None:
            raise ClosedError("the host is not open: use `async with Host() as host`")
        return self._bus

    async def start(self, plan: Plan, *, state: Mapping[str, Any] | None = None) -> RunningFlow:
        """Start a flow; `state` is what an earlier `RunningFlow.snapshot` gave.

        Raises: FlowbridgeError naming ``file:line:col`` of each node that cannot be loaded or placed.
        """
        bus = self.bus
        self._started += 1
        async with AsyncExitStack() as resources:
            flow = await launch(
                plan,
                state=dict(state or {}),
                drain_ns=self._drain_ns,
                bus=bus,
                clock=self.clock,
                transport=self._tiers.get,
                hosts=self._nodes,
                options=self._tiers.options,
                operators=self._operators,
                turns=self._turns,
                instrument=_joined(self._instruments),
                stdout=self._stdout,
                resources=resources,
                serial=self._started,
            )
            self._flows = [*(other for other in self._flows if other.is_running), flow]
            return flow

    async def run(self, plan: Plan, *, for_ns: int | None = None) -> RunReport:
        """Start a flow and wait for its end; after `for_ns` nanoseconds it is drained and counts as done."""
        flow = await self.start(plan)
        alarm = None
        if for_ns is not None:
            alarm = self.clock.call_at(self.clock.now_ns() + for_ns, lambda: flow.drain("done"))
        try:
            return await flow.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
            await flow.aclose()

    async def aclose(self) -> None:
        """Abort what still runs and close every transport. Idempotent."""
        flows, self._flows = self._flows, []
        for flow in flows:
            await flow.aclose()
        await self._tiers.aclose()
        self._bus = None


def _options(nodes: Mapping[str, NodeAddress], tls: TlsFiles | None, engine: str) -> dict[str, dict[str, Any]]:
    """What transports are made with, by tier; an address names its tier."""
    schemes = {address.scheme for address in nodes.values()}
    return {
        scheme: node_options(tls, engine, {name: found for name, found in nodes.items() if found.scheme == scheme})
        for scheme in sorted(schemes)
    }


def _joined(instruments: Sequence[Instrument]) -> Instrument | None:
    if len(instruments) > 1:
        raise FlowbridgeError(f"a host takes one instrument, not {len(instruments)}")
    return instruments[0] if instruments else None
