"""Sessions over wires that only record: states, counts, graves, heartbeats and leases, on virtual time."""

from __future__ import annotations

import asyncio

import pytest
from quic_owner import Owner, of, opened, simulated
from quic_recorder import RecordingWire

from flowbridge.codec.codes import Code
from flowbridge.codec.session_frames import control_reader, first_frame, grease, read_first, whole
from flowbridge.codec.session_words import (
    PING,
    Accept,
    Ack,
    Error,
    Goaway,
    Open,
    Ping,
    Pong,
    Scope,
    StreamKind,
)
from flowbridge.errors import BrokenError, ClosedError, Effect, RemoteProtocolError, ResourceError, Retry
from flowbridge.limits import (
    ACK_BYTES,
    ACK_DELAY_S,
    CONTROL_UNSENT_BYTES_HIGH,
    CONTROL_UNSENT_BYTES_MAX,
    GREASE_BEATS,
)
from flowbridge.testing.virtual_loop import pause
from flowbridge.transports.quic.connection import Connection
from flowbridge.transports.quic.engine import StreamReset, StreamsLeft
from flowbridge.transports.quic.session_state import SessionState


def test_counts_are_told_after_a_while_or_when_much_has_come() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        owner.take(owner.streams[0])
        wire.brings(4, b"abc")
        assert of(Ack, wire) == []
        await pause(ACK_DELAY_S * 2.2)
        assert of(Ack, wire)[-1] == Ack(((0, 3),))
        wire.brings(4, bytes(ACK_BYTES))
        assert of(Ack, wire)[-1] == Ack(((0, 3 + ACK_BYTES),))

    simulated(scenario)


def test_a_stream_that_is_over_is_remembered_until_a_later_ping_is_answered() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0) + b"abc", fin=True)
        stream = owner.streams[0]
        owner.take(stream)
        stream.end()
        await pause(0)
        wire.brings(0, whole(Ack(((0, 1),))))
        assert list(owner.session.streams) == []
        assert owner.session.received() == ((0, 4),)
        first = of(Ping, wire)[-1]
        wire.brings(0, whole(Pong(first.number, first.t1_ns, 1, 1, ())))
        assert owner.session.received() == ((0, 4),)  # that ping left before
        await pause(0.3)
        second = of(Ping, wire)[-1]
        assert second.number > first.number
        wire.brings(0, whole(Pong(second.number, second.t1_ns, 1, 1, ())))
        assert owner.session.received() == ()
        assert owner.lost == [None]

    simulated(scenario)


def test_a_stream_that_fails_is_told_with_an_error_and_again_over_the_next_connection() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        owner.streams[0].fail(RemoteProtocolError("it lied"))
        told = of(Error, wire)
        assert [(one.code, one.scope, one.ref, one.reason) for one in told] == [
            (Code.FRAME, Scope.STREAM, 0, "it lied")
        ]
        assert wire.engine.resets == wire.engine.stops == [(4, Code.FRAME)]
        again = owner.meet(2)
        assert of(Error, again) == told
        again.brings(4, opened(0))
        assert again.engine.stops == [(4, Code.CANCELLED)]
        assert len(owner.streams) == 1

    simulated(scenario)


def test_a_newer_connection_takes_over_and_what_the_older_brings_counts_for_nothing() -> None:
    async def scenario(owner: Owner) -> None:
        old = owner.meet()
        old.brings(4, opened(0) + b"abc")
        brought = owner.take(owner.streams[0])
        await pause(0)
        new = owner.meet(2)
        assert old.engine.closed == (Code.SUPERSEDED, "another connection has taken over")
        old.brings(4, b"zombie")
        old.ends(Code.UNEXPECTED)
        assert owner.session.state is SessionState.CONNECTED
        new.brings(4, opened(0, 1) + b"bcd")
        assert brought == b"abcd"
        assert owner.session.replays == 1

    simulated(scenario)


@pytest.mark.parametrize("code", [Code.SUPERSEDED, Code.CANCELLED, Code.PEER_GONE])
def test_a_connection_that_gave_way_leaves_the_session(code: Code, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(owner: Owner) -> None:
        owner.meet().ends(code)
        assert (owner.told, owner.session.state) == (["apart"], SessionState.APART)

    simulated(scenario)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"edge is away: {code.name} (0x")  # and who it is only once


@pytest.mark.parametrize("code", [0, Code.UNEXPECTED, Code.DRAINED, Code.FORBIDDEN, 0x777, Code.INTERNAL])
def test_a_connection_that_was_closed_on_purpose_ends_the_session(code: int) -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        owner.take(owner.streams[0])
        wire.ends(code)
        assert owner.told == ["ended"]
        await pause(0)
        assert len(owner.lost) == 1
        with pytest.raises(BrokenError, match="the session is over"):
            owner.session.open(StreamKind.ROUTE, "more")

    simulated(scenario)


def test_silence_makes_suspicious_once_and_a_packet_trusts_again() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        owner.session.open(StreamKind.ROUTE, "")
        await pause(2.0)
        assert (owner.told, owner.session.state) == (["suspicious"], SessionState.SUSPECT)
        wire.brings(0, whole(Ack(())))
        await pause(0.3)
        assert owner.session.state is SessionState.CONNECTED
        await pause(2.0)
        assert owner.told == ["suspicious"] * 2

    simulated(scenario)


def test_silence_for_the_lease_ends_the_session_with_or_without_a_connection() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        await pause(5.6)
        assert owner.told == ["suspicious", "ended"]
        assert isinstance(owner.why, BrokenError)
        assert wire.engine.closed is not None
        assert wire.engine.closed[0] == Code.PEER_GONE
        other = Owner()
        other.meet().ends(by_application=False)
        await pause(4.5)
        assert other.told == ["apart"]
        await pause(1.0)
        assert other.told == ["apart", "ended"]

    simulated(scenario)


def test_streams_wait_for_room_and_go_in_order() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.engine.streams_left = 1
        streams = [owner.session.open(StreamKind.ROUTE, f"route {number}") for number in range(3)]
        for stream in streams:
            stream.write(b"data")
        assert list(wire.engine.written) == [0, 1]
        wire.engine.streams_left = 2
        wire.on_event(StreamsLeft())
        assert list(wire.engine.written) == [0, 1, 5, 9]
        found = first_frame().feed(bytes(wire.engine.written[9]))
        assert found is not None
        assert read_first(*found[:3]) == Open(5, StreamKind.ROUTE, "route 2", b"", 0)
        assert found[3] == b"data"
        wire.brings(1, whole(Accept(1, 0)) + b"answer")
        assert owner.take(streams[0]) == b""
        await pause(0)

    simulated(scenario)


def test_a_session_has_so_many_streams() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        for _ in range(8):
            owner.session.open(StreamKind.ROUTE, "")
        with pytest.raises(ResourceError, match="at most 8 streams"):
            owner.session.open(StreamKind.ROUTE, "")
        wire.brings(4, opened(0))
        assert wire.engine.closed is not None
        assert wire.engine.closed[0] == Code.LIMIT

    simulated(scenario)


def test_counts_that_cannot_be_change_nothing_of_a_session() -> None:
    async def scenario(owner: Owner) -> None:
        old = owner.meet()
        stream = owner.session.open(StreamKind.ROUTE, "")
        stream.write(b"abc")
        for counts in ({1: 4}, {3: 0}):
            with pytest.raises(RemoteProtocolError):
                owner.meet(2, counts)
            assert old.engine.closed is None
        stream.write(b"def")
        assert bytes(old.engine.written[1]).endswith(b"abcdef")

    simulated(scenario)


def test_nothing_is_added_for_a_peer_that_takes_nothing_and_a_peer_that_provokes_it_is_closed() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        owner.take(owner.streams[0])
        said = len(wire.frames())
        wire.engine.unsent = CONTROL_UNSENT_BYTES_HIGH + 1
        wire.brings(0, whole(Ping(1, 1, ())))
        wire.brings(4, bytes(10))
        await pause(0.5)
        assert len(wire.frames()) == said
        wire.engine.unsent = 0
        await pause(ACK_DELAY_S * 2.2)
        assert of(Ack, wire)[-1] == Ack(((0, 10),))
        wire.engine.unsent = CONTROL_UNSENT_BYTES_MAX + 1
        owner.streams[0].fail(RemoteProtocolError("it lied"))
        assert wire.engine.closed is not None
        assert wire.engine.closed[0] == Code.LIMIT

    simulated(scenario)


def test_a_stream_given_up_within_a_batch_does_not_break_the_connection() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        owner.streams[0].fail(RemoteProtocolError("it lied"))
        wire.brings(4, b"\xff" * 100)  # told by the engine before it was stopped
        assert wire.engine.closed is None
        wire.on_event(StreamReset(4, 1))
        assert wire.engine.closed is None

    simulated(scenario)


def test_what_follows_an_answer_waits_until_the_session_has_taken_over() -> None:
    async def scenario(owner: Owner) -> None:
        wire = RecordingWire()
        connection = Connection(wire, owner.session, is_early=True)
        wire.connected()
        wire.brings(4, opened(0) + b"early")
        assert owner.streams == []
        connection.hold()
        wire.brings(0, grease(1) + whole(Ping(9, 1, ())))
        assert wire.frames() == []
        owner.session.adopt(connection, 1, {})
        assert [one.number for one in of(Pong, wire)] == [9]
        assert [stream.number for stream in owner.streams] == [0]
        assert owner.take(owner.streams[0]) == b""

    simulated(scenario)


def test_a_frame_that_means_nothing_is_sent_now_and_then() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        owner.session.open(StreamKind.ROUTE, "")
        for _ in range(2000):
            wire.heard_at = asyncio.get_running_loop().time()
            await pause(0.25)
        kinds = [kind for kind, _, _ in control_reader().feed(bytes(wire.engine.written[0]))]
        odd = [kind for kind in kinds if kind & 1]
        assert 2000 / GREASE_BEATS / 2 < len(odd) < 2000 / GREASE_BEATS * 2
        assert len(set(odd)) > len(odd) / 2
        assert sum(kind == PING for kind in kinds) == 2001, "and nothing goes instead of a ping"

    simulated(scenario)


def test_what_closes_a_session_is_told_once() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(0, whole(Error(int(Code.REVOKED), Scope.CONNECTION, 0, "no more", None)))
        owner.session.close()
        wire.ends()
        assert owner.told == ["ended"]
        assert not isinstance(owner.why, ClosedError)
        assert repr(owner.session) == "<Session with edge over, epoch 1, 0 streams>"

    simulated(scenario)


# --- draining -------------------------------------------------------------------------------------------------------


def goaway(grace_ms: int, again_ms: int) -> bytes:
    return whole(Goaway(int(Code.GOING_AWAY), grace_ms, again_ms))


def test_a_peer_that_drains_keeps_its_streams_and_gets_no_new_one() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        stream = owner.session.open(StreamKind.ROUTE, "before")
        wire.brings(0, goaway(2_000, 3_000))
        assert not owner.session.is_over
        for grace_ms, again_ms, left_ns in ((9_000, 9_000, 3 * 10**9), (500, 1_000, 10**9)):
            with pytest.raises(BrokenError, match="edge: is draining and takes nothing new") as caught:
                owner.session.open(StreamKind.ROUTE, "after")
            assert (caught.value.code, caught.value.effect, caught.value.retry) == (
                Code.GOING_AWAY,
                Effect.NONE,
                Retry.NOW,
            )
            assert caught.value.retry_after_ns is not None
            assert caught.value.retry_after_ns <= 3 * 10**9
            wire.brings(0, goaway(grace_ms, again_ms))  # which can only lower what was said
            leaving = owner.session.leaving
            assert leaving is not None
            assert leaving.error("edge", asyncio.get_running_loop().time()).retry_after_ns == left_ns
        stream.write(b"still")
        assert list(owner.session.streams) == [stream]
        wire.ends(code=Code.DRAINED)
        assert owner.told == ["ended"]

    simulated(scenario)


def test_a_session_that_drains_refuses_new_streams_undone_and_says_so_again() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(4, opened(0))
        before = owner.streams[0]
        owner.session.go_away(2_000)
        assert [frame for frame in wire.frames() if type(frame) is Goaway] == [Goaway(Code.GOING_AWAY, 2_000, 2_000)]
        wire.brings(8, opened(2) + b"not read")
        assert owner.streams == [before]
        told = Error(Code.GOING_AWAY, Scope.STREAM, 2, "draining", 2_000)
        assert [frame for frame in wire.frames() if type(frame) is Error] == [told]
        await pause(0.5)
        again = owner.meet(2)
        assert [frame for frame in again.frames() if type(frame) is Goaway] == [Goaway(Code.GOING_AWAY, 1_500, 1_500)]
        assert told in again.frames()
        again.brings(4, opened(0))  # what is known goes on
        assert owner.streams == [before]
        assert not owner.session.is_over

    simulated(scenario)


def test_a_stream_that_a_draining_peer_refuses_was_not_begun() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        stream = owner.session.open(StreamKind.ROUTE, "late")
        owner.take(stream)
        wire.brings(0, whole(Error(int(Code.GOING_AWAY), Scope.STREAM, stream.number, "draining", 100)))
        await pause(0.01)
        (error,) = owner.lost
        assert isinstance(error, BrokenError)
        assert (error.code, error.effect, error.retry_after_ns) == (Code.GOING_AWAY, Effect.NONE, 10**8)
        assert str(error).startswith("edge")

    simulated(scenario)


def test_a_session_with_who_drained_is_over_once_its_time_is() -> None:
    async def scenario(owner: Owner) -> None:
        wire = owner.meet()
        wire.brings(0, goaway(1_000, 1_000))
        wire.ends(code=Code.PEER_GONE)
        assert owner.told == ["apart"]
        await pause(0.9)
        assert not owner.session.is_over
        await pause(0.5)
        assert owner.told == ["apart", "ended"]
        assert isinstance(owner.why, BrokenError)
        assert owner.why.code == Code.DRAINED

    simulated(scenario)
