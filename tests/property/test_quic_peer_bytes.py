"""Whatever a peer sends: it is taken, or the connection is closed with a code; nothing is raised and little is kept."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from quic_recorder import RecordingWire

from flowbridge.codec.codes import Code, Fault
from flowbridge.codec.session_frames import grease, whole
from flowbridge.codec.session_words import (
    Accept,
    Ack,
    Error,
    Hello,
    Open,
    Ping,
    Pong,
    Received,
    Scope,
    SessionLimits,
    StreamKind,
)
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import pause, run_simulated
from flowbridge.transports.quic.engine import StreamReset, StreamStopped
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.transports.quic.stream import SessionStream

LIMITS = SessionLimits(1 << 20, 1 << 20, 8, 30_000, 250)
HELLO = whole(Hello((1, 0), "edge", 1, bytes(16), 1, (), LIMITS, None, (), 1))
NUMBERS = st.integers(0, 12)
COUNTS = st.lists(st.tuples(NUMBERS, st.integers(0, 40)), max_size=3, unique_by=lambda pair: pair[0]).map(
    lambda pairs: tuple(sorted(pairs))
)


def _ping(number: int, counts: Received) -> bytes:
    return whole(Ping(number, 1, counts))


CONTROL = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda counts: whole(Ack(counts)), COUNTS),
    st.builds(_ping, NUMBERS, COUNTS),
    st.builds(lambda number, counts: whole(Pong(number, 1, 2, 3, counts)), NUMBERS, COUNTS),
    st.builds(lambda number: whole(Error(int(Code.CANCELLED), Scope.STREAM, number, "", None)), NUMBERS),
    st.builds(grease, NUMBERS, st.binary(max_size=20)),
    st.just(HELLO),
)
FIRST = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda number, kind, count: whole(Open(number, kind, "x", b"", count)),
        NUMBERS,
        st.sampled_from(StreamKind),
        st.integers(0, 3),
    ),
    st.builds(lambda number, count: whole(Accept(number, count)), NUMBERS, st.integers(0, 3)),
)
QUIC = st.integers(1, 17)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("control"), CONTROL, st.booleans()),
        st.tuples(st.just("stream"), st.tuples(QUIC, FIRST), st.booleans()),
        st.tuples(st.just("more"), st.tuples(QUIC, st.binary(max_size=30)), st.booleans()),
        st.tuples(st.just("reset"), QUIC, st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from((0.0, 0.03, 0.3)), st.booleans()),
        st.tuples(st.just("open"), st.none(), st.booleans()),
    ),
    max_size=25,
)


def _echo(stream: SessionStream) -> None:
    def on_data(data: bytes, _: Sequence[int]) -> None:
        if not stream.is_lost:
            stream.write(data)

    stream.connect(on_data=on_data, on_lost=lambda _: None)


async def _step(server: SessionServer, wire: RecordingWire, what: str, value: Any, flag: bool) -> None:
    match what:
        case "control":
            for at in range(0, len(value), 7 if flag else 1000):
                wire.brings(0, value[at : at + (7 if flag else 1000)])
        case "stream" | "more":
            wire.brings(value[0], value[1], flag)
        case "reset":
            wire.on_event(StreamReset(value, 1) if flag else StreamStopped(value, 1))
        case "open":
            for session in server.sessions:
                if len(list(session.streams)) < LIMITS.streams_max:
                    session.open(StreamKind.ROUTE, "ours").write(b"data")
        case _:
            await pause(value)


@settings(deadline=None, max_examples=300)
@given(greets=st.booleans(), steps=STEPS)
def test_whatever_a_peer_sends_is_taken_or_closes_its_connection_as_its_fault(greets: bool, steps: list[Any]) -> None:
    async def scenario(_: int) -> None:
        server = SessionServer(Own("core", VirtualClock(), incarnation=1), lambda *_: _echo)
        wire = RecordingWire()
        server.take(wire)
        wire.connected()
        if greets:
            wire.brings(0, HELLO)
        for what, value, flag in steps:
            await _step(server, wire, what, value, flag)
        closed = wire.engine.closed
        if closed is not None:
            wire.ends(closed[0])
            assert closed[0] >> 8 == Fault.PROTOCOL, closed
            assert not server.sessions
        await server.aclose(0)

    run_simulated(scenario, seed=1, until_s=100)
