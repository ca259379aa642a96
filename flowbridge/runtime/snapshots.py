"""Snapshots: the state of a node that is kept for a restart, and with it how far its inputs were handled.

Inputs of `effectively_once` settle a message only when a snapshot that knows it is safe: with the host, or at once
where the node runs in its process. Such a node is woken for a snapshot, as no message may come before one is safe.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, cast

from flowbridge.errors import OperatorError, OperatorLoadError
from flowbridge.plan import Delivery, Plane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.placing import SettlingSource
    from flowbridge.plan import PluginManifest
    from flowbridge.runtime.binding import Bound
    from flowbridge.runtime.inlet import Inlet


class Snapshots:
    """Those of one node."""

    def __init__(
        self, manifest: PluginManifest, inlets: Sequence[Inlet], clock: Clock, on_refused: Callable[[], None]
    ) -> None:
        """`on_refused` is called when the next `keep` will raise: the node must not sleep."""
        self.state: Any = None
        """What the last one holds, or what the node was given to go on from."""
        self.marks: dict[str, list[int]] = {}
        """What the last one knows of each input, by route; see `placing.SettlingSource.mark`."""
        self.number = 0
        """How many were taken."""
        self.on_taken: Callable[[], None] | None = None
        """Brings it to safety and then calls `is_safe`; without, it is safe as soon as it is taken."""
        self._on_refused = on_refused
        self._node = manifest.node
        self._period_ns = manifest.snapshot_ns
        self._clock = clock
        self._sources = {
            inlet.route.id: cast("SettlingSource", inlet.source)
            for inlet in inlets
            if inlet.route.plane is Plane.DATA and inlet.route.qos.delivery is Delivery.EFFECTIVELY_ONCE
        }
        self._due_ns: int | None = None
        self._safe = 0
        self._problem: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def is_settling(self) -> bool:
        """Whether inputs wait for them."""
        return bool(self._sources)

    def check(self, bound: Bound) -> None:
        """Raises: OperatorLoadError when inputs wait for snapshots that this operator does not take."""
        missing = [name for name in ("snapshot", "restore") if getattr(bound, name) is None]
        if self._sources and (missing or self._period_ns is None):
            lacks = f"its operator has no {' and no '.join(missing)}" if missing else "it has no `snapshot:` period"
            raise OperatorLoadError(self._node, f"{next(iter(self._sources))}: delivery effectively_once, but {lacks}")

    def resume(self, state: Any, marks: Mapping[str, Sequence[int]]) -> None:
        """Begin, from a state and what it knows."""
        self.state = state
        for route, source in self._sources.items():
            source.resume(marks.get(route, ()))

    def for_restore(self) -> Any:
        """The state, for an operator that may change it."""
        return self._copied(self.state) if self._sources else self.state

    def rewind(self) -> None:
        """An operator begins from `state`: what was handled since then comes again."""
        for source in self._sources.values():
            source.rewind()

    def _is_ahead(self) -> bool:
        return any(source.is_ahead for source in self._sources.values())

    def wake_by(self, until_ns: int | None) -> int | None:
        """Until when a node may sleep that would until then (None: until a message comes): the next may be due."""
        if self._due_ns is None or not self._is_ahead():
            return until_ns
        return self._due_ns if until_ns is None else min(self._due_ns, until_ns)

    async def keep(self, call: Callable[..., Awaitable[Any]], take: Callable[[], Any] | None) -> None:
        """Take one if it is time. Raises: OperatorError."""
        self._check()
        now_ns = self._clock.now_ns()
        if self._period_ns is not None and take is not None and (self._due_ns is None or now_ns >= self._due_ns):
            self._due_ns = now_ns + self._period_ns
            await self._take(call, take)

    async def finish(self, call: Callable[..., Awaitable[Any]], take: Callable[[], Any] | None) -> None:
        """Every input has ended: return once all of it is known to a snapshot that is safe."""
        if not self._sources or take is None:
            return
        if self._is_ahead():
            await self._take(call, take)
        while self._safe < self.number:
            self._check()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    async def _take(self, call: Callable[..., Awaitable[Any]], take: Callable[[], Any]) -> None:
        state = await call(take)
        if self._sources:
            state = self._copied(state)
        self.state = state
        self.number += 1
        self.marks = {route: source.mark(self.number) for route, source in self._sources.items()}
        if not self._sources:
            return
        if self.on_taken is None:
            self.is_safe(self.number)
        else:
            self.on_taken()

    def _copied(self, state: Any) -> Any:
        """What the operator goes on changing must not change the snapshot: messages are left out because of it."""
        if state is None:
            raise OperatorError(self._node, "snapshot: gave None, which nothing can go on from")
        try:
            return copy.deepcopy(state)
        except Exception as error:
            raise OperatorError(self._node, f"snapshot: cannot be copied: {type(error).__name__}: {error}") from error

    def is_safe(self, number: int) -> None:
        """The snapshot of this number will be there after a death, or a later one."""
        if self._safe < number <= self.number:
            self._safe = number
            for source in self._sources.values():
                source.is_safe(number)
            self._wake()

    def refuse(self, problem: Exception) -> None:
        """The last one cannot be brought to safety: no input could go on."""
        if self._sources:
            self._problem = problem
            self._wake()
            self._on_refused()

    def _check(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise OperatorError(self._node, f"snapshot: {problem}") from problem

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
