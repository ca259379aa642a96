"""Sessions that carry nothing, over wires that only record: when they ask, and when silence counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from quic_owner import LIMITS, Owner, of, opened, simulated

from flowbridge.codec.session_frames import whole
from flowbridge.codec.session_words import Ack, Ping, Pong, StreamKind
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import RESTS_PER_LEASE, SUSPECT_BEATS
from flowbridge.testing.virtual_loop import pause
from flowbridge.transports.quic.session_state import SessionState

if TYPE_CHECKING:
    from quic_recorder import RecordingWire

BEAT_S = LIMITS.hb_ms / 1000
REST_S = LIMITS.lease_ms / 1000 / RESTS_PER_LEASE
SUSPECT_S = SUSPECT_BEATS * BEAT_S
STEP_S = 0.01


def asked(wire: RecordingWire) -> int:
    return len(of(Ping, wire))


async def answer(wire: RecordingWire, seconds: float) -> int:
    """Let the peer answer what it is asked; returns how often that was."""
    before = answered = asked(wire)
    written: bytearray = wire.engine.written[0]
    for _ in range(round(seconds / STEP_S)):
        size = len(written)
        await pause(STEP_S)
        if len(written) > size:
            for ping in of(Ping, wire)[answered:]:
                answered += 1
                wire.brings(0, whole(Pong(ping.number, ping.t1_ns, ping.t1_ns, ping.t1_ns, ())))
    return answered - before


async def rested(wire: RecordingWire) -> None:
    """Let the peer answer what was asked, and then be silent until just before it is asked again."""
    await pause(STEP_S)
    wire.brings(0, whole(Ack(())))
    await until(wire.heard_at + REST_S - 0.1)


async def until(when: float) -> None:
    await pause(when - asyncio.get_running_loop().time())


def test_a_session_without_streams_asks_seldom_and_one_with_streams_in_every_beat() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await rested(wire)
        assert asked(wire) == 1, "as they met"
        assert await answer(wire, 6 * REST_S) in (5, 6)
        before = asked(wire)
        stream = owner.session.open(StreamKind.ROUTE, "")
        assert asked(wire) == before + 1, "it asks at once"
        assert await answer(wire, 20.5 * BEAT_S) == 20
        stream.fail(RemoteProtocolError("no more"))
        await answer(wire, 1)
        assert await answer(wire, 6 * REST_S) in (5, 6)
        before = asked(wire)
        wire.brings(4, opened(0))
        assert asked(wire) == before + 1
        assert await answer(wire, 20.5 * BEAT_S) == 20
        assert owner.told == []

    simulated(scenario)


@pytest.mark.parametrize("by_peer", [False, True])
def test_the_silence_of_a_peer_that_was_not_asked_is_not_held_against_it(by_peer: bool) -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await rested(wire)
        if by_peer:
            wire.brings(4, opened(0))
        else:
            owner.session.open(StreamKind.ROUTE, "")
        await pause(SUSPECT_S)
        assert owner.told == []
        await pause(BEAT_S + STEP_S)
        assert owner.told == ["suspicious"]

    simulated(scenario)


def test_a_session_at_rest_is_suspect_once_it_has_asked_in_vain() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await rested(wire)
        before = asked(wire)
        await until(wire.heard_at + 2 * REST_S - STEP_S)
        assert asked(wire) == before + 1
        assert owner.told == []
        await pause(2 * STEP_S)
        assert owner.told == ["suspicious"]
        await pause(3.5 * BEAT_S)
        assert asked(wire) == before + 5, "and then it asks in every beat"
        wire.brings(0, whole(Ack(())))
        await pause(BEAT_S)
        before = asked(wire)
        await until(wire.heard_at + REST_S - STEP_S)
        assert owner.session.state is SessionState.CONNECTED
        assert asked(wire) == before, "it rests again"

    simulated(scenario)


def test_a_session_at_rest_that_has_a_successor_is_asked_at_once() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await rested(wire)
        owner.session.hasten()
        assert asked(wire) == 2
        await pause(SUSPECT_S + BEAT_S + STEP_S)
        assert owner.told == ["suspicious"]
        await rested(wire)
        before = asked(wire)
        owner.session.hasten()
        assert asked(wire) == before + 1
        before = asked(wire)
        await rested(wire)
        assert asked(wire) == before, "one that answers goes on resting"

    simulated(scenario)


def test_a_session_at_rest_whose_connection_is_lost_ends_with_its_lease() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await rested(wire)
        wire.ends(by_application=False)
        await until(wire.heard_at + LIMITS.lease_ms / 1000)
        assert owner.told == ["apart"]
        await pause(BEAT_S + STEP_S)
        assert owner.told == ["apart", "ended"]

    simulated(scenario)


def test_a_session_within_a_frame_does_not_rest() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        frame = whole(Ack(()))
        wire.brings(0, frame[:-1])
        for _ in range(20):
            await pause(BEAT_S)
            wire.heard_at = asyncio.get_running_loop().time()
        assert asked(wire) in (20, 21)
        wire.brings(0, frame[-1:])
        await pause(BEAT_S + STEP_S)
        before = asked(wire)
        await rested(wire)
        assert asked(wire) == before

    simulated(scenario)
