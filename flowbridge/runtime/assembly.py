"""From a plan to the nodes of one process, ready to run: loads the operators, opens the routes and joins them."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TextIO

from flowbridge import registry
from flowbridge.errors import FlowbridgeError
from flowbridge.plan import OnError, Plane, Port, Scatter, Tier
from flowbridge.report import NodeReport
from flowbridge.runtime.books import EdgeAccounts, Role
from flowbridge.runtime.context import Context
from flowbridge.runtime.inlet import Inlet
from flowbridge.runtime.loader import Loader
from flowbridge.runtime.outlet import Edge, Outlet
from flowbridge.runtime.path import PathBook
from flowbridge.runtime.problem import Problem
from flowbridge.runtime.producer import Producer
from flowbridge.runtime.runner import NodeRunner
from flowbridge.runtime.sender import Sender
from flowbridge.runtime.supervisor import Supervisor
from flowbridge.tiers import choose_all
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from contextlib import AsyncExitStack

    from flowbridge.contracts import Clock, DataSink, EventBus, Instrument, Transport
    from flowbridge.placing import CrossingSource
    from flowbridge.plan import Placement, Plan, PluginManifest, Route
    from flowbridge.runtime.turn import Turns
    from flowbridge.time.ledger import EdgeBooks

_NO_MARKS: Final[Mapping[str, Mapping[str, Sequence[int]]]] = MappingProxyType({})


def bus_edge(plan: Plan, route: Route, serial: int) -> str:
    """The name of a route's books at the bus.

    Every run has books of its own: an edge of the same name would go on with those of an earlier run.
    """
    return route.id if serial == 1 else f"{route.id} ({plan.name}, flow {serial})"


class Assembly:
    """Puts together the nodes of a flow that run in this process. Use once: `load`, then `open`, then `supervise`.

    `here` names these nodes. `ended` names those that ran in an earlier process of this name and have ended: what they
    fed has nothing more to come.
    """

    def __init__(
        self,
        plan: Plan,
        here: Collection[str],
        *,
        bus: EventBus,
        clock: Clock,
        transport: Callable[[str], Awaitable[Transport]],
        operators: Mapping[str, Any],
        turns: Turns,
        resources: AsyncExitStack,
        instrument: Instrument | None = None,
        stdout: TextIO | None = None,
        serial: int = 1,
        ended: Collection[str] = (),
        has_bus: bool = True,
        installed_only: bool = False,
        owns_loop: bool = False,
    ) -> None:
        """`owns_loop`: nothing but these nodes needs the loop at once."""
        self._plan = plan
        self._here = frozenset(here)
        self._ended = frozenset(ended)
        self._manifests = [manifest for manifest in plan.manifests if manifest.node in self._here]
        self._serial = serial  # which flow of its host, from 1
        self._bus = bus
        self._has_bus = has_bus  # else it is that of another process, which keeps its books
        self._clock = clock
        self._transport = transport
        self._loader = Loader(registry.catalog(), operators, plan.base_dir, installed_only=installed_only)
        self._turns = turns
        self._instrument = instrument
        self._owns_loop = owns_loop and len(self._manifests) == 1
        self._stdout = stdout
        self._resources = resources
        self._tiers = {route: choice.tier.value for route, choice in choose_all(plan).items()}
        self.paths = PathBook(
            {m.node: self._deadline_ns(m) for m in plan.manifests},
            {(r.source_node, r.target_node): r.qos.deadline_ns for r in plan.routes if r.qos.deadline_ns is not None},
        )
        self.edges: dict[str, EdgeAccounts] = {}
        """The books of every edge of which this process has an end."""
        self._loaded: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._inlets: dict[str, list[Inlet]] = {m.node: [] for m in self._manifests}
        self._outgoing: dict[tuple[str, str], list[Edge]] = {}
        self._timers: dict[str, list[Edge]] = {m.node: [] for m in self._manifests}
        self._topics: dict[tuple[str, str], list[str]] = {}

    def load(self, tell: Callable[[str], None] | None = None) -> list[Problem]:
        """Load the operators; `tell` hears of each node before that. Returns why some could not be."""
        problems: list[Problem] = []
        for manifest in self._manifests:
            if tell is not None:
                tell(manifest.node)
            try:
                self._loaded[manifest.node] = self._loader.load(manifest)
            except FlowbridgeError as error:
                problems.append(self._placed(error, manifest.node))
        return problems

    def _placed(self, error: FlowbridgeError, node: str) -> Problem:
        where = self._plan.where(f"{node}.operator", node)
        return Problem(node, "operator", f"{where}: {error}", error)

    # --- routes -----------------------------------------------------------------------------------------------------

    async def open(self, sinks: Mapping[str, DataSink], sources: Mapping[str, CrossingSource]) -> None:
        """Open the routes; `sinks` and `sources` are the ends here of those that lead to another process."""
        for route in self._plan.routes:
            if route.plane is Plane.BUS:
                await self._open_bus_route(route)
            elif route.id in sinks:
                sink = sinks[route.id]
                self._account(route, self._tiers[route.id], Role.SINK, partial(getattr, sink, "books"))
                self._start_route(route, sink)
            elif route.id in sources:
                source = sources[route.id]
                self._account(route, self._tiers[route.id], Role.SOURCE, partial(getattr, source, "books"))
                inlet = Inlet(route, source)
                source.on_gap = inlet.gap_came
                self._inlets[route.target_node].append(inlet)
            else:
                await self._open_near(route)

    def _account(self, route: Route, tier: str, role: Role, read: Callable[[], EdgeBooks]) -> None:
        account = self.edges.setdefault(route.id, EdgeAccounts(tier))
        account.of(role).go_on(read)

    def _start_route(self, route: Route, sink: DataSink) -> None:
        edge = Edge(route, sink, self.paths.lost)
        self._outgoing.setdefault((route.source_node, route.source_port), []).append(edge)

    async def _open_near(self, route: Route) -> None:
        """Open a route within this process, if it is one."""
        # A timer is a route whose sender is the runner of its own target, so it is always in this process.
        starts_here = route.source_node in self._here or route.plane is Plane.TIMER
        ends_here = route.target_node in self._here
        if not (starts_here or route.source_node in self._ended) or not (ends_here or route.target_node in self._ended):
            return
        if not (starts_here or ends_here):
            return
        is_within = route.plane is Plane.TIMER or self._place(route.source_node) == self._place(route.target_node)
        tier = self._tiers[route.id] if is_within else Tier.INPROC.value
        port = await (await self._transport(tier)).open_port(route)
        if is_within:  # else its producer ended with another process, which counted what there was to count
            self._account(route, tier, Role.WHOLE, partial(getattr, port.source, "books"))
        if ends_here:
            self._inlets[route.target_node].append(Inlet(route, port.source))
        else:
            await port.source.aclose()
        if not starts_here:
            await port.sink.finish()
        elif route.plane is Plane.TIMER:
            self._timers[route.target_node].append(Edge(route, port.sink, self.paths.lost))
        else:
            self._start_route(route, port.sink)

    def _place(self, node: str) -> Placement:
        return self._plan.manifest(node).place

    async def _open_bus_route(self, route: Route) -> None:
        assert route.topic is not None, f"bus route {route.id} has no topic"
        if route.source_node in self._here:  # an output that is published
            self._topics.setdefault((route.source_node, route.source_port), []).append(route.topic)
        if route.target_node not in self._here:
            return
        edge = bus_edge(self._plan, route, self._serial)
        subscription = await self._resources.enter_async_context(
            self._bus.subscribe(route.topic, group=route.group, qos=route.qos, edge=edge)
        )
        role = Role.WHOLE if self._has_bus else Role.SOURCE
        self._account(route, "inproc", role, partial(getattr, subscription, "books"))
        self._inlets[route.target_node].append(Inlet(route, subscription, subscription.drain))

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _deadline_ns(self, manifest: PluginManifest) -> int | None:
        return self._plan.defaults.deadline_ns if manifest.deadline_ns is None else manifest.deadline_ns

    def supervise(
        self, state: Mapping[str, Any], marks: Mapping[str, Mapping[str, Sequence[int]]] = _NO_MARKS
    ) -> tuple[list[Supervisor], list[Problem]]:
        """Join operators and routes to nodes that can run, each with its state; and say why some could not be.

        `marks` says of a state what it knows, by node and route.
        """
        supervisors: list[Supervisor] = []
        problems: list[Problem] = []
        for manifest in self._manifests:
            if manifest.node not in self._loaded:
                continue
            try:
                supervisor = self._supervise(manifest, *self._loaded[manifest.node])
            except FlowbridgeError as error:
                problems.append(self._placed(error, manifest.node))
            else:
                supervisor.runner.snapshots.resume(state.get(manifest.node), marks.get(manifest.node, {}))
                supervisors.append(supervisor)
        return supervisors, problems

    def _supervise(self, manifest: PluginManifest, made: Any, config: dict[str, Any]) -> Supervisor:
        node = manifest.node
        report = NodeReport(node, Histogram(), process=manifest.place.name)
        priority = self._plan.defaults.priority if manifest.priority is None else manifest.priority
        outlets = self._outlets(manifest)
        sender = Sender(node, outlets, self._clock, priority=priority, deadline_ns=self._deadline_ns(manifest))
        inlets = self._inlets[node]
        skip = manifest.on_error is OnError.SKIP
        producer = None if inlets else Producer(sender, self._clock, report, self._turns, self._instrument, skip=skip)
        runner = NodeRunner(
            manifest,
            inlets=inlets,
            timers=self._timers[node],
            sender=sender,
            producer=producer,
            bus=self._bus,
            clock=self._clock,
            report=report,
            paths=self.paths,
            turns=self._turns,
            instrument=self._instrument,
            owns_loop=self._owns_loop,
        )
        context = Context(manifest, self._clock, self._bus, self._plan.base_dir, self._stdout)
        where = self._plan.where(f"{node}.operator", node)
        schema = outlets["out"].schema if "out" in outlets else None
        return Supervisor(runner, context, made, config, self._clock, where=where, schema=schema)

    def _outlets(self, manifest: PluginManifest) -> dict[str, Outlet]:
        outlets: dict[str, Outlet] = {}
        for port in manifest.outputs or (Port(name="out"),):
            key = (manifest.node, port.name)
            scatter = manifest.scatter.get(port.name, Scatter.COPY)
            outlet = Outlet(
                manifest.node, port, self._outgoing.get(key, ()), self._topics.get(key, ()), scatter, self._bus
            )
            spec = self._plan.schemas.get(port.schema_ref) if port.schema_ref else None
            if spec is not None and port.content_type.name == "ARROW":
                from flowbridge.schema import to_arrow

                outlet.expect(to_arrow(spec))
            outlets[port.name] = outlet
        return outlets
