"""Sessions on virtual time: connections that are cut, forgotten, superseded and rebound, and streams that go on."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from quic_certs import make_ca, make_node

from flowbridge.codec.codes import Code
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import BrokenError, FlowbridgeError, ResourceError
from flowbridge.limits import LEASE_NS, SUCCEEDED_LEASE_MS
from flowbridge.testing.network import SimulatedHost, SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import EngineListener, EngineWire, listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.session_state import SessionState
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.stream import SessionStream

PORT = 4433
RESET_KEY = b"0123456789abcdef"
SEEDS = int(os.environ.get("FLOWBRIDGE_SEEDS", "100"))
"""Scenarios of faults; a thousand of them take some minutes."""


def settings_of(name: str, reset_key: bytes = RESET_KEY) -> QuicSettings:
    ca = make_ca()
    node = make_node(ca, name, ("core", "10.0.0.2"))
    return QuicSettings(
        certificate=node.certificate, key=node.key, ca=ca.certificate, server_name="core", reset_key=reset_key
    )


def content(number: int, size: int) -> bytes:
    """What is sent on a stream; every part of it differs from every other."""
    return Random(number).randbytes(size)


class Collector:
    """Takes a stream and keeps what comes."""

    def __init__(self, stream: SessionStream, *, pauses: bool = False) -> None:
        self.stream = stream
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._pauses = pauses
        stream.connect(on_data=self._on_data, on_lost=self._on_lost)

    def _on_data(self, data: bytes, _: Sequence[int]) -> None:
        self.data += data
        if self._pauses:
            self.stream.pause()
            asyncio.get_running_loop().call_later(0.05, self.stream.resume)

    def _on_lost(self, error: Exception | None) -> None:
        assert not self.lost.done(), "it is told once"
        self.lost.set_result(error)


class Core:
    """The node that is dialled; it answers every stream with another one's worth of bytes."""

    def __init__(self, answer_bytes: int, reset_key: bytes = RESET_KEY) -> None:
        self.reset_key = reset_key
        self.collectors: dict[str, Collector] = {}
        self.wires: list[EngineWire] = []
        self.ended: list[Exception] = []
        self.sessions: list[Session] = []
        self._answer_bytes = answer_bytes
        self.listener: EngineListener

    async def start(self) -> None:
        own = Own("core", VirtualClock(), incarnation=asyncio.get_running_loop().time_ns())  # type: ignore[attr-defined]
        self.server = SessionServer(own, self._on_session, lambda _, why: self.ended.append(why))
        acceptor = make_acceptor(settings_of("core", self.reset_key))
        self.listener = await listen(("0.0.0.0", PORT), acceptor, on_wire=self._on_wire)

    def _on_wire(self, wire: EngineWire) -> None:
        self.wires.append(wire)
        self.server.take(wire)

    def _on_session(self, session: Session, *_: object) -> Callable[[SessionStream], None]:
        self.sessions.append(session)
        return self._on_stream

    def _on_stream(self, stream: SessionStream) -> None:
        self.collectors[stream.label] = Collector(stream, pauses=stream.number % 6 == 4)
        asyncio.get_running_loop().create_task(send(stream, content(1000 + stream.number, self._answer_bytes)))


async def send(stream: SessionStream, data: bytes) -> None:
    """Write pieces of all sizes, as one who waits for room, until the session is over."""
    with suppress(ResourceError):
        await send_all(stream, data)


async def send_all(stream: SessionStream, data: bytes) -> None:
    """As `send`. Raises: BrokenError."""
    chance = Random(len(data))
    at = 0
    while at < len(data):
        size = chance.choice((1, 100, 1_000, 30_000, 200_000))
        stream.write(data[at : at + size])
        at += size
        await stream.drained()
        if chance.random() < 0.2:
            await asyncio.sleep(0.05)
    stream.end()


def dialer(**given: object) -> Dialer:
    own = Own("edge", VirtualClock(), incarnation=1)
    make = partial(make_client, settings_of("edge"))
    return Dialer(("core", PORT), make, own, peer="node core", chance=Random(1), **given)  # type: ignore[arg-type]


class Scene:
    """Edge and core, a session between them, and streams that carry something both ways."""

    def __init__(
        self,
        seed: int,
        *,
        answer_bytes: int = 150_000,
        loss: float = 0.0,
        duplicates: float = 0.0,
        rate_bytes_s: float = 2_500_000,
    ) -> None:
        self.network = SimulatedNetwork(seed, keeps_trace=False)
        self.edge: SimulatedHost = self.network.host("edge", "10.0.0.1")
        self.core_host: SimulatedHost = self.network.host("core", "10.0.0.2")
        self.network.condition(
            "edge", "core", delay_s=0.01, jitter_s=0.002, loss=loss, duplicate=duplicates, rate_bytes_s=rate_bytes_s
        )
        self.answer_bytes = answer_bytes
        self.core = Core(answer_bytes)
        self.collectors: list[Collector] = []
        self.session: Session

    async def start(self, streams: int, size: int) -> None:
        await self.core_host.start(self.core.start())
        await self.edge.start(self._start(streams, size))

    async def _start(self, streams: int, size: int) -> None:
        self.dialer = dialer()
        for _ in range(5):  # greetings may be lost
            try:
                self.session = await self.dialer.connect(lambda stream: None)
                break
            except BrokenError:
                self.dialer = dialer()
        for number in range(streams):
            stream = self.session.open(StreamKind.ROUTE, f"stream {number}")
            self.collectors.append(Collector(stream, pauses=number == 1))
            asyncio.get_running_loop().create_task(send(stream, content(number, size)))

    async def finished(self, streams: int, size: int) -> None:
        """Every byte arrived, once, in order, both ways, and the end behind it."""
        async with asyncio.timeout(600):
            for collector in self.collectors:
                assert await collector.lost is None
            for number in range(streams):
                assert await self.core.collectors[f"stream {number}"].lost is None
        for number, collector in enumerate(self.collectors):
            assert collector.data == content(1000 + collector.stream.number, self.answer_bytes)
            assert self.core.collectors[f"stream {number}"].data == content(number, size)


def test_streams_carry_bytes_both_ways_and_are_forgotten_at_both_ends() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start(4, 400_000)
        await scene.finished(4, 400_000)
        await asyncio.sleep(2)
        assert not list(scene.session.streams)
        assert not list(scene.core.sessions[0].streams)
        assert scene.session.received() == scene.core.sessions[0].received() == ()
        assert scene.dialer.dials == 1
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(scene.core.listener.aclose())

    run_simulated(scenario, seed=1, until_s=1000)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_streams_survive_whatever_happens_to_their_connections(seed: int) -> None:
    """Scenario A8: connections that the server forgets, cuts of the link, rebinding, loss and duplicates."""

    async def scenario(seed: int) -> int:
        chance = Random(seed)
        loss = chance.choice((0.0, 0.02, 0.1))
        scene = Scene(seed, loss=loss, duplicates=0.01, answer_bytes=10_000, rate_bytes_s=40_000)
        await scene.start(4, 30_000)
        for _ in range(chance.randint(2, 6)):
            await asyncio.sleep(chance.uniform(0.05, 1.5))
            match chance.randint(0, 2):
                case 0:
                    for wire in scene.core.wires:
                        wire.abandon()
                case 1:
                    scene.network.cut("edge", "core")
                    await asyncio.sleep(chance.uniform(0.1, 6.0))
                    scene.network.heal("edge", "core")
                case _:
                    scene.edge.rebind()
        await scene.finished(4, 30_000)
        dials = scene.dialer.dials
        assert scene.session.state is not SessionState.OVER
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(scene.core.listener.aclose())
        return dials

    assert run_simulated(scenario, seed=seed, until_s=3000) >= 1


def test_a_node_that_has_restarted_is_met_at_once_and_has_lost_the_session() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, answer_bytes=5_000_000)
        await scene.start(2, 5_000_000)
        await asyncio.sleep(0.5)
        scene.core_host.kill()
        await asyncio.sleep(1.0)
        scene.core_host.restart()
        began = asyncio.get_running_loop().time()
        again = Core(10)
        await scene.core_host.start(again.start())
        for collector in scene.collectors:
            error = await collector.lost
            assert isinstance(error, FlowbridgeError)
            assert error.code == Code.STATE_LOST
        assert asyncio.get_running_loop().time() - began < 0.5
        assert scene.session.state is SessionState.OVER
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(again.listener.aclose())

    run_simulated(scenario, seed=3, until_s=1000)


@pytest.mark.parametrize("away_s", [0.3, 0.9, 1.0, 1.2, 2.0, 3.0])
def test_resets_that_nobody_can_tell_from_noise_are_not_taken_for_the_node_that_was_there(away_s: float) -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, answer_bytes=10)
        await scene.start(0, 0)

        async def carry() -> None:
            Collector(scene.session.open(StreamKind.ROUTE, "quiet"))

        await scene.edge.start(carry())
        await asyncio.sleep(0.5)
        scene.core_host.kill()
        await asyncio.sleep(away_s)
        scene.core_host.restart()
        began = asyncio.get_running_loop().time()
        again = Core(10, b"another key in memory")
        await scene.core_host.start(again.start())
        while not scene.session.is_over:
            assert asyncio.get_running_loop().time() - began < 2.5
            await asyncio.sleep(0.01)
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(again.listener.aclose())

    run_simulated(scenario, seed=3, until_s=1000)


def test_a_peer_that_is_away_for_longer_than_the_lease_is_lost_on_both_sides() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, answer_bytes=5_000_000)
        await scene.start(2, 5_000_000)
        await asyncio.sleep(0.5)
        scene.network.cut("edge", "core")
        cut = asyncio.get_running_loop().time()
        for collector in scene.collectors:
            assert isinstance(await collector.lost, BrokenError)
        away_s = asyncio.get_running_loop().time() - cut
        assert 30 <= away_s < 31.5
        await asyncio.sleep(35)
        assert len(scene.core.ended) == 1
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(scene.core.listener.aclose())

    run_simulated(scenario, seed=4, until_s=1000)


def test_a_writer_waits_while_nothing_is_acknowledged_and_keeps_what_it_may() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start(1, 200_000)
        await scene.finished(1, 200_000)
        scene.network.cut("edge", "core")
        stream = scene.session.open(StreamKind.ROUTE, "stream 1")
        task = asyncio.get_running_loop().create_task(send(stream, content(1, 20_000_000)))
        await asyncio.sleep(10)
        assert not task.done()
        assert stream.out.end < 2_000_000
        scene.network.heal("edge", "core")
        await task
        await asyncio.sleep(30)
        assert scene.core.collectors["stream 1"].data == content(1, 20_000_000)
        await scene.edge.start(scene.dialer.aclose(1.0))
        await scene.core_host.start(scene.core.listener.aclose())

    run_simulated(scenario, seed=5, until_s=1000)


def later_dialer() -> Dialer:
    """The same node, started anew or a second time."""
    own = Own("edge", VirtualClock(), incarnation=2)
    return Dialer(("core", PORT), partial(make_client, settings_of("edge")), own, peer="node core", chance=Random(2))


async def closed(scene: Scene, *dialers: Dialer) -> None:
    for one in dialers:
        await one.aclose(1.0)
    await scene.core_host.start(scene.core.listener.aclose())


@pytest.mark.parametrize("before_s", [0.1, 3.0])
def test_a_session_of_a_dead_process_ends_soon_after_its_successor_came(before_s: float) -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, answer_bytes=5_000_000)
        await scene.start(2, 5_000_000)
        await asyncio.sleep(0.5)
        scene.edge.kill()
        killed = asyncio.get_running_loop().time()
        await asyncio.sleep(before_s)
        scene.edge.restart()
        successor = later_dialer()
        await scene.edge.start(successor.connect(lambda _: None))
        async with asyncio.timeout(60):
            while not scene.core.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        away_s = asyncio.get_running_loop().time() - killed
        assert SUCCEEDED_LEASE_MS / 1000 <= away_s < SUCCEEDED_LEASE_MS / 1000 + 1
        assert [session.is_over for session in scene.core.sessions] == [True, False]
        await scene.edge.start(closed(scene, successor))

    run_simulated(scenario, seed=5, until_s=1000)


def test_a_process_that_is_heard_again_keeps_its_session_beside_another_one_of_its_name() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, answer_bytes=500_000)
        await scene.start(2, 500_000)
        other = scene.network.host("other", "10.0.0.3")
        second = later_dialer()
        await asyncio.sleep(0.1)
        scene.network.cut("edge", "core")
        await asyncio.sleep(2.0)
        met: Session = await other.start(second.connect(lambda _: None))
        await asyncio.sleep(1.0)
        scene.network.heal("edge", "core")
        await scene.finished(2, 500_000)
        # Heard again, it has its whole lease again.
        scene.network.cut("other", "core")
        await asyncio.sleep(SUCCEEDED_LEASE_MS / 1000 + 2)
        scene.network.heal("other", "core")
        await asyncio.sleep(2)
        assert not scene.core.ended
        assert not met.is_over
        assert LEASE_NS / 1e6 > SUCCEEDED_LEASE_MS
        await other.start(second.aclose(1.0))
        await scene.edge.start(closed(scene, scene.dialer))

    run_simulated(scenario, seed=6, until_s=1000)
