"""A node, an honest peer whose session goes on all the time, and one that says what it likes."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from quic_certs import make_ca, make_node

from flowbridge.codec.arrays import write_array
from flowbridge.codec.codes import Code
from flowbridge.codec.framing import prefix
from flowbridge.codec.session_frames import control_reader, read_control, whole
from flowbridge.codec.session_words import (
    Error,
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
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import pause, run_simulated
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import EngineWire, dial, listen
from flowbridge.transports.quic.engine import Closed, Connected, StreamData
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.session_state import SessionState
from flowbridge.transports.quic.settings import QuicSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbridge.transports.quic.engine import EngineEvent
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.stream import SessionStream

PORT = 4433
SESSION = bytes(range(16))
LIMITS = SessionLimits(1 << 20, 1 << 20, 1024, 30_000, 250)
GROWTH_BYTES_MAX = 8 << 20
GROWTH_BLOCKS_MAX = GROWTH_BYTES_MAX // 64


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
        self.takers: dict[StreamKind, Callable[[SessionStream], object]] = {}
        """Who takes the streams of a kind, instead of an echo."""

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
            elif stream.kind in self.takers:
                self.takers[StreamKind(stream.kind)](stream)
            elif self.takes:
                self.echoes[identity.node, stream.number] = Echo(stream)

        return take

    def session_of(self, node: str) -> Session:
        (found,) = [one for one in self.server.sessions if one.identity is not None and one.identity.node == node]
        return found


class Evil:
    """A client of the engine, driven by hand: it says what it likes."""

    def __init__(self, node: str = "evil", *, port: int = PORT, **settings: Any) -> None:
        self.node = node
        self._port = port
        self._settings = replace(settings_of(node), **settings)
        self.events: list[EngineEvent] = []
        self.wire: EngineWire
        self._changed = asyncio.Event()

    async def connect(self) -> Evil:
        self.wire = await dial(("core", self._port), partial(make_client, self._settings), on_event=self._on_event)
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
            await pause(0.05)

    async def finish(self) -> None:
        """The honest session never noticed anything."""
        before = self.echoed
        await pause(0.5)
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


class _Mallinfo(ctypes.Structure):
    """What glibc counts of its heap; see mallinfo2(3)."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def _mallinfo() -> Callable[[], Any]:
    found = ctypes.CDLL(None).mallinfo2
    found.restype = _Mallinfo
    return found


class Growth:
    """How much more memory is in use: bytes of the heap, and blocks of Python's own allocator, which are small.

    Counting costs nothing while the test runs; tracemalloc made such tests take three times as long.
    """

    def __init__(self) -> None:
        self._mallinfo = _mallinfo()
        self.before = self._now()

    def _now(self) -> tuple[int, int]:
        gc.collect()
        info = self._mallinfo()
        return info.uordblks + info.hblkhd, sys.getallocatedblocks()

    def grown(self) -> tuple[int, int]:
        """Bytes of the heap and blocks, since then."""
        now = self._now()
        return now[0] - self.before[0], now[1] - self.before[1]

    def assert_small(self) -> None:
        grown_bytes, grown_blocks = self.grown()
        assert grown_bytes < GROWTH_BYTES_MAX
        assert grown_blocks < GROWTH_BLOCKS_MAX


async def stream_ends(evil: Evil, code: Code = Code.FRAME) -> str:
    """The stream was given up with a code, and nothing else was; returns what was said."""
    await evil.until(lambda: bool(evil.errors()))
    (error,) = evil.errors()
    assert (Code(error.code), error.scope, error.ref) == (code, Scope.STREAM, 0), error
    evil.control(whole(Ping(10**6, 1, ())))
    await evil.until(lambda: any(isinstance(one, Pong) and one.number == 10**6 for one in evil.frames()))
    assert not any(isinstance(event, Closed) for event in evil.events)
    return error.reason
