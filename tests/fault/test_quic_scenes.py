"""The QUIC tier as a whole on virtual time: what routes promise when peers restart, clocks disagree and links are cut.

Scenarios A9 and A13 to A15 of the fault matrix (A10 to A12 are in `test_quic_load`). Their seconds are virtual, so that
a target that is missed is a change of behaviour and not a busy machine; each prints what it found (`pytest -s`).
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, MBIT, Pair, Scene, message, route_of, simulate, until

from flowbridge.envelope import Envelope
from flowbridge.errors import ResourceError
from flowbridge.limits import HEARTBEAT_NS
from flowbridge.plan import Placement, Policy, Qos
from flowbridge.testing.virtual_loop import pause
from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.quic.session_state import SessionState

if TYPE_CHECKING:
    from quic_scene import Machine

    from flowbridge.contracts import EventBus
    from flowbridge.transports.quic.connection import Connection
    from flowbridge.transports.quic.session import Session

SMALL = bytes(200)
MS = 10**6


# --- A13: a slow consumer --------------------------------------------------------------------------------------------


def objects() -> int:
    """How many things there are that may refer to others: what is kept for each message is among them."""
    gc.collect()
    return len(gc.get_objects())


def resident_bytes() -> int:
    """The memory of this process that is in use (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def slow_consumer(seed: int, seconds: float, size_bytes: int) -> tuple[int, int, int, int]:
    """Ten messages are offered for each one taken.

    Returns how many were taken, the most that were queued, and how many objects and bytes there are more at the end.
    """
    capacity = 64
    async with Scene(seed, "edge", rate_bytes_s=20 * MBIT) as scene:
        qos = Qos(policy=Policy.BLOCK, capacity_items=capacity, high_items=capacity, low_items=capacity // 2)
        pair = await scene.join(route_of(qos=qos), HOME, "edge")
        eater = pair.consume(1.0, keeps=False)
        most = 0

        async def produce() -> None:
            nonlocal most
            seq = 0
            while True:
                await pair.sink.send(message(seq, bytes(size_bytes)))
                seq += 1
                most = max(most, pair.sink.books.in_flight, pair.source.books.in_flight)
                await pause(0.1)

        producer = pair.send(produce())
        await pause(seconds / 4)
        before = objects(), resident_bytes()
        await pause(seconds * 3 / 4)
        grown = objects() - before[0], resident_bytes() - before[1]
        producer.cancel()
        books, far = pair.sink.books, pair.source.books
        assert books.balances
        assert far.balances
        assert (books.dropped_total, books.expired, books.refused) == (0, 0, 0)
        assert (far.dropped_total, far.expired) == (0, 0)
        taken = far.delivered
        eater.cancel()
        assert most <= capacity
        return taken, most, *grown


@pytest.mark.parametrize(
    ("seconds", "size_bytes", "beat_ns"),
    [(120.0, 10_000, HEARTBEAT_NS), pytest.param(3600.0, 1_000, 5 * 10**9, marks=pytest.mark.slow)],
)
def test_a_slow_consumer_stops_its_producer_and_nothing_grows(
    seconds: float, size_bytes: int, beat_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario A13. Nearly all that a simulated hour costs is packets, so in that one they are fewer for a message."""
    monkeypatch.setattr("flowbridge.transports.quic.greeting.HEARTBEAT_NS", beat_ns)
    taken, most, more, grown = simulate(lambda seed: slow_consumer(seed, seconds, size_bytes))
    print(f"A13: {taken} taken in {seconds:g} s, at most {most} queued; {more:+} objects, {grown / 1024:+.0f} KiB")
    assert seconds * 0.95 <= taken <= seconds
    assert more < 1_000
    assert grown < 8 * 1024 * 1024


# --- A14: clocks that disagree ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead_s", "drift_ppm"), [(5, 200), (-5, 200), (5, -200), (-5, -200)])
def test_a_deadline_means_the_same_instant_to_clocks_that_disagree(ahead_s: int, drift_ppm: int) -> None:
    """Scenario A14: off by no more than half a round trip and a millisecond; also after an outage."""

    async def scenario(seed: int) -> tuple[float, float, int]:
        scene = Scene(seed, "edge", jitter_s=0.002, rate_bytes_s=20 * MBIT)
        scene.skews = {HOME: (ahead_s * 10**9, 0), "edge": (0, drift_ppm)}
        async with scene:
            scene.network.condition_one_way(HOME, "edge", delay_s=0.004)
            pairs = [
                await scene.join(route_of("there"), HOME, "edge"),
                await scene.join(route_of("back"), "edge", HOME),
            ]
            eaters = [pair.consume() for pair in pairs]
            due: dict[tuple[str, int], float] = {}

            async def produce(pair: Pair) -> None:
                for seq in range(300):
                    deadline_ns = pair.near.clock.now_ns() + (200 * MS if seq % 2 else 4_000 * MS)
                    due[pair.route.id, seq] = pair.near.clock.loop_time_of(deadline_ns)
                    await pair.sink.send(message(seq, SMALL, deadline_ns=deadline_ns))
                    await pause(0.1)

            producers = [pair.send(produce(pair)) for pair in pairs]
            await pause(12)
            scene.network.cut(HOME, "edge")
            await pause(3)
            scene.network.heal(HOME, "edge")
            await asyncio.gather(*producers)
            for pair in pairs:
                await pair.finish()
            await asyncio.gather(*eaters)
            session = session_of(scene.home, "edge")
            sample = session.offset.best()
            assert sample is not None
            errors = [
                pair.far.clock.loop_time_of(envelope.deadline_ns) - due[pair.route.id, envelope.seq]
                for pair in pairs
                for envelope, _ in pair.came
            ]
            for pair in pairs:
                books = pair.sink.books
                assert books.balances
                assert books.sent == 300 == books.delivered + books.expired
                # Those without a lost instant to spare during the cut are the only ones that may be late.
                assert len(pair.came) >= 300 - 20
            return max(map(abs, errors)) * 1e3, sample.rtt_ns / 2e6, len(errors)

    error_ms, epsilon_ms, count = simulate(scenario)
    print(
        f"A14: {ahead_s:+} s, {drift_ppm:+} ppm: {count} deadlines, off by {error_ms:.3f} ms; epsilon {epsilon_ms:.3f}"
    )
    assert error_ms <= epsilon_ms + 1


def session_of(machine: Machine, node: str) -> Session:
    """The session that a machine has with a node it dialled."""
    return machine.transport._peers.met(node)


# --- A9: a peer that starts anew -------------------------------------------------------------------------------------


def told_and_broken(pair: Pair, told: list[str], error: Exception) -> None:
    """Note a loss, and let the consumer hear of it."""
    told.append(str(error))
    pair.source.break_off(error)


async def endless(pair: Pair) -> None:
    """Send until the route breaks."""
    seq = 0
    with suppress(ResourceError):
        while True:
            await pair.sink.send(message(seq, bytes(3_000)))
            seq += 1


@pytest.mark.parametrize("seed", range(4))
def test_what_a_restarted_node_has_lost_is_told_and_counted(seed: int) -> None:
    """Scenario A9: streams are lost with the node's process; nothing is lost in silence, and nothing comes twice."""

    async def scenario(seed: int) -> tuple[int, int, int]:
        chance = Random(seed)
        async with Scene(seed, "edge", rate_bytes_s=20 * MBIT, loss=chance.choice((0.0, 0.02))) as scene:
            route, told = route_of("there"), list[str]()
            pair = await scene.join(route, HOME, "edge")
            pair.sink.on_lost = lambda error: told.append(str(error))
            back = await scene.join(route_of("back"), "edge", HOME)
            back.source.on_lost = partial(told_and_broken, back, told)
            pair.consume()
            home_eater = back.consume()
            back.send(endless(back))
            count = 600

            async def produce() -> None:
                for seq in range(count):
                    await pair.sink.send(message(seq, bytes(2_000)))
                    await pause(0.005)

            producer = pair.send(produce())
            restarts = 3
            for _ in range(restarts):
                await pause(chance.uniform(0.2, 0.8))
                edge = scene.node("edge")
                edge.host.kill()
                await pause(chance.uniform(0.0, 2.0))
                edge.host.restart()
                await edge.start(listens=True)
                # A peer that was never heard again would be waited for until the lease is over.
                assert await until(lambda: pair.sink._link is None, 5.0) < 2.0
                await scene.rejoin(pair)
                pair.consume()
            await producer
            await pair.finish()
            await asyncio.wait_for(home_eater, 60)
            books = pair.sink.books
            assert books.balances
            lost = books.dropped["lost"]
            assert (books.sent, books.in_flight, books.expired, books.refused) == (count, 0, 0, 0)
            assert books.delivered + lost == count
            assert sorted(set(pair.seqs)) == pair.seqs, "nothing comes twice or out of order"
            missing = count - len(pair.came)
            assert missing <= lost, "what did not come is counted"
            assert len(told) == restarts + 1
            assert back.seqs == list(range(len(back.came)))
            assert back.source.books.balances
            return len(pair.came), missing, lost

    came, missing, lost = simulate(scenario, seed)
    print(f"A9, seed {seed}: {came} of 600 came, {missing} did not, {lost} are counted as lost; 3 restarts")


# --- A15: a partition ------------------------------------------------------------------------------------------------


def live(machine: Machine) -> list[Connection]:
    """The connections of a node's sessions."""
    server = machine.transport._peers._nodes[0]._server
    return [session._connection for session in server.sessions if session._connection is not None]


@pytest.mark.parametrize("seed", range(4))
def test_after_a_partition_one_connection_is_left_and_older_epochs_count_for_nothing(seed: int) -> None:
    """Scenario A15."""

    async def scenario(seed: int) -> tuple[float, int]:
        chance = Random(seed)
        async with Scene(seed, "edge", rate_bytes_s=20 * MBIT) as scene:
            home, edge = scene.home, scene.node("edge")
            there = await scene.join(route_of("there"), HOME, "edge")
            back = await scene.join(route_of("back"), "edge", HOME)
            eaters = [there.consume(), back.consume()]
            stops: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]

            async def produce(pair: Pair, stop: asyncio.Event) -> None:
                seq = 0
                while not stop.is_set():
                    await pair.sink.send(message(seq, bytes(5_000)))
                    seq += 1
                    await pause(0.01)

            producers = [there.send(produce(there, stops[0])), back.send(produce(back, stops[1]))]
            await pause(1)
            session = session_of(home, "edge")
            first = live(edge)[0]
            scene.network.cut(HOME, "edge")
            await pause(chance.uniform(1.5, 10))
            scene.network.heal(HOME, "edge")
            took_s = await until(lambda: is_one(scene, session), 5.0)
            await pause(2)
            assert is_one(scene, session), "and it stays one"
            if session.epoch > 1:
                assert first.is_over
                assert first is not live(edge)[0]
            await home.run(must_be_fenced(home))
            await pause(1)
            assert is_one(scene, session)
            for stop in stops:
                stop.set()
            await asyncio.gather(*producers)
            for pair in (there, back):
                await pair.finish()
            await asyncio.gather(*eaters)
            for pair in (there, back):
                books = pair.sink.books
                assert pair.seqs == list(range(books.sent)), "nothing is lost, nothing comes twice"
                assert books.sent == books.delivered
                assert books.balances
            return took_s, session.epoch

    took_s, epoch = simulate(scenario, seed)
    print(f"A15, seed {seed}: one live connection {took_s:.2f} s after the partition, epoch {epoch}")
    assert took_s <= 2


def is_one(scene: Scene, session: Session) -> bool:
    """Whether exactly one connection lives, at both ends, and both are connected by it."""
    node = scene.node("edge").transport._peers._nodes[0]
    sessions = node._server.sessions
    return (
        len(sessions) == 1
        and sessions[0].state is session.state is SessionState.CONNECTED
        and sessions[0].epoch == session.epoch
        and node._listener.connections == 1  # type: ignore[attr-defined]
        and len(scene.home.host._sockets) == 1
    )


async def must_be_fenced(home: Machine) -> None:
    """Greet once more with the epoch that is in use: the node refuses it, and what runs goes on."""
    (found,) = home.transport._peers._dialers.values()
    dialer, session = found.result()
    dialer._epoch -= 1
    with pytest.raises(ResourceError, match="epoch"):
        await dialer._dial(session.limits)


# --- buses, and routes between nodes ---------------------------------------------------------------------------------


async def use(bus: EventBus) -> None:
    """Hear what is published oneself, with payloads larger than a packet."""
    async with bus.subscribe("a.*") as subscription:
        for number in range(20):
            await bus.publish("a.b", Envelope(bytes(number * 500), size_bytes=number * 500))
        for number in range(20):
            with await subscription.receive() as envelope:
                assert envelope.payload == bytes(number * 500)


def test_a_bus_is_used_from_another_machine_across_a_cut() -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "edge", loss=0.01) as scene:
            home, edge = scene.home, scene.node("edge")
            await scene.join(route_of(), HOME, "edge")  # meets the node
            bus = LocalEventBus(home.clock)

            async def serve() -> Any:
                return home.transport.serve_bus(bus, Placement(host="edge"))

            client = await edge.run(edge.transport.open_far_bus(await home.run(serve())))
            await edge.run(use(client))
            scene.network.cut(HOME, "edge")
            task = edge.host.start(use(client))
            await pause(5)
            assert not task.done()
            scene.network.heal(HOME, "edge")
            await task
            await edge.run(client.aclose())
            await home.run(bus.aclose())

    simulate(scenario)


def test_a_route_between_two_nodes_does_not_need_the_host_that_joined_them() -> None:
    async def scenario(seed: int) -> None:
        async with Scene(seed, "one", "two", rate_bytes_s=20 * MBIT) as scene:
            pair = await scene.join(route_of(), "one", "two")
            scene.home.host.unplug()
            eater = pair.consume()

            async def produce() -> None:
                for seq in range(500):
                    await pair.sink.send(message(seq, bytes(1_000)))

            await pair.send(produce())
            await pair.finish()
            await eater
            assert pair.seqs == list(range(500))
            assert pair.sink.books.delivered == 500
            assert pair.sink.books.balances
            scene.home.host.plug()

    simulate(scenario)
