"""Peers that keep the rules and mean harm: what they cost is bounded, and the others go on."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from quic_hostile import Evil, Growth, Scene, attacked, frame

from flowbridge.codec.codes import Code
from flowbridge.codec.session_frames import grease, whole
from flowbridge.codec.session_words import (
    Ack,
    Goaway,
    Open,
    Ping,
    Pong,
    Scope,
    StreamKind,
)
from flowbridge.limits import CONTROL_FRAMES_PER_TURN_MAX, SESSION_STREAMS_MAX
from flowbridge.transports.quic.engine import Closed, StreamReset, StreamStopped

if TYPE_CHECKING:
    import pytest

# --- what costs a stream, and not the session -----------------------------------------------------------------------


def test_a_stream_that_lies_is_given_up_and_the_others_go_on() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        good, bad = evil.stream(0), evil.stream(2)
        await asyncio.sleep(0.1)
        for _ in range(50):  # what comes behind the lie is no new stream, whenever it comes
            evil.write(bad, b"lie" * 1000)
            await asyncio.sleep(0.001)
        await evil.until(lambda: bool(evil.errors()))
        assert [(one.code, one.scope, one.ref) for one in evil.errors()] == [(Code.FRAME, Scope.STREAM, 2)]
        assert any(isinstance(one, StreamReset | StreamStopped) and one.stream == bad for one in evil.events)
        evil.write(good, b"more")
        await evil.until(lambda: evil.data(good).endswith(b"more"))
        assert not any(isinstance(event, Closed) for event in evil.events)
        assert [one.number for one in scene.core.session_of("evil").streams] == [0]

    attacked(run)


def test_a_part_that_is_forbidden_is_refused_with_its_code() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        quic = evil.stream(0, StreamKind.PART, rest=b"run this" * 100)
        await evil.until(lambda: bool(evil.errors()))
        (error,) = evil.errors()
        assert (error.code, error.ref) == (Code.FORBIDDEN, 0)
        assert "evil may run nothing here" in error.reason
        assert evil.data(quic) == b""
        assert list(scene.core.session_of("evil").streams) == []

    attacked(run)


def test_unknown_odd_frames_and_datagrams_are_skipped() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        for number in range(2000):
            evil.control(grease(number, bytes(number % 50)))
        for _ in range(50):
            evil.wire.engine.send_datagram(bytes(100))
        evil.control(whole(Ping(77, 1, ())))
        await evil.until(lambda: any(isinstance(one, Pong) and one.number == 77 for one in evil.frames()))
        assert not any(isinstance(event, Closed) for event in evil.events)

    attacked(run)


def test_nothing_counts_behind_what_closed_the_connection() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        evil.control(frame(0x40), whole(Goaway(int(Code.DRAINED), 0, 0)))
        evil.stream(0, rest=b"late")
        assert (await evil.closed()).code == Code.UNEXPECTED
        (ended,) = [why for session, why in scene.core.ended if session.peer.startswith("evil")]
        assert ended.code == Code.UNEXPECTED  # type: ignore[attr-defined]
        assert ("evil", 0) not in scene.core.echoes

    attacked(run)


def test_a_peer_has_only_so_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.quic.serving.SESSIONS_PER_PEER_MAX", 4)

    async def run(evil: Evil, scene: Scene) -> None:
        evils = [evil]
        for number in range(4):
            await evils[-1].greet(session=number.to_bytes(16, "big"))
            evils[-1].wire.abandon()
            scene.core.wires[-1].abandon()  # it would be one of too many connections of a host before long
            evils.append(await Evil().connect())
        evils[-1].open()
        evils[-1].control(whole(evils[-1].hello(session=b"x" * 16)))
        assert (await evils[-1].closed()).code == Code.BUSY
        await asyncio.sleep(40)
        assert len(scene.core.server.sessions) == 1, "those without a connection end with their lease"

    attacked(run)


# --- floods: how much they may cost ---------------------------------------------------------------------------------


def test_a_flood_of_pings_is_answered_turn_by_turn_and_never_kept() -> None:
    """Nothing of what the node says is taken: it must not keep all the answers."""

    async def run(_: Evil, scene: Scene) -> None:
        evil = await Evil(stream_window_bytes=16_384, connection_window_bytes=65_536).connect()
        await evil.greet()
        node = scene.core.session_of("evil")._connection
        assert node is not None
        most = 0
        evil.wire.on_event = lambda event: evil.events.append(event)  # which consumes nothing
        growth = Growth()
        for number in range(20):
            evil.write(0, b"".join(whole(Ping(10**6 + number * 500 + one, 1, ())) for one in range(500)))
            await asyncio.sleep(0.05)
            most = max(most, len(node._frames))
            evil.events = [event for event in evil.events if isinstance(event, Closed)]
        growth.assert_small()
        assert most <= 2 * 4096 / 3
        assert node.wire.engine.backlog(0) < 2 << 16

    attacked(run)


def test_control_frames_of_a_turn_are_so_many_and_the_rest_comes_later() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        session = scene.core.session_of("evil")
        connection = session._connection
        assert connection is not None
        told: dict[int, int] = {}
        control = session.control
        loop: Any = asyncio.get_running_loop()

        def count(*given: Any) -> None:
            told[loop.turns] = told.get(loop.turns, 0) + 1
            control(*given)

        vars(session)["control"] = count
        evil.write(0, whole(Ack(())) * 5000)
        await asyncio.sleep(1)
        assert sum(told.values()) >= 5000
        assert max(told.values()) <= CONTROL_FRAMES_PER_TURN_MAX

    attacked(run)


def test_a_flood_of_resets_is_cut_off() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        engine = evil.wire.engine
        growth = Growth()
        number = 0
        while not any(isinstance(event, Closed) for event in evil.events) and number < 2000:
            opened: list[int] = []
            while len(opened) < 64 and (quic := engine.open()) is not None:
                evil.write(quic, whole(Open(2 * number, StreamKind.ROUTE, "", b"", 0)))
                opened.append(quic)
                number += 1
            await asyncio.sleep(0.02)
            for quic in opened:
                engine.reset(quic, 1)
                engine.stop(quic, 1)
            evil.wire.touched()
            await asyncio.sleep(0.02)
        assert (await evil.closed()).code == Code.LIMIT
        assert "given up" in (await evil.closed()).reason
        growth.assert_small()
        assert number <= 512

    attacked(run)


def test_a_flood_of_streams_without_an_answer_to_a_ping_is_cut_off() -> None:
    """Each is refused and over at once; what is remembered of them is bounded."""

    async def run(evil: Evil, scene: Scene) -> None:
        await evil.greet()
        session = scene.core.session_of("evil")
        number = 0
        most = 0
        growth = Growth()
        while not any(isinstance(event, Closed) for event in evil.events) and number < 100_000:
            quic = evil.wire.engine.open()
            if quic is None:
                await asyncio.sleep(0.02)
                continue
            evil.write(quic, whole(Open(2 * number, StreamKind.PART, "", b"", 0)), fin=True)
            most = max(most, len(session._graves))
            number += 1
            if number % 8 == 0:
                await asyncio.sleep(0.1)
        assert (await evil.closed()).code == Code.LIMIT
        growth.assert_small()
        assert most <= SESSION_STREAMS_MAX

    attacked(run)


def test_bytes_one_by_one_to_a_stream_that_nobody_reads_cost_what_they_are() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        scene.core.takes = False
        await evil.greet()
        quic = evil.stream(0)
        await asyncio.sleep(0.1)
        (stream,) = scene.core.session_of("evil").streams
        for _ in range(300):
            for _ in range(20):
                evil.write(quic, b"x")
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        for _ in range(2000):
            stream.arrived(b"y", False)
        assert len(stream._inbox) <= 3 + 8000 // 4096
        assert sum(map(len, stream._inbox)) == 8000

    attacked(run)
