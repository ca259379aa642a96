"""RemoteParts: the processes of one flow, the routes that lead to them, and what they report."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from flowbridge.codec.part_frames import PartFrame
from flowbridge.contracts import GatheringInstrument
from flowbridge.errors import BrokenError, ResourceError
from flowbridge.limits import SETTLE_NS
from flowbridge.plan import Placement, Plane
from flowbridge.runtime.assembly import bus_edge
from flowbridge.runtime.books import EdgeAccounts, Role, merged_paths
from flowbridge.runtime.crossing import CrossingEnd, open_end, settled
from flowbridge.runtime.remote_part import RemotePart, Stage
from flowbridge.tiers import choose_all, nearest
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flowbridge.contracts import Clock, EventBus, Instrument
    from flowbridge.placing import CrossingSink, CrossingSource, PlacingTransport
    from flowbridge.plan import Plan, Route
    from flowbridge.report import PathReport
    from flowbridge.runtime.books import FlowBooks
    from flowbridge.runtime.problem import Problem
    from flowbridge.runtime.remote_node import RemoteNode

_log: Final = logging.getLogger("flowbridge.process")


def _tier(place: Placement) -> str:
    """The tier that starts a place."""
    return nearest(Placement(), place).value


def placing_tiers(plan: Plan) -> set[str]:
    """The tiers that start the places of a plan and join its routes between two of them."""
    places = {manifest.node: manifest.place for manifest in plan.manifests}
    choices = choose_all(plan)
    joining = {
        choices[route.id].tier.value
        for route in plan.routes
        if route.plane is Plane.DATA and places[route.source_node] != places[route.target_node]
    }
    return joining | {_tier(place) for place in places.values() if place != Placement()}


class RemoteParts:
    """What of a flow runs in worker processes; see `flow.Elsewhere` and `remote_part.Whole`.

    Use: `start`, `open_ends`, `prepare`, `account`, and a `RunningFlow` goes on with `attach` and `leave`.
    """

    def __init__(
        self,
        plan: Plan,
        tiers: Mapping[str, PlacingTransport],
        clock: Clock,
        state: Mapping[str, Any],
        stdout: TextIO | None,
        *,
        bus: EventBus,
        serial: int,
        options: Mapping[str, Mapping[str, Any]],
        instrument: Instrument | None = None,
    ) -> None:
        self._plan = plan
        self.bus = bus
        self.serial = serial
        self.options = options
        """By tier, what processes of this user make their transports with."""
        self._instrument = instrument if isinstance(instrument, GatheringInstrument) else None
        self.stdout: TextIO = sys.stdout if stdout is None else stdout
        """Where operators print, in whatever process they run."""
        self._tiers = tiers  # those that `placing_tiers` names
        self._choices = choose_all(plan)
        self._clock = clock
        by_place: dict[Placement, list[Any]] = {}
        for manifest in plan.manifests:
            if manifest.place != Placement():
                by_place.setdefault(manifest.place, []).append(manifest)
        self._parts = [
            RemotePart(plan, manifests, whole=self, transport=tiers[_tier(place)], clock=clock, state=state)
            for place, manifests in by_place.items()
        ]
        self._part_of = {node: part for part in self._parts for node in part.nodes}
        self._ends: dict[str, CrossingEnd] = {}
        self._joined: dict[str, int] = {}  # how often a route was joined
        self._held: dict[tuple[str, Role], Any] = {}  # ends for processes that are about to be started again
        self._edges: Mapping[str, EdgeAccounts] = {}
        self._books: FlowBooks | None = None
        self._trouble: Callable[[str], None] = _log.error
        self._drain: Callable[[], None] | None = None
        self._is_leaving = False
        self._fed: dict[str, list[EdgeAccounts]] = {}  # the edges of the bus, by the node that they lead to

    @property
    def trace_ratio(self) -> float | None:
        """The share of messages that processes trace; None when nobody takes in what they record."""
        return None if self._instrument is None else self._instrument.ratio

    @property
    def nodes(self) -> dict[str, RemoteNode]:
        """The nodes of all parts, by id."""
        return {node.node: node for part in self._parts for node in part.nodes.values()}

    @property
    def sinks(self) -> dict[str, CrossingSink]:
        """The ends in this process of routes that leave it, by route id."""
        return {route: end.port for route, end in self._ends.items() if end.role is Role.SINK}  # type: ignore[misc]

    @property
    def sources(self) -> dict[str, CrossingSource]:
        """The ends in this process of routes that enter it, by route id."""
        return {route: end.port for route, end in self._ends.items() if end.role is Role.SOURCE}  # type: ignore[misc]

    # --- starting ---------------------------------------------------------------------------------------------------

    async def start(self) -> list[Problem]:
        """Start every process."""
        return [problem for part in self._parts for problem in await part.start()]

    def _crossing(self, part: RemotePart | None = None) -> Iterator[tuple[Route, RemotePart | None, RemotePart | None]]:
        """Routes between two processes, with the parts at their two ends; None is this process."""
        for route in self._plan.routes:
            if route.plane is Plane.DATA:
                source, target = self._part_of.get(route.source_node), self._part_of.get(route.target_node)
                if source is not target and (part is None or part in (source, target)):
                    yield route, source, target

    async def open_ends(self) -> None:
        """Make a connection for every route between two processes and give each its end. Raises: ResourceError."""
        for route, source, target in self._crossing():
            near, far = await self._join(route, source, target)
            self._joined[route.id] = 1
            for part, role, end in ((source, Role.SINK, near), (target, Role.SOURCE, far)):
                if part is None:
                    transport = self._transport(route)
                    self._ends[route.id] = await open_end(transport, route, role, end, self._own_end_lost)
                else:
                    part.give(route.id, role, end)

    def _transport(self, route: Route) -> PlacingTransport:
        return self._tiers[self._choices[route.id].tier.value]

    async def _join(self, route: Route, source: RemotePart | None, target: RemotePart | None) -> tuple[Any, Any]:
        near, far = (Placement() if part is None else part.place for part in (source, target))
        return await self._transport(route).join(route, near, far)

    async def prepare(self) -> list[Problem]:
        """Wait until every part is ready to run; returns why some are not."""
        found = await asyncio.gather(*(part.prepare() for part in self._parts))
        problems = [problem for some in found for problem in some]
        # Where one process is gone, others only say that they cannot reach it.
        gone = any(problem.part == "process" for problem in problems)
        return [problem for problem in problems if not gone or problem.part != "route"]

    def account(self, edges: dict[str, EdgeAccounts]) -> None:
        """Enter the edges that other processes count; `edges` has those of this one."""
        for route in self._plan.routes:
            source, target = self._part_of.get(route.source_node), self._part_of.get(route.target_node)
            if source is None and target is None:
                continue
            if route.plane is Plane.BUS:
                if target is not None:
                    self._account_bus(edges.setdefault(route.id, EdgeAccounts(_tier(target.place))), route)
                continue
            account = edges.setdefault(route.id, EdgeAccounts(self._choices[route.id].tier.value))
            if source is target or route.plane is Plane.TIMER:
                account.of(Role.WHOLE)
            else:
                account.of(Role.SINK)
                account.of(Role.SOURCE)
        self._edges = edges

    def _account_bus(self, account: EdgeAccounts, route: Route) -> None:
        """The bus counts what it holds for a subscription in another process, and what that says became of it."""
        empty = EdgeBooks()
        name = bus_edge(self._plan, route, self.serial)
        account.of(Role.SINK).go_on(lambda: self.bus.books().get(name, empty))
        account.of(Role.SOURCE)
        self._fed.setdefault(route.target_node, []).append(account)

    def is_fed(self, node: RemoteNode) -> bool:
        """Whether the bus holds something for a node."""
        return any(account.of(Role.SINK).total().in_flight for account in self._fed.get(node.node, ()))

    def report_to(self, books: FlowBooks) -> None:
        """Enter the paths that other processes count here."""
        self._books = books

    def attach(self, trouble: Callable[[str], None], drain: Callable[[], None]) -> None:
        """Run."""
        self._trouble, self._drain = trouble, drain
        for part in self._parts:
            part.go()

    # --- what the parts say -----------------------------------------------------------------------------------------

    def counted(self, route: str, role: Role, books: EdgeBooks) -> None:
        """A process counted this of an end of a route."""
        self._edges[route].of(role).go_on(lambda: books)

    def went(self, part: RemotePart, paths: Sequence[PathReport]) -> None:
        """A process counted this of the paths that end in it."""
        if self._books is not None:
            self._books.far_paths[str(part.place)] = list(paths)

    def trouble(self, text: str) -> None:
        """Something that belongs into the report."""
        self._trouble(text)

    def printed(self, text: str) -> None:
        """An operator printed this."""
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except (OSError, ValueError) as error:
            _log.debug("what an operator printed went nowhere: %s", error)

    def recorded(self, spans: Sequence[Any]) -> None:
        """A process recorded these spans. Raises: ValueError, TypeError for what is none."""
        if self._instrument is not None:
            self._instrument.take_in(spans)

    def asked_to_end(self) -> None:
        """Somebody sent SIGTERM to a process: the flow cannot go on without it."""
        if self._drain is not None:
            self._drain()

    # --- deaths -----------------------------------------------------------------------------------------------------

    def died(self, part: RemotePart) -> None:
        """A process is gone: what it had counted stays."""
        for route in self._plan.routes:
            account = self._edges.get(route.id)
            if account is None:
                continue
            if self._part_of.get(route.source_node) is part and Role.SINK in account.by_role:
                account.of(Role.SINK).end(loses=False)
            elif self._part_of.get(route.target_node) is part:
                is_whole = Role.WHOLE in account.by_role
                account.of(Role.WHOLE if is_whole else Role.SOURCE).end(loses=is_whole)
        for route, _, _ in self._crossing(part):
            for role in Role:
                self._hold(route.id, role, None)
        if self._books is not None:
            paths, now = self._books.far_paths, str(part.place)
            past = f"{now} before"
            paths[past] = merged_paths([paths.get(past, []), paths.pop(now, [])])

    async def rejoin(self, part: RemotePart) -> None:
        """Join the routes of a process that was started again."""
        for route, source, target in self._crossing(part):
            role, there = (Role.SINK, route.source_node) if source is part else (Role.SOURCE, route.target_node)
            if there not in part.runs or route.source_node in part.ended or self._has_ended(route.target_node):
                self._joined[route.id] += 1  # its loss is no news
                continue
            held = self._held.pop((route.id, role), None)
            if held is not None:  # what the other process has sent since then is on its way
                part.give(route.id, role, held)
                continue
            try:
                near, far = await self._join(route, source, target)
            except ResourceError as error:
                _log.error("%s", error)
                continue
            self._joined[route.id] += 1
            for other, role, end in ((source, Role.SINK, near), (target, Role.SOURCE, far)):
                if other is None:
                    self._ends[route.id].rejoin(end)
                elif other.is_there:
                    other.give(route.id, role, end)
                else:  # it died too
                    self._hold(route.id, role, end)

    def _has_ended(self, node: str) -> bool:
        """Whether a node of another process has."""
        part = self._part_of.get(node)
        return part is not None and part.nodes[node].has_ended

    def ended_elsewhere(self, part: RemotePart) -> list[str]:
        """Nodes of other processes that will send nothing more to this one, as the process they ran in is gone."""
        return [
            route.source_node
            for route, source, _ in self._crossing(part)
            if source not in (None, part)
            and self._has_ended(route.source_node)
            and not (source.is_there and route.source_node in source.runs)
        ]

    def _hold(self, route: str, role: Role, end: Any) -> None:
        """Keep an end for a process that is not there; with None, let go of the one that is kept."""
        last = self._held.pop((route, role), None)
        if last is not None:
            last.close()
        if end is not None:
            self._held[route, role] = end

    def _own_end_lost(self, end: CrossingEnd, error: Exception) -> None:
        self._await_peer(end.route, error)

    def end_lost(self, route: str, peer_of: RemotePart) -> None:
        """A process says that the other end of one of its routes is gone."""
        found = next((entry for entry in self._plan.routes if entry.id == route), None)
        if found is not None:
            self._await_peer(found, BrokenError(f"{route}: lost between two processes ({peer_of.name})"))

    def _await_peer(self, route: Route, error: Exception) -> None:
        """Break a route off whose connection was lost, unless a process that still has work is started again."""
        joined = self._joined[route.id]

        def look() -> None:
            parts = [self._part_of.get(route.source_node), self._part_of.get(route.target_node)]
            comes_back = any(part is not None and part.stage is not Stage.RUNNING and part.unfinished for part in parts)
            if comes_back or self._is_leaving or self._joined[route.id] != joined:
                return
            if not self._has_ended(route.target_node):
                _log.error("%s: %s", route.id, error)
            if route.id in self._ends:
                self._ends[route.id].break_off(error)
            for part in parts:
                if part is not None and part.stage is Stage.RUNNING:
                    part.tell(PartFrame.BREAK, {"route": route.id, "why": str(error)})

        self._clock.call_at(self._clock.now_ns() + SETTLE_NS, look)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Every node has ended: gather the last counts and let the processes go. Bounded."""
        self._is_leaving = True
        await self._ask_all(PartFrame.CLOSE, PartFrame.CLOSED)
        leaving = asyncio.ensure_future(self._ask_all(PartFrame.LEAVE, PartFrame.LEFT))
        await settled(self._ends.values(), self._clock)
        await leaving
        await self.aclose()

    async def _ask_all(self, kind: PartFrame, answer: PartFrame) -> None:
        await asyncio.gather(*(part.ask(kind, answer, 2 * SETTLE_NS) for part in self._parts))

    async def aclose(self) -> None:
        """End every process and close every end. Idempotent."""
        self._is_leaving = True
        for end in self._ends.values():
            end.close()
        for route, role in tuple(self._held):
            self._hold(route, role, None)
        await asyncio.gather(*(part.aclose() for part in self._parts))
