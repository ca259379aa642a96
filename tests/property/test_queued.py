"""Sums of what waits, against adding it all up."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quic_hostile import Scene

from flowbridge.codec.session_words import StreamKind
from flowbridge.envelope import NO_DEADLINE
from flowbridge.machines.queued import Queued
from flowbridge.testing.virtual_loop import pause, run_simulated

if TYPE_CHECKING:
    from flowbridge.machines.admission import Rank
    from flowbridge.transports.quic.stream import SessionStream

RANKS = st.tuples(st.integers(0, 4), st.integers(0, 30) | st.just(NO_DEADLINE))
CHANGES = st.lists(st.tuples(st.integers(0, 300), RANKS, st.sampled_from((0, 0, 1, 7, 100_000))), max_size=400)


def plain(waiting: dict[int, tuple[Rank, int]], number: int, rank: Rank) -> int:
    return sum(size for one, (its, size) in waiting.items() if one == number or its <= rank)


@given(CHANGES, st.lists(st.tuples(st.integers(0, 300), RANKS), max_size=20))
def test_the_sums_are_those_of_adding_up(
    changes: list[tuple[int, Rank, int]], questions: list[tuple[int, Rank]]
) -> None:
    queued = Queued()
    waiting: dict[int, tuple[Rank, int]] = {}
    for number, rank, size in changes:
        queued.put(number, rank, size)
        waiting[number] = rank, size
        assert queued.before(number, rank) == plain(waiting, number, rank)
    for number, rank in questions:
        assert queued.before(number, rank) == plain(waiting, number, rank)
    assert len(queued) == sum(size > 0 for _, size in waiting.values())


def test_many_streams_are_cut_into_blocks_that_go_when_they_are_empty() -> None:
    chance = Random(5)
    queued = Queued()
    waiting: dict[int, tuple[Rank, int]] = {}
    for _ in range(5_000):
        number, rank = chance.randrange(1_024), (chance.randrange(5), chance.randrange(10**6))
        size = chance.choice((0, 1, 10, 500))
        queued.put(number, rank, size)
        waiting[number] = rank, size
        if chance.random() < 0.2:
            assert queued.before(number, rank) == plain(waiting, number, rank)
    for number, (rank, _) in waiting.items():
        queued.put(number, rank, 0)
    assert (len(queued), queued.before(0, (4, NO_DEADLINE))) == (0, 0)


@pytest.mark.parametrize("seed", range(2))
def test_a_session_knows_what_waits_whatever_was_written_sent_acknowledged_or_given_up(seed: int) -> None:
    """Over real connections, of which one breaks in between."""
    asked = 0

    async def scenario(seed: int) -> None:
        nonlocal asked
        scene = Scene(seed)
        scene.network.condition("edge", "core", delay_s=0.02, rate_bytes_s=500_000)
        await scene.start()
        session, chance = scene.session, Random(seed)
        streams: list[SessionStream] = []

        def look() -> None:
            nonlocal asked
            for _ in range(3):
                stream = chance.choice(streams)
                rank = chance.randrange(5), chance.choice((10**9, 3 * 10**9, NO_DEADLINE))
                before = session.before(stream, rank)
                if before is not None:
                    every = list(session.streams)
                    total = sum(one.waiting_bytes for one in every if one is stream or one.rank <= rank)
                    assert before.queued_bytes == total
                    asked += total > 0

        for step in range(120):
            if len(streams) < 20 or chance.random() < 0.03:
                stream = session.open(StreamKind.ROUTE, f"route {step}")
                stream.connect(on_data=lambda data, _: None, on_lost=lambda error: None)
                streams.append(stream)
            stream = chance.choice(streams)
            if not stream.is_lost and not stream.out.is_finished:
                what = chance.random()
                if what < 0.8:
                    stream.write(bytes(chance.choice((10, 1_000, 10_000, 40_000))))
                    stream.press((chance.randrange(5), chance.choice((10**9, 2 * 10**9, NO_DEADLINE))))
                elif what < 0.83:
                    stream.write(b"lie")  # for which the peer gives it up, if it is the first
                elif what < 0.86:
                    stream.end()
                elif what < 0.88:
                    stream.fail(ValueError("given up"))
            if step == 60:
                scene.core.wires[0].abandon()
                scene.dialer.suspicious(session)
            look()
            if chance.random() < 0.3:
                await pause(chance.choice((0.001, 0.02, 0.2)))
        scene.beats.cancel()
        await scene.edge_host.start(scene.dialer.aclose(0))
        await scene.core_host.start(scene.core.server.aclose(0))
        await scene.core_host.start(scene.core.listener.aclose())
        assert session.replays == 1

    run_simulated(scenario, seed=seed, until_s=1000)
    assert asked > 30
