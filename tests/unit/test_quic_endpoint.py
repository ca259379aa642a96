"""Dialling and listening with an engine of few words, on asyncio, on uvloop and on the simulated network."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tiny_engine import TinyAcceptor, TinyEngine

from flowbridge.codec.codes import Code
from flowbridge.errors import BrokenError, Effect, LocalProtocolError, ResourceError
from flowbridge.testing.network import SimulatedNetwork
from flowbridge.testing.quiet import quiet
from flowbridge.testing.virtual_loop import run_simulated
from flowbridge.transports.quic.endpoint import EngineListener, EngineWire, dial, listen
from flowbridge.transports.quic.engine import Address, Closed, Connected, EngineEvent, StreamData

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from flowbridge.transports.quic.wire import Listener, Wire


@dataclass
class World:
    """Where a test runs: how something is started on the server's and on the client's machine."""

    host: str
    on_server: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    on_client: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    failures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def keep_failures(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: self.failures.append(context))


def really(run: Callable[[Coroutine[Any, Any, None]], None]) -> Callable[[Any], None]:
    def runner(test: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test(World("127.0.0.1", asyncio.create_task, asyncio.create_task))

        run(bounded())

    return runner


def simulated(test: Any) -> None:
    async def scenario(seed: int) -> None:
        network = SimulatedNetwork(seed)
        client, server = network.host("client", "10.0.0.1"), network.host("server", "10.0.0.2")
        await test(World("10.0.0.2", server.start, client.start))

    run_simulated(scenario, until_s=60)


RUNS: dict[str, Callable[[Any], None]] = {
    "asyncio": really(asyncio.run),
    "uvloop": really(uvloop.run),
    "simulated": simulated,
}
everywhere = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


async def until(come: Callable[[], bool]) -> None:
    while not come():  # noqa: ASYNC110 - what is waited for comes from a socket
        await asyncio.sleep(0)


class Told:
    """Keeps events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self._more = asyncio.Event()

    def __call__(self, event: EngineEvent) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, kind: type) -> Any:
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            self._more.clear()
            await self._more.wait()

    @property
    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]


class Server:
    """A listener that keeps what it is given and what those say; it echoes data."""

    def __init__(self) -> None:
        self.acceptor = TinyAcceptor()
        self.wires: list[EngineWire] = []
        self.told: list[Told] = []
        self.listener: EngineListener

    async def start(self, host: str, port: int = 0) -> Server:
        self.listener = await listen((host, port), self.acceptor, on_wire=self.on_wire)
        return self

    def on_wire(self, wire: EngineWire) -> None:
        told = Told()

        def on_event(event: EngineEvent) -> None:
            told(event)
            if isinstance(event, StreamData):
                wire.engine.write(0, b"echo " + event.data)
                wire.touched()

        wire.on_event = on_event
        self.wires.append(wire)
        self.told.append(told)


async def dialled(world: World, address: Address, on_event: Callable[[EngineEvent], None]) -> EngineWire:
    wire = await world.on_client(dial(address, TinyEngine, on_event=on_event))
    assert isinstance(wire, EngineWire)
    return wire


def tiny(wire: EngineWire) -> TinyEngine:
    assert isinstance(wire.engine, TinyEngine)
    return wire.engine


@everywhere
def test_a_dialled_connection_is_accepted_and_carries_both_ways(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        told = Told()
        wire = await dialled(world, server.listener.address, told)
        await told.until(Connected)
        wire.engine.write(0, b"one")
        wire.touched()
        assert await told.until(StreamData) == StreamData(0, b"echo one", fin=False)
        assert server.told[0].kinds == [Connected, StreamData]
        assert wire.heard_at > 0
        promised: tuple[Wire, Listener] = (wire, server.listener)
        assert all((one.trouble, one.is_refused) == ("", False) for one in (promised[0], *server.wires))
        wire.engine.close(7, "enough")
        wire.touched()
        closed = await server.told[0].until(Closed)
        assert (closed.code, closed.is_remote) == (7, True)
        await told.until(Closed)
        assert (wire.is_over, server.listener.connections, server.acceptor.connections) == (True, 0, 0)
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_what_is_written_in_one_turn_leaves_in_one_go(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        told = Told()
        wire = await dialled(world, server.listener.address, told)
        await told.until(Connected)
        await quiet()
        before = tiny(wire).transmits
        for number in range(50):
            wire.engine.write(0, b"%d" % number)
            wire.touched()
        assert tiny(wire).transmits == before
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tiny(wire).transmits == before + 1
        await until(lambda: len(told.events) == 51)
        data = [event.data for event in told.events if isinstance(event, StreamData)]
        assert data == [b"echo %d" % number for number in range(50)]
        wire.abandon()
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_many_connections_share_one_socket(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        told = [Told() for _ in range(20)]
        wires = [await dialled(world, server.listener.address, one) for one in told]
        for number, (wire, one) in enumerate(zip(wires, told, strict=True)):
            await one.until(Connected)
            wire.engine.write(0, b"%d" % number)
            wire.touched()
        for number, one in enumerate(told):
            assert (await one.until(StreamData)).data == b"echo %d" % number
        assert server.listener.connections == 20
        await world.on_server(server.listener.aclose())
        for one in told:
            closed = await one.until(Closed)
            assert (closed.code, closed.is_remote) == (Code.DRAINED, True)
        assert all(wire.is_over for wire in wires)
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_a_half_open_connection_is_given_to_nobody(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))

        async def knock() -> asyncio.DatagramTransport:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=server.listener.address
            )
            transport.sendto(b"h")
            return transport

        transport = await world.on_client(knock())
        await until(lambda: server.listener.connections > 0)
        assert server.wires == []
        await world.on_server(server.listener.aclose())
        assert (server.wires, server.listener.connections, server.acceptor.connections) == ([], 0, 0)
        transport.close()

    run(test)


@everywhere
def test_what_belongs_to_no_connection_is_answered_by_the_acceptor(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        class Stranger(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                came.set_result(data)

        async def knock() -> asyncio.DatagramTransport:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Stranger, remote_addr=server.listener.address)
            transport.sendto(b"Dx")
            return transport

        transport = await world.on_client(knock())
        assert await came == b"?"
        assert server.listener.connections == 0
        transport.close()
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_a_refused_connection_says_so_until_somebody_listens(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        first = await world.on_server(Server().start(world.host))
        address = first.listener.address
        await world.on_server(first.listener.aclose())
        told = Told()
        wire = await dialled(world, address, told)
        await until(lambda: wire.is_refused)
        assert f"{address[0]}:{address[1]}: nobody listens there" in wire.trouble
        assert told.events == []
        again = await world.on_server(Server().start(*address))
        await told.until(Connected)
        assert (wire.is_refused, wire.trouble) == (False, "")
        wire.abandon()
        await world.on_server(again.listener.aclose())

    run(test)


def test_a_silent_peer_ends_by_the_timer() -> None:
    async def test(world: World) -> None:
        told = Told()
        wire = await dialled(world, ("10.9.9.9", 1), told)
        started = asyncio.get_running_loop().time()
        closed = await told.until(Closed)
        assert closed.is_timeout
        assert wire.heard_at + 5 <= asyncio.get_running_loop().time() < started + 5.1
        assert "no answer" in wire.trouble
        engine = tiny(wire)
        assert engine.times == sorted(engine.times)
        assert engine.transmits < 30
        assert engine.timers < 30

    simulated(test)


@everywhere
def test_a_taken_port_is_named(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        host, port = server.listener.address
        with pytest.raises(ResourceError, match=f"{host}:{port}: cannot listen: the port is taken"):
            await world.on_server(Server().start(host, port))
        with pytest.raises(ResourceError, match=r"192\.0\.2\.1:1: cannot listen: this machine has no such address"):
            await world.on_server(Server().start("192.0.2.1", 1))
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_a_name_that_nobody_knows_is_told_and_nothing_has_happened(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        with pytest.raises(BrokenError, match=r"no-such-host.invalid:7: the name cannot be resolved") as caught:
            await dialled(world, ("no-such-host.invalid", 7), Told())
        assert caught.value.effect is Effect.NONE
        with pytest.raises(BrokenError, match=r"x{70}\.:7: the name cannot be resolved"):
            await dialled(world, ("x" * 70 + ".", 7), Told())

    run(test)


# --- what fails stays where it is -----------------------------------------------------------------------------------


@everywhere
def test_an_exception_of_whoever_is_told_closes_that_connection_only(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        world.keep_failures()
        server = await world.on_server(Server().start(world.host))
        good, bad = Told(), Told()

        def fails(event: EngineEvent) -> None:
            bad(event)
            if not isinstance(event, Closed):
                raise ValueError("on purpose")

        wire = await dialled(world, server.listener.address, good)
        failing = await dialled(world, server.listener.address, fails)
        closed = await bad.until(Closed)
        assert (bad.kinds, closed.code, closed.is_remote) == ([Connected, Closed], Code.INTERNAL, False)
        assert failing.is_over
        await until(lambda: [told.kinds[-1:] for told in server.told].count([Closed]) == 1)
        await good.until(Connected)
        wire.engine.write(0, b"x")
        wire.touched()
        await good.until(StreamData)
        assert [str(failure["exception"]) for failure in world.failures] == ["on purpose"]
        assert "connection to" in world.failures[0]["message"]
        wire.abandon()
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_an_engine_that_fails_takes_nobody_with_it(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        world.keep_failures()
        server = await world.on_server(Server().start(world.host))
        told, other = Told(), Told()
        wire = await dialled(world, server.listener.address, told)
        second = await dialled(world, server.listener.address, other)
        await told.until(Connected)
        await other.until(Connected)
        tiny(wire).raises = RuntimeError("a bug")
        wire.engine.write(0, b"x")
        wire.touched()
        closed = await told.until(Closed)
        assert (closed.code, closed.by_application) == (Code.INTERNAL, True)
        assert wire.is_over
        second.engine.write(0, b"y")
        second.touched()
        await other.until(StreamData)
        tiny(server.wires[1]).raises = RuntimeError("another")
        second.engine.write(0, b"y")
        second.touched()
        await until(lambda: len(world.failures) == 2)
        assert [str(failure["exception"]) for failure in world.failures] == ["a bug", "another"]
        second.abandon()
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_a_new_connection_that_nobody_takes_is_closed(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        world.keep_failures()

        async def start() -> EngineListener:
            return await listen((world.host, 0), TinyAcceptor(), on_wire=lambda _wire: None)

        listener = await world.on_server(start())
        told = Told()
        await dialled(world, listener.address, told)
        assert (await told.until(Closed)).code == Code.INTERNAL
        assert isinstance(world.failures[0]["exception"], LocalProtocolError)
        await world.on_server(listener.aclose())

    run(test)


@everywhere
def test_what_is_abandoned_says_nothing_more(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        told = Told()
        wire = await dialled(world, server.listener.address, told)
        await told.until(Connected)
        wire.engine.write(0, b"x")
        wire.touched()
        wire.abandon()
        wire.abandon()
        wire.touched()
        before = tiny(wire).transmits
        server.wires[0].abandon()
        assert (server.listener.connections, server.acceptor.connections) == (0, 0)
        await quiet()
        assert (told.kinds, tiny(wire).transmits) == ([Connected], before)
        await world.on_server(server.listener.aclose())

    run(test)


@everywhere
def test_abandoning_from_within_an_event_ends_the_telling(run: Callable[[Any], None]) -> None:
    async def test(world: World) -> None:
        server = await world.on_server(Server().start(world.host))
        wires: list[EngineWire] = []
        told = Told()

        def on_event(event: EngineEvent) -> None:
            told(event)
            wires[0].abandon()

        wires.append(await dialled(world, server.listener.address, on_event))
        tiny(wires[0]).happened.extend([StreamData(0, b"1", fin=False), StreamData(0, b"2", fin=False)])
        await told.until(StreamData)
        await quiet()
        assert told.events == [StreamData(0, b"1", fin=False)]
        await world.on_server(server.listener.aclose())

    run(test)
