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
    from flowbridge.transports.quic.session import Session
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


class Busy:
    """Streams of a session to which something happens all the time."""

    def __init__(self, session: Session, seed: int) -> None:
        self.asked = 0
        self._session = session
        self._chance = Random(seed)
        self._streams: list[SessionStream] = []

    def do_something(self) -> None:
        """Write to a stream, or end it in one of the ways there are."""
        chance = self._chance
        if len(self._streams) < 20 or chance.random() < 0.03:
            stream = self._session.open(StreamKind.ROUTE, f"route {len(self._streams)}")
            stream.connect(on_data=lambda data, _: None, on_lost=lambda error: None)
            self._streams.append(stream)
        stream = chance.choice(self._streams)
        if stream.is_lost or stream.out.is_finished:
            return
        what = chance.random()
        if what < 0.9:
            stream.write(bytes(chance.choice((10, 1_000, 10_000, 40_000))))
            stream.press((chance.randrange(5), chance.choice((10**9, 2 * 10**9, NO_DEADLINE))))
        elif what < 0.93:
            stream.write(b"lie")  # for which the peer gives it up, if it is the first
        elif what < 0.97:
            stream.end()
        else:
            stream.fail(ValueError("given up"))

    def look(self) -> None:
        """Compare what the session says with adding it up."""
        for _ in range(3):
            stream = self._chance.choice(self._streams)
            rank = self._chance.randrange(5), self._chance.choice((10**9, 3 * 10**9, NO_DEADLINE))
            before = self._session.before(stream, rank)
            if before is not None:
                every = list(self._session.streams)
                total = sum(one.waiting_bytes for one in every if one is stream or one.rank <= rank)
                assert before.queued_bytes == total
                self.asked += total > 0


@pytest.mark.parametrize("seed", range(2))
def test_a_session_knows_what_waits_whatever_was_written_sent_acknowledged_or_given_up(seed: int) -> None:
    """Over real connections, of which one breaks in between."""

    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        scene.network.condition("edge", "core", delay_s=0.02, rate_bytes_s=500_000)
        await scene.start()
        busy, chance = Busy(scene.session, seed), Random(seed + 1)
        for step in range(120):
            busy.do_something()
            if step == 60:
                scene.core.wires[0].abandon()
                scene.dialer.suspicious(scene.session)
            busy.look()
            if chance.random() < 0.3:
                await pause(chance.choice((0.001, 0.02, 0.2)))
        scene.beats.cancel()
        await scene.edge_host.start(scene.dialer.aclose(0))
        await scene.core_host.start(scene.core.server.aclose(0))
        await scene.core_host.start(scene.core.listener.aclose())
        assert scene.session.replays == 1
        assert busy.asked > 30

    run_simulated(scenario, seed=seed, until_s=1000)
