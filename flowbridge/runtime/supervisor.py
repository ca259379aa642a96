"""Supervisor: gives a node its operator, runs it, and starts it again when its restart policy says so."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from flowbridge.errors import FlowbridgeError, OperatorError, OperatorLoadError
from flowbridge.machines.node import ENDED, NodeState, follow
from flowbridge.machines.restart import RestartBudget
from flowbridge.plan import RestartWhen
from flowbridge.runtime.binding import bind
from flowbridge.runtime.call import said
from flowbridge.runtime.context import Outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from flowbridge.contracts import Clock
    from flowbridge.report import NodeReport
    from flowbridge.runtime.binding import Bound
    from flowbridge.runtime.context import Context
    from flowbridge.runtime.runner import NodeRunner

_log = logging.getLogger("flowbridge.node")


class Supervisor:
    """One node from its start to its end."""

    def __init__(
        self,
        runner: NodeRunner,
        context: Context,
        made: Any,
        config: Mapping[str, Any],
        clock: Clock,
        *,
        where: str,
        schema: Any = None,
    ) -> None:
        self.runner = runner
        self.node = runner.node
        self.state = NodeState.STARTING
        self._context = context
        self._made = made
        self._config = config
        self._clock = clock
        self._where = where
        self._schema = schema  # the Arrow schema of port `out`, for rows that are gathered
        self._budget = RestartBudget(runner.manifest.restart)
        self._draining = False
        self._is_through = False  # it ran to its end and has only to close
        self._pause: asyncio.Future[None] | None = None
        self._bound: Bound | None = self._bind()

    @property
    def report(self) -> NodeReport:
        """What has happened to the node so far."""
        return self.runner.report

    def _bind(self) -> Bound:
        manifest = self.runner.manifest
        outbox = Outbox(self.node, self.runner.send_now)
        bound = bind(self.node, self._made, self._config, self._context, outbox, source=self.runner.is_source)
        if manifest.per.value == "record":
            from flowbridge.runtime.record import per_record

            per_record(bound, self._schema)
        if manifest.thread and bound.is_async:
            raise OperatorLoadError(self.node, "is asynchronous, so `thread: true` has no meaning for it")
        if manifest.thread and self.runner.is_source:
            raise OperatorLoadError(self.node, "is a source, so `thread: true` has no meaning for it")
        self.runner.equip(bound, self._context, outbox)
        return bound

    def drain(self) -> None:
        """Start nothing new and end when everything is through."""
        self._draining = True
        self.runner.drain()
        if self._pause is not None and self.runner.is_source and not self._pause.done():
            self._pause.set_result(None)  # a source that rests has nothing to finish

    async def run(self) -> None:
        """Run the node to its end. Raises: the error it failed with, after its restarts were used up."""
        while True:
            failure = await self._attempt(self._run_once)
            delay_ns = self._delay_ns(failure)
            if delay_ns is None:
                break
            self._enter(NodeState.RESTARTING)
            self.runner.report.restarts += 1
            _log.warning("node %s starts again in %.0f ms: %s", self.node, delay_ns / 1e6, failure or "it ended")
            await self._rest(delay_ns)
            if self._draining and self.runner.is_source:
                failure = None
                break
            self._bound = None
        if failure is None:
            failure = await self._attempt(self._end)
        if failure is None:
            self._enter(NodeState.DONE)
            return
        self.runner.report.error = f"{self._where}: {failure}"
        self._enter(NodeState.FAILED)
        raise failure

    async def _attempt(self, deed: Callable[[], Awaitable[None]]) -> FlowbridgeError | None:
        """Do something; returns the failure, named. Raises: CancelledError when it was this node that was cancelled."""
        try:
            await deed()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                self._enter(NodeState.ABORTED)
                raise
            return self._named("what it waited for was cancelled", error)
        except FlowbridgeError as error:
            return error
        except (Exception, SystemExit) as error:  # an operator that calls exit() ends its node, not the process
            return self._named(said(error), error)
        return None

    def _named(self, message: str, cause: BaseException) -> FlowbridgeError:
        failure = OperatorError(self.node, message)
        failure.__cause__ = cause
        return failure

    async def _rest(self, delay_ns: int) -> None:
        """Wait before a restart; a drain wakes a source."""
        pause = self._pause = asyncio.get_running_loop().create_future()
        alarm = self._clock.call_at(
            self._clock.now_ns() + delay_ns, lambda: None if pause.done() else pause.set_result(None)
        )
        try:
            await pause
        finally:
            self._pause = None
            alarm.cancel()

    def _delay_ns(self, failure: FlowbridgeError | None) -> int | None:
        restart = self.runner.manifest.restart
        if failure is None and (self._draining or not self.runner.is_source or restart.when is not RestartWhen.ALWAYS):
            return None
        if self._is_through:  # it failed to close: there is nothing left to do again
            return None
        return self._budget.ask(failed=failure is not None, now_ns=self._clock.now_ns())

    async def _run_once(self) -> None:
        if self._bound is None:
            self._bound = self._bind()
        bound, runner = self._bound, self.runner
        self._is_through = False
        try:
            if bound.open is not None:
                await runner.hook(bound.open, self._context)
            if bound.restore is not None and runner.snapshots.state is not None:
                await runner.hook(bound.restore, runner.snapshots.for_restore())
            runner.snapshots.rewind()
            self._enter(NodeState.RUNNING)
            await runner.run()
        except BaseException:
            await self._close_after_failure(bound)
            raise
        self._is_through = not self._ends_again()
        if bound.close is not None:
            await runner.hook(bound.close)

    async def _close_after_failure(self, bound: Bound) -> None:
        """Close the operator; the failure that was there first is the one that counts."""
        if bound.close is None:
            return
        try:
            await self.runner.hook(bound.close)
        except Exception as error:
            _log.warning("%s", error)

    async def _end(self) -> None:
        """End the outputs, and take nothing more from inputs that do not end by themselves."""
        await self.runner.end()
        for inlet in self.runner.inlets:
            await inlet.source.aclose()

    def _ends_again(self) -> bool:
        """Whether a source that ended is to be started again."""
        restart = self.runner.manifest.restart
        return self.runner.is_source and restart.when is RestartWhen.ALWAYS and not self._draining

    async def take_snapshot(self) -> Any:
        """The operator's state now, None when it keeps none. While it does not run: what it is to go on from."""
        if self.state not in {NodeState.RUNNING, NodeState.DONE}:
            return self.runner.snapshots.state
        if self._bound is None or self._bound.snapshot is None:
            return None
        return await self.runner.hook(self._bound.snapshot)

    async def close_inputs(self) -> None:
        """Take no more and send no more: what is in flight is counted as dropped by `abort`."""
        self.runner.abandon()
        if self.state not in ENDED:  # stopped before its first step
            self._enter(NodeState.ABORTED)
        for inlet in self.runner.inlets:
            await inlet.source.aclose()

    def _enter(self, state: NodeState) -> None:
        self.state = follow(self.state, state)
        self.runner.report.state = state.value
