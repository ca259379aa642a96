"""Peers with a good certificate and bad intentions: each ends in its code, costs little, and disturbs nobody else."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from quic_certs import make_ca, make_node

from flowbridge.codec.arrays import write_array
from flowbridge.codec.codes import Code
from flowbridge.codec.framing import prefix
from flowbridge.codec.session_frames import control_reader, grease, read_control, whole
from flowbridge.codec.session_words import (
    ACCEPT,
    ACK,
    HELLO,
    OPEN,
    PING,
    Accept,
    Ack,
    Auth,
    Error,
    Goaway,
    Hello,
    HelloAck,
    Open,
    Ping,
    Pong,
    Scope,
    SessionLimits,
    StreamKind,
)
from flowbridge.errors import AuthError, RemoteProtocolError
from flowbridge.limits import CONTROL_FRAMES_PER_TURN_MAX, GREETING_S, SESSION_STREAMS_MAX
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import EngineWire, dial, listen
from flowbridge.transports.quic.engine import Closed, Connected, StreamData, StreamReset, StreamStopped
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.session import Session, SessionState
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from flowbridge.transports.quic.engine import EngineEvent
    from flowbridge.transports.quic.stream import SessionStream

PORT = 4433
SESSION = bytes(range(16))
LIMITS = SessionLimits(1 << 20, 1 << 20, 1024, 30_000, 250)
GROWTH_BYTES_MAX = 8 << 20


def settings_of(name: str) -> QuicSettings:
    ca = make_ca()
    node = make_node(ca, name, ("core", "10.0.0.2"))
    return QuicSettings(certificate=node.certificate, key=node.key, ca=ca.certificate, server_name="core")


def frame(kind: int, *items: object, body: bytes = b"") -> bytes:
    """A frame that may be none of the grammar."""
    header = write_array(items)
    return prefix(kind, len(header), len(body)) + header + body


class Echo:
    """Takes a stream and sends back what comes; the frame that it is told to dislike is the peer's fault."""

    def __init__(self, stream: SessionStream) -> None:
        self.stream = stream
        self.lost: list[Exception | None] = []
        self.received = 0
        stream.connect(on_data=self._on_data, on_lost=self.lost.append)

    def _on_data(self, data: bytes, _: Sequence[int]) -> None:
        self.received += len(data)
        if data.startswith(b"lie"):
            raise RemoteProtocolError("it lies")
        if data.startswith(b"wait"):
            self.stream.pause()
        self.stream.write(data)


class Core:
    """The node that is attacked."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.ended: list[tuple[Session, Exception]] = []
        self.echoes: dict[tuple[str, int], Echo] = {}
        self.wires: list[EngineWire] = []
        self.takes = True

    async def start(self) -> None:
        own = Own("core", VirtualClock(), incarnation=7)
        self.server = SessionServer(own, self._on_session, lambda session, why: self.ended.append((session, why)))
        self.listener = await listen(("0.0.0.0", PORT), make_acceptor(settings_of("core")), on_wire=self._on_wire)

    def _on_wire(self, wire: EngineWire) -> None:
        self.wires.append(wire)
        self.server.take(wire)

    def _on_session(self, session: Session, identity: Any, _: Hello) -> Callable[[SessionStream], None]:
        self.sessions.append(session)

        def take(stream: SessionStream) -> None:
            if stream.kind is StreamKind.PART:
                stream.fail(AuthError(f"{identity.node} may run nothing here"))
            elif self.takes:
                self.echoes[identity.node, stream.number] = Echo(stream)

        return take

    def session_of(self, node: str) -> Session:
        (found,) = [one for one in self.server.sessions if one.identity is not None and one.identity.node == node]
        return found


class Evil:
    """A client of the engine, driven by hand: it says what it likes."""

    def __init__(self, node: str = "evil", **settings: Any) -> None:
        self.node = node
        self._settings = replace(settings_of(node), **settings)
        self.events: list[EngineEvent] = []
        self.wire: EngineWire
        self._changed = asyncio.Event()

    async def connect(self) -> Evil:
        self.wire = await dial(("core", PORT), partial(make_client, self._settings), on_event=self._on_event)
        await self.until(lambda: any(isinstance(event, Connected) for event in self.events))
        return self

    def _on_event(self, event: EngineEvent) -> None:
        self.events.append(event)
        if isinstance(event, StreamData):
            self.wire.engine.consume(event.stream, len(event.data))
        self._changed.set()

    async def until(self, holds: Callable[[], bool], within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    # --- what it says -----------------------------------------------------------------------------------------------

    def open(self, *, unidirectional: bool = False) -> int:
        number = self.wire.engine.open(unidirectional=unidirectional)
        assert number is not None
        return number

    def write(self, number: int, *data: bytes, fin: bool = False) -> None:
        self.wire.engine.write(number, b"".join(data), fin)
        self.wire.touched()

    def control(self, *data: bytes) -> None:
        if not any(isinstance(event, Closed) for event in self.events):
            self.write(0, *data)

    def hello(self, **changes: Any) -> Hello:
        given: dict[str, Any] = {
            "version": (1, 0),
            "node": self.node,
            "incarnation": 1,
            "session": SESSION,
            "epoch": 1,
            "caps": (),
            "limits": LIMITS,
            "auth": None,
            "streams": (),
            "now_ns": 1,
            **changes,
        }
        return Hello(**given)

    async def greet(self, **changes: Any) -> Evil:
        """Open the control stream and have a session."""
        assert self.open() == 0
        self.control(whole(self.hello(**changes)))
        await self.until(lambda: any(isinstance(one, HelloAck) for one in self.frames()))
        return self

    def stream(self, number: int, kind: StreamKind = StreamKind.ROUTE, from_bytes: int = 0, rest: bytes = b"") -> int:
        """Open a session stream."""
        quic = self.open()
        self.write(quic, whole(Open(number, kind, f"stream {number}", b"", from_bytes)), rest)
        return quic

    # --- what it hears ----------------------------------------------------------------------------------------------

    def data(self, number: int) -> bytes:
        return b"".join(e.data for e in self.events if isinstance(e, StreamData) and e.stream == number)

    def frames(self) -> list[Any]:
        return [read_control(*found) for found in control_reader().feed(self.data(0))]

    def errors(self) -> list[Error]:
        return [one for one in self.frames() if isinstance(one, Error)]

    async def closed(self) -> Closed:
        def of_close() -> list[Closed]:
            return [event for event in self.events if isinstance(event, Closed)]

        await self.until(lambda: bool(of_close()))
        return of_close()[0]


class Scene:
    """The node, an honest peer whose session goes on all the time, and the hostile one."""

    def __init__(self, seed: int) -> None:
        self.network = SimulatedNetwork(seed, keeps_trace=False)
        self.core_host = self.network.host("core", "10.0.0.2")
        self.edge_host = self.network.host("edge", "10.0.0.1")
        self.evil_host = self.network.host("evil", "10.0.0.3")
        for name in ("edge", "evil"):
            self.network.condition(name, "core", delay_s=0.005)
        self.core = Core()
        self.echoed = 0
        self.lost: list[Exception | None] = []

    async def start(self) -> None:
        await self.core_host.start(self.core.start())
        await self.edge_host.start(self._honest())

    async def _honest(self) -> None:
        own = Own("edge", VirtualClock(), incarnation=1)
        make = partial(make_client, settings_of("edge"))
        self.dialer = Dialer(("core", PORT), make, own, peer="node core", chance=Random(1))
        self.session = await self.dialer.connect(lambda stream: None)
        self.stream = self.session.open(StreamKind.ROUTE, "honest")
        self.stream.connect(on_data=self._came, on_lost=self.lost.append)
        self.beats = asyncio.get_running_loop().create_task(self._beat())

    def _came(self, data: bytes, _: Sequence[int]) -> None:
        self.echoed += len(data)

    async def _beat(self) -> None:
        while True:
            self.stream.write(b"honest")
            await asyncio.sleep(0.05)

    async def finish(self) -> None:
        """The honest session never noticed anything."""
        before = self.echoed
        await asyncio.sleep(0.5)
        assert self.echoed >= before + 6 * 5
        assert self.lost == []
        assert self.session.state is SessionState.CONNECTED
        assert (self.dialer.dials, self.session.replays) == (1, 0)
        self.beats.cancel()
        await self.edge_host.start(self.dialer.aclose(0.1))
        await self.core_host.start(self.core.server.aclose(0.1))
        await self.core_host.start(self.core.listener.aclose())


def attacked(attack: Callable[[Evil, Scene], Awaitable[None]], seed: int = 1) -> None:
    """Let a hostile peer do something to the node, beside an honest one."""

    async def scenario(seed: int) -> None:
        scene = Scene(seed)
        await scene.start()

        async def run() -> None:
            evil = await Evil().connect()
            await attack(evil, scene)

        await scene.evil_host.start(run())
        await scene.finish()

    run_simulated(scenario, seed=seed, until_s=1000)


# --- greetings ------------------------------------------------------------------------------------------------------


async def no_greeting(evil: Evil, scene: Scene) -> None:
    began = asyncio.get_running_loop().time()
    await evil.closed()
    assert GREETING_S <= asyncio.get_running_loop().time() - began <= GREETING_S + 1


async def late_greeting(evil: Evil, scene: Scene) -> None:
    await asyncio.sleep(GREETING_S + 0.2)
    assert await evil.closed()
    evil.wire.engine.write(0, whole(evil.hello()))


async def greeting_byte_by_byte(evil: Evil, scene: Scene) -> None:
    evil.open()
    for byte in whole(evil.hello()):
        evil.control(bytes((byte,)))
        await asyncio.sleep(0.5)


async def greets_twice(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(evil.hello(epoch=2)))


async def wrong_version(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(frame(HELLO, [2, 0], "something else"))


async def greeting_of_another_node(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(evil.hello(node="edge")))


async def session_of_another_node(evil: Evil, scene: Scene) -> None:
    """It knows the identifier of the honest session, and its own name."""
    honest = scene.session
    evil.open()
    evil.control(whole(evil.hello(session=honest.identifier, epoch=honest.epoch + 1, incarnation=1)))


async def unknown_session(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(evil.hello(epoch=9)))


async def stale_epoch(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    again = await Evil().connect()
    again.open()
    again.control(whole(again.hello(epoch=1)))
    closed = await again.closed()
    assert closed.code == Code.SUPERSEDED
    assert scene.core.session_of("evil").epoch == 1
    evil.control(whole(Goaway(Code.UNEXPECTED, 0, 0)), frame(0x0, 1))


async def impossible_counts(evil: Evil, scene: Scene) -> None:
    """It has what was never sent, on a stream that is and on one that never was."""
    await evil.greet()
    evil.stream(0, rest=b"some")
    await evil.until(lambda: bool(evil.data(4)))
    again = await Evil().connect()
    again.open()
    again.control(whole(again.hello(epoch=2, streams=((0, 1000),))))
    assert (await again.closed()).code == Code.UNEXPECTED
    assert scene.core.echoes["evil", 0].lost != []
    assert not any(one is scene.core.ended[0][0] for one in scene.core.server.sessions)
    raise Over(await evil.closed())


async def counts_of_a_stream_that_was_never_opened(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Ack(((1, 5),))))


async def ping_as_greeting(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(Ping(1, 1, ())))


async def open_before_greeting(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.stream(0)


async def proof_of_identity(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Auth("token")))


# --- streams --------------------------------------------------------------------------------------------------------


async def open_of_our_own_number(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(1)


async def reopened_as_another(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0)
    await asyncio.sleep(0.1)
    evil.write(evil.open(), whole(Open(0, StreamKind.BUS, "another", b"", 0)))


async def opened_twice_at_once(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0)
    evil.stream(0)


async def accept_of_what_nobody_opened(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), whole(Accept(0, 0)))


async def unidirectional(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(unidirectional=True), whole(Open(0, StreamKind.ROUTE, "", b"", 0)))


async def unidirectional_that_is_reset(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    number = evil.open(unidirectional=True)
    evil.write(number, b"x" * 100_000)
    evil.wire.engine.reset(number, 5)


async def end_within_first_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), whole(Open(0, StreamKind.ROUTE, "x", b"", 0))[:-1], fin=True)


async def first_frame_byte_by_byte(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    number = evil.open()
    for byte in whole(Open(0, StreamKind.ROUTE, "x" * 200, b"", 0)):
        if any(isinstance(event, Closed) for event in evil.events):
            return
        evil.write(number, bytes((byte,)))
        await asyncio.sleep(0.3)


async def control_byte_by_byte(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    began = asyncio.get_running_loop().time()
    for byte in grease(7, bytes(4000)):
        if any(isinstance(event, Closed) for event in evil.events):
            break
        evil.control(bytes((byte,)))
        await asyncio.sleep(0.3)
    assert 9 < asyncio.get_running_loop().time() - began < 14


async def gap(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0, from_bytes=10)


async def too_many_streams(evil: Evil, scene: Scene) -> None:
    await evil.greet(limits=LIMITS._replace(streams_max=16))
    for number in range(17):
        evil.stream(2 * number)


async def long_label(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "x" * 257, b"", 0))


async def long_key(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "", bytes(33), 0))


async def first_frame_with_a_body(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "", b"", 0, body=b"x"))


async def huge_first_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), prefix(OPEN, 1 << 40, 0))


async def negative_number(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(ACCEPT, -1, 0))


# --- the control stream ---------------------------------------------------------------------------------------------


async def ack_of_what_was_never_sent(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    quic = evil.stream(0, rest=b"some")
    await evil.until(lambda: evil.data(quic).endswith(b"some"))
    evil.control(whole(Ack(((0, 10**6),))))


async def pong_of_no_ping(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Pong(10**6, 1, 1, 1, ())))


async def unknown_even_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(frame(0x40))


async def control_ends(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(0, b"", fin=True)


async def control_is_reset(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.wire.engine.reset(0, 1)
    evil.wire.touched()


async def huge_control_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(prefix(PING, 40_000, 0))


async def huge_skipped_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(prefix(0x41, 0, 1 << 30))


async def integer_that_is_too_long(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(b"\x40\x08")


async def bomb_of_lists(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    header = b"\x81" * 4000 + b"\x80"
    evil.control(prefix(PING, len(header), 0) + header)


async def acks_out_of_order(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(frame(ACK, [[4, 1], [2, 1]]))


class Over(Exception):
    """The attack has looked at its end itself."""

    def __init__(self, closed: Closed) -> None:
        self.closed = closed


ENDS: list[tuple[Callable[[Evil, Scene], Coroutine[Any, Any, None]], Code]] = [
    (no_greeting, Code.FRAME),
    (late_greeting, Code.FRAME),
    (greeting_byte_by_byte, Code.FRAME),
    (greets_twice, Code.UNEXPECTED),
    (wrong_version, Code.VERSION),
    (greeting_of_another_node, Code.FORBIDDEN),
    (session_of_another_node, Code.STATE_LOST),
    (unknown_session, Code.STATE_LOST),
    (stale_epoch, Code.DRAINED),
    (impossible_counts, Code.DRAINED),
    (counts_of_a_stream_that_was_never_opened, Code.UNEXPECTED),
    (ping_as_greeting, Code.UNEXPECTED),
    (open_before_greeting, Code.UNEXPECTED),
    (proof_of_identity, Code.UNEXPECTED),
    (open_of_our_own_number, Code.UNEXPECTED),
    (reopened_as_another, Code.UNEXPECTED),
    (opened_twice_at_once, Code.UNEXPECTED),
    (accept_of_what_nobody_opened, Code.UNEXPECTED),
    (unidirectional, Code.UNEXPECTED),
    (unidirectional_that_is_reset, Code.UNEXPECTED),
    (end_within_first_frame, Code.FRAME),
    (first_frame_byte_by_byte, Code.FRAME),
    (control_byte_by_byte, Code.FRAME),
    (gap, Code.GAP),
    (too_many_streams, Code.LIMIT),
    (long_label, Code.CBOR),
    (long_key, Code.CBOR),
    (first_frame_with_a_body, Code.FRAME),
    (huge_first_frame, Code.FRAME),
    (negative_number, Code.CBOR),
    (ack_of_what_was_never_sent, Code.UNEXPECTED),
    (pong_of_no_ping, Code.UNEXPECTED),
    (unknown_even_frame, Code.UNEXPECTED),
    (control_ends, Code.UNEXPECTED),
    (control_is_reset, Code.UNEXPECTED),
    (huge_control_frame, Code.FRAME),
    (huge_skipped_frame, Code.FRAME),
    (integer_that_is_too_long, Code.FRAME),
    (bomb_of_lists, Code.CBOR),
    (acks_out_of_order, Code.CBOR),
]


@pytest.mark.parametrize(("attack", "code"), ENDS, ids=[attack.__name__ for attack, _ in ENDS])
def test_who_breaks_the_rules_is_closed_with_its_code(
    attack: Callable[[Evil, Scene], Coroutine[Any, Any, None]], code: Code
) -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        try:
            await attack(evil, scene)
            closed = await evil.closed()
        except Over as over:
            closed = over.closed
        assert (Code(closed.code), closed.by_application, closed.is_remote) == (code, True, True), closed
        await asyncio.sleep(0.1)
        alive = [one for one in scene.core.server.sessions if one.peer.startswith("evil")]
        assert all(one.state is SessionState.APART for one in alive), "its session is over, or waits"

    attacked(run)


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


class Growth:
    """How much more memory is in use; `measured` looks away from what the attacker itself keeps."""

    def __init__(self) -> None:
        gc.collect()
        tracemalloc.start()
        self.before = tracemalloc.get_traced_memory()[0]

    def assert_small(self) -> None:
        gc.collect()
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert now - self.before < GROWTH_BYTES_MAX


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
