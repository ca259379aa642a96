"""Sessions of a client without a certificate: greeted, resumed, renewed and ended by its tokens, on both engines."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import importlib.util
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from quic_certs import make_ca, make_node
from token_keys import public_half, signing_key

from flowbridge.codec.codes import Code
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import AuthError, FlowbridgeError
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.settings import QuicSettings

pytest.importorskip("joserfc", reason="joserfc is not installed")

from flowbridge.transports.quic.proving import Proving, Renewal, TokenFile
from flowbridge.transports.quic.tokens import TokenVerifier, make_token, read_token_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from flowbridge.transports.quic.endpoint import EngineListener, EngineWire
    from flowbridge.transports.quic.engine import Identity
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.settings import EngineName
    from flowbridge.transports.quic.stream import SessionStream

PORT = 4433
HAS_QH3 = importlib.util.find_spec("qh3") is not None
ENGINES = ["aioquic", pytest.param("qh3", marks=pytest.mark.skipif(not HAS_QH3, reason="qh3 is not installed"))]

each_engine = pytest.mark.parametrize("engine", ENGINES)


def seconds() -> float:
    return 1_800_000_000 + asyncio.get_running_loop().time()


def token(**changes: Any) -> str:
    given: dict[str, Any] = {"fabric": "test", "node": "edge", "audience": "core", "now": seconds(), **changes}
    return make_token(signing_key(), **given)


class Scene:
    """A node that takes tokens, and a client that has nothing else."""

    def __init__(self, seed: int, engine: EngineName) -> None:
        self.network = SimulatedNetwork(seed, keeps_trace=False)
        self.edge = self.network.host("edge", "10.0.0.1")
        self.core = self.network.host("core", "10.0.0.2")
        self.network.condition("edge", "core", delay_s=0.01)
        self.engine: EngineName = engine
        self.identities: list[Identity | None] = []
        self.ended: list[Exception] = []
        self.arrived = bytearray()
        self.wires: list[EngineWire] = []
        self.listener: EngineListener

    async def serve(self) -> None:
        ca, node = make_ca(), make_node(make_ca(), "core", ("core", "10.0.0.2"))
        settings = QuicSettings(
            certificate=node.certificate,
            key=node.key,
            ca=ca.certificate,
            engine=self.engine,
            client_certificates="ask" if self.engine == "aioquic" else "none",
        )
        own = Own("core", VirtualClock(), incarnation=1)
        verifier = TokenVerifier(read_token_keys(public_half(signing_key())), "test", "core", seconds)
        self.server = SessionServer(own, self._on_session, proving=Proving(verifier, seconds))
        self.listener = await listen(("0.0.0.0", PORT), make_acceptor(settings), on_wire=self._on_wire)

    def _on_wire(self, wire: EngineWire) -> None:
        self.wires.append(wire)
        self.server.take(wire)

    def _on_session(self, _: Session, identity: Identity | None, __: object) -> Callable[[SessionStream], None]:
        self.identities.append(identity)

        def take(stream: SessionStream) -> None:
            stream.connect(on_data=lambda data, _: self.arrived.extend(data), on_lost=lambda _: None)

        return take

    def dialer(self, shown: Callable[[Identity | None], str | None]) -> Dialer:
        settings = QuicSettings(ca=make_ca().certificate, server_name="core", engine=self.engine)
        make = partial(make_client, settings)
        own = Own("edge", VirtualClock(), incarnation=1)
        return Dialer(
            ("core", PORT),
            make,
            own,
            peer="node core",
            chance=Random(1),
            on_over=lambda _, why: self.ended.append(why),
            token=shown,
        )

    async def connect(self, dialer: Dialer) -> Session:
        return await self.edge.start(dialer.connect(lambda stream: None))

    async def close(self, *dialers: Dialer) -> None:
        for dialer in dialers:
            await self.edge.start(dialer.aclose(1.0))
        await self.core.start(self.listener.aclose())


def play(engine: EngineName, test: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed, engine)
        await scene.core.start(scene.serve())
        await test(scene)

    run_simulated(scenario, seed=1, until_s=5_000)


@each_engine
def test_a_client_is_who_its_token_says_and_its_bytes_arrive_over_cuts(engine: EngineName) -> None:
    async def test(scene: Scene) -> None:
        mine = token()
        dialer = scene.dialer(lambda _: mine)
        session = await scene.connect(dialer)
        (identity,) = scene.identities
        assert identity is not None
        assert (identity.fabric, identity.node, identity.fingerprint) == ("test", "edge", "")
        stream = session.open(StreamKind.ROUTE, "a")
        stream.connect(on_data=lambda data, _: None, on_lost=lambda _: None)
        sent = bytearray()
        for number in range(5):
            piece = Random(number).randbytes(30_000)
            stream.write(piece)
            sent += piece
            await asyncio.sleep(0.02)
            scene.wires[-1].abandon()
            await asyncio.sleep(10)
        assert scene.arrived == sent
        assert dialer.dials > 1
        assert len(scene.identities) == 1  # it is one session
        await scene.close(dialer)

    play(engine, test)


@each_engine
@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        (None, Code.UNAUTHENTICATED, "neither a certificate nor a token"),
        ({"audience": "other"}, Code.UNAUTHENTICATED, "not for node core"),
        ({"node": "thief"}, Code.UNAUTHENTICATED, "of node 'thief'"),
        ({"fabric": "other"}, Code.UNAUTHENTICATED, "not of fb://test"),
        ({"now": 1_799_990_000.0}, Code.TOKEN_EXPIRED, "it expired"),
    ],
)
def test_a_client_is_told_why_it_is_refused(
    engine: EngineName, changes: dict[str, Any] | None, code: Code, why: str
) -> None:
    async def test(scene: Scene) -> None:
        mine = None if changes is None else token(**changes)
        dialer = scene.dialer(lambda _: mine)
        with pytest.raises(AuthError, match=why) as caught:
            await scene.connect(dialer)
        assert caught.value.code == code
        assert scene.identities == []
        assert scene.server.sessions == ()
        await scene.close(dialer)

    play(engine, test)


@each_engine
def test_a_token_that_somebody_copied_begins_no_second_session(engine: EngineName) -> None:
    async def test(scene: Scene) -> None:
        mine = token()
        first, second = scene.dialer(lambda _: mine), scene.dialer(lambda _: mine)
        session = await scene.connect(first)
        with pytest.raises(AuthError, match="used before, for another session"):
            await scene.connect(second)
        assert not session.is_over
        await scene.close(first, second)

    play(engine, test)


@each_engine
def test_a_token_is_not_shown_to_another_node(engine: EngineName) -> None:
    async def test(scene: Scene) -> None:
        met: list[str] = []

        def shown(there: Identity | None) -> str:
            assert there is not None
            met.append(there.node)
            raise AuthError("it is another one")

        dialer = scene.dialer(shown)
        with pytest.raises(AuthError, match="it is another one"):
            await scene.connect(dialer)
        assert met == ["core"]
        await asyncio.sleep(1)
        assert scene.identities == []
        await scene.close(dialer)

    play(engine, test)


@each_engine
def test_a_session_ends_with_its_token(engine: EngineName) -> None:
    async def test(scene: Scene) -> None:
        mine = token(lifetime_s=60)
        dialer = scene.dialer(lambda _: mine)
        session = await scene.connect(dialer)
        await asyncio.sleep(58)
        assert not session.is_over
        await asyncio.sleep(4)
        assert session.is_over
        (why,) = scene.ended
        assert isinstance(why, AuthError)
        assert (why.code, "expired" in str(why)) == (Code.TOKEN_EXPIRED, True)
        assert scene.server.sessions == ()
        await scene.close(dialer)

    play(engine, test)


@each_engine
def test_a_session_without_a_connection_ends_with_its_token_too(engine: EngineName) -> None:
    async def test(scene: Scene) -> None:
        mine = token(lifetime_s=10)
        dialer = scene.dialer(lambda _: mine)
        session = await scene.connect(dialer)
        scene.network.cut("edge", "core")
        await asyncio.sleep(12)
        assert scene.server.sessions == ()
        scene.network.heal("edge", "core")
        await asyncio.sleep(10)
        assert session.is_over
        await scene.close(dialer)

    play(engine, test)


@each_engine
def test_a_token_that_is_renewed_in_the_file_lets_the_session_go_on(engine: EngineName, tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        path = tmp_path / "token"
        path.write_text(token(lifetime_s=120) + "\n")
        file = TokenFile(str(path), seconds)
        assert file.node == "edge"
        dialer = scene.dialer(lambda _: file.find("core")[0])
        session = await scene.connect(dialer)
        Renewal(file, "core", session)
        for _ in range(5):
            await asyncio.sleep(100)
            assert not session.is_over
            path.write_text(f"{token(audience='other')}\n{token(lifetime_s=120)}\n")
        await asyncio.sleep(100)
        assert not session.is_over
        assert dialer.dials == 1
        await asyncio.sleep(100)  # nobody writes a new one
        assert session.is_over
        assert isinstance(scene.ended[0], AuthError)
        await scene.close(dialer)

    play(engine, test)


def test_a_bad_renewal_ends_the_session() -> None:
    async def test(scene: Scene) -> None:
        from flowbridge.codec.session_words import Auth

        mine = token()
        dialer = scene.dialer(lambda _: mine)
        session = await scene.connect(dialer)
        assert session.connection is not None
        session.connection.send(Auth(token(node="thief")))
        await asyncio.sleep(1)
        assert session.is_over
        (why,) = scene.ended
        assert isinstance(why, FlowbridgeError)
        assert why.code == Code.UNAUTHENTICATED
        await scene.close(dialer)

    play("aioquic", test)
