"""Nodes that drain, on virtual time: what runs goes on, what is new is refused undone, and nobody dials in vain."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, Scene, message, route_of, simulate, until

from flowbridge.codec.codes import Code
from flowbridge.errors import BrokenError, Effect, FlowbridgeError, Retry
from flowbridge.plan import Placement
from flowbridge.testing.virtual_loop import pause

if TYPE_CHECKING:
    from quic_scene import Machine

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
