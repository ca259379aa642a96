"""Messages that need not wait for others, on virtual time: loss, overload, and links that are cut under them.

Scenario A10 of the fault matrix as a route can have it that says so. Each prints what it found (`pytest -s`).
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from quic_scene import HOME, MBIT, Pair, Scene, message, percentile, route_of, simulate

from flowbridge.plan import ContentType, Policy, Qos
from flowbridge.testing.virtual_loop import pause

if TYPE_CHECKING:
    from flowbridge.time.ledger import EdgeBooks

SMALL = bytes(200)
EVERY_S = 0.005
MS = 10**6
LATEST = Qos(policy=Policy.LATEST)
TIMELY = Qos(policy=Policy.DROP_OLDEST, deadline_ns=100 * MS)


async def produce(pair: Pair, count: int, payload: bytes, every_s: float, ttl_ns: int = 0) -> list[int]:
    """A message every few milliseconds, whatever became of the last; returns when each was offered."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    begun_ns: list[int] = []
    for seq in range(count):
        now_ns = pair.near.clock.now_ns()
        deadline = {"deadline_ns": now_ns + ttl_ns} if ttl_ns else {}
        await pair.sink.send(message(seq, payload, origin_ns=now_ns, **deadline))
        begun_ns.append(now_ns)
        await pause(max(0.0, start + (seq + 1) * every_s - loop.time()))
    return begun_ns


def ended(pair: Pair, count: int) -> EdgeBooks:
    """Its books, when everything has ended: they balance at both ends, which agree."""
    books, far = pair.sink.books, pair.source.books
    assert books.balances
    assert far.balances
    assert (books.sent, books.in_flight, far.in_flight) == (count, 0, 0)
    assert books.delivered == far.delivered == len(pair.came)
    assert books.dropped.get("lost", 0) == 0
    assert pair.seqs == sorted(set(pair.seqs))
    return books


def ages_ms(pair: Pair, begun_ns: list[int]) -> list[float]:
    """For each that was offered: how long until it, or a newer one, was there; sorted, in milliseconds."""
    ages: list[float] = []
    came = pair.came
    at = 0
    for seq, begin_ns in enumerate(begun_ns):
        while at < len(came) and came[at][0].seq < seq:
            at += 1
        if at < len(came):
            ages.append((came[at][1] - begin_ns) / MS)
    return sorted(ages)


def shown(values: list[float]) -> str:
    return "/".join(f"{percentile(values, part):.1f}" for part in (0.5, 0.9, 0.99)) + " ms (p50/p90/p99)"


async def trickled(seed: int, qos: Qos, count: int, **conditions: Any) -> tuple[Pair, list[int], EdgeBooks]:
    """A small message every 5 ms over a path that loses some: the route, when each was offered, and its books."""
    async with Scene(seed, "edge", rate_bytes_s=20 * MBIT, **conditions) as scene:
        pair = await scene.join(route_of(qos=qos), HOME, "edge")
        eater = pair.consume()
        begun_ns = await pair.near.run(produce(pair, count, SMALL, EVERY_S, qos.deadline_ns or 0))
        await pair.finish()
        await eater
        return pair, begun_ns, ended(pair, count)


@pytest.mark.parametrize(("loss", "target_ms"), [(0.01, 11), (0.05, 45)])
def test_the_newest_of_a_route_waits_for_no_packet_but_its_own(loss: float, target_ms: float) -> None:
    """Scenario A10. Those that were lost count too: a newer one is there after at most a few more messages."""
    values: list[float] = []
    ages: list[float] = []
    came = 0
    for seed in (1, 2):
        pair, begun_ns, books = simulate(lambda seed: trickled(seed, LATEST, 400, loss=loss), seed)
        values += pair.latencies_ms()
        ages += ages_ms(pair, begun_ns)
        came += books.delivered
        assert books.expired == 0
        assert books.dropped_total == 400 - books.delivered
    values, ages = sorted(values), sorted(ages)
    print(f"A10, latest: {loss:.0%} loss {shown(values)}, {came} of 800 came; until it or a newer one {shown(ages)}")
    assert percentile(values, 0.99) <= target_ms
    assert percentile(ages, 0.9) <= 11
    assert percentile(ages, 0.99) <= 26
    assert came >= (1 - 2 * loss) * 800


def test_what_may_be_dropped_and_has_a_deadline_comes_in_order_and_whole() -> None:
    """It overtakes on the way and waits for its turn at the consumer's end: `ended` looks at the order."""
    pair, _, books = simulate(lambda seed: trickled(seed, TIMELY, 400, loss=0.05, jitter_s=0.01))
    print(f"in order: 5 % loss {shown(pair.latencies_ms())}, {books.delivered} of 400 came, {books.expired} expired")
    assert books.delivered + books.expired == 400
    assert books.delivered >= 0.97 * 400
    assert pair.latencies_ms()[-1] <= 100


# --- overload --------------------------------------------------------------------------------------------------------


def test_what_expires_on_its_way_is_given_up_and_counted_once() -> None:
    """30 frames of 40 kB a second, due in 250 ms, on a path of 8 Mbit/s that falls to 1 under what was admitted."""

    async def scenario(seed: int) -> tuple[EdgeBooks, EdgeBooks, int, float]:
        scene = Scene(seed, "edge", rate_bytes_s=8 * MBIT)
        async with scene:
            pair = await scene.join(route_of(qos=Qos(policy=Policy.DROP_OLDEST, deadline_ns=250 * MS)), HOME, "edge")
            eater = pair.consume()
            producer = pair.send(produce(pair, 75, bytes(40_000), 1 / 30, 250 * MS))
            for rate in (1, 8, 8):
                await pause(0.8)
                scene.network.condition(HOME, "edge", rate_bytes_s=rate * MBIT)
            await producer
            await pair.finish()
            await eater
            return ended(pair, 75), pair.source.books, len(pair.came), pair.latencies_ms()[-1]

    books, far, came, slowest_ms = simulate(scenario)
    print(f"overload: {came} of 75 in time, {books.expired} expired, {far.missed.transport} of them on their way")
    assert books.delivered + books.expired + books.dropped_total == 75
    assert far.missed.transport > 0
    assert came >= 25
    assert slowest_ms <= 250


def test_at_120_percent_of_what_a_path_carries_most_of_that_is_in_time() -> None:
    """Scenario A12, on streams of their own."""

    async def scenario(seed: int) -> EdgeBooks:
        async with Scene(seed, "edge", rate_bytes_s=8 * MBIT) as scene:
            pair = await scene.join(route_of(qos=Qos(policy=Policy.DROP_OLDEST, deadline_ns=250 * MS)), HOME, "edge")
            eater = pair.consume()
            await pair.send(produce(pair, 60, bytes(40_000), 1 / 30, 250 * MS))
            await pair.finish()
            await eater
            assert pair.latencies_ms()[-1] <= 250
            return ended(pair, 60)

    books = simulate(scenario)
    print(f"A12, singly: {books.delivered} in time of 50, {books.expired} expired")
    assert books.delivered >= 0.75 * 50


def test_a_path_that_is_too_slow_for_all_brings_the_newest_and_not_the_oldest() -> None:
    """The others give way to it where they wait; few wait behind it on the path."""

    async def scenario(seed: int) -> tuple[EdgeBooks, list[float]]:
        async with Scene(seed, "edge", rate_bytes_s=2 * MBIT) as scene:
            pair = await scene.join(route_of(qos=LATEST), HOME, "edge")
            eater = pair.consume()
            await pair.send(produce(pair, 150, bytes(20_000), 1 / 50))
            await pair.finish()
            await eater
            assert pair.seqs[-1] == 149
            return ended(pair, 150), pair.latencies_ms()

    books, values = simulate(scenario)
    print(f"latest, at 4 times what the path carries: {books.delivered} of 150, {shown(values)}")
    assert books.delivered >= 25
    assert values[-1] <= 500


# --- connections that are lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_s", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["latest", "patient", "timely"])
def test_a_cut_costs_what_expires_in_it_and_nothing_else(kind: str, cut_s: float) -> None:
    """12 kB are ten packets: some are always under way. After a long cut the connection needs a second to recover."""
    count = 40 if cut_s < 1 else 80
    ttl_ns = {"latest": 0, "patient": 60_000 * MS, "timely": 200 * MS}[kind]
    qos = LATEST if kind == "latest" else Qos(policy=Policy.DROP_OLDEST, deadline_ns=ttl_ns)

    async def scenario(seed: int) -> tuple[EdgeBooks, list[int], int]:
        async with Scene(seed, "edge", rate_bytes_s=20 * MBIT, loss=0.01) as scene:
            pair = await scene.join(route_of(qos=qos), HOME, "edge")
            eater = pair.consume()
            producer = pair.send(produce(pair, count, bytes(12_000), 0.05, ttl_ns))
            await pause(0.405)
            scene.network.cut(HOME, "edge")
            await pause(cut_s)
            scene.network.heal(HOME, "edge")
            await producer
            await pair.finish()
            await eater
            return ended(pair, count), pair.seqs, pair.source.books.missed.transport

    books, seqs, late = simulate(scenario)
    print(f"{kind}, cut for {cut_s} s: {len(seqs)} of {count} came, {books.expired} expired ({late} on the way)")
    assert seqs[-1] == count - 1
    if kind == "latest":
        assert books.expired == 0
        assert books.delivered + books.dropped[Policy.LATEST.value] == count
    elif kind == "patient":
        assert seqs == list(range(count))
    else:
        assert books.delivered + books.expired == count
        assert books.expired > 0


# --- what has no stream of its own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [0, 3])
def test_without_streams_that_are_left_messages_go_with_their_route(streams: int) -> None:
    async def scenario(seed: int) -> list[int]:
        scene = Scene(seed, "edge", loss=0.02)
        scene.settings = {"unidirectional_streams": streams}
        async with scene:
            pair = await scene.join(route_of(qos=TIMELY), HOME, "edge")
            eater = pair.consume()
            await pair.send(produce(pair, 100, bytes(2_000), 0.002, 5_000 * MS))
            await pair.finish()
            await eater
            ended(pair, 100)
            return pair.seqs

    assert simulate(scenario) == list(range(100))


def test_large_messages_and_those_of_other_schemas_keep_their_place() -> None:
    """What goes with the route and what goes beside it are of one order."""

    async def scenario(seed: int) -> list[int]:
        async with Scene(seed, "edge", rate_bytes_s=20 * MBIT, loss=0.02, jitter_s=0.005) as scene:
            qos = Qos(policy=Policy.DROP_OLDEST, deadline_ns=60_000 * MS)
            pair = await scene.join(route_of(qos=qos, content_type=ContentType.ARROW), HOME, "edge")
            eater = pair.consume()

            async def mixed() -> None:
                for seq in range(40):
                    rows = 20_000 if seq % 10 == 5 else 50
                    batch = pa.record_batch({f"x{seq // 8}": pa.array(range(rows), pa.int64())})
                    await pair.sink.send(message(seq, batch))
                    await pause(0.02)

            await pair.send(mixed())
            await pair.finish()
            await eater
            ended(pair, 40)
            assert all(one.payload.schema.names == [f"x{one.seq // 8}"] for one, _ in pair.came)
            return pair.seqs

    assert simulate(scenario) == list(range(40))
