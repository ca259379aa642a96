"""From a plan to running nodes: opens the routes, loads the operators, joins them and starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from flowbridge import registry
from flowbridge.errors import FlowbridgeError, OperatorError
from flowbridge.plan import OnError, Plane, Port, Scatter
from flowbridge.report import NodeReport
from flowbridge.runtime.context import Context
from flowbridge.runtime.flow import RunningFlow
from flowbridge.runtime.inlet import Inlet
from flowbridge.runtime.loader import Loader
from flowbridge.runtime.outlet import Edge, Outlet
from flowbridge.runtime.path import PathBook
from flowbridge.runtime.producer import Producer
from flowbridge.runtime.runner import NodeRunner
from flowbridge.runtime.sender import Sender
from flowbridge.runtime.supervisor import Supervisor
from flowbridge.tiers import choose_all
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AsyncExitStack

    from flowbridge.contracts import Clock, EventBus, Instrument, Transport
    from flowbridge.plan import Plan, PluginManifest, Route
    from flowbridge.runtime.turn import Turns
    from flowbridge.time.ledger import EdgeBooks


class Assembly:
    """Puts one flow together. Use once."""

    def __init__(
        self,
        plan: Plan,
        *,
        bus: EventBus,
        clock: Clock,
        transport: Callable[[str], Awaitable[Transport]],
        operators: Mapping[str, Callable[..., Any]],
        turns: Turns,
        instrument: Instrument | None,
        stdout: TextIO | None,
        resources: AsyncExitStack,
    ) -> None:
        self._plan = plan
        self._bus = bus
        self._clock = clock
        self._transport = transport
        self._loader = Loader(registry.catalog(), operators, plan.base_dir)
        self._turns = turns
        self._instrument = instrument
        self._stdout = stdout
        self._resources = resources
        self._paths = PathBook(
            {m.node: self._deadline_ns(m) for m in plan.manifests},
            {(r.source_node, r.target_node): r.qos.deadline_ns for r in plan.routes if r.qos.deadline_ns is not None},
        )
        self._edges: dict[str, tuple[str, EdgeBooks]] = {}
        self._inlets: dict[str, list[Inlet]] = {m.node: [] for m in plan.manifests}
        self._outgoing: dict[tuple[str, str], list[Edge]] = {}
        self._timers: dict[str, list[Edge]] = {m.node: [] for m in plan.manifests}
        self._topics: dict[tuple[str, str], list[str]] = {}

    async def start(self, state: dict[str, Any], *, drain_ns: int) -> RunningFlow:
        """Open, load, join and start everything, or nothing."""
        self._check_tiers()
        loaded = self._load()
        for pattern, qos in self._plan.topics.items():
            self._bus.configure(pattern, qos)
        for route in self._plan.routes:
            await self._open(route)
        supervisors = [self._supervise(manifest, *loaded[manifest.node]) for manifest in self._plan.manifests]
        for supervisor in supervisors:
            supervisor.runner.state = state.get(supervisor.node)
        resources = self._resources.pop_all()
        return RunningFlow(self._plan, supervisors, self._edges, self._paths, self._clock, resources, drain_ns)

    def _check_tiers(self) -> None:
        problems: list[str] = []
        installed = registry.transports()
        self._tiers = {route: choice.tier.value for route, choice in choose_all(self._plan).items()}
        for route, choice in choose_all(self._plan).items():
            target = route.rpartition("->")[2].partition("/")[0]
            where = self._plan.where(route, f"{target}.place", target)
            if choice.problem:
                problems.append(f"{where}: route {route}: {choice.problem}")
            elif choice.tier.value not in installed:
                problems.append(
                    f"{where}: route {route}: tier {choice.tier.value} is needed because {choice.why}, "
                    f"but it is not installed; installed: {', '.join(installed)}"
                )
        if problems:
            raise FlowbridgeError("\n".join(problems))

    def _load(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        loaded: dict[str, tuple[Any, dict[str, Any]]] = {}
        problems: list[FlowbridgeError] = []
        for manifest in self._plan.manifests:
            try:
                loaded[manifest.node] = self._loader.load(manifest)
            except FlowbridgeError as error:
                problems.append(self._placed(error, manifest.node, "operator"))
        if problems:
            raise FlowbridgeError("\n".join(str(problem) for problem in problems)) from problems[0].__cause__
        return loaded

    def _placed(self, error: FlowbridgeError, node: str, part: str) -> FlowbridgeError:
        placed = FlowbridgeError(f"{self._plan.where(f'{node}.{part}', node)}: {error}")
        placed.__cause__ = error
        return placed

    # --- routes -----------------------------------------------------------------------------------------------------

    async def _open(self, route: Route) -> None:
        if route.plane is Plane.BUS:
            await self._open_bus_route(route)
            return
        # A timer is a route whose sender is the runner of its own target, so it is always in this process.
        tier = self._tiers[route.id]
        port = await (await self._transport(tier)).open_port(route)
        self._edges[route.id] = (tier, port.source.books)
        self._inlets[route.target_node].append(Inlet(route, port.source))
        edge = Edge(route, port.sink)
        if route.plane is Plane.TIMER:
            self._timers[route.target_node].append(edge)
        else:
            self._outgoing.setdefault((route.source_node, route.source_port), []).append(edge)

    async def _open_bus_route(self, route: Route) -> None:
        assert route.topic is not None, f"bus route {route.id} has no topic"
        if route.target_node not in self._inlets:  # an output that is published
            self._topics.setdefault((route.source_node, route.source_port), []).append(route.topic)
            return
        subscription = await self._resources.enter_async_context(
            self._bus.subscribe(route.topic, group=route.group, qos=route.qos, edge=route.id)
        )
        self._edges[route.id] = ("inproc", subscription.books)
        self._inlets[route.target_node].append(Inlet(route, subscription))

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _deadline_ns(self, manifest: PluginManifest) -> int | None:
        return self._plan.defaults.deadline_ns if manifest.deadline_ns is None else manifest.deadline_ns

    def _supervise(self, manifest: PluginManifest, made: Any, config: dict[str, Any]) -> Supervisor:
        node = manifest.node
        report = NodeReport(node, Histogram())
        priority = self._plan.defaults.priority if manifest.priority is None else manifest.priority
        sender = Sender(
            node, self._outlets(manifest), self._clock, priority=priority, deadline_ns=self._deadline_ns(manifest)
        )
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
            paths=self._paths,
            turns=self._turns,
            instrument=self._instrument,
        )
        context = Context(manifest, self._clock, self._bus, self._plan.base_dir, self._stdout)
        where = self._plan.where(f"{node}.operator", node)
        try:
            return Supervisor(runner, context, made, config, self._clock, where)
        except OperatorError as error:
            raise self._placed(error, node, "operator") from error

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
