"""RemoteNode: stands in a running flow for a node whose operator runs in another process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.machines.node import ENDED, NodeState
from flowbridge.machines.restart import RestartBudget
from flowbridge.report import NodeReport
from flowbridge.time.histogram import Histogram

if TYPE_CHECKING:
    from flowbridge.errors import FlowbridgeError
    from flowbridge.plan import PluginManifest
    from flowbridge.runtime.kept import PackedState


class Conductor(Protocol):
    """Who speaks to the process of a node."""

    def drain(self, node: RemoteNode) -> None: ...
    def abort(self, node: RemoteNode) -> None: ...
    async def snapshot(self, node: RemoteNode) -> Any: ...


class RemoteNode:
    """One node from its start to its end; see `flow.Supervised`."""

    def __init__(self, manifest: PluginManifest, conductor: Conductor) -> None:
        self.manifest = manifest
        self.node = manifest.node
        self.state = NodeState.STARTING
        self.report = NodeReport(self.node, Histogram(), process=manifest.place.name)
        self.budget = RestartBudget(manifest.restart)
        self.kept: PackedState | None = None
        """The last snapshot, for a restart of its process."""
        self.marks: dict[str, Any] = {}
        """What that knows of the inputs, as the process told it."""
        self.is_draining = False
        self._conductor = conductor
        self._past: NodeReport | None = None  # of earlier processes
        self._end: asyncio.Future[FlowbridgeError | None] = asyncio.get_running_loop().create_future()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self._end.done()

    async def run(self) -> None:
        """Return when it has ended. Raises: the error it failed with; CancelledError once it has stopped."""
        try:
            failure = await asyncio.shield(self._end)
        except asyncio.CancelledError:
            await self._stopped()
            raise
        if failure is not None:
            raise failure

    async def _stopped(self) -> None:
        """Stop it and wait for that; the conductor sees to it that this takes a bounded time."""
        if not self._end.done():
            self._conductor.abort(self)
        while not self._end.done():
            try:
                await asyncio.wait({self._end})
            except asyncio.CancelledError:
                continue  # it is being stopped already

    def drain(self) -> None:
        """Start nothing new and end when everything is through."""
        self.is_draining = True
        self._conductor.drain(self)

    async def take_snapshot(self) -> Any:
        """The operator's state now, packed; None when it keeps none."""
        return await self._conductor.snapshot(self)

    async def close_inputs(self) -> None:
        """Stop it if it still runs."""
        await self._stopped()

    # --- what its process tells ---------------------------------------------------------------------------------

    def reported(self, report: NodeReport) -> None:
        """Take in what happened to it since its process started."""
        past = self._past
        if past is not None:
            report.processed += past.processed
            report.errors += past.errors
            report.restarts += past.restarts
            report.latency.merge(past.latency)
        self.report = report
        self.state = NodeState(report.state)

    def died(self) -> None:
        """Its process is gone: what it had done stays."""
        self._past = self.report
        self.report = self._like(self.report)

    def restarts(self) -> None:
        """Another process is about to run it."""
        assert self._past is not None, f"node {self.node}: its process did not die"
        self._past.restarts += 1
        self.report = self._like(self._past)
        self.report.restarts = self._past.restarts
        self._enter(NodeState.RESTARTING)

    @staticmethod
    def _like(past: NodeReport) -> NodeReport:
        return NodeReport(
            past.node, past.latency.copy(), past.state, past.processed, past.errors, past.restarts, process=past.process
        )

    def end(self, state: NodeState, failure: FlowbridgeError | None = None, text: str | None = None) -> None:
        """It has ended, in `state`; `text` is what the report says of it. The first end counts."""
        if self._end.done():
            return
        self._enter(state)
        if text is not None:
            self.report.error = text
        self._end.set_result(failure)

    def _enter(self, state: NodeState) -> None:
        # A table of states stands in the worker; from here some are not seen.
        assert not self._end.done() or state in ENDED, f"node {self.node} has ended"
        self.state = state
        self.report.state = state.value
