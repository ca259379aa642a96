"""RemotePart: one process that runs nodes of a flow, as its host sees it, from its start over its deaths to its end."""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.part_frames import DAMAGE, PartFrame, read_error, read_part, write_part
from flowbridge.errors import BrokenError, EncodeError, FlowbridgeError, RemoteProtocolError, ResourceError
from flowbridge.limits import SETTLE_NS, SETTLE_PAUSE_NS, WORKER_START_NS, WORKER_STOP_NS
from flowbridge.machines.node import NodeState
from flowbridge.placing import Ticket
from flowbridge.runtime.books import Role, node_from_plain, path_from_plain
from flowbridge.runtime.kept import Form, PackedState, packed, packed_from_plain
from flowbridge.runtime.part_told import part_bus, part_content
from flowbridge.runtime.problem import Problem
from flowbridge.runtime.remote_node import RemoteNode
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbridge.contracts import Alarm, Clock
    from flowbridge.placing import PartLink, PlacingTransport, Worker
    from flowbridge.plan import Plan, PluginManifest
    from flowbridge.runtime.part_told import Whole

_log: Final = logging.getLogger("flowbridge.process")


class Stage(enum.Enum):
    """Where a process is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    GONE = "gone"


class RemotePart:
    """The nodes of one process; see `remote_node.Conductor`."""

    def __init__(
        self,
        plan: Plan,
        manifests: Sequence[PluginManifest],
        *,
        whole: Whole,
        transport: PlacingTransport,
        clock: Clock,
        state: Mapping[str, Any],
    ) -> None:
        self.place = manifests[0].place
        self.stage = Stage.GONE
        self.nodes = {manifest.node: RemoteNode(manifest, self) for manifest in manifests}
        self.runs: frozenset[str] = frozenset()
        """The nodes that the process of now was told to run, some of which may have ended since."""
        self.ended: frozenset[str] = frozenset()
        """The nodes of which it was told that they had ended."""
        self._given = {node: state[node] for node in self.nodes if state.get(node) is not None}
        self._plan = plan
        self._whole = whole
        self._transport = transport
        self._clock = clock
        self._worker: Worker | None = None
        self._ready: asyncio.Future[list[Problem]] | None = None
        self._loading: str | None = None  # the node whose operator is being loaded
        self._link_lost = asyncio.Event()
        self._is_stopping = False  # its nodes were told to stop, or it is to leave
        self._is_late = self._is_same_user = False
        self._gone_at_ns = 0
        self._has_left = False  # it has said everything
        self._alarms: list[Alarm] = []
        self._watching: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._answers: dict[PartFrame, asyncio.Future[None]] = {}
        self._snapshots: dict[str, asyncio.Future[Any]] = {}

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self._worker.name if self._worker is not None else str(self.place)

    @property
    def unfinished(self) -> list[RemoteNode]:
        """The nodes that have not ended."""
        return [node for node in self.nodes.values() if not node.has_ended]

    # --- starting ---------------------------------------------------------------------------------------------------

    async def start(self) -> list[Problem]:
        """Start the process and tell it what it is to run."""
        self._ready = asyncio.get_running_loop().create_future()
        self._link_lost.clear()
        self._loading, self._is_late = None, False
        try:
            worker = self._worker = await self._transport.start_worker(self.place)
        except FlowbridgeError as error:
            self.stage = Stage.GONE
            return [self._problem(str(error), error)]
        self.stage = Stage.STARTING
        worker.link.listen(self._frame, self._lost)
        self._watching = asyncio.get_running_loop().create_task(self._watch(worker), name=f"watch {worker.name}")
        self._alarms = [self._clock.call_at(self._clock.now_ns() + WORKER_START_NS, self._start_is_late)]
        try:
            self._tell_part(worker.link)
        except FlowbridgeError as error:
            return [self._problem(str(error), error)]
        return []

    def _tell_part(self, link: PartLink) -> None:
        """Tell it what to run. Raises: EncodeError that names the node whose state cannot go there; ResourceError."""
        same_user = self._is_same_user = link.is_same_user
        content = part_content(self._plan, self.place, self._whole, same_user=same_user)
        content["nodes"] = [node.node for node in self.unfinished]
        content["ended"] = [node.node for node in self.nodes.values() if node.has_ended]
        content["ended"] += self._whole.ended_elsewhere(self)
        self.runs, self.ended = frozenset(content["nodes"]), frozenset(content["ended"])
        content["state"] = self._states(Form.PICKLE if same_user else Form.PLAIN)
        content["marks"] = {node.node: node.marks for node in self.unfinished}
        self.tell(PartFrame.PART, content)
        bus = part_bus(self._plan, self.place, self._whole, same_user=same_user)
        self._tell_end(PartFrame.BUS, {}, self._transport.serve_bus(bus, self.place))

    def _states(self, form: Form) -> dict[str, list[Any]]:
        """What its nodes go on from: after a death what they last told, else what the flow was started with."""
        for node, given in list(self._given.items()):
            try:
                self.nodes[node].kept = packed(given, form)
            except FlowbridgeError as error:
                raise EncodeError(f"node {node}: {error}") from error
            del self._given[node]
        return {node.node: node.kept.to_plain() for node in self.unfinished if node.kept is not None}

    @property
    def is_there(self) -> bool:
        """Whether its process is."""
        return self.stage in (Stage.STARTING, Stage.RUNNING)

    def give(self, route: str, role: Role, end: Any) -> None:
        """Give it an end of a route."""
        self._tell_end(PartFrame.END, {"route": route, "role": role.value}, end)

    def _tell_end(self, kind: PartFrame, content: dict[str, Any], end: Any) -> None:
        if isinstance(end, Ticket):
            self.tell(kind, {**content, "ticket": end.data})
        else:
            self.tell(kind, content, end)

    async def prepare(self) -> list[Problem]:
        """Let it load its operators and open its ends; returns why it cannot run."""
        if self._ready is None or self.stage is Stage.GONE:
            return self._ready.result() if self._ready is not None and self._ready.done() else []
        self.tell(PartFrame.PREPARE, {})
        problems = await asyncio.shield(self._ready)
        self._cancel_alarms()
        return problems

    def go(self) -> None:
        """Run the nodes."""
        self.stage = Stage.RUNNING
        self.tell(PartFrame.GO, {})
        for node in self.unfinished:
            if node.is_draining:
                self.drain(node)

    def tell(self, kind: PartFrame, content: dict[str, Any], end: Any = None) -> None:
        """Send a frame; what is told to a process that is gone is of no use to anybody."""
        assert self._worker is not None, f"{self.name} was never started"
        try:
            self._worker.link.send(kind, write_part(content), end)
        except ResourceError:
            if end is not None:
                end.close()

    def _start_is_late(self) -> None:
        self._is_late = True
        if self._worker is not None:
            self._worker.kill()

    def _problem(self, text: str, cause: BaseException | None = None) -> Problem:
        """What stands against running it, in the line of the node that it is about."""
        node = self._loading or next(iter(self.nodes))
        where = self._plan.where(f"{node}.operator" if self._loading else f"{node}.place", node)
        about = f"node {node}: " if self._loading else ""
        return Problem(node, "process", f"{where}: {about}{text}", cause)

    # --- what a running flow asks of it -----------------------------------------------------------------------------

    def drain(self, node: RemoteNode) -> None:
        """Let one node start nothing new."""
        if self.stage is not Stage.RUNNING:
            return
        if self._whole.is_fed(node):
            self._drain_when_fed(node, self._clock.now_ns() + SETTLE_NS)
        else:
            self.tell(PartFrame.DRAIN, {"node": node.node})

    def _drain_when_fed(self, node: RemoteNode, until_ns: int) -> None:
        """What the bus holds for a node comes over another connection: only once it is settled the node may end."""
        now_ns = self._clock.now_ns()
        if now_ns < until_ns and self._whole.is_fed(node):
            self._clock.call_at(now_ns + SETTLE_PAUSE_NS, lambda: self._drain_when_fed(node, until_ns))
        elif self.stage is Stage.RUNNING:
            self.tell(PartFrame.DRAIN, {"node": node.node})

    def abort(self, node: RemoteNode) -> None:
        """Stop one node, and the process when that does not help."""
        if self.stage is not Stage.RUNNING:
            self._is_stopping = True
            if self._restarting is not None:
                self._restarting.cancel()
            node.end(NodeState.ABORTED)
            return
        self.tell(PartFrame.ABORT, {"node": node.node})
        if not self._is_stopping:
            self._is_stopping = True
            self._insist("its nodes did not stop")

    def _insist(self, why: str) -> None:
        """SIGTERM and then SIGKILL, each after a while, unless it has ended or its nodes have."""
        worker = self._worker
        assert worker is not None, f"{self.name} was never started"
        now_ns = self._clock.now_ns()

        def terminate() -> None:
            if self.unfinished:
                worker.terminate()

        def kill() -> None:
            if self.unfinished and self.stage is Stage.RUNNING:
                names = ", ".join(node.node for node in self.unfinished)
                self._whole.trouble(
                    f"{worker.name} was killed, because {why} within {2 * WORKER_STOP_NS / 1e9:g} s; busy: {names}"
                )
                worker.kill()

        self._alarms += [
            self._clock.call_at(now_ns + WORKER_STOP_NS, terminate),
            self._clock.call_at(now_ns + 2 * WORKER_STOP_NS, kill),
        ]

    async def snapshot(self, node: RemoteNode) -> Any:
        """The state of one node now; while it does not run: what it is to go on from."""
        if self.stage is not Stage.RUNNING:
            return node.kept
        waiting = self._snapshots.get(node.node)
        if waiting is None:
            waiting = self._snapshots[node.node] = asyncio.get_running_loop().create_future()
            self.tell(PartFrame.SNAPSHOT, {"node": node.node})
        answer = await asyncio.shield(waiting)
        if isinstance(answer, FlowbridgeError):
            raise answer
        return answer

    # --- what it says -----------------------------------------------------------------------------------------------

    def _frame(self, kind: int, body: bytes, ends: Sequence[Any]) -> None:
        for end in ends:
            end.close()  # a worker sends none
        frame, content = read_part(self.name, kind, body, is_shown=not self._is_same_user)
        try:
            self._said(frame, content)
        except DAMAGE as error:
            raise RemoteProtocolError(f"{self.name}: frame {frame.name} is damaged: {error!r:.200}") from error

    def _said(self, frame: PartFrame, content: dict[str, Any]) -> None:
        acts: dict[PartFrame, Callable[[dict[str, Any]], None]] = {
            PartFrame.HELLO: self._greeted,
            PartFrame.LOADING: self._begins_to_load,
            PartFrame.READY: self._is_ready,
            PartFrame.REPORT: self._reported,
            PartFrame.ENDED: self._node_ended,
            PartFrame.SNAPSHOTS: self._took_snapshot,
            PartFrame.LOST: lambda found: self._whole.end_lost(str(found["route"]), self),
            PartFrame.TERMINATED: lambda _: None if self._is_stopping else self._whole.asked_to_end(),
            PartFrame.TEXT: lambda found: self._whole.printed(str(found["text"])),
            PartFrame.SPANS: self._recorded,
            PartFrame.CLOSED: lambda _: self._answered(frame),
            PartFrame.LEFT: lambda _: self._answered(frame),
        }
        act = acts.get(frame)
        if act is None:
            raise RemoteProtocolError(f"{self.name}: frame {frame.name} is for a worker")
        act(content)

    def _greeted(self, content: dict[str, Any]) -> None:
        _log.debug("%s: imported in %.0f ms", self.name, content["import_ns"] / 1e6)

    def _begins_to_load(self, content: dict[str, Any]) -> None:
        self._loading = str(content["node"])

    def _is_ready(self, content: dict[str, Any]) -> None:
        self._loading = None
        if self._ready is not None and not self._ready.done():
            found = content["problems"]
            self._ready.set_result([Problem(str(node), str(part), str(text)) for node, part, text in found])

    def _took_snapshot(self, content: dict[str, Any]) -> None:
        waiting = self._snapshots.pop(content["node"], None)
        if waiting is not None and not waiting.done():
            state, error = content["state"], content["error"]
            found = None if state is None else self._packed(state)
            waiting.set_result(found if error is None else read_error(error))

    def _answered(self, frame: PartFrame) -> None:
        self._has_left = self._has_left or frame is PartFrame.LEFT
        answer = self._answers.pop(frame, None)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _reported(self, content: dict[str, Any]) -> None:
        for node, plain in content["nodes"].items():
            if not self.nodes[node].has_ended:
                self.nodes[node].reported(node_from_plain(node, str(self.place.name), plain))
        for node, data in content["kept"].items():
            self.nodes[node].kept = self._packed(data)
            _, self.nodes[node].marks = content["marks"][node]
        for node, why in content["unkept"].items():
            self.nodes[node].kept, self.nodes[node].marks = None, {}
            self._whole.trouble(f"node {node}: {why}; after a restart it begins anew")
        if content["kept"]:
            self.tell(PartFrame.KEPT, {"nodes": {node: number for node, (number, _) in content["marks"].items()}})
        for route, (role, plain) in content["edges"].items():
            self._whole.counted(route, Role(role), EdgeBooks.from_plain(plain))
        self._whole.went(self, [path_from_plain(plain) for plain in content["paths"]])

    def _recorded(self, content: dict[str, Any]) -> None:
        spans = content["spans"]
        if any(span[0] not in self.nodes for span in spans):
            raise ValueError("a span is of a node that does not run there")
        self._whole.recorded(spans)

    def _packed(self, plain: Any) -> PackedState:
        return packed_from_plain(plain, same_user=self._is_same_user)

    def _node_ended(self, content: dict[str, Any]) -> None:
        node = self.nodes[content["node"]]
        report = node_from_plain(node.node, str(self.place.name), content["report"])
        if node.has_ended:
            return
        node.reported(report)
        error = content["error"]
        state = NodeState(report.state)
        node.end(state, None if error is None or self._is_stopping else read_error(error))
        if not self.unfinished:
            self._cancel_alarms()

    # --- its death --------------------------------------------------------------------------------------------------

    def _lost(self, error: Exception | None) -> None:
        self._link_lost.set()
        if error is not None and self._worker is not None and isinstance(error, RemoteProtocolError):
            _log.error("%s", error)
            self._worker.kill()

    async def _watch(self, worker: Worker) -> None:
        how = await worker.wait()
        try:  # what it said before it died comes first; a process of its own may hold its end open
            await asyncio.wait_for(self._link_lost.wait(), SETTLE_NS / 1e9)
        except TimeoutError:
            _log.warning("%s is gone, but something that it started keeps its connection open", worker.name)
        worker.link.close()
        self._died(worker, how)

    def _died(self, worker: Worker, how: str) -> None:
        self._cancel_alarms()
        self._forget_answers(worker)
        was, self.stage = self.stage, Stage.GONE
        if was is Stage.STARTING:
            if self._is_late:
                how = f"was not ready within {WORKER_START_NS / 1e9:g} s"
            doing = f"while it loaded {self._ref(self._loading)}" if self._loading else "before it was ready"
            if self._ready is not None and not self._ready.done():
                text = f"{worker.name} {how}" if self._is_late and not self._loading else f"{worker.name} {how} {doing}"
                self._ready.set_result([self._problem(text)])
            return
        if self._has_left:
            return
        self._gone_at_ns = self._clock.now_ns()
        for node in self.unfinished:
            node.died()
        self._whole.died(self)
        if not self.unfinished:
            return
        names = ", ".join(node.node for node in self.unfinished)
        self._loading = None
        text = self._problem(f"{worker.name} {how}; its nodes: {names}").text
        if self._is_stopping:
            for node in self.unfinished:
                node.end(NodeState.ABORTED)
            return
        delay_ns = self._delay_ns()
        if delay_ns is None:
            self._fail(text)
        else:
            _log.warning("%s; the part starts again in %.0f ms", text, delay_ns / 1e6)
            self._restarting = asyncio.get_running_loop().create_task(self._restart(delay_ns))

    def _ref(self, node: str | None) -> str:
        return "" if node is None else self.nodes[node].manifest.artifact.ref

    def _forget_answers(self, worker: Worker) -> None:
        gone = BrokenError(f"{worker.name} is gone")
        for waiting in self._snapshots.values():
            if not waiting.done():
                waiting.set_result(gone)
        self._snapshots.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        self._answers.clear()

    def _delay_ns(self) -> int | None:
        """How long to wait before it starts again: all its nodes must allow that, the most patient decides."""
        now_ns = self._clock.now_ns()
        asked = [node.budget.ask(failed=True, now_ns=now_ns) for node in self.unfinished]
        delays_ns = [delay_ns for delay_ns in asked if delay_ns is not None]
        return max(delays_ns) if len(delays_ns) == len(asked) else None

    def _fail(self, text: str) -> None:
        """All nodes failed; one of them says so for all."""
        first, *others = self.unfinished
        for node in others:
            node.end(NodeState.FAILED, None, text)
        first.end(NodeState.FAILED, BrokenError(text), text)

    async def _restart(self, delay_ns: int) -> None:
        """Start it again and go on, until it runs or the restarts are used up."""
        self.stage = Stage.RESTARTING
        for node in self.unfinished:
            node.restarts()
        await self._clock.sleep_until(self._clock.now_ns() + delay_ns)
        problems = await self.start()
        if not problems:
            await self._whole.rejoin(self)
            problems = await self.prepare()
        if not problems:
            self.go()
            names = ", ".join(node.node for node in self.unfinished)
            gone_s = (self._clock.now_ns() - self._gone_at_ns) / 1e9
            _log.warning("%s: the part runs again, after %.2f s; its nodes: %s", self.name, gone_s, names)
            return
        again_ns = self._delay_ns() if problems[0].is_worth_a_retry else None
        if again_ns is None:
            self._fail("\n".join(problem.text for problem in problems))
        else:
            _log.warning("%s; the next try comes in %.0f ms", problems[0].text, again_ns / 1e6)
            for node in self.unfinished:
                node.died()
            await self._restart(again_ns)

    # --- its end ----------------------------------------------------------------------------------------------------

    async def ask(self, kind: PartFrame, answer: PartFrame, within_ns: int) -> None:
        """Tell it something and wait for its answer, its death, or the end of the time."""
        if self.stage is not Stage.RUNNING:
            return
        waiting = self._answers[answer] = asyncio.get_running_loop().create_future()
        self.tell(kind, {})
        alarm = self._clock.call_at(
            self._clock.now_ns() + within_ns, lambda: None if waiting.done() else waiting.set_result(None)
        )
        try:
            await waiting
        finally:
            alarm.cancel()

    async def aclose(self) -> None:
        """End the process and wait until it is gone. Bounded; idempotent."""
        self._is_stopping = True
        self._cancel_alarms()
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait({self._restarting})
        worker, watching = self._worker, self._watching
        if worker is None or watching is None:
            return
        worker.link.close()  # the sign to leave
        self._link_lost.set()
        if self.stage is not Stage.RUNNING:
            worker.kill()  # it has done nothing yet
        now_ns = self._clock.now_ns()
        self._alarms = [
            self._clock.call_at(now_ns + WORKER_STOP_NS, worker.terminate),
            self._clock.call_at(now_ns + 2 * WORKER_STOP_NS, worker.kill),
        ]
        await asyncio.wait({watching})
        self._cancel_alarms()

    def _cancel_alarms(self) -> None:
        alarms, self._alarms = self._alarms, []
        for alarm in alarms:
            alarm.cancel()
