"""RunningFlow: the nodes of one plan, started together, ended in order, and reported on at any moment."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.errors import FlowbridgeError
from flowbridge.machines.node import ENDED
from flowbridge.report import RunReport
from flowbridge.runtime.ending import Endings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AsyncExitStack

    from flowbridge.contracts import Clock
    from flowbridge.machines.node import NodeState
    from flowbridge.plan import Plan
    from flowbridge.report import NodeReport
    from flowbridge.runtime.books import FlowBooks

_log = logging.getLogger("flowbridge.flow")


class Supervised(Protocol):
    """One node from its start to its end, in this process or another."""

    @property
    def node(self) -> str: ...
    @property
    def state(self) -> NodeState: ...
    @property
    def report(self) -> NodeReport: ...
    async def run(self) -> None:
        """Run the node to its end. Raises: the error it failed with; CancelledError once it has stopped."""
        ...

    def drain(self) -> None:
        """Start nothing new and end when everything is through."""
        ...

    async def take_snapshot(self) -> Any:
        """The operator's state now, None when it keeps none."""
        ...

    async def close_inputs(self) -> None:
        """Take no more and send no more; it has ended afterwards."""
        ...


class Elsewhere(Protocol):
    """What of a flow runs in other processes."""

    def attach(self, trouble: Callable[[str], None], drain: Callable[[], None]) -> None:
        """Run; `trouble` hears what else belongs into the report, `drain` is called when a process is asked to end."""
        ...

    async def leave(self) -> None:
        """Every node has ended: gather the last counts and let the processes go. Bounded."""
        ...


class RunningFlow:
    """A flow that a `Host` started.

    It is done when every node that is fed by a source or timer has ended; nodes fed by the bus alone are then drained.
    When one node fails for good, the rest is aborted, because what it should have handled can go nowhere.
    """

    def __init__(
        self,
        plan: Plan,
        supervisors: Sequence[Supervised],
        books: FlowBooks,
        clock: Clock,
        resources: AsyncExitStack,
        drain_ns: int,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.plan = plan
        self._supervisors = tuple(supervisors)
        self._books = books
        self._clock = clock
        self._resources = resources
        self._drain_ns = drain_ns
        self._started_ns = clock.now_ns()
        self._ended_ns: int | None = None
        self._stopping: str | None = None  # why it was asked to stop
        self._endings = Endings(plan)
        self._drained: set[str] = set()
        self._errors: list[str] = []
        self._tasks = {s.node: asyncio.create_task(s.run(), name=f"node {s.node}") for s in self._supervisors}
        self._main = asyncio.create_task(self._oversee(), name=f"flow {plan.name}")
        self._drain_alarm: Any = None
        self._elsewhere = elsewhere
        if elsewhere is not None:
            elsewhere.attach(self._errors.append, self.drain)

    # --- what a program does with it --------------------------------------------------------------------------------

    async def wait(self) -> RunReport:
        """Return when the flow has ended, whatever the reason; the report says which."""
        await asyncio.shield(self._main)
        return self.report()

    def drain(self, status: str = "interrupted") -> None:
        """Stop the sources and let everything through; `wait` then returns with this status.

        A drain that takes longer than the host's limit becomes an abort. Nothing happens when it was stopped already.
        """
        if self._stopping is not None or self._main.done():
            return
        self._stopping = status
        self._drain_alarm = self._clock.call_at(self._clock.now_ns() + self._drain_ns, self._drain_is_late)
        for supervisor in self._supervisors:
            if supervisor.node not in self._endings.lasts:
                supervisor.drain()
        self._drain_following()

    def abort(self, status: str = "interrupted") -> None:
        """Stop at once; what is in flight is counted as dropped by `abort`. Nothing happens when it has ended."""
        if self._main.done():
            return
        self._stopping = status
        for task in self._tasks.values():
            task.cancel()

    async def snapshot(self) -> dict[str, Any]:
        """The state of every node that keeps one, by node id; give it to `Host.start` to go on from it."""
        states = {s.node: await s.take_snapshot() for s in self._supervisors}
        return {node: state for node, state in states.items() if state is not None}

    def report(self) -> RunReport:
        """What has happened so far; cheap enough to ask several times a second."""
        edges = self._books.edges()
        nodes = {s.node: s.report for s in self._supervisors}
        for node in nodes.values():
            node.missed = 0
        for route in self.plan.routes:
            if route.target_node in nodes and route.id in edges:
                nodes[route.target_node].missed += edges[route.id].books.missed.total
        ended_ns = self._ended_ns if self._ended_ns is not None else self._clock.now_ns()
        return RunReport(
            flow=self.plan.name,
            digest=self.plan.digest,
            status=self._status(),
            duration_s=(ended_ns - self._started_ns) / 1e9,
            nodes=nodes,
            edges=edges,
            paths=self._books.paths(),
            errors=list(self._errors),
        )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._ended_ns is None

    async def aclose(self) -> None:
        """Abort if it still runs, and leave nothing behind."""
        if not self._main.done():
            self.abort()
        await self.wait()

    # --- how it ends ------------------------------------------------------------------------------------------------

    async def _oversee(self) -> None:
        pending = set(self._tasks.values())
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._note(task)
                self._drain_following()
        finally:
            await self._leave()

    def _note(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        failed = next(s for s in self._supervisors if self._tasks[s.node] is task)
        self._errors.append(failed.report.error or str(error))
        if not isinstance(error, FlowbridgeError):
            _log.error("node %s ended by a fault of flowbridge", failed.node, exc_info=error)
        for other in self._tasks.values():
            other.cancel()

    async def _leave(self) -> None:
        if self._drain_alarm is not None:
            self._drain_alarm.cancel()
        await asyncio.gather(*(supervisor.close_inputs() for supervisor in self._supervisors))
        if self._elsewhere is not None:
            await self._elsewhere.leave()
        await self._resources.aclose()
        self._ended_ns = self._clock.now_ns()

    def _drain_is_late(self) -> None:
        busy = [s.node for s in self._supervisors if s.state not in ENDED]
        self._errors.append(
            f"the drain took longer than {self._drain_ns / 1e9:g} s, so it was aborted; still busy: {', '.join(busy)}"
        )
        self.abort()

    def _drain_following(self) -> None:
        """Drain the nodes fed by the bus alone whose time has come."""
        if not self._endings.lasts:
            return
        ended = {s.node for s in self._supervisors if s.state in ENDED}
        following = self._endings.following(ended, self._drained)
        self._drained.update(following)
        for supervisor in self._supervisors:
            if supervisor.node in following:
                supervisor.drain()

    def _status(self) -> str:
        if self._ended_ns is None:
            return "running"
        if self._errors:
            return "failed"
        return self._stopping or "done"
