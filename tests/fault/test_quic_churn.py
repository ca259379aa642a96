"""Scenario B9: many connections that stay, while others come and go: all are served, and nothing is left of those."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from quic_hostile import PORT, Echo, Growth, settings_of

from flowbridge.codec.session_words import StreamKind
from flowbridge.testing.network import SimulatedHost, SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import pause, run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import EngineListener, listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.session_state import SessionState

if TYPE_CHECKING:
    from flowbridge.transports.quic.stream import SessionStream

NODES = 50
PASSING = 40
"""Names of peers, and of those that come and go: one name has a bounded number of sessions."""
LEASE_S = 8
STAYING, COMING = (500, 2_000) if int(os.environ.get("FLOWBRIDGE_SEEDS", "100")) > 100 else (6, 76)
"""How many stay and how many come; as many as the scenario has take minutes."""
LEFT_BYTES_MAX = 2048
LEFT_BLOCKS_MAX = 48
"""What one that has gone may leave behind: a session alone has twice as much, and what is counted varies by half."""


class Client:
    """A session with the node, and a stream on it that is echoed."""

    def __init__(self, name: str, number: int) -> None:
        own = Own(name, VirtualClock(), incarnation=1)
        self.dialer = Dialer(
            ("core", PORT), partial(make_client, settings_of(name)), own, peer="node core", chance=Random(number)
        )
        self.came = b""
        self.news = asyncio.Event()
        self.lost: list[Exception | None] = []

    async def connect(self) -> None:
        self.session = await self.dialer.connect(lambda stream: None)
        self.stream = self.session.open(StreamKind.ROUTE, "echo")
        self.stream.connect(on_data=lambda data, _: self._came(data), on_lost=self.lost.append)

    def _came(self, data: bytes) -> None:
        self.came += data
        self.news.set()

    async def say(self, data: bytes) -> None:
        """Say something, and hear it again."""
        self.came = b""
        self.stream.write(data)
        async with asyncio.timeout(10):
            while self.came != data:
                self.news.clear()
                await self.news.wait()


async def come_and_go(host: SimulatedHost, name: str, number: int, *, says_goodbye: bool) -> None:
    """One that stays for a moment, and says goodbye or is not heard again."""
    client = Client(name, number)
    await host.start(client.connect())
    await host.start(client.say(b"%d" % number))
    if says_goodbye:
        await host.start(client.dialer.aclose(0.1))
    else:
        host.kill()
        host.restart()


async def churn(seed: int, *, says_goodbye: bool) -> None:
    staying, coming = STAYING, COMING
    chance = Random(seed)
    network = SimulatedNetwork(seed, keeps_trace=False)
    core = network.host("core", "10.0.0.2")
    hosts = [network.host(f"h{number}", f"10.1.{number}.1") for number in range(NODES)]
    passing = [network.host(f"p{number}", f"10.2.{number}.1") for number in range(PASSING)]
    for host in (*hosts, *passing):
        network.condition(host.name, "core", delay_s=0.005)

    async def serve() -> tuple[SessionServer, EngineListener]:
        given = replace(
            settings_of("core"), connections=staying + coming, half_open=staying + coming, handshakes_per_second=10**6
        )
        own = Own("core", VirtualClock(), incarnation=7)
        server = SessionServer(own, lambda session, identity, hello: echo, lambda session, why: None)
        return server, await listen(("0.0.0.0", PORT), make_acceptor(given), on_wire=server.take)

    def echo(stream: SessionStream) -> None:
        Echo(stream)

    server, listener = await core.start(serve())
    clients = [Client(f"h{number % NODES}", number) for number in range(staying)]
    for first in range(0, staying, NODES):
        some = zip(hosts, clients[first : first + NODES], strict=False)
        await asyncio.gather(*(host.start(client.connect()) for host, client in some))
    assert len(server.sessions) == staying

    async def crowd(numbers: range) -> None:
        for number in numbers:
            which = number % len(passing)
            await come_and_go(passing[which], f"p{which}", number, says_goodbye=says_goodbye)
            if number % 10 == 0:
                some_client = chance.randrange(staying)
                await hosts[some_client % NODES].start(clients[some_client].say(b"still here"))
        await pause(2 * LEASE_S)  # longer than those that were not heard again are waited for

    half = coming // 2
    await crowd(range(half))  # until then caches fill, and the books of those that stay
    growth = Growth()
    await crowd(range(half, coming))
    left_bytes, left_blocks = growth.grown()
    assert left_bytes < (coming - half) * LEFT_BYTES_MAX
    assert left_blocks < (coming - half) * LEFT_BLOCKS_MAX
    assert len(server.sessions) == staying
    assert listener.connections == staying
    talks = (hosts[number % NODES].start(client.say(b"all of us")) for number, client in enumerate(clients))
    await asyncio.gather(*talks)
    for client in clients:
        assert client.lost == []
        assert client.session.state is SessionState.CONNECTED
        assert (client.dialer.dials, client.session.replays) == (1, 0), "nobody was disturbed"
    for number, client in enumerate(clients):
        await hosts[number % NODES].start(client.dialer.aclose(0.1))
    await pause(1)
    assert server.sessions == ()
    await core.start(server.aclose(0.1))
    await core.start(listener.aclose())


@pytest.mark.parametrize("says_goodbye", [False, True], ids=["killed", "closed"])
def test_connections_that_stay_are_served_while_others_come_and_go(
    says_goodbye: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbridge.transports.quic.greeting.HEARTBEAT_NS", 10**9)  # else it costs mostly pings
    monkeypatch.setattr("flowbridge.transports.quic.greeting.LEASE_NS", LEASE_S * 10**9)
    monkeypatch.setattr("flowbridge.testing.virtual_loop.CANCELLED_MAX", 0)  # else they are most of what differs
    run_simulated(partial(churn, says_goodbye=says_goodbye), seed=1, until_s=10_000)
