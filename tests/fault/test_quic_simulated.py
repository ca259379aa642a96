"""Engines, endpoint and network together on virtual time: what loss, damage, delay, cuts and rebinding do.

The scenarios are those of the QUIC interoperability runner (transfer, handshakeloss, transferloss, handshakecorruption,
transfercorruption, longrtt, blackhole, rebind-port, rebind-addr); the seconds are virtual.
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from quic_certs import make_ca, make_node

from flowbridge.testing.network import Conditions, SimulatedHost, SimulatedNetwork, TraceEntry
from flowbridge.testing.virtual_loop import VirtualLoop, pause, run_simulated
from flowbridge.transports.quic.endpoint import EngineListener, EngineWire, dial, listen
from flowbridge.transports.quic.engine import WRITE_BYTES_HIGH, Closed, Connected, EngineEvent, StreamData, StreamRoom
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MIB = 1024 * 1024
TEN_MBIT = 1.25e6  # bytes per second
PORT = 4433


@cache
def settings_of(name: str) -> QuicSettings:
    """A node with a key of Ed25519 (RFC 8032): its signatures are of one length, so that no run differs by chance."""
    ca = make_ca()
    node = x509.load_pem_x509_certificate(make_node(ca, name, ("core", "10.0.0.1")).certificate)
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(
        node.issuer, node.subject, key.public_key(), 1, node.not_valid_before_utc, node.not_valid_after_utc
    )
    for extension in node.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signer = serialization.load_pem_private_key(ca.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return QuicSettings(certificate=certificate, key=key.private_bytes(*pem), ca=ca.certificate)


class Server:
    """Answers each stream with the digest of what it carried."""

    def __init__(self) -> None:
        self.wires: list[EngineWire] = []
        self.listener: EngineListener

    async def start(self) -> None:
        self.listener = await listen(("0.0.0.0", PORT), make_acceptor(settings_of("core")), on_wire=self._on_wire)

    def _on_wire(self, wire: EngineWire) -> None:
        self.wires.append(wire)
        digests: dict[int, Any] = {}

        def on_event(event: EngineEvent) -> None:
            if isinstance(event, StreamData):
                digest = digests.setdefault(event.stream, hashlib.sha256())
                digest.update(event.data)
                wire.engine.consume(event.stream, len(event.data))
                if event.fin:
                    wire.engine.write(event.stream, digests.pop(event.stream).digest(), fin=True)
                wire.touched()

        wire.on_event = on_event


class Client:
    """Sends on streams and waits for the answers."""

    def __init__(self) -> None:
        self.wire: EngineWire
        self.connected: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.closed: Closed | None = None
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._got: dict[int, bytes] = {}
        self._room: dict[int, asyncio.Event] = {}

    async def start(self) -> None:
        self.wire = await dial(("core", PORT), partial(make_client, settings_of("edge")), on_event=self._on_event)
        await self.connected

    def _on_event(self, event: EngineEvent) -> None:
        if isinstance(event, Connected):
            self.connected.set_result(asyncio.get_running_loop().time())
        elif isinstance(event, StreamRoom):
            self._room[event.stream].set()
        elif isinstance(event, StreamData):
            self._got[event.stream] = self._got.get(event.stream, b"") + event.data
            self.wire.engine.consume(event.stream, len(event.data))
            if event.fin:
                self._answers[event.stream].set_result(self._got.pop(event.stream))
        elif isinstance(event, Closed):
            self.closed = event
            waiting: list[asyncio.Future[Any]] = [self.connected, *self._answers.values()]
            for future in waiting:
                if not future.done():
                    future.set_exception(ConnectionError(str(event)))

    async def send(self, data: bytes) -> None:
        """Send on a stream of its own, no faster than the path takes it, and check the answer."""
        engine = self.wire.engine
        stream = engine.open()
        assert stream is not None
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        room = self._room[stream] = asyncio.Event()
        step = 32 * 1024
        for start in range(0, len(data), step):
            is_last = start + step >= len(data)
            if engine.write(stream, data[start : start + step], fin=is_last) > WRITE_BYTES_HIGH and not is_last:
                self.wire.touched()
                room.clear()
                await room.wait()
        self.wire.touched()
        assert await answer == hashlib.sha256(data).digest()
        del self._answers[stream], self._room[stream]


class Scene:
    """A client on `edge` and a server on `core`."""

    def __init__(self, seed: int, conditions: Conditions) -> None:
        self.network = SimulatedNetwork(seed, conditions=conditions)
        self.core: SimulatedHost = self.network.host("core", "10.0.0.1")
        self.edge: SimulatedHost = self.network.host("edge", "10.0.0.2")
        self.server = Server()
        self.client = Client()

    async def start(self) -> float:
        """Connect; returns how many seconds that took."""
        await self.core.start(self.server.start())
        before_s = elapsed_s()
        await self.edge.start(self.client.start())
        return elapsed_s() - before_s

    async def stop(self) -> None:
        await self.core.start(self.server.listener.aclose())


def elapsed_s() -> float:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.elapsed_s()


def on_scene(scenario: Callable[[Scene], Awaitable[Any]], *, seed: int = 0, **conditions: Any) -> Any:
    async def run(seed: int) -> Any:
        scene = Scene(seed, Conditions(**conditions))
        result = await scenario(scene)
        await scene.stop()
        return result

    return run_simulated(run, seed=seed, until_s=300)


def transferred(size_bytes: int) -> Callable[[Scene], Awaitable[float]]:
    """Connect and send so many bytes; returns how many seconds that took, without the handshake."""

    async def scenario(scene: Scene) -> float:
        await scene.start()
        before_s = elapsed_s()
        await scene.edge.start(scene.client.send(bytes(size_bytes)))
        return elapsed_s() - before_s

    return scenario


async def handshake_and_request(scene: Scene) -> tuple[float, float]:
    handshake_s = await scene.start()
    await scene.edge.start(scene.client.send(bytes(1_024)))
    return handshake_s, elapsed_s()


def test_a_transfer_fills_the_path() -> None:
    assert on_scene(transferred(2 * MIB), delay_s=0.015, rate_bytes_s=TEN_MBIT) <= 2.2


def test_every_handshake_succeeds_while_a_third_is_lost() -> None:
    results = [on_scene(handshake_and_request, seed=seed, delay_s=0.015, loss=0.3) for seed in range(20)]
    assert max(handshake_s for handshake_s, _ in results) <= 3.0


@pytest.mark.parametrize("seed", range(4))
def test_a_transfer_arrives_whole_while_packets_are_lost(seed: int) -> None:
    on_scene(transferred(2 * MIB), seed=seed, delay_s=0.015, rate_bytes_s=TEN_MBIT, loss=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_a_transfer_arrives_whole_while_packets_are_damaged(seed: int) -> None:
    on_scene(transferred(2 * MIB), seed=seed, delay_s=0.015, rate_bytes_s=TEN_MBIT, corrupt=0.02)


def test_every_handshake_succeeds_while_a_third_is_damaged() -> None:
    for seed in range(20):
        on_scene(handshake_and_request, seed=seed, delay_s=0.015, corrupt=0.3)


def test_a_long_way_takes_few_round_trips() -> None:
    assert on_scene(transferred(MIB), delay_s=0.75, rate_bytes_s=TEN_MBIT) <= 12.0


@pytest.mark.parametrize("seed", range(2))
def test_a_transfer_goes_on_after_each_black_hole(seed: int) -> None:
    async def scenario(scene: Scene) -> float:
        await scene.start()

        async def holes() -> None:
            while True:
                await pause(5)
                scene.network.cut("edge", "core")
                await pause(2)
                scene.network.heal("edge", "core")

        digger = asyncio.create_task(holes())
        await scene.edge.start(scene.client.send(bytes(10 * MIB)))
        digger.cancel()
        assert scene.network.counts["cut"] > 0
        return elapsed_s()

    assert on_scene(scenario, seed=seed, delay_s=0.015, rate_bytes_s=TEN_MBIT) <= 30


@pytest.mark.parametrize("outer_address", [None, "192.0.2.7"])
def test_a_connection_survives_that_its_address_changes(outer_address: str | None) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.start()

        async def requests() -> None:
            for number in range(60):
                await scene.client.send(b"%d" % number)
                await pause(0.05)

        task = scene.edge.start(requests())
        await pause(1)
        scene.edge.rebind(outer_address)
        await pause(1)
        scene.edge.rebind()
        await task
        assert scene.client.closed is None
        assert len(scene.server.wires) == 1
        assert scene.server.wires[0].engine.peer_address == scene.edge.outer(("10.0.0.2", 49_152))

    on_scene(scenario, delay_s=0.015)


def test_a_frozen_peer_is_missed_and_goes_on() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.start()
        scene.core.freeze()
        task = scene.edge.start(scene.client.send(bytes(100_000)))
        await pause(5)
        assert not task.done()
        scene.core.thaw()
        await task

    on_scene(scenario, delay_s=0.015)


def test_a_killed_peer_is_known_by_its_closed_port() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.start()
        scene.core.kill()
        client = scene.client
        client.wire.engine.ping()
        client.wire.touched()
        await pause(0.1)
        assert client.wire.is_refused
        scene.core.restart()
        scene.server = Server()
        await scene.core.start(scene.server.start())

    on_scene(scenario, delay_s=0.015)


def test_the_same_seed_runs_the_same_and_another_one_does_not() -> None:
    def trace_of(seed: int) -> list[TraceEntry]:
        async def scenario(scene: Scene) -> list[TraceEntry]:
            await scene.start()
            await scene.edge.start(scene.client.send(bytes(MIB // 4)))
            return scene.network.trace

        trace = on_scene(scenario, seed=seed, delay_s=0.015, jitter_s=0.002, loss=0.05, duplicate=0.01)
        return cast("list[TraceEntry]", trace)

    once = trace_of(1)
    assert once == trace_of(1)
    assert once != trace_of(2)
