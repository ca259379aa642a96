"""Both ends of a route over a link, in one process, for tests: real sockets, real rings, no waiting for time."""

from __future__ import annotations

import socket
from asyncio import sleep
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.plan import Plane, Policy, Qos, Route
from flowbridge.testing.clock import ManualClock
from flowbridge.transports.uds import UdsTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from flowbridge.transports.link_port import LinkSink, LinkSource

KINDS: Final = ("ring", "socket")
TURNS_MAX: Final = 20_000


def route_of(qos: Qos | None = None) -> Route:
    """A route of this QoS."""
    return Route(
        id="a/out->b/in",
        plane=Plane.DATA,
        source_node="a",
        source_port="out",
        target_node="b",
        target_port="in",
        qos=qos or Qos(policy=Policy.BLOCK),
    )


def message(
    seq: int,
    payload: Any = b"x",
    *,
    lane: int = Priority.NORMAL,
    size_bytes: int = 1,
    deadline_ns: int = NO_DEADLINE,
    headers: dict[str, str | int] | None = None,
) -> Envelope:
    """One message, known by its number."""
    return Envelope(payload, lane, deadline_ns, 0, 0, size_bytes, seq, None, None, headers)


class Pair:
    """A sink and a source, and the transport that joins them."""

    def __init__(self, transport: UdsTransport, clock: ManualClock, route: Route) -> None:
        self.transport = transport
        self.clock = clock
        self.route = route
        self.sink: LinkSink
        self.source: LinkSource
        self.lost: list[tuple[str, Exception]] = []
        self.sockets: list[socket.socket] = []

    async def open(self) -> None:
        """Join them."""
        near, far = self._sockets()
        self.source = await self.transport.open_source(self.route, far)
        self.sink = await self.transport.open_sink(self.route, near)

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        self.sockets = [near, far]
        return near, far

    def keep(self) -> None:
        """Note losses instead of breaking the route."""
        self.sink.on_lost = lambda error: self.lost.append(("sink", error))
        self.source.on_lost = lambda error: self.lost.append(("source", error))

    def cut(self) -> None:
        """Lose the link, as when both processes at its ends were replaced."""
        for end in self.sockets:
            end.shutdown(socket.SHUT_RDWR)

    def rejoin(self) -> None:
        """Join them again."""
        near, far = self._sockets()
        self.transport.rejoin_source(self.source, self.route, far)
        self.transport.rejoin_sink(self.sink, self.route, near)

    async def replace(self, *, consumer: bool = False, producer: bool = False) -> None:
        """Join them again, one of them or both by a successor."""
        near, far = self._sockets()
        if consumer:
            self.source = await self.transport.open_source(self.route, far)
        else:
            self.transport.rejoin_source(self.source, self.route, far)
        if producer:
            self.sink = await self.transport.open_sink(self.route, near)
        else:
            self.transport.rejoin_sink(self.sink, self.route, near)
        self.keep()

    def take_all(self) -> list[Envelope]:
        """Take and settle what is there."""
        found: list[Envelope] = []
        while taken := self.source.take(100):
            found += taken
            self.source.settle(taken)
        return found


@asynccontextmanager
async def joined(kind: str, qos: Qos | None = None) -> AsyncGenerator[Pair]:
    """A pair over a link of this kind."""
    clock = ManualClock()
    problem = None if kind == "ring" else "switched off"
    with patch("flowbridge.transports.uds.transport.native_problem", lambda: problem):
        async with UdsTransport(clock) as transport:
            pair = Pair(transport, clock, route_of(qos))
            await pair.open()
            yield pair


async def calm(turns: int = 40) -> None:
    """Let links bring what they have: each step takes a turn or two of the loop."""
    for _ in range(turns):
        await sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Turn the loop until something is so."""
    for _ in range(TURNS_MAX):
        if condition():
            return
        await sleep(0)
    raise AssertionError("it never came to be so")
