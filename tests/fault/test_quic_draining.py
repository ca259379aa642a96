"""Nodes that drain, on virtual time: what runs goes on, what is new is refused undone, and nobody dials in vain."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, Scene, message, route_of, simulate, until

from flowbridge.codec.codes import Code
from flowbridge.envelope import Envelope
from flowbridge.errors import BrokenError, Effect, EndOfStream, FlowbridgeError, Retry
from flowbridge.plan import Placement
from flowbridge.testing.virtual_loop import pause
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from quic_scene import Machine

    from flowbridge.contracts import EventBus, Subscription
    from flowbridge.transports.quic.dialing import Dialer

S = 10**9
EDGE = Placement(host="edge")


def dialer_of(machine: Machine, node: str) -> Dialer:
    """Who keeps the session with a node."""
    return next(found.result()[0] for (name, _), found in machine.transport._peers._dialers.items() if name == node)


async def refusal(machine: Machine, call: Any) -> FlowbridgeError:
    """The error that something there fails with."""
    with pytest.raises(FlowbridgeError) as caught:
        await machine.run(call)
    return caught.value


async def go_away(machine: Machine, grace_ns: int) -> None:
    machine.listener.go_away(grace_ns)


def test_a_node_that_drains_finishes_what_runs_and_takes_nothing_new(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "edge", "other") as scene:
            home, edge = scene.home, scene.node("edge")
            pair = await scene.join(route_of(), HOME, "edge")
            pair.consume()
            await home.run(pair.sink.send(message(0)))
            await edge.run(go_away(edge, 5 * S))
            await pause(0.1)
            for route in ("new", "newer"):
                error = await refusal(
                    home,
                    home.transport.open_sink(route_of(route), (await scene.ends(route_of(route), HOME, "edge"))[0]),
                )
                assert (error.code, error.effect, error.retry) == (Code.GOING_AWAY, Effect.NONE, Retry.NOW)
                assert isinstance(error, BrokenError)
                assert 4 * S < (error.retry_after_ns or 0) < 5 * S
            error = await refusal(home, home.transport.start_worker(EDGE))
            assert "node edge (quic://edge:4433): is draining and takes nothing new" in str(error)
            stranger = scene.node("other")
            error = await refusal(stranger, stranger.transport.start_worker(EDGE))
            assert error.code == Code.GOING_AWAY
            assert "node edge (quic://edge:4433): " in str(error)
            for number in range(1, 100):  # what was there goes on, to its end
                await home.run(pair.sink.send(message(number)))
            await pair.finish()
            await until(lambda: len(pair.came) == 100, 5.0)
            assert [envelope.seq for envelope, _ in pair.came] == list(range(100))
            assert pair.sink.books.balances
            dials = dialer_of(home, "edge").dials
            await edge.run(edge.transport.aclose())
            await pause(2.0)
            assert (dialer_of(home, "edge").dials, dials) == (1, 1), "it was dialled after it had drained"

    with caplog.at_level(logging.WARNING, "flowbridge.session"):
        simulate(scenario)
    said = [record.getMessage() for record in caplog.records if "is draining" in record.getMessage()]
    assert said == ["node edge (quic://edge:4433) is draining: it takes nothing new, and ends within 5 s"]


def test_a_node_that_drained_is_dialled_again_only_when_it_said() -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "edge") as scene:
            home, edge = scene.home, scene.node("edge")
            await home.run(home.transport.start_worker(EDGE))
            await edge.run(go_away(edge, 5 * S))
            await pause(0.1)
            await edge.run(edge.transport.aclose())
            await edge.start(listens=True)
            error = await refusal(home, home.transport.start_worker(EDGE))
            assert error.code == Code.GOING_AWAY
            assert dialer_of(home, "edge").dials == 1
            await pause(5.0)
            await home.run(home.transport.start_worker(EDGE))

    simulate(scenario)


def test_a_cut_while_a_node_drains_loses_nothing() -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "edge") as scene:
            home, edge = scene.home, scene.node("edge")
            pair = await scene.join(route_of(), HOME, "edge")
            pair.consume()
            await edge.run(go_away(edge, 20 * S))
            await pause(0.1)
            scene.network.cut(HOME, "edge")
            for number in range(50):
                await home.run(pair.sink.send(message(number)))
            await pause(3.0)
            scene.network.heal(HOME, "edge")
            await until(lambda: len(pair.came) == 50, 5.0)
            assert [envelope.seq for envelope, _ in pair.came] == list(range(50))

    simulate(scenario)


def test_who_is_superseded_again_and_again_pauses_between_its_dials() -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "edge") as scene:
            home, edge = scene.home, scene.node("edge")
            await home.run(home.transport.start_worker(EDGE))
            dialer = dialer_of(home, "edge")

            async def supersede() -> None:
                while True:
                    await asyncio.sleep(0.01)
                    for node in edge.transport._peers._nodes:
                        for session in node._server.sessions:
                            if session.connection is not None:
                                session.connection.close(Code.SUPERSEDED, "somebody else is here")

            task = edge.host.start(supersede())
            await pause(10.0)
            task.cancel()
            assert 10 <= dialer.dials <= 60, f"{dialer.dials} dials in 10 s"

    simulate(scenario)


# --- a service on two nodes ------------------------------------------------------------------------------------------


class Responder:
    """A member of the queue group that answers requests, on a node; it takes a while for each."""

    def __init__(self, scene: Scene, name: str, bus: LocalEventBus) -> None:
        self.machine = scene.node(name)
        self.served: list[int] = []
        self._home = scene.home
        self._bus = bus
        self._at = Placement(host=name)
        self._client: EventBus
        self._subscription: Subscription
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        async def serve() -> Any:
            return self._home.transport.serve_bus(self._bus, self._at)

        self._client = await self.machine.run(self.machine.transport.open_far_bus(await self._home.run(serve())))
        ready = asyncio.Event()
        self._task = self.machine.host.start(self._answer(ready))
        await ready.wait()

    async def _answer(self, ready: asyncio.Event) -> None:
        async with self._client.subscribe("ask", group="service") as self._subscription:
            ready.set()
            try:
                while True:
                    with await self._subscription.receive() as asked:
                        data = bytes(asked.payload)
                        self.served.append(int(data))
                        await pause(0.015)
                        await self._client.reply(asked, Envelope(data, size_bytes=len(data)))
            except EndOfStream:
                return

    async def leave(self) -> None:
        """Drain as a node does: say so, leave the bus, answer what is there, and go."""
        await self.machine.run(go_away(self.machine, 5 * S))

        async def drain() -> None:
            self._subscription.drain()

        await self.machine.run(drain())
        await self._task
        await self.machine.run(self._client.aclose())
        await self.machine.run(self.machine.transport.aclose())


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("cut_s", [0.0, 1.5])
def test_no_request_fails_while_one_of_two_nodes_drains(cut_s: float, loss: float) -> None:
    """Scenario B10: a steady load that one node alone carries; its queue is not empty when the other one leaves."""

    async def scenario(seed: int) -> tuple[int, int, int]:
        async with Scene(seed, "edge", "other", loss=loss) as scene:
            home = scene.home
            for name in ("edge", "other"):
                await scene.join(route_of(f"meets {name}"), HOME, name)
            bus = LocalEventBus(home.clock)
            edge, other = (Responder(scene, name, bus) for name in ("edge", "other"))
            await edge.start()
            await other.start()
            failed: list[FlowbridgeError] = []

            async def ask(number: int) -> None:
                data = b"%d" % number
                try:
                    reply = await bus.request("ask", Envelope(data, size_bytes=len(data)), timeout_ns=10 * S)
                    assert bytes(reply.payload) == data
                except FlowbridgeError as error:
                    failed.append(error)

            async def load() -> None:
                asked: list[asyncio.Task[None]] = []
                for number in range(100):
                    asked.append(home.host.start(ask(number)))
                    await pause(0.01)
                await asyncio.gather(*asked)

            task = home.host.start(load())
            await pause(0.4)
            if cut_s:
                scene.network.cut(HOME, "edge")
            leaving = asyncio.create_task(edge.leave())
            await pause(cut_s)
            scene.network.heal(HOME, "edge")
            await task
            await leaving
            assert failed == []
            assert sorted(edge.served + other.served) == list(range(100)), "each was answered, by one of them"
            assert min(len(edge.served), len(other.served)) > 10
            assert cut_s or len(other.served) > len(edge.served)
            await other.leave()
            await home.run(bus.aclose())
            return len(edge.served), len(other.served), len(failed)

    there, elsewhere, failed = simulate(scenario)
    print(f"B10, {cut_s:g} s cut, {loss:.0%} loss: {there} + {elsewhere} requests answered, {failed} failed")
