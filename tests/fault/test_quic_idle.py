"""Sessions that carry nothing, over a simulated network: how few packets they need, and what they still notice."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from quic_certs import make_ca, make_node

from flowbridge.codec.session_words import StreamKind
from flowbridge.limits import HEARTBEAT_NS, LEASE_NS, RESTS_PER_LEASE, SUSPECT_BEATS
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import pause, run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.session_state import SessionState
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.testing.network import SimulatedHost
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.stream import SessionStream

PORT = 4433
SESSIONS = 4
MINUTES = 3
REST_S = LEASE_NS / 1e9 / RESTS_PER_LEASE
SUSPECT_S = (SUSPECT_BEATS + 1) * HEARTBEAT_NS / 1e9  # silence is looked at once in a beat
PACKETS_EACH = 5
"""For a question and its answer: the ping, the pong, and what acknowledges either."""


def settings_of(name: str) -> QuicSettings:
    ca = make_ca()
    node = make_node(ca, name, ("core",))
    return QuicSettings(certificate=node.certificate, key=node.key, ca=ca.certificate, server_name="core")


def take(stream: SessionStream) -> None:
    stream.connect(on_data=lambda _, __: None, on_lost=lambda _: None)


class Scene:
    """A host with some sessions to one node."""

    def __init__(self, seed: int) -> None:
        self.network = SimulatedNetwork(seed, keeps_trace=False)
        self.edge: SimulatedHost = self.network.host("edge", "10.0.0.1")
        self.core_host: SimulatedHost = self.network.host("core", "10.0.0.2")
        self.network.condition("edge", "core", delay_s=0.01)
        self.dialers: list[Dialer] = []
        self.sessions: list[Session] = []

    async def start(self, count: int) -> None:
        await self.core_host.start(self._listen())
        await self.edge.start(self._dial(count))

    async def _listen(self) -> None:
        self.server = SessionServer(Own("core", VirtualClock(), incarnation=2), self._on_session)
        self.listener = await listen(("0.0.0.0", PORT), make_acceptor(settings_of("core")), on_wire=self.server.take)

    def _on_session(self, *_: object) -> Callable[[SessionStream], None]:
        return take

    async def _dial(self, count: int) -> None:
        own = Own("edge", VirtualClock(), incarnation=1)
        for _ in range(count):
            dialer = Dialer(("core", PORT), partial(make_client, settings_of("edge")), own, peer="node core")
            self.dialers.append(dialer)
            self.sessions.append(await dialer.connect(lambda _: None))

    async def open(self, session: Session) -> None:
        take(session.open(StreamKind.ROUTE, "more"))

    async def close(self) -> None:
        await self.edge.start(self._hang_up())
        await self.core_host.start(self.listener.aclose())

    async def _hang_up(self) -> None:
        await asyncio.gather(*(dialer.aclose(0.1) for dialer in self.dialers))

    def states(self) -> set[SessionState]:
        """Of both ends of all sessions."""
        return {session.state for session in (*self.sessions, *self.server.sessions)}

    async def packets(self, seconds: float) -> int:
        before = self.network.counts.total()
        await pause(seconds)
        return self.network.counts.total() - before


def test_idle_sessions_send_few_packets_and_lose_nothing() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start(SESSIONS)
        await pause(REST_S)
        sent = await scene.packets(60 * MINUTES)
        each = sent / SESSIONS / MINUTES
        print(f"{each:.1f} packets a minute for a session that is idle")
        assert 60 / REST_S < each <= PACKETS_EACH * 60 / REST_S
        assert scene.states() == {SessionState.CONNECTED}
        assert all((session.epoch, session.replays) == (1, 0) for session in scene.sessions)
        await scene.edge.start(scene.open(scene.sessions[0]))
        await pause(1)
        rest = await scene.packets(5) / (5 / HEARTBEAT_NS * 1e9)
        print(f"{rest:.1f} packets in a beat once one of them carries something")
        assert rest >= 2, "both ends ask in every beat"
        await scene.close()

    run_simulated(scenario, seed=1, until_s=1000)


def test_a_stream_on_an_idle_session_that_is_cut_off_is_suspect_as_soon_as_any() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start(3)
        await pause(2 * REST_S + 1)  # all have just been asked
        scene.network.cut("edge", "core")
        await pause(0.1)
        await scene.edge.start(scene.open(scene.sessions[0]))
        await pause(SUSPECT_S)
        states = [session.state for session in scene.sessions]
        assert states == [SessionState.SUSPECT, SessionState.CONNECTED, SessionState.CONNECTED]
        await pause(2 * REST_S)
        assert scene.states() == {SessionState.SUSPECT}
        scene.network.heal("edge", "core")
        await pause(SUSPECT_S)
        assert scene.states() == {SessionState.CONNECTED}
        await scene.close()

    run_simulated(scenario, seed=2, until_s=1000)


def test_both_ends_of_an_idle_session_notice_at_once_that_one_begins_to_carry_something() -> None:
    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start(1)
        await pause(2 * REST_S)
        await scene.edge.start(scene.open(scene.sessions[0]))
        await pause(0.1)
        scene.network.cut("edge", "core")
        await pause(SUSPECT_S)
        assert scene.states() == {SessionState.SUSPECT}
        scene.network.heal("edge", "core")
        await pause(1)
        await scene.close()

    run_simulated(scenario, seed=3, until_s=1000)
