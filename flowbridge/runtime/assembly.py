"""From a plan to running nodes: opens the routes, loads the operators, joins them and starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from flowbridge import registry
from flowbridge.errors import FlowbridgeError
from flowbridge.plan import OnError, Placement, Plane, Port, Scatter
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
from flowbridge.tiers import choose_all, nearest
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AsyncExitStack

    from flowbridge.contracts import Clock, EventBus, Instrument, Transport
    from flowbridge.plan import Plan, PluginManifest, Route
    from flowbridge.runtime.turn import Turns
    from flowbridge.time.ledger import EdgeBooks


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why a flow cannot be started: what it is about, and the line that says so."""

    node: str
    part: str  # place, route or operator
    text: str
    cause: BaseException | None = None


class Assembly:
    """Puts one flow together. Use once."""

    def __init__(
        self,
        plan: Plan,
        *,
        bus: EventBus,
        clock: Clock,
        transport: Callable[[str], Awaitable[Transport]],
        operators: Mapping[str, Any],
        turns: Turns,
        instrument: Instrument | None,
        stdout: TextIO | None,
        resources: AsyncExitStack,
        serial: int,
    ) -> None:
        self._plan = plan
        self._serial = serial  # which flow of its host, from 1
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
        """Open, load, join and start everything, or nothing.

        Raises: FlowbridgeError with a line for every node and route that cannot be.
        """
        problems = self._tier_problems()
        loaded = self._load(problems)
        if any(problem.part != "operator" for problem in problems):
            raise self._refused(problems)  # without its routes no node can be joined
        for route in self._plan.routes:
            await self._open(route)
        supervisors = self._supervise_all(loaded, problems)
        if problems:
            raise self._refused(problems)
        for pattern, qos in self._plan.topics.items():
            self._bus.configure(pattern, qos)
        for supervisor in supervisors:
            supervisor.runner.state = state.get(supervisor.node)
        resources = self._resources.pop_all()
        return RunningFlow(self._plan, supervisors, self._edges, self._paths, self._clock, resources, drain_ns)

    def _refused(self, problems: list[_Problem]) -> FlowbridgeError:
        order = {manifest.node: index for index, manifest in enumerate(self._plan.manifests)}
        problems.sort(key=lambda problem: order.get(problem.node, len(order)))
        error = FlowbridgeError("\n".join(problem.text for problem in problems))
        error.__cause__ = next((problem.cause for problem in problems if problem.cause is not None), None)
        return error

    def _tier_problems(self) -> list[_Problem]:
        """Places that no installed tier reaches, and routes that need a tier that is not there."""
        problems: list[_Problem] = []
        installed = registry.transports()
        here = f"not installed; installed: {', '.join(installed)}"
        elsewhere: set[str] = set()
        for manifest in self._plan.manifests:
            tier = nearest(Placement(), manifest.place).value
            if tier not in installed:
                node, place = manifest.node, manifest.place
                elsewhere.add(node)
                asked = f"host {place.host}" if place.host is not None else f"process {place.process}"
                where = self._plan.where(f"{node}.place", node)
                text = f"{where}: node {node} is placed in {asked}, which needs tier {tier}, and that is {here}"
                problems.append(_Problem(node, "place", text))
        choices = choose_all(self._plan)
        self._tiers = {route: choice.tier.value for route, choice in choices.items()}
        for route in self._plan.routes:
            choice, target = choices[route.id], route.target_node
            text = choice.problem
            if not text and choice.tier.value not in installed and not elsewhere & {route.source_node, target}:
                text = f"tier {choice.tier.value} is needed because {choice.why}, but it is {here}"
            if text:
                where = self._plan.where(route.id, f"{target}.place", target)
                problems.append(_Problem(target, "route", f"{where}: route {route.id}: {text}"))
        return problems

    def _load(self, problems: list[_Problem]) -> dict[str, tuple[Any, dict[str, Any]]]:
        loaded: dict[str, tuple[Any, dict[str, Any]]] = {}
        for manifest in self._plan.manifests:
            try:
                loaded[manifest.node] = self._loader.load(manifest)
            except FlowbridgeError as error:
                problems.append(self._placed(error, manifest.node))
        return loaded

    def _placed(self, error: FlowbridgeError, node: str) -> _Problem:
        where = self._plan.where(f"{node}.operator", node)
        return _Problem(node, "operator", f"{where}: {error}", error)

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
        edge = Edge(route, port.sink, self._paths.lost)
        if route.plane is Plane.TIMER:
            self._timers[route.target_node].append(edge)
        else:
            self._outgoing.setdefault((route.source_node, route.source_port), []).append(edge)

    async def _open_bus_route(self, route: Route) -> None:
        assert route.topic is not None, f"bus route {route.id} has no topic"
        if route.target_node not in self._inlets:  # an output that is published
            self._topics.setdefault((route.source_node, route.source_port), []).append(route.topic)
            return
        # Every run has books of its own: an edge of the same name would go on with those of an earlier run.
        edge = route.id if self._serial == 1 else f"{route.id} ({self._plan.name}, flow {self._serial})"
        subscription = await self._resources.enter_async_context(
            self._bus.subscribe(route.topic, group=route.group, qos=route.qos, edge=edge)
        )
        self._edges[route.id] = ("inproc", subscription.books)
        self._inlets[route.target_node].append(Inlet(route, subscription))

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _deadline_ns(self, manifest: PluginManifest) -> int | None:
        return self._plan.defaults.deadline_ns if manifest.deadline_ns is None else manifest.deadline_ns

    def _supervise_all(
        self, loaded: Mapping[str, tuple[Any, dict[str, Any]]], problems: list[_Problem]
    ) -> list[Supervisor]:
        supervisors: list[Supervisor] = []
        for manifest in self._plan.manifests:
            if manifest.node not in loaded:
                continue
            try:
                supervisors.append(self._supervise(manifest, *loaded[manifest.node]))
            except FlowbridgeError as error:
                problems.append(self._placed(error, manifest.node))
        return supervisors

    def _supervise(self, manifest: PluginManifest, made: Any, config: dict[str, Any]) -> Supervisor:
        node = manifest.node
        report = NodeReport(node, Histogram())
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
            paths=self._paths,
            turns=self._turns,
            instrument=self._instrument,
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
