"""Peers that break the rules of a bus link over a session, and those that keep them and mean harm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from quic_hostile import Evil, Growth, Scene, attacked, frame, stream_ends

from flowbridge.codec.bus_frames import (
    ACK,
    CONFIGURE,
    DELIVER,
    ERROR,
    HELLO,
    HELLO_ACK,
    LIMIT,
    OFFER,
    PUB,
    RETRACT,
    SETTLE,
    SUB,
    SUB_ACK,
    UNSUB,
)
from flowbridge.codec.framing import FrameReader, prefix
from flowbridge.codec.session_words import StreamKind
from flowbridge.envelope import Envelope
from flowbridge.errors import BrokenError
from flowbridge.limits import BUS_LINK_BODY_BYTES_MAX
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.time.far import FarTimes
from flowbridge.transports.bus import LocalEventBus
from flowbridge.transports.bus_client import BusClient
from flowbridge.transports.bus_server import BusServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.transports.quic.stream import SessionStream

HELLO_1 = frame(HELLO, 1)
QOS = [0, 8, 1 << 16, 8, 4, None, None]


def envelope(*, seq: object = 0, priority: object = 2, headers: object = None) -> tuple[object, ...]:
    return (seq, None, 0, 0, priority, 1, 0, None, None, headers)


def sub(number: int, pattern: str, *, group: str | None = None, edge: str = "", qos: object = None) -> bytes:
    return frame(SUB, number, number, pattern, group, edge, qos)


def pub(call: int, topic: object, mode: int = 0) -> bytes:
    return frame(PUB, call, mode, topic, *envelope(), body=b"x")


class Served:
    """A bus of the node that the peer may use."""

    def __init__(self, scene: Scene) -> None:
        self.clock = VirtualClock()
        self.bus = LocalEventBus(self.clock)
        self.server = BusServer(self.bus, self.clock)
        scene.core.takers[StreamKind.BUS] = self._take

    def _take(self, stream: SessionStream) -> None:
        self.server.attach(stream.connect, FarTimes(self.clock, stream.offset))


def answers(evil: Evil, quic: int) -> list[tuple[int, bytes, bytes]]:
    """The frames that the node sent on a stream, behind its ACCEPT."""
    return FrameReader().feed(evil.data(quic))[1:]


CLIENT: dict[str, tuple[Sequence[bytes], str]] = {
    "no greeting": ([sub(0, "a")], "before HELLO"),
    "two greetings": ([HELLO_1, HELLO_1], "a second one"),
    "another version": ([frame(HELLO, 2)], "version 2"),
    "a frame of the other end": ([HELLO_1, frame(HELLO_ACK, 1, True)], "none that this end of a bus link takes"),
    "a frame that nobody knows": ([HELLO_1, frame(0x71)], "none that this end of a bus link takes"),
    "a subscription twice": ([HELLO_1, sub(0, "a"), frame(SUB, 1, 0, "b", None, "", None)], "is there already"),
    "a call again": ([HELLO_1, pub(5, "a"), pub(5, "a")], "call 5 after call 5"),
    "a queue of any size": ([HELLO_1, sub(0, "a", qos=[0, 2**40, 1, 1, 1, None, None])], "position qos"),
    "a pattern of any length": ([HELLO_1, sub(0, "x" * 2000)], "position pattern"),
    "the settings of no topic": ([HELLO_1, frame(CONFIGURE, "a..b", QOS)], "empty word"),
    "the settings of too many topics": ([HELLO_1, *(frame(CONFIGURE, f"a{n}", QOS) for n in range(65))], "exceed 64"),
    "too many subscriptions": ([HELLO_1, *(sub(n, "a") for n in range(65))], "exceeds 64"),
    "too many calls that wait": (
        [HELLO_1, sub(0, "a", qos=QOS), *(pub(1 + n, "a") for n in range(80))],
        "calls that wait exceed 64",
    ),
    "an end of no subscription": ([HELLO_1, frame(UNSUB, 1, 7)], "no subscription 7"),
    "what became of no subscription": ([HELLO_1, frame(SETTLE, 7, 0, 0)], "no subscription 7"),
    "what became of nothing": ([HELLO_1, sub(0, "a"), frame(SETTLE, 0, 0, 0, 0, 2**62)], "settles"),
    "half a pair": ([HELLO_1, sub(0, "a"), frame(SETTLE, 0, 0, 0, 1)], "not pairs"),
    "more late than there were": ([HELLO_1, sub(0, "a"), frame(SETTLE, 0, 0, 5)], "settles 0 messages"),
    "a message with a nested header": (
        [HELLO_1, frame(PUB, 0, 0, "a", *envelope(headers={"a": {"b": 1}}), body=b"x")],
        "not CBOR as agreed",
    ),
    "a message of no lane": ([HELLO_1, frame(PUB, 0, 0, "a", *envelope(priority=9), body=b"x")], "position priority"),
    "a topic that is no text": ([HELLO_1, pub(0, 7)], "position topic"),
    "a body that nobody holds": ([HELLO_1, prefix(PUB, 10, BUS_LINK_BODY_BYTES_MAX + 1)], "exceed"),
    "a bomb of lists": ([HELLO_1, prefix(SUB, 4001, 0) + b"\x81" * 4000 + b"\x80"], "not CBOR as agreed"),
}


@pytest.mark.parametrize(("said", "why"), CLIENT.values(), ids=list(CLIENT))
def test_a_client_that_breaks_the_rules_loses_its_bus_and_nothing_else(
    said: Sequence[bytes], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUBSCRIPTIONS", "TOPICS", "CALLS"):
        monkeypatch.setattr(f"flowbridge.transports.bus_peer.BUS_LINK_{name}_MAX", 64)

    async def run(evil: Evil, scene: Scene) -> None:
        served = Served(scene)
        await evil.greet()
        growth = Growth()
        evil.stream(0, StreamKind.BUS, rest=b"".join(said))
        assert why in await stream_ends(evil)
        await asyncio.sleep(0.1)
        assert served.server.peers == 0
        assert served.server.ports == {}, "what it subscribed to is free again"
        growth.assert_small()

    attacked(run)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (".".join("a" * 17), "more than 16 words"),
        (".".join("*" * 17), "more than 16 words"),
        ("x" * 257, "longer than 256"),
        ("a..b", "empty word"),
        (">.a", "before its last word"),
        ("a.b*", "wildcard"),
        ("a.\x1b", "unprintable"),
    ],
)
def test_a_bad_pattern_or_topic_is_answered_and_costs_nothing_else(pattern: str, why: str) -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        served = Served(scene)
        await evil.greet()
        quic = evil.stream(0, StreamKind.BUS, rest=HELLO_1 + sub(0, pattern) + pub(1, pattern) + pub(2, "good"))
        await evil.until(lambda: sum(kind == ACK for kind, _, _ in answers(evil, quic)) == 1)
        told = [header.decode(errors="replace") for kind, header, _ in answers(evil, quic) if kind == ERROR]
        assert len(told) == 2
        assert why in told[0]
        assert "\x1b" not in "".join(told)
        assert evil.errors() == []
        assert served.server.ports == {}

    attacked(run)


def test_many_topics_times_many_subscriptions_do_not_multiply() -> None:
    """Each of thousands of topics reaches hundreds of subscriptions: not all that is remembered."""

    async def run(evil: Evil, scene: Scene) -> None:
        served = Served(scene)
        await evil.greet()
        quic = evil.stream(0, StreamKind.BUS, rest=HELLO_1)
        for first in range(0, 300, 100):
            evil.write(quic, *(sub(n, ">", qos=[2, 1, 1 << 16, 1, 1, None, None]) for n in range(first, first + 100)))
            await asyncio.sleep(0.1)
        assert len(served.server.ports) == 300
        growth = Growth()
        for number in range(1_500):
            served.server.subscribers.match(f"topic.{number}")
            served.bus._fanout(f"topic.{number}")  # pyright: ignore[reportPrivateUsage]
        growth.assert_small()

    attacked(run)


def test_topics_that_reach_other_members_of_a_group_each_are_not_all_remembered() -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        served = Served(scene)
        await evil.greet()
        patterns = [".".join("a" if at == place else "*" for at in range(14)) for place in range(14)]
        quic = evil.stream(0, StreamKind.BUS, rest=HELLO_1)
        evil.write(quic, *(sub(n, pattern, group="g", qos=QOS) for n, pattern in enumerate(patterns)))
        await asyncio.sleep(0.1)
        growth = Growth()
        for number in range(4_000):
            topic = ".".join("a" if number >> at & 1 else "b" for at in range(14))
            served.bus._fanout(topic)  # pyright: ignore[reportPrivateUsage]
        growth.assert_small()
        assert sum(map(len, served.bus._groups.values())) < 1_100  # pyright: ignore[reportPrivateUsage]

    attacked(run)


def test_subscriptions_that_come_and_go_under_other_names_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.transports.bus_books.PATHS_MAX", 100)

    async def run(evil: Evil, scene: Scene) -> None:
        served = Served(scene)
        await evil.greet()
        quic = evil.stream(0, StreamKind.BUS, rest=HELLO_1)

        async def come_and_go(first: int, count: int) -> None:
            for n in range(first, first + count):
                evil.write(quic, frame(SUB, 2 * n, n, f"a{n}", None, f"edge {n}", None), frame(UNSUB, 2 * n + 1, n))
                if n % 100 == 0:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            evil.events.clear()

        await come_and_go(0, 150)  # so many closed ones are remembered by name
        growth = Growth()
        await come_and_go(150, 500)
        growth.assert_small()
        assert len(served.bus.books()) <= 102
        assert served.server.ports == {}

    attacked(run)


# --- a host that lies to those who use its bus ----------------------------------------------------------------------

GREETED = frame(HELLO_ACK, 1, True)

SERVER: dict[str, tuple[Sequence[bytes], str]] = {
    "two greetings": ([GREETED, GREETED], "a second one"),
    "a frame of the other end": ([GREETED, sub(0, "a")], "none that this end of a bus link takes"),
    "a subscription offered twice": ([GREETED, *(frame(OFFER, 1, "a", None, True),) * 2], "offered twice"),
    "a pattern that is none": ([GREETED, frame(OFFER, 1, "a..b", None, True)], "empty word"),
    "a pattern of too many levels": ([GREETED, frame(OFFER, 1, ".".join("a" * 17), None, True)], "more than 16 words"),
    "too many offers": ([GREETED, *(frame(OFFER, n, f"a{n}", None, True) for n in range(65))], "64 subscriptions"),
    "what was not offered is gone": ([GREETED, frame(RETRACT, 1)], "was not offered"),
    "credit of what was not offered": ([GREETED, frame(LIMIT, 1, 1, 1, 1, 1)], "was not offered"),
    "a message for nobody": ([GREETED, frame(DELIVER, 1, *envelope(), body=b"x")], "is not open"),
    "an answer to nothing": ([GREETED, frame(SUB_ACK, 7, "e", QOS)], ""),
}


@pytest.mark.parametrize(("said", "why"), SERVER.values(), ids=list(SERVER))
def test_a_host_that_breaks_the_rules_of_its_bus_is_used_no_more(
    said: Sequence[bytes], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbridge.machines.topics.SUBSCRIPTIONS_MAX", 64)

    async def run(evil: Evil, scene: Scene) -> None:
        clock = VirtualClock()
        clients: list[BusClient] = []

        def take(stream: SessionStream) -> None:
            client = BusClient(stream.connect, clock, FarTimes(clock, stream.offset))
            clients.append(client)
            greeting.append(asyncio.ensure_future(client.greet()))

        greeting: list[asyncio.Future[None]] = []
        scene.core.takers[StreamKind.BUS] = take
        await evil.greet()
        growth = Growth()
        evil.stream(0, StreamKind.BUS, rest=b"".join(said))
        assert why in await stream_ends(evil)
        await asyncio.wait(greeting)
        with pytest.raises(BrokenError):
            await clients[0].publish("a", Envelope(b"x"))
        await clients[0].aclose()
        growth.assert_small()

    attacked(run)
