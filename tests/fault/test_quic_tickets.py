"""Tickets that lie: what a host, or a peer of a node, says about where the other end of a route is.

Each ends in one error that names what is wrong; nothing is joined by it, nothing is kept for it, and an honest route
beside it goes on.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from quic_scene import HOME, Machine, Pair, Scene, message, route_of, simulate, until

from flowbridge.addresses import NodeAddress
from flowbridge.codec.arrays import write_array
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import AuthError, BrokenError, OverloadError, RemoteProtocolError, ResourceError
from flowbridge.limits import DIALERS_MAX, MEETING_NS, MEETINGS_PER_PEER_MAX
from flowbridge.placing import Ticket
from flowbridge.plan import Placement
from flowbridge.testing.virtual_loop import pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = bytes(range(16))
ROUTE = route_of("x/out->y/in")


def dials(node: object = "edge", host: object = "edge", port: object = 4433, key: object = KEY) -> Ticket:
    return Ticket(write_array((1, key, node, host, port)))


def awaits(key: object = KEY) -> Ticket:
    return Ticket(write_array((0, key)))


async def honest(scene: Scene) -> Callable[[], Awaitable[None]]:
    """A route that goes on all the time; call what is returned to see that it did."""
    pair = await scene.join(route_of("honest"), HOME, "edge")
    eater = pair.consume()
    count = 0

    async def send() -> None:
        nonlocal count
        for _ in range(5):
            await pair.sink.send(message(count))
            count += 1

    async def look() -> None:
        await pair.send(send())
        await pair.finish()
        await eater
        assert pair.seqs == list(range(count)) == list(range(10))
        assert pair.sink.books.balances

    await pair.send(send())
    return look


def met(machine: Machine) -> int:
    """The streams that wait at a machine, and those who wait for one."""
    meeting = machine.transport._meeting
    return len(meeting._came) + len(meeting._expected)


def streams(machine: Machine) -> int:
    """The session streams that a machine has."""
    return sum(1 for session in machine.transport._peers.sessions for _ in session.streams)


FORGED: dict[str, tuple[Ticket, type[Exception], str]] = {
    "nothing": (Ticket(b""), RemoteProtocolError, "a ticket cannot be read"),
    "bytes": (Ticket(b"\xff" * 40), RemoteProtocolError, "a ticket cannot be read"),
    "lists": (Ticket(b"\x81" * 4000 + b"\x80"), RemoteProtocolError, "a ticket cannot be read"),
    "another kind": (Ticket(write_array((2, KEY))), RemoteProtocolError, "neither to await"),
    "a short key": (awaits(KEY[:-1]), RemoteProtocolError, "neither to await"),
    "a long key": (dials(key=KEY * 2), RemoteProtocolError, "neither to await"),
    "a key of text": (awaits("0123456789abcdef"), RemoteProtocolError, "neither to await"),
    "no port": (dials(port=0), RemoteProtocolError, "port 0"),
    "a port that there is not": (dials(port=2**63), RemoteProtocolError, "port"),
    "a negative port": (dials(port=-1), RemoteProtocolError, "port"),
    "a host with a zero": (dials(host="edge\0.example"), RemoteProtocolError, "neither a host name"),
    "a host with a line": (dials(host="edge\n\x1b[2J"), RemoteProtocolError, "neither a host name"),
    "a host that is too long": (dials(host="e" * 3000), RemoteProtocolError, "neither a host name"),
    "a host without end": (dials(host="e" * 64), ResourceError, "e" * 64),
    "no host": (dials(host=""), RemoteProtocolError, "has no host"),
    "a node with a line": (dials(node="edge\r\n"), RemoteProtocolError, "host name"),
    "a node that is too long": (dials(node="n" * 129), RemoteProtocolError, "host name"),
    "a node of another name": (dials(node="other"), AuthError, "the node that answers there is edge"),
    "a host that there is not": (dials(host="10.9.9.9"), BrokenError, "node edge"),
    "a key that nobody has": (awaits(os.urandom(16)), BrokenError, "did not come within 30 s"),
}


@pytest.mark.parametrize(("ticket", "kind", "why"), FORGED.values(), ids=list(FORGED))
@pytest.mark.parametrize("end", ["sink", "source"])
def test_a_forged_ticket_is_one_error_and_joins_nothing(
    end: str, ticket: Ticket, kind: type[Exception], why: str
) -> None:
    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            third = scene.node("third")
            before = [streams(machine) for machine in scene.machines.values()]
            open_end: Any = third.transport.open_sink if end == "sink" else third.transport.open_source
            with pytest.raises(kind, match=why.replace("[", r"\[")) as raised:
                await third.run(open_end(ROUTE, ticket))
            assert str(raised.value).isprintable()
            await pause(0.1)
            assert [met(machine) for machine in scene.machines.values()] == [0, 0, 0]
            assert [streams(machine) for machine in scene.machines.values()] == before
            assert (third.transport._sinks, third.transport._sources) == ([], [])
            await look()

    simulate(scenario)


@pytest.mark.parametrize("ticket", [case[0] for case in FORGED.values()], ids=list(FORGED))
def test_a_forged_ticket_to_go_on_with_is_told_to_the_route(ticket: Ticket) -> None:
    """A host that lies about the successor of a consumer: the route is lost, and says so; nobody dials on."""

    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            pair = await scene.join(ROUTE, "third", "edge")
            lost = list[Exception]()
            pair.sink.on_lost = lost.append

            async def rejoin() -> None:
                pair.near.transport.rejoin_sink(pair.sink, ROUTE, ticket)

            await pair.near.run(rejoin())
            assert await until(lambda: bool(lost), 60) < 60
            await pause(0.1)
            assert len(lost) == 1
            assert str(lost[0]).isprintable()
            assert not pair.near.transport._joining
            await look()

    simulate(scenario)


def test_swapped_tickets_join_no_route_with_another() -> None:
    """The end of one route is given as that of another: who awaits it sees the other's name."""

    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            edge, third = scene.node("edge"), scene.node("third")
            one, two = route_of("one"), route_of("two")
            near_1, far_1 = await scene.ends(one, "third", "edge")
            near_2, far_2 = await scene.ends(two, "third", "edge")
            sinks = [
                third.host.start(third.transport.open_sink(route, end)) for route, end in ((one, near_2), (two, near_1))
            ]
            found = await asyncio.gather(
                *(
                    edge.host.start(edge.transport.open_source(route, end))
                    for route, end in ((one, far_1), (two, far_2))
                ),
                return_exceptions=True,
            )
            assert all(isinstance(one, RemoteProtocolError) for one in found), found
            assert all("was expected" in str(one) for one in found)
            lost = list[Exception]()
            for sink in await asyncio.gather(*sinks):
                sink.on_lost = lost.append
            await until_quiet()
            assert edge.transport._sources[1:] == []
            assert streams(third) == 0
            await look()

    simulate(scenario)


def test_a_ticket_for_a_bus_joins_no_route() -> None:
    async def scenario(_: int) -> None:
        async with Scene(1, "edge") as scene:
            look = await honest(scene)
            edge, home = scene.node("edge"), scene.home
            session = home.transport._peers.met("edge")

            async def offer() -> None:
                session.open(StreamKind.BUS, ROUTE.id, KEY)

            await home.run(offer())
            with pytest.raises(RemoteProtocolError, match="was expected"):
                await edge.run(edge.transport.open_source(ROUTE, awaits()))
            await until_quiet()
            assert met(edge) == 0
            await look()

    simulate(scenario)


def test_a_ticket_that_is_used_again_joins_nothing_a_second_time() -> None:
    """The same end is given to a second producer, and to a second consumer."""

    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            edge, third = scene.node("edge"), scene.node("third")
            near, far = await scene.ends(ROUTE, "third", "edge")
            sink = third.host.start(third.transport.open_sink(ROUTE, near))
            pair = Pair(ROUTE, third, edge, await sink, await edge.run(edge.transport.open_source(ROUTE, far)))
            eater = pair.consume()
            again = await third.run(third.transport.open_sink(ROUTE, near))
            lost = list[Exception]()
            again.on_lost = lost.append
            await pause(MEETING_NS / 1e9 + 1)
            assert len(lost) == 1
            assert "nobody took it" in str(lost[0])
            with pytest.raises(BrokenError, match="did not come"):
                await edge.run(edge.transport.open_source(ROUTE, far))
            await pair.send(pair.sink.send(message(0)))
            await pair.finish()
            await eater
            assert pair.seqs == [0]
            assert met(edge) == 0
            await look()

    simulate(scenario)


def test_who_has_a_key_that_is_awaited_from_nobody_keeps_few_streams_waiting() -> None:
    """A peer of a node opens streams with keys that nobody gave: a few wait for a while, the others are refused."""

    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            edge, third = scene.node("edge"), scene.node("third")
            lost = list[Exception | None]()

            async def open_some() -> None:
                session = await third.transport._peers.session("edge", NodeAddress("edge", 4433))
                for _ in range(MEETINGS_PER_PEER_MAX + 200):
                    stream = session.open(StreamKind.ROUTE, ROUTE.id, os.urandom(16))
                    stream.connect(on_data=lambda data, _: None, on_lost=lost.append)

            await third.run(open_some())
            await pause(1)
            assert met(edge) == MEETINGS_PER_PEER_MAX
            assert len(lost) == 200
            pair = await scene.join(ROUTE, HOME, "edge")  # others meet all the same
            await pair.finish()
            await pause(MEETING_NS / 1e9 + 1)
            assert met(edge) == 0
            assert len(lost) == MEETINGS_PER_PEER_MAX + 200
            await look()

    simulate(scenario)


def test_a_host_that_names_ever_more_nodes_is_stopped_at_a_limit() -> None:
    """Each ticket names another address where nobody is; dials that failed make room for others."""

    async def scenario(_: int) -> None:
        async with Scene(1, "edge", "third") as scene:
            look = await honest(scene)
            third = scene.node("third")
            peers = third.transport._peers

            async def one(number: int) -> Exception:
                ticket = dials(node=f"n{number}", host=f"10.9.{number // 250}.{number % 250 + 1}")
                with pytest.raises((ResourceError, OverloadError)) as raised:
                    await third.run(third.transport.open_sink(ROUTE, ticket))
                return raised.value

            errors = await asyncio.gather(*(one(number) for number in range(DIALERS_MAX + 20)))
            over = [error for error in errors if isinstance(error, OverloadError)]
            assert len(over) == 20
            assert all(f"sessions with {DIALERS_MAX} nodes already" in str(error) for error in over)
            assert len(peers._dialers) == DIALERS_MAX
            assert len(third.host._sockets) == 1, "every socket is closed but that of the node"
            node = Placement(host="edge")
            await third.run(third.transport.start_worker(node))  # dials that failed make room
            assert len(peers._dialers) == 1
            await look()

    simulate(scenario)


async def until_quiet() -> None:
    """What was refused is told to the other side."""
    await pause(0.5)
