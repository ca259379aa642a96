"""Part: the nodes of a flow that run in this process for a host in another one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.part_frames import DAMAGE, PartFrame, read_part, write_error, write_part
from flowbridge.codec.plan import plan_from_cbor
from flowbridge.errors import FlowbridgeError, RemoteProtocolError, ResourceError
from flowbridge.limits import PART_ENDS_MAX, ROUTE_CHARACTERS_MAX, TICKET_BYTES_MAX, WORKER_REPORT_NS, WORKER_STOP_NS
from flowbridge.placing import Ticket
from flowbridge.plan import Placement
from flowbridge.runtime.assembly import Assembly
from flowbridge.runtime.books import Role, node_to_plain, path_to_plain
from flowbridge.runtime.crossing import CrossingEnd, open_end, settled
from flowbridge.runtime.far_stdout import FarStdout
from flowbridge.runtime.kept import Form, PackedState, packed, packed_from_plain, unpacked
from flowbridge.runtime.problem import Problem
from flowbridge.runtime.turn import Turns
from flowbridge.tiers import choose_all, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowbridge.contracts import Clock, KeepingInstrument
    from flowbridge.placing import PartLink
    from flowbridge.plan import Plan
    from flowbridge.runtime.gate import PartGate
    from flowbridge.runtime.supervisor import Supervisor
    from flowbridge.runtime.tier_set import TierSet

_log: Final = logging.getLogger("flowbridge.process")
_IN_ORDER: Final = (PartFrame.PART, PartFrame.PREPARE, PartFrame.GO)
_SPANS_PER_FRAME: Final = 512
_REPORT_SHARE: Final = 20  # a report may take one part of so many of the time


class Part:
    """Does what its host tells it; see `codec.part_frames`. `run` returns when the host let it go, or is gone."""

    def __init__(
        self,
        link: PartLink,
        tiers: TierSet,
        clock: Clock,
        gate: PartGate | None = None,
        *,
        instrument: Callable[[float, Clock], KeepingInstrument] | None = None,
        owns_loop: bool = False,
    ) -> None:
        """A host that is not of this user needs a gate; `instrument` makes what records spans, for a host that asks.

        `owns_loop`: this loop serves nothing else.
        """
        assert link.is_same_user or gate is not None, f"{link.peer}: nothing says what it may do"
        self._link = link
        self._tiers = tiers
        self._gate = gate
        self._owns_loop = owns_loop
        self._clock = clock
        self._resources = AsyncExitStack()
        self._told: dict[str, Any] = {}
        self._begun = 0  # how many frames of `_IN_ORDER` came
        self._is_ready = False
        self._is_listening = False
        self._plan: Plan
        self._bus_end: Any = None
        self._given: dict[tuple[str, Role], Any] = {}  # ends of routes, until they are opened
        self._ends: dict[str, CrossingEnd] = {}
        self._is_open = False  # every route that leads here has its end
        self._assembly: Assembly | None = None
        self._supervisors: dict[str, Supervisor] = {}
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._deeds: set[asyncio.Task[None]] = set()
        self._once: set[PartFrame] = set()  # frames that came, of those that come once
        self._snapped: set[str] = set()  # nodes whose snapshot is being taken
        self._news = asyncio.Event()  # something is to be reported at once
        self._kept: dict[str, int] = {}  # the numbers of the snapshots that the host was sent
        self._unkept: dict[str, str] = {}  # why the last snapshot of a node could not be kept
        self._form = Form.PICKLE if link.is_same_user else Form.PLAIN
        self._stdout: FarStdout | None = None
        self._make_instrument = instrument
        self._instrument: KeepingInstrument | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self.is_stopping = False
        """Whether the host told a node to stop at once."""
        self.has_left = False
        """Whether everything was said."""

    async def run(self, import_ns: int) -> None:
        """Serve the host until it closes the connection."""
        self._link.listen(self._frame, self._host_lost)
        self._is_listening = True
        self._tell(PartFrame.HELLO, {"import_ns": import_ns})
        try:
            await self._lost
        finally:
            self._link.close()  # before nodes are stopped: their host must not take that for their end
            for task in (*self._deeds, *self._nodes.values()):
                task.cancel()
            if self._nodes:
                await asyncio.wait(self._nodes.values(), timeout=WORKER_STOP_NS / 1e9)
            for end in self._ends.values():
                end.close()
            await self._resources.aclose()
            for unopened in (self._bus_end, *self._given.values()):
                if unopened is not None:
                    unopened.close()

    def terminated(self) -> None:
        """Somebody asked this process to end: the host drains the flow."""
        if self._is_listening:
            self._tell(PartFrame.TERMINATED, {})
        else:
            self._host_lost(None)  # nothing was begun

    def _host_lost(self, error: Exception | None) -> None:
        if error is not None and not self.has_left:
            _log.error("%s", error)
        if not self._lost.done():
            self._lost.set_result(None)

    def _tell(self, kind: PartFrame, content: dict[str, Any]) -> None:
        with contextlib.suppress(ResourceError):  # the host is gone, and `_host_lost` comes
            self._link.send(kind, write_part(content))

    # --- what the host says -----------------------------------------------------------------------------------------

    def _frame(self, kind: int, body: bytes, ends: Sequence[Any]) -> None:
        frame, content = read_part(self._link.peer, kind, body)
        try:
            if frame in (PartFrame.BUS, PartFrame.END):
                self._end_came(frame, content, _end_of(content, ends))
            else:
                self._act(frame, content)
        except DAMAGE as error:
            raise RemoteProtocolError(f"{self._link.peer}: frame {frame.name} is damaged: {error!r:.200}") from error

    def _act(self, frame: PartFrame, content: dict[str, Any]) -> None:
        if frame in _IN_ORDER:
            self._begin(frame, content)
        elif frame is PartFrame.DRAIN:
            self._supervisors[content["node"]].drain()
        elif frame is PartFrame.ABORT:
            self.is_stopping = True
            self._nodes[content["node"]].cancel()
        elif frame is PartFrame.SNAPSHOT:
            self._snap(content["node"])
        elif frame is PartFrame.BREAK:
            end = self._ends.get(content["route"])
            if end is not None:
                end.break_off(ResourceError(str(content["why"])))
        elif frame is PartFrame.KEPT:
            for node, number in content["nodes"].items():
                self._supervisors[node].runner.snapshots.is_safe(int(number))
        elif frame is PartFrame.CLOSE:
            self._comes_once(frame)
            self._do(self._close)
        elif frame is PartFrame.LEAVE:
            self._comes_once(frame)
            self._do(self._leave)
        else:
            raise RemoteProtocolError(f"{self._link.peer}: frame {frame.name} is for a host")

    def _comes_once(self, frame: PartFrame) -> None:
        if frame in self._once:
            raise RemoteProtocolError(f"{self._link.peer}: frame {frame.name} came again")
        self._once.add(frame)

    def _snap(self, node: str) -> None:
        """Take a snapshot; a host asks for the next one of a node when it has this one."""
        supervisor = self._supervisors[node]
        if node in self._snapped:
            raise RemoteProtocolError(f"{self._link.peer}: asks for a snapshot of {node} that is being taken already")
        self._snapped.add(node)
        self._do(partial(self._snapshot, supervisor))

    def _begin(self, frame: PartFrame, content: dict[str, Any]) -> None:
        """One of the three frames that come once each, in order."""
        if _IN_ORDER[self._begun : self._begun + 1] != (frame,) or (frame is PartFrame.GO and not self._is_ready):
            raise RemoteProtocolError(f"{self._link.peer}: frame {frame.name} out of its order")
        self._begun += 1
        if frame is PartFrame.PART:
            self._told = content
        elif frame is PartFrame.PREPARE:
            self._do(self._prepare)
        else:
            self._go()

    def _do(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(self._done(deed))
        self._deeds.add(task)
        task.add_done_callback(self._deeds.discard)

    async def _done(self, deed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something for the host; it, and not this process, ends when that fails for what the host said."""
        try:
            await deed()
        except Exception as error:
            _log.exception("what %s asked for cannot be done", self._link.peer)
            self._host_lost(RemoteProtocolError(f"{self._link.peer}: asked for what cannot be done: {error!r:.200}"))

    def _end_came(self, frame: PartFrame, content: dict[str, Any], end: Any) -> None:
        """An end of a route, or of the bus: it is closed when it is of no use."""
        try:
            if frame is PartFrame.BUS:
                self._comes_once(frame)
                self._bus_end = end
            else:
                self._give(str(content["route"]), Role(content["role"]), end)
        except BaseException:
            end.close()
            raise

    def _give(self, route: str, role: Role, end: Any) -> None:
        if route in self._ends:
            self._ends[route].rejoin(end)
        elif self._is_open:
            end.close()
        else:
            # The process at its other end may have been started anew since the last one came.
            before = self._given.pop((route, role), None)
            if before is not None:
                before.close()
            if len(route) > ROUTE_CHARACTERS_MAX:
                raise ValueError(f"a route of {len(route)} characters, of at most {ROUTE_CHARACTERS_MAX}")
            if len(self._given) >= PART_ENDS_MAX:
                raise RemoteProtocolError(
                    f"{self._link.peer}: gives more ends of routes than {PART_ENDS_MAX} before they can be opened"
                )
            self._given[route, role] = end

    # --- starting ---------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Load, open and join; tell the host what stands against that."""
        told = self._told
        problems: list[Problem] = []
        try:
            self._plan = self._read_plan(told)
            problems = self._refusals(told["nodes"])
            if not problems:
                problems = await self._assemble(told)
        except Exception as error:
            node, process = str(next(iter(told["nodes"]), "")), str(told["process"])
            if self._gate is None:
                _log.exception("%s cannot be prepared", process)
            problems.append(Problem(node, "process", f"{process}: {type(error).__name__}: {error}"))
        self._is_ready = not problems
        self._tell(PartFrame.READY, {"problems": [problem.to_plain() for problem in problems]})

    def _read_plan(self, told: dict[str, Any]) -> Plan:
        """What to run. A host of this user also says where its modules are, and how to reach other hosts."""
        if self._gate is not None:
            return replace(plan_from_cbor(told["plan"]), base_dir=self._gate.base_dir)
        sys.path[:] = [str(entry) for entry in told["sys_path"]]
        self._tiers.options = unpacked(PackedState(told["options"]))
        plan: Plan = unpacked(PackedState(told["plan"]))
        return plan

    def _refusals(self, nodes: Sequence[str]) -> list[Problem]:
        """What the gate does not let through; nothing was loaded or opened yet."""
        gate = self._gate
        if gate is None:
            return []
        routes = {route.id: route for route in self._plan.routes}
        # Every manifest that would be loaded, also when a plan that nobody compiled has two of one name.
        here = [manifest for manifest in self._plan.manifests if manifest.node in nodes]
        found = [(m.node, f"{m.node}.operator", gate.operator_refusal(m)) for m in here]
        for given, role in self._given:
            route = routes[given]
            node = route.target_node if role is Role.SOURCE else route.source_node
            found.append((node, given, gate.route_refusal(given, role)))
        return [
            Problem(node, "operator", f"{self._plan.where(key, node)}: node {node}: {why}")
            for node, key, why in found
            if why
        ]

    async def _assemble(self, told: dict[str, Any]) -> list[Problem]:
        nodes = told["nodes"]
        choices = choose_all(self._plan)
        host = await self._tiers.placing(nearest(Placement(), self._plan.manifest(nodes[0]).place).value)
        bus_end, self._bus_end = self._bus_end, None
        bus = await host.open_far_bus(bus_end)
        self._resources.push_async_callback(bus.aclose)
        stdout = self._stdout = FarStdout(
            lambda text: self._tell(PartFrame.TEXT, {"text": text}),
            is_terminal=bool(told["is_terminal"]),
            encoding=str(told["encoding"]),
        )
        ratio = told.get("trace_ratio")
        if ratio is not None and self._make_instrument is not None:
            self._instrument = self._make_instrument(min(max(float(ratio), 0.0), 1.0), self._clock)
        assembly = self._assembly = Assembly(
            self._plan,
            nodes,
            ended=told["ended"],
            bus=bus if self._gate is None else self._gate.guard(bus),
            clock=self._clock,
            transport=self._tiers.get,
            operators={},
            turns=Turns(),
            instrument=self._instrument,
            resources=self._resources,
            serial=int(told["serial"]),
            has_bus=False,
            stdout=stdout.as_text_io(),
            installed_only=self._gate is not None,
            owns_loop=self._owns_loop,
        )
        problems = assembly.load(lambda node: self._tell(PartFrame.LOADING, {"node": node}))
        routes = {route.id: route for route in self._plan.routes}
        while self._given:
            route, role = next(iter(self._given))  # others may come, and this one anew, while it is opened
            end = self._given.pop((route, role))
            transport = await self._tiers.placing(choices[route].tier.value)
            if route in self._ends:  # it was joined anew while it was opened
                self._ends[route].rejoin(end)
            else:
                self._ends[route] = await open_end(transport, routes[route], role, end, self._end_lost)
        self._is_open = True
        ports: dict[Role, dict[str, Any]] = {Role.SINK: {}, Role.SOURCE: {}}
        for route, joined in self._ends.items():
            ports[joined.role][route] = joined.port
        await assembly.open(ports[Role.SINK], ports[Role.SOURCE])
        state: dict[str, Any] = {}
        for node, data in told["state"].items():
            try:
                state[node] = unpacked(packed_from_plain(data, same_user=self._link.is_same_user))
            except FlowbridgeError as error:
                where = self._plan.where(node)
                problems.append(Problem(node, "operator", f"{where}: node {node}: {error}", error))
        supervisors, found = assembly.supervise(state, told["marks"])
        self._supervisors = {supervisor.node: supervisor for supervisor in supervisors}
        for supervisor in supervisors:
            supervisor.runner.snapshots.on_taken = self._news.set
        return [*problems, *found]

    def _end_lost(self, end: CrossingEnd, error: Exception) -> None:
        self._tell(PartFrame.LOST, {"route": end.route.id})

    def _go(self) -> None:
        loop = asyncio.get_running_loop()
        self._nodes = {
            node: loop.create_task(self._run(supervisor), name=f"node {node}")
            for node, supervisor in self._supervisors.items()
        }
        if self._gate is not None:
            self._gate.started(self._plan.name, tuple(self._supervisors))
        self._do(self._report_always)

    # --- running ----------------------------------------------------------------------------------------------------

    async def _run(self, supervisor: Supervisor) -> None:
        """Run one node and tell the host how it ended."""
        failure: BaseException | None = None
        try:
            await supervisor.run()
        except asyncio.CancelledError:
            pass
        except FlowbridgeError as error:
            failure = error
        except Exception as error:
            _log.exception("node %s ended by a fault of flowbridge", supervisor.node)
            failure = error
        if supervisor.state.value not in ("done", "failed"):
            await supervisor.close_inputs()  # it may have been stopped before its first step
        content = {"node": supervisor.node, "report": node_to_plain(supervisor.report)}
        self._tell(PartFrame.ENDED, {**content, "error": None if failure is None else write_error(failure)})
        self._news.set()

    async def _report_always(self) -> None:
        while True:
            started_ns = self._clock.now_ns()
            self._report()
            took_ns = self._clock.now_ns() - started_ns
            await self._clock.sleep_until(started_ns + _REPORT_SHARE * took_ns)
            alarm = self._clock.call_at(started_ns + WORKER_REPORT_NS, self._news.set)
            await self._news.wait()
            alarm.cancel()
            self._news.clear()

    def _report(self) -> None:
        """Tell the host what was counted, and the snapshots that were taken since the last time."""
        assert self._assembly is not None, "nothing runs"
        kept: dict[str, list[Any]] = {}
        unkept: dict[str, str] = {}
        marks: dict[str, Any] = {}
        for node, supervisor in self._supervisors.items():
            snapshots = supervisor.runner.snapshots
            if snapshots.number != self._kept.get(node, 0):
                self._kept[node] = snapshots.number
                try:
                    kept[node] = packed(snapshots.state, self._form).to_plain()
                    marks[node] = [snapshots.number, snapshots.marks]
                    self._unkept.pop(node, None)
                except FlowbridgeError as error:
                    snapshots.refuse(error)
                    if self._unkept.get(node) != str(error):  # once, not with every snapshot
                        _log.warning("node %s: %s", node, error)
                        unkept[node] = self._unkept[node] = str(error)
        edges: dict[str, Any] = {}
        for route, account in self._assembly.edges.items():
            ((role, counts),) = account.by_role.items()
            edges[route] = [role.value, counts.total().to_plain()]
        nodes = {node: node_to_plain(supervisor.report) for node, supervisor in self._supervisors.items()}
        paths = [path_to_plain(report) for report in self._assembly.paths.reports()]
        content = {"nodes": nodes, "edges": edges, "paths": paths, "kept": kept, "marks": marks, "unkept": unkept}
        self._tell(PartFrame.REPORT, content)
        spans = [] if self._instrument is None else self._instrument.taken()
        for first in range(0, len(spans), _SPANS_PER_FRAME):
            self._tell(PartFrame.SPANS, {"spans": spans[first : first + _SPANS_PER_FRAME]})
        if self._stdout is not None:
            self._stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()  # what was printed past `context.stdout`

    async def _snapshot(self, supervisor: Supervisor) -> None:
        node = supervisor.node
        state: list[Any] | None = None
        failure: dict[str, Any] | None = None
        try:
            taken = await supervisor.take_snapshot()
            state = None if taken is None else packed(taken, self._form).to_plain()
        except FlowbridgeError as error:
            failure = write_error(error)
        self._snapped.discard(node)  # the host may ask again once it is told
        self._tell(PartFrame.SNAPSHOTS, {"node": node, "state": state, "error": failure})

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Every node of the flow has ended: take nothing more."""
        for supervisor in self._supervisors.values():
            await supervisor.close_inputs()
        self._tell(PartFrame.CLOSED, {})

    async def _leave(self) -> None:
        """Say the last that is to be said."""
        await settled(self._ends.values(), self._clock)
        for end in self._ends.values():
            if end.role is Role.SINK:
                end.close()
        self._report()
        if self._instrument is not None and self._instrument.lost:
            _log.warning("%d spans were dropped: more were recorded than reports could carry", self._instrument.lost)
        self.has_left = True
        self._tell(PartFrame.LEFT, {})


def _end_of(content: dict[str, Any], ends: Sequence[Any]) -> Any:
    """The end of a route or bus that came with a frame, or in it. Raises: IndexError, ValueError."""
    data = content.get("ticket")
    if data is None:
        return ends[0]
    if not isinstance(data, bytes) or len(data) > TICKET_BYTES_MAX:
        raise ValueError(f"a ticket exceeds {TICKET_BYTES_MAX} bytes, or is none")
    return Ticket(data)
