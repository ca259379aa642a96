"""Requests and routes between machines over cuts, and over processes that stand still: scenarios B5 and B7.

Their seconds are virtual; each prints what it found (`pytest -s`).
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, MBIT, Pair, Scene, message, route_of, simulate, until

from flowbridge.envelope import Envelope
from flowbridge.errors import FlowbridgeError, ResourceError
from flowbridge.plan import Placement
from flowbridge.testing.virtual_loop import pause
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from quic_scene import Machine

    from flowbridge.contracts import EventBus
    from flowbridge.transports.quic.session import Session

S = 10**9
EVERY_S = 0.1
needs_qh3 = pytest.mark.skipif(importlib.util.find_spec("qh3") is None, reason="qh3 is not installed")


async def far_bus(scene: Scene, bus: LocalEventBus, node: str) -> EventBus:
    """The bus of home as a node has it, once they have met."""
    home, machine = scene.home, scene.node(node)

    async def serve() -> Any:
        return home.transport.serve_bus(bus, Placement(host=node))

    found: EventBus = await machine.run(machine.transport.open_far_bus(await home.run(serve())))
    return found


async def answer(bus: EventBus) -> None:
    """Answer what is asked with what was asked."""
    with suppress(ResourceError):
        async with bus.subscribe("echo") as subscription:
            while True:
                with await subscription.receive() as asked:
                    await bus.reply(asked, Envelope(asked.payload, size_bytes=asked.size_bytes))


class Asker:
    """Asks at a steady pace whatever became of what it asked before, until it is told to stop."""

    def __init__(self, machine: Machine, bus: EventBus) -> None:
        self.replied: list[float] = []
        self.failed: list[FlowbridgeError] = []
        self.asked = 0
        self._machine = machine
        self._bus = bus
        self._stops = False
        self._task = machine.host.start(self._ask())

    async def _one(self, number: int) -> None:
        try:
            data = b"%d" % number
            reply = await self._bus.request("echo", Envelope(data, size_bytes=len(data)), timeout_ns=60 * S)
            assert bytes(reply.payload) == data
        except FlowbridgeError as error:
            self.failed.append(error)
        else:
            self.replied.append(asyncio.get_running_loop().time())

    async def _ask(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        while not self._stops:
            tasks.append(self._machine.host.start(self._one(self.asked)))
            self.asked += 1
            await pause(EVERY_S)
        await asyncio.gather(*tasks)

    async def stop(self) -> None:
        """Ask nothing more, and wait for what is under way."""
        self._stops = True
        await self._task


class Bulk:
    """Two routes, one each way, on which as much goes as their credit allows for a time."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self._stops = False
        self._producers: list[asyncio.Task[object]] = []
        self._eaters: list[asyncio.Task[None]] = []

    async def start(self, scene: Scene) -> None:
        for near, far in ((HOME, "edge"), ("edge", HOME)):
            pair = await scene.join(route_of(f"bulk from {near}"), near, far)
            self.pairs.append(pair)
            self._eaters.append(pair.consume())
            self._producers.append(pair.send(self._produce(pair)))

    async def _produce(self, pair: Pair) -> None:
        seq = 0
        while not self._stops:
            await pair.sink.send(message(seq, bytes(4_000)))
            seq += 1
            await pause(0.02)

    async def stop(self) -> None:
        """Send nothing more, and wait until all of it has come, once and in order."""
        self._stops = True
        await asyncio.gather(*self._producers)
        for pair in self.pairs:
            await pair.finish()
        await asyncio.gather(*self._eaters)
        for pair in self.pairs:
            assert pair.seqs == list(range(pair.sink.books.sent)), "nothing is lost, nothing comes twice"
            assert pair.sink.books.balances


# --- B5: a cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut_s", "seed", "engine", "is_busy"),
    [
        (12.0, 3, "aioquic", False),
        (1.0, 1, "aioquic", True),
        (4.0, 2, "aioquic", True),
        (12.0, 3, "aioquic", True),
        pytest.param(12.0, 3, "qh3", True, marks=needs_qh3),
    ],
)
def test_the_first_reply_after_a_cut_comes_at_once(cut_s: float, seed: int, engine: str, is_busy: bool) -> None:
    """Scenario B5: within 0.3 s, and nothing is lost; not even where the window is full of what was."""

    async def scenario(seed: int) -> tuple[float, int]:
        scene = Scene(seed, "edge", rate_bytes_s=20 * MBIT)
        scene.home_settings["engine"] = engine
        async with scene:
            await scene.join(route_of("meets the node"), HOME, "edge")
            bus = LocalEventBus(scene.home.clock)
            client = await far_bus(scene, bus, "edge")
            scene.node("edge").host.start(answer(client))
            await pause(0.1)
            bulk = Bulk()
            if is_busy:
                await bulk.start(scene)
            asker = Asker(scene.home, bus)
            await pause(0.3 + seed * 0.037)
            scene.network.cut(HOME, "edge")
            await pause(cut_s)
            before = len(asker.replied)
            scene.network.heal(HOME, "edge")
            took_s = await until(lambda: len(asker.replied) > before, 10.0)
            await asker.stop()
            await bulk.stop()
            assert not asker.failed
            assert len(asker.replied) == asker.asked
            await scene.node("edge").run(client.aclose())
            await scene.home.run(bus.aclose())
            return took_s, asker.asked

    took_s, asked = simulate(scenario, seed)
    print(f"B5, {engine}, {cut_s:g} s: first reply {took_s * 1000:.0f} ms after the cut, 0 of {asked} lost")
    assert took_s <= 0.3


# --- B7: a process that stands still ---------------------------------------------------------------------------------


def session_of(scene: Scene, name: str) -> Session:
    """The session between home and the edge as one of them has it."""
    transport = scene.machines[name].transport
    if name == HOME:
        (dialer,) = transport._peers._dialers.values()
        return dialer.result()[1]
    (session,) = transport._peers._nodes[0]._server.sessions
    return session


async def numbers(pair: Pair, first: int) -> None:
    """Send numbers until the route breaks."""
    seq = first
    with suppress(ResourceError):
        while True:
            await pair.sink.send(message(seq, bytes(500)))
            seq += 1
            await pause(0.1)


@pytest.mark.parametrize("late_s", [0.0, 0.9])
@pytest.mark.parametrize("stopped", [HOME, "edge"])
def test_a_process_that_stood_still_for_longer_than_the_lease_is_lost_and_writes_nothing_more(
    stopped: str, late_s: float
) -> None:
    """Scenario B7: it wakes with what the network kept for it and with messages of its own, and finds itself lost."""

    async def scenario(seed: int) -> float:
        async with Scene(seed, "edge", rate_bytes_s=20 * MBIT) as scene:
            alive = "edge" if stopped == HOME else HOME
            there = await scene.join(route_of("there"), HOME, "edge")
            back = await scene.join(route_of("back"), "edge", HOME)
            eaters = [pair.consume() for pair in (there, back)]
            producers = [pair.send(numbers(pair, 0)) for pair in (there, back)]
            await pause(0.5 + late_s)
            ends = {name: session_of(scene, name) for name in (HOME, "edge")}
            to_alive = back if alive == HOME else there
            scene.machines[stopped].host.freeze()
            took_s = await until(lambda: ends[alive].is_over, 40.0)
            await pause(40.0 - took_s)
            assert not ends[stopped].is_over, "it stood still"
            came = list(to_alive.seqs)
            scene.machines[stopped].host.thaw()
            # The messages that it still writes come from a session that nobody has any more.
            assert await until(lambda: ends[stopped].is_over, 5.0) < 2.0
            await asyncio.gather(*eaters, *producers)
            assert to_alive.seqs == came == list(range(len(came)))
            for pair in (there, back):
                for books in (pair.sink.books, pair.source.books):
                    assert books.balances
                    assert books.in_flight == 0
                assert len(pair.came) <= pair.sink.books.sent
                assert pair.sink.books.delivered + pair.sink.books.dropped["lost"] == pair.sink.books.sent
            # They meet again as strangers, and what was written before is not in what comes now.
            for near, far in ((HOME, "edge"), ("edge", HOME)):
                pair = await scene.join(route_of(f"anew from {near}"), near, far)
                eater = pair.consume()
                await pair.near.run(pair.sink.send(message(1_000)))
                await pair.finish()
                await eater
                assert pair.seqs == [1_000]
            return took_s

    took_s = simulate(scenario)
    print(f"B7, {stopped} stands still for 40 s: lost after {took_s:.2f} s")
    assert 30 <= took_s < 31.5
