"""One node between two rings, whose other ends another thread has: with a pump, or on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from flow_scene import compiled, flow_text
from process_scene import until

from flowbridge.errors import BrokenError, FlowbridgeError
from flowbridge.runtime.assembly import Assembly
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.turn import Turns
from flowbridge.transports.inproc import InprocTransport
from flowbridge.transports.uds import UdsTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Plan, Route
    from flowbridge.report import NodeReport
    from flowbridge.runtime.supervisor import Supervisor
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.link_port import LinkSink
    from flowbridge.transports.link_source import LinkSource

PATIENCE_S = 30.0


class Far:
    """The other ends: a sink into the node, a source out of it, on the loop of a thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sink: LinkSink
        self.source: LinkSource
        self.got: list[Envelope] = []

    async def take(self) -> None:
        """Take all that comes, until the end or the loss of the node."""
        with contextlib.suppress(BrokenError):
            await self._take()

    async def _take(self) -> None:
        news = asyncio.Event()
        self.source.on_news(news.set)
        while not self.source.ended:
            while taken := self.source.take(64):
                self.got += taken
                self.source.settle(taken)
            if self.source.ended:
                return
            await news.wait()
            news.clear()


Drive = "Callable[[Far], Coroutine[Any, Any, None]]"


class Scene:
    """What is to be seen of a run."""

    def __init__(self) -> None:
        self.clock: Any = SystemClock()
        self.values: list[Any] = []
        self.books: dict[str, EdgeBooks] = {}
        self.report: NodeReport
        self.error: FlowbridgeError | None = None
        self.waits: Counter[bool] = Counter()
        """How often the source was waited for without the loop: with and without success."""
        self.supervisor: Supervisor
        self.node: asyncio.Task[None]
        self.kept: Any = None

    def _plan(self, node: str, into: str) -> tuple[Plan, Route, Route]:
        text = flow_text(
            "id: a, operator: host:a",
            f"id: b, operator: host:b, inputs: {{in: {into}}}{', ' if node else ''}{node}",
            "id: c, operator: host:c, inputs: {in: b/out}",
        )
        plan = compiled(text)
        first = next(route for route in plan.routes if route.target_node == "b")
        second = next(route for route in plan.routes if route.target_node == "c")
        return plan, first, second

    def _far(self, ends: tuple[socket.socket, socket.socket], routes: tuple[Route, Route], drive: Any) -> None:
        async def main() -> None:
            async with UdsTransport(self.clock) as transport:
                far = Far(self.clock)
                far.sink = await transport.open_sink(routes[0], ends[0])
                far.source = await transport.open_source(routes[1], ends[1])
                taking = asyncio.create_task(far.take())
                async with asyncio.timeout(PATIENCE_S):
                    await drive(far)
                    with contextlib.suppress(FlowbridgeError):
                        await far.sink.finish()
                        await far.sink.flushed()
                    await taking
                    with contextlib.suppress(AssertionError):  # a node that failed says nothing more
                        await until(lambda: not far.sink.books.in_flight, "it is known how all ended", 1.0)
                self.values += [envelope.payload for envelope in far.got]
                self.books["a"], self.books["c"] = far.sink.books, far.source.books

        asyncio.run(main())

    async def run(
        self,
        operator: Any,
        drive: Callable[[Far], Coroutine[Any, Any, None]],
        *,
        pumps: bool,
        node: str = "",
        into: str = "a/out",
        meanwhile: Callable[[Scene], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Run the node on this thread while another drives its routes; waits for both."""
        plan, first, second = self._plan(node, into)
        near_in, far_in = socket.socketpair()
        near_out, far_out = socket.socketpair()
        thread = threading.Thread(target=self._far, args=((far_in, far_out), (first, second), drive))
        async with AsyncExitStack() as resources:
            transport = await resources.enter_async_context(UdsTransport(self.clock))
            near = InprocTransport(self.clock)
            resources.push_async_callback(near.aclose)
            source = _Counting(self.waits)
            await source.open(transport, first, near_in)
            sink = await transport.open_sink(second, near_out)
            thread.start()
            assembly = Assembly(
                plan,
                ["b"],
                bus=await near.open_bus(),
                clock=self.clock,
                transport=lambda _: asyncio.sleep(0, near),
                operators={"b": operator},
                turns=Turns(),
                resources=resources,
                owns_loop=pumps,
            )
            assert not assembly.load()
            await assembly.open({second.id: sink}, {first.id: source.source})
            (self.supervisor,), problems = assembly.supervise({})
            assert not problems
            self.report = self.supervisor.report
            self.node = asyncio.create_task(self.supervisor.run())
            others = [] if meanwhile is None else [asyncio.create_task(meanwhile(self))]
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(self.node, *others)
            except FlowbridgeError as error:
                self.error = error
                await self.supervisor.close_inputs()
            except asyncio.CancelledError:
                await self.supervisor.close_inputs()
            finally:
                if self.report.state != "done":
                    await asyncio.sleep(0.01)  # a last report of what ended
                    sink.close()
                await asyncio.to_thread(thread.join)
            self.books["b"], self.books["b out"] = source.source.books, sink.books
            self.paths = list(assembly.paths.reports())


class _Counting:
    """Counts how often a source is waited for."""

    def __init__(self, waits: Counter[bool]) -> None:
        self.waits = waits
        self.source: Any

    async def open(self, transport: UdsTransport, route: Route, sock: socket.socket) -> None:
        """Open the source."""
        inner = await transport.open_source(route, sock)
        self.source = _Source(inner, self.waits)


class _Source:
    """The source itself but for one call. An object around it, because its class has no room for more."""

    def __init__(self, inner: LinkSource, waits: Counter[bool]) -> None:
        self._inner = inner
        self._waits = waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def wait_blocking(self, timeout_ns: int) -> bool:
        """As the source does."""
        came = self._inner.wait_blocking(timeout_ns)
        if timeout_ns:
            self._waits[came] += 1
        return came

    def leave_to_loop(self) -> None:
        """As the source does."""
        self._inner.leave_to_loop()


def ran(operator: Any, drive: Any, *, pumps: bool, **given: Any) -> Scene:
    """A scene that was played to its end."""
    scene = Scene()
    asyncio.run(scene.run(operator, drive, pumps=pumps, **given))
    return scene
