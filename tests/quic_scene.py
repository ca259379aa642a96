"""Hosts with the QUIC tier on virtual time: transports, ports and buses between machines that are simulated.

async def scenario(seed: int) -> None:
    async with Scene(seed, "edge") as scene:
        pair = await scene.join(route_of("a/out->b/in"), "edge")
        await pair.sink.send(message(0, b"x"))

What a host does runs in its process: `Scene.on` says where.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from quic_certs import make_ca, make_node

from flowbridge.addresses import NodeAddress
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import AuthError, EndOfStream, ResourceError
from flowbridge.plan import ContentType, Placement, Plane, Policy, Qos, Route
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import pause, run_simulated
from flowbridge.transports.quic.settings import QuicSettings
from flowbridge.transports.quic.transport import QuicTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowbridge.addresses import PeerIdentity
    from flowbridge.placing import NodeListener, PartLink
    from flowbridge.testing.network import SimulatedHost
    from flowbridge.transports.link_port import LinkSink, LinkSource

T = TypeVar("T")

PORT: Final = 4433
HERE: Final = Placement()
RESET_KEY: Final = b"0123456789abcdef"
HOME: Final = "home"
MBIT: Final = 125_000
"""Bytes a second."""


def route_of(name: str = "a/out->b/in", qos: Qos | None = None, content_type: ContentType = ContentType.BYTES) -> Route:
    """A route of this QoS."""
    return Route(
        id=name,
        plane=Plane.DATA,
        source_node="a",
        source_port="out",
        target_node="b",
        target_port="in",
        qos=qos or Qos(policy=Policy.BLOCK),
        content_type=content_type,
    )


def message(
    seq: int,
    payload: Any = b"x",
    *,
    lane: int = Priority.NORMAL,
    deadline_ns: int = NO_DEADLINE,
    origin_ns: int = 0,
) -> Envelope:
    """One message, known by its number; it costs as many bytes of credit as its payload has."""
    size_bytes: int = payload.nbytes if hasattr(payload, "nbytes") else len(payload)
    return Envelope(payload, lane, deadline_ns, origin_ns, 0, size_bytes, seq)


def _no_host(link: PartLink, identity: PeerIdentity) -> None:
    raise AuthError(f"{identity} may run nothing here: {link.peer}")


class Machine:
    """A host with a clock of its own and a transport; its name is that in its certificate."""

    def __init__(self, host: SimulatedHost, clock: VirtualClock, addresses: dict[str, NodeAddress]) -> None:
        self.host = host
        self.clock = clock
        self.addresses = addresses
        self.transport: QuicTransport
        self.listener: NodeListener  # of one that listens

    @property
    def name(self) -> str:
        return self.host.name

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something there, and wait for it."""
        return await self.host.start(coroutine)

    async def start(self, *, listens: bool, **settings: Any) -> None:
        """A new process with a transport, and a node if it listens."""
        ca = make_ca()
        node = make_node(ca, self.name, (self.name,))
        given = QuicSettings(
            certificate=node.certificate, key=node.key, ca=ca.certificate, reset_key=RESET_KEY, **settings
        )

        async def begin() -> None:
            self.transport = QuicTransport(self.clock, nodes=self.addresses, settings=given)
            if listens:
                self.listener = await self.transport.serve_node(NodeAddress("0.0.0.0", PORT), self.name, _no_host)

        await self.run(begin())


@dataclass
class Pair:
    """Both ends of a route between two machines, and what came out of it."""

    route: Route
    near: Machine
    far: Machine
    sink: LinkSink
    source: LinkSource
    came: list[tuple[Envelope, int]] = field(default_factory=list[tuple[Envelope, int]])
    """Messages in the order in which they came, and when by the consumer's clock."""
    late: int = 0

    def consume(self, pause_s: float = 0.0, *, keeps: bool = True) -> asyncio.Task[None]:
        """Take what comes until the end, or until the producer is gone."""
        return self.far.host.start(self._consume(pause_s, keeps))

    async def _consume(self, pause_s: float, keeps: bool) -> None:
        try:
            while True:
                with await self.source.receive() as envelope:
                    if keeps:
                        self.came.append((envelope, self.far.clock.now_ns()))
                    if pause_s:
                        await pause(pause_s)
        except (EndOfStream, ResourceError):
            return

    def send(self, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Run a producer where the producer is."""
        return self.near.host.start(coroutine)

    async def finish(self) -> None:
        """Say that nothing more comes, and wait until the consumer has seen it."""

        async def end() -> None:
            await self.sink.finish()
            await self.sink.flushed()

        await self.near.run(end())

    @property
    def seqs(self) -> list[int]:
        """The numbers of what came."""
        return [envelope.seq for envelope, _ in self.came]

    def latencies_ms(self, skip: int = 0) -> list[float]:
        """How long each took from `origin_ns`, when both clocks are the same; sorted."""
        return sorted((at_ns - envelope.origin_ns) / 1e6 for envelope, at_ns in self.came[skip:])


def percentile(values: Sequence[float], fraction: float) -> float:
    """Of sorted values: the one that this part of them does not exceed."""
    return values[min(len(values) - 1, int(len(values) * fraction))]


class Scene:
    """A home that dials, and nodes that listen, on one network."""

    def __init__(self, seed: int, *nodes: str, **conditions: Any) -> None:
        self.network = SimulatedNetwork(seed, keeps_trace=False)
        self.conditions = {"delay_s": 0.01, **conditions}
        self.skews: dict[str, tuple[int, int]] = {}
        """By machine: how many nanoseconds its clock is ahead, and how many millionths it is fast."""
        self.settings: dict[str, Any] = {}
        """Of every transport, beside its certificate."""
        self.home_settings: dict[str, Any] = {}
        """... and of that of home."""
        self._nodes = nodes
        self.machines: dict[str, Machine] = {}

    async def __aenter__(self) -> Self:
        addresses = {name: NodeAddress(name, PORT) for name in self._nodes}
        for number, name in enumerate((HOME, *self._nodes)):
            host = self.network.host(name, f"10.0.0.{number + 1}")
            skew_ns, drift_ppm = self.skews.get(name, (0, 0))
            clock = VirtualClock(skew_ns=skew_ns, drift_ppm=drift_ppm)
            self.machines[name] = Machine(host, clock, addresses)
        names = list(self.machines)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                self.network.condition(one, other, **self.conditions)
        for name, machine in self.machines.items():
            await machine.start(listens=name != HOME, **self.settings, **(self.home_settings if name == HOME else {}))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for machine in self.machines.values():
            if not machine.host.process.is_killed:
                await machine.run(machine.transport.aclose())

    @property
    def home(self) -> Machine:
        return self.machines[HOME]

    def node(self, name: str) -> Machine:
        return self.machines[name]

    async def ends(self, route: Route, near: str, far: str) -> tuple[Any, Any]:
        """What both ends of a route need, as the host gives it to its parts."""
        places = [HERE if name == HOME else Placement(host=name) for name in (near, far)]
        return await self.home.transport.join(route, *places)

    async def join(self, route: Route, near: str, far: str) -> Pair:
        """A route from one machine to another."""
        end, other = await self.ends(route, near, far)
        producer, consumer = self.machines[near], self.machines[far]
        sink = producer.host.start(producer.transport.open_sink(route, end))
        source = consumer.host.start(consumer.transport.open_source(route, other))
        return Pair(route, producer, consumer, await sink, await source)

    async def rejoin(self, pair: Pair) -> None:
        """Let the producer's end of a route go on with a consumer in a new process on the same machine."""
        near, far = pair.near, pair.far
        end, other = await self.ends(pair.route, near.name, far.name)

        async def begin() -> None:
            near.transport.rejoin_sink(pair.sink, pair.route, end)

        await near.run(begin())
        pair.source = await far.run(far.transport.open_source(pair.route, other))


async def until(condition: Callable[[], bool], within_s: float) -> float:
    """Look every ten virtual milliseconds whether something holds, for so long; returns how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition() and loop.time() - began < within_s:
        await pause(0.01)
    return loop.time() - began


def simulate(scenario: Callable[[int], Coroutine[Any, Any, T]], seed: int = 1, until_s: float = 10_000) -> T:
    """Run a scenario and return its result."""
    return run_simulated(scenario, seed=seed, until_s=until_s)
