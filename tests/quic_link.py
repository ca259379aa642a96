"""Two engines joined in memory on virtual time: a link that delays, loses, reorders, repeats and cuts, by a seed."""

from __future__ import annotations

import heapq
import importlib.util
import random
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest
from quic_certs import make_ca, make_node

from flowbridge.transports.quic.engine import Closed, Connected, StreamData
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.aio.acceptor import AioquicAcceptor
    from flowbridge.transports.quic.aio.engine import AioquicEngine
    from flowbridge.transports.quic.engine import Address, EngineEvent
    from flowbridge.transports.quic.settings import EngineName

SERVER: Address = ("10.0.0.1", 4433)
CLIENT: Address = ("10.0.0.2", 5555)


ENGINES = [
    "aioquic",
    pytest.param(
        "qh3", marks=pytest.mark.skipif(importlib.util.find_spec("qh3") is None, reason="qh3 is not installed")
    ),
]
"""For tests that cannot have the fixture `quic_engine`."""

engine_name: EngineName = "aioquic"
"""That of `settings_of` when it is not told another; the fixture `quic_engine` sets it."""


def settings_of(name: str, **changes: Any) -> QuicSettings:
    """A node of the fabric "test" that is at the addresses of this module."""
    changes.setdefault("engine", engine_name)
    if changes["engine"] == "qh3" and name == "server":
        changes.setdefault("client_certificates", "none")  # it cannot ask for any
    ca = make_ca()
    node = make_node(ca, name, ("localhost", "10.0.0.1", "10.0.0.2"))
    given: dict[str, Any] = {"certificate": node.certificate, "key": node.key, "ca": ca.certificate, **changes}
    return QuicSettings(**given)


@dataclass
class Weather:
    """What the link does to each datagram, in parts of one; `delay` and `jitter` in seconds."""

    delay: float = 0.005
    jitter: float = 0.0
    loss: float = 0.0
    repeat: float = 0.0
    rate: float | None = None
    queue_bytes: int = 64 * 1024


@dataclass(order=True)
class _Flight:
    at: float
    number: int
    data: bytes = field(compare=False)
    source: Address = field(compare=False)
    target: Address = field(compare=False)


class Link:
    """A server's acceptor, one client, and the network between them."""

    def __init__(
        self,
        client: QuicSettings | None = None,
        server: QuicSettings | None = None,
        *,
        weather: Weather | None = None,
        seed: int = 0,
    ) -> None:
        self.now = 1000.0
        self.weather = weather or Weather()
        self.random = random.Random(seed)
        self.acceptor = cast("AioquicAcceptor", make_acceptor(server or settings_of("server")))
        self.client = cast("AioquicEngine", make_client(client or settings_of("client"), SERVER, self.now))
        self.server: AioquicEngine | None = None
        self.client_events: list[EngineEvent] = []
        self.server_events: list[EngineEvent] = []
        self.sent = 0
        self.delivered = 0
        self.filter: Callable[[bytes, Address], bytes | None] = lambda data, _: data
        self._flights: list[_Flight] = []
        self._number = 0
        self._free_at = {SERVER: 0.0, CLIENT: 0.0}

    # --- the clock ------------------------------------------------------------------------------------------------

    def step(self, end: float = inf) -> bool:
        """Let everybody send, then go to the next moment at which something happens; False when none is before end."""
        self.flush()
        moments = [t for engine in self._engines() if (t := engine.timer()) is not None]
        if self._flights:
            moments.append(self._flights[0].at)
        if min(moments, default=inf) > end:
            self.now = end
            return False
        if not moments:
            return False
        self.now = max(self.now, min(moments))
        while self._flights and self._flights[0].at <= self.now:
            flight = heapq.heappop(self._flights)
            self._arrive(flight)
        for engine in self._engines():
            due = engine.timer()
            if due is not None and due <= self.now:
                engine.on_timer(self.now)
        self._collect()
        return True

    def run(self, until: Callable[[], bool] | None = None, *, seconds: float = 10.0, steps: int = 200_000) -> bool:
        """Go on until something holds, or so much virtual time has passed; True when it holds."""
        end = self.now + seconds
        for _ in range(steps):
            if until is not None and until():
                return True
            if self.now >= end or not self.step(end):
                break
        return until is not None and until()

    def connect(self) -> Link:
        """Run until both sides are connected."""
        assert self.run(lambda: self.has(Connected, "client") and self.has(Connected, "server"))
        return self

    # --- what happened --------------------------------------------------------------------------------------------

    def has(self, kind: type, side: str) -> bool:
        return any(isinstance(event, kind) for event in self.of(side))

    def of(self, side: str) -> list[EngineEvent]:
        return self.client_events if side == "client" else self.server_events

    def closed(self, side: str) -> Closed:
        (event,) = [event for event in self.of(side) if isinstance(event, Closed)]
        return event

    def data(self, side: str, stream: int) -> bytes:
        return b"".join(e.data for e in self.of(side) if isinstance(e, StreamData) and e.stream == stream)

    def ended(self, side: str, stream: int) -> bool:
        return any(e.fin for e in self.of(side) if isinstance(e, StreamData) and e.stream == stream)

    # --- inside ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Put on the wire what everybody wants to send."""
        for data, target in self.client.transmit(self.now):
            self.put(data, CLIENT, target)
        if self.server is not None:
            for data, target in self.server.transmit(self.now):
                self.put(data, SERVER, target)
        for data, target in self.acceptor.transmit(self.now):
            self.put(data, SERVER, target)
        self._collect()

    def put(self, data: bytes, source: Address, target: Address) -> None:
        """A datagram starts its way, if the weather lets it."""
        self.sent += 1
        kept = self.filter(data, source)
        if kept is None or self.random.random() < self.weather.loss:
            return
        weather = self.weather
        for _ in range(2 if self.random.random() < weather.repeat else 1):
            leaves = self.now
            if weather.rate is not None:
                leaves = max(self.now, self._free_at[source])
                if (leaves - self.now) * weather.rate > weather.queue_bytes:
                    continue
                leaves += len(kept) / weather.rate
                self._free_at[source] = leaves
            at = leaves + weather.delay + self.random.random() * weather.jitter
            self._number += 1
            heapq.heappush(self._flights, _Flight(at, self._number, kept, source, target))

    def _arrive(self, flight: _Flight) -> None:
        self.delivered += 1
        if flight.target == SERVER:
            engine = self.acceptor.receive(flight.data, flight.source, self.now)
            if engine is not None:
                self.server = cast("AioquicEngine", engine)
        else:
            self.client.receive(flight.data, flight.source, self.now)

    def _engines(self) -> list[AioquicEngine]:
        return [self.client] if self.server is None else [self.client, self.server]

    def _collect(self) -> None:
        self.client_events += self.client.events()
        if self.server is not None:
            self.server_events += self.server.events()
