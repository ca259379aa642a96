"""Drive one operator of the class form by hand, as a runner would, and look at what it sends."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final

from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.errors import LocalProtocolError
from flowbridge.plan import Artifact, ArtifactKind, Origin, PluginManifest
from flowbridge.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.contracts import Clock, EventBus


def _is(value: object, kind: type) -> bool:
    """As `isinstance`, but says nothing to a type checker, which would know half of the type then."""
    return isinstance(value, kind)


class Collected:
    """Outputs that keep what is sent, in order, as (port, value)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def emit(
        self, value: Any, port: str = "out", *, deadline_ns: int | None = None, priority: int | None = None
    ) -> None:
        """Keep it."""
        self.sent.append((port, value))

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        """Keep it."""
        self.sent.append((port, value))

    async def send(self, value: Any, port: str = "out") -> None:
        """Keep it."""
        self.sent.append((port, value))

    async def keep(self, result: Any) -> None:
        """What a call of the operator returned: a value, an `Emit`, or an iterator of these."""
        if inspect.isawaitable(result):
            result = await result
        if _is(result, Iterator):
            for item in result:
                await self.keep(item)
        elif _is(result, AsyncIterator):
            async for item in result:
                await self.keep(item)
        elif isinstance(result, Emit):
            self.sent.append((result.port, result.value))
        elif result is not None:
            self.sent.append(("out", result))


class BenchContext:
    """The context of an operator on the bench: a manual clock and no bus."""

    def __init__(self, manifest: PluginManifest, clock: Clock, base_dir: str) -> None:
        self.node: Final = manifest.node
        self.manifest: Final = manifest
        self.clock: Final = clock
        self.base_dir: Final = base_dir
        self.envelope: Envelope | None = None

    @property
    def bus(self) -> EventBus:
        """Raises: LocalProtocolError, since there is none."""
        raise LocalProtocolError(f"node {self.node}: there is no bus on a bench")

    def remaining_ns(self) -> int:
        """Nanoseconds until the deadline of the message being handled."""
        deadline_ns = NO_DEADLINE if self.envelope is None else self.envelope.deadline_ns
        return deadline_ns if deadline_ns == NO_DEADLINE else deadline_ns - self.clock.now_ns()


class OperatorBench:
    """One operator and what it sent so far. Hooks that it lacks are left out, as a runner does."""

    def __init__(
        self,
        operator: object,
        *,
        node: str = "bench",
        config: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        base_dir: str = ".",
    ) -> None:
        artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="host:bench")
        manifest = PluginManifest(node=node, artifact=artifact, origin=Origin.EXTERNAL, config=config or {})
        self.operator: Final = operator
        self.context: Final = BenchContext(manifest, clock or ManualClock(), base_dir)
        self.out: Final = Collected()

    @property
    def sent(self) -> Sequence[tuple[str, Any]]:
        """Everything sent, as (port, value)."""
        return tuple(self.out.sent)

    async def _call(self, hook: str, *arguments: Any) -> Any:
        method = getattr(self.operator, hook, None)
        if method is None:
            return None
        result = method(*arguments)
        return await result if inspect.isawaitable(result) else result

    async def open(self) -> None:
        """Call `open` with the bench's context."""
        await self._call("open", self.context)

    async def process(self, port: str, value: Any, *, deadline_ns: int = NO_DEADLINE) -> None:
        """Hand over one message."""
        self.context.envelope = Envelope(value, deadline_ns=deadline_ns, origin_ns=self.context.clock.now_ns())
        try:
            await self.out.keep(await self._call("process", port, value, self.out))
        finally:
            self.context.envelope = None

    async def finish(self) -> None:
        """Say that every input has ended."""
        await self.out.keep(await self._call("finish", self.out))

    async def snapshot(self) -> Any:
        """The operator's state, None when it keeps none."""
        return await self._call("snapshot")

    async def restore(self, state: Any) -> None:
        """Give an operator that was opened its state."""
        await self._call("restore", state)

    async def close(self) -> None:
        """End its life."""
        await self._call("close")


async def run_through(operator: object, messages: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """Take an operator through its whole life and return what it sent; `close` is called after a failure too."""
    bench = OperatorBench(operator)
    try:
        await bench.open()
        for port, value in messages:
            await bench.process(port, value)
        await bench.finish()
    finally:
        await bench.close()
    return bench.sent
