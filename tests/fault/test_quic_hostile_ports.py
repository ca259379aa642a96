"""Peers that break the rules of what stands on a session stream: routes, buses, and the tickets that lead to them.

What they do costs the stream that they do it on; the session goes on, and so does the honest peer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from link_scene import message, route_of
from quic_hostile import Evil, Growth, Scene, attacked, frame, stream_ends

from flowbridge.codec.arrays import write_array
from flowbridge.codec.framing import prefix
from flowbridge.codec.payload import MESSAGE, RAW
from flowbridge.codec.route_frames import CODEC_TRAIL, CONTROL, COUNTS, END, ITEM, OPEN, VERSION, RouteOpen, TrailReader
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import BrokenError, RemoteProtocolError
from flowbridge.limits import BODY_BYTES_MAX, STREAM_BYTES_HIGH
from flowbridge.plan import Policy, Qos
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.time.far import FarTimes
from flowbridge.transports.link_port import LinkSink, LinkSource
from flowbridge.transports.quic.route_end import FarEnd, NearEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.transports.quic.stream import SessionStream

QOS = Qos(policy=Policy.BLOCK, capacity_items=8, capacity_bytes=64 * 1024, high_items=8, low_items=4)
ROUTE = route_of(QOS)


# --- a producer that lies -------------------------------------------------------------------------------------------


def item(*changes: tuple[int, object], body: bytes = b"", seq: int = 0, size_bytes: int = 1) -> bytes:
    """An ITEM of a few bytes, with some positions changed."""
    values: list[object] = [RAW, 0, seq, 0, 0, 1, 2, size_bytes, None]
    for at, value in changes:
        values[at] = value
    return frame(ITEM, *values, body=body or b"x")


def control(codec: object, tag: object, body: bytes) -> bytes:
    return frame(CONTROL, codec, tag, body=body)


def schema(number: int) -> bytes:
    return bytes(memoryview(pa.schema([(f"n{number}", pa.int64())]).serialize()))


def trail(number: int, *nodes: str) -> bytes:
    return control(CODEC_TRAIL, number, write_array(nodes))


OPENED = frame(OPEN, VERSION, ROUTE.id, *RouteOpen())

PRODUCER: dict[str, tuple[Sequence[bytes], str]] = {
    "more messages than there is credit": ([OPENED, *(item(seq=n) for n in range(9))], "came without credit"),
    "more bytes than there is credit": ([OPENED, *(item(size_bytes=40_000) for _ in range(2))], "without credit"),
    "a message before the route is open": ([item()], "before it is open"),
    "another route": ([frame(OPEN, VERSION, "z/out->b/in", *RouteOpen())], "opens route"),
    "another version": ([frame(OPEN, VERSION - 1, ROUTE.id, 0)], "version 1"),
    "descriptors": ([frame(OPEN, VERSION, ROUTE.id, *RouteOpen(descriptors=1))], "cannot come from another machine"),
    "a route that is opened twice": ([OPENED, OPENED], "from the producer of a route"),
    "a message behind the end": ([OPENED, frame(END), item()], "after the end"),
    "counts of a consumer": ([OPENED, frame(COUNTS, *(0,) * 16)], "from the producer of a route"),
    "a frame that nobody knows": ([OPENED, frame(0x70)], "from the producer of a route"),
    "a negative number": ([OPENED, item((2, -1))], "position seq"),
    "a number of 64 bits": ([OPENED, item((3, 2**63))], "position deadline_ns"),
    "a priority that there is not": ([OPENED, item((6, 4))], "position priority"),
    "a size that is none": ([OPENED, item((7, None))], "position size_bytes"),
    "a header that is too short": ([OPENED, frame(ITEM, 1, 0)], "positions"),
    "a codec that there is not": ([OPENED, item((0, 999))], "which there is not"),
    "a context that is none": ([OPENED, item((8, [1, 2]))], "context"),
    "headers within headers": ([OPENED, item((8, [None, "", {"a": {"b": 1}}]))], "neither text nor a number"),
    "a trail that never came": ([OPENED, item((1, 7))], "trail 7 was never sent"),
    "a trail of too many nodes": ([OPENED, trail(1, *("n",) * 1500)], "trail"),
    "trails beyond their number": ([OPENED, trail(1001, "n")], "not in 1..1000"),
    "a trail that comes again": ([OPENED, trail(1, "n"), trail(1, "n")], "taken"),
    "too many nodes in all trails": ([OPENED, *(trail(n, *(f"{n}",) * 1000) for n in range(1, 70))], "trail"),
    "too many schemas": ([OPENED, *(control(MESSAGE, n << 16, schema(n)) for n in range(65))], "exceeds 64"),
    "a body that nobody holds": ([OPENED, prefix(ITEM, 10, BODY_BYTES_MAX + 1)], "exceed"),
    "a header that nobody holds": ([OPENED, prefix(ITEM, 1 << 20, 0)], "exceed"),
    "a schema that is none": ([OPENED, control(MESSAGE, 0, b"\xff" * 100)], "schema"),
    "a schema that is too long": ([OPENED, control(MESSAGE, 0, bytes((1 << 20) + 1))], "exceeds"),
    "another schema of the same number": ([OPENED, *(control(MESSAGE, 0, schema(n)) for n in (1, 2))], "already"),
    "a bomb of lists": ([OPENED, prefix(ITEM, 4001, 0) + b"\x81" * 4000 + b"\x80"], ""),
}


class Consumer:
    """The node's end of the route."""

    def __init__(self, scene: Scene) -> None:
        self.clock = VirtualClock()
        self.source = LinkSource(ROUTE, self.clock)
        self.lost: list[Exception] = []
        self.source.on_lost = self.lost.append
        scene.core.takers[StreamKind.ROUTE] = self._take

    def _take(self, stream: SessionStream) -> None:
        FarEnd(ROUTE, stream, self.source, TrailReader(), FarTimes(self.clock, stream.offset))


@pytest.mark.parametrize(("said", "why"), PRODUCER.values(), ids=list(PRODUCER))
def test_a_producer_that_lies_loses_its_route_and_nothing_else(said: Sequence[bytes], why: str) -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        consumer = Consumer(scene)
        await evil.greet()
        growth = Growth()
        evil.stream(0, rest=b"".join(said))
        assert why in await stream_ends(evil)
        growth.assert_small()
        await asyncio.sleep(0.1)
        assert all(isinstance(one, RemoteProtocolError) for one in consumer.lost)
        assert len(consumer.lost) == (frame(END) not in said), "what comes behind the end breaks nothing"
        taken = consumer.source.take(100)
        assert len(taken) <= QOS.capacity_items
        consumer.source.settle(taken)

    attacked(run)


def test_a_producer_that_takes_its_credit_twice_loses_its_route() -> None:
    """It is told of eight messages that ended, and sends nine more."""

    async def run(evil: Evil, scene: Scene) -> None:
        consumer = Consumer(scene)
        await evil.greet()
        quic = evil.stream(0, rest=OPENED + b"".join(item(seq=n) for n in range(8)))
        await evil.until(lambda: bool(evil.data(quic)))
        consumer.source.settle(consumer.source.take(100))
        await asyncio.sleep(0.1)
        evil.write(quic, *(item(seq=8 + n) for n in range(8)))
        await asyncio.sleep(0.1)
        assert evil.errors() == [], "those had credit"
        evil.write(quic, item(seq=16))
        assert "without credit" in await stream_ends(evil)
        assert consumer.source.books.delivered == 8

    attacked(run)


def test_what_comes_before_the_route_is_taken_is_held_back() -> None:
    """A link that waits for what an earlier one brought reads little ahead."""

    async def run(evil: Evil, scene: Scene) -> None:
        consumer = Consumer(scene)
        await evil.greet()
        evil.stream(0, rest=OPENED + item())
        await asyncio.sleep(0.1)
        evil.stream(2, rest=OPENED)  # another producer, while a message of the first is held
        for _ in range(100):
            evil.write(8, item(body=bytes(60_000)))
        await asyncio.sleep(5)
        (stream,) = [one for one in scene.core.session_of("evil").streams if one.number == 2]
        assert STREAM_BYTES_HIGH < stream.come.received < 2 * STREAM_BYTES_HIGH
        assert consumer.source.books.delivered == 0

    attacked(run)


# --- a consumer that lies -------------------------------------------------------------------------------------------


def counts(**changes: int) -> bytes:
    """A report; the positions are named as `machines.outcome` has them."""
    lanes = [f"{what}{lane}" for what in ("items", "bytes") for lane in range(4)]
    ends = ["delivered", "expired", "oldest", "newest", "latest", "abort", "closed", "finished"]
    values = dict.fromkeys((*lanes, *ends), 0)
    assert changes.keys() <= values.keys()
    return frame(COUNTS, *(values | changes).values())


THREE = {"items2": 3, "bytes2": 3, "delivered": 3}

CONSUMER: dict[str, tuple[Sequence[bytes], str]] = {
    "messages that were never sent": ([counts(items2=9, bytes2=9, delivered=9)], "not of what was sent"),
    "credit for nothing": ([counts(items2=1, bytes2=1)], "does not add up"),
    "bytes without messages": ([counts(bytes2=1)], "not of what was sent"),
    "too many bytes": ([counts(items2=1, bytes2=2**60, delivered=1)], "not of what was sent"),
    "credit of another lane": ([counts(items0=3, bytes0=3, delivered=3)], "not of what was sent"),
    "counts that fall": ([counts(**THREE), counts()], "no continuation"),
    "drops by another policy": ([counts(items2=1, bytes2=1, oldest=1)], "cannot be"),
    "an abort of one that takes more": ([counts(items2=1, bytes2=1, abort=1)], "cannot be"),
    "an end that was not sent": ([counts(finished=1)], "an end that was not sent"),
    "closed twice over": ([counts(closed=2)], "an end that was not sent"),
    "a number of 65 bits": ([frame(COUNTS, *(0,) * 15, 1 << 64)], ""),
    "a negative number": ([frame(COUNTS, *(0,) * 15, -1)], "position count"),
    "too few counts": ([frame(COUNTS, *(0,) * 15)], "positions"),
    "a report with a body": ([frame(COUNTS, *(0,) * 16, body=b"x")], "from the consumer of a route"),
    "a message": ([item()], "from the consumer of a route"),
    "a report that nobody holds": ([prefix(COUNTS, 1 << 20, 0)], "exceed"),
}


@pytest.mark.parametrize(("said", "why"), CONSUMER.values(), ids=list(CONSUMER))
def test_a_consumer_that_lies_loses_its_route_and_nothing_else(said: Sequence[bytes], why: str) -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        clock, lost = VirtualClock(), list[Exception]()
        sink = LinkSink(ROUTE, clock)
        sink.on_lost = lost.append

        def take(stream: SessionStream) -> None:
            sink.attach(NearEnd(ROUTE, stream, FarTimes(clock, stream.offset), clock, sink.opening).half)
            for seq in range(8):
                sink.send_nowait(message(seq))

        scene.core.takers[StreamKind.ROUTE] = take
        await evil.greet()
        quic = evil.stream(0)
        await evil.until(lambda: len(evil.data(quic)) > 100)
        for one in said:
            evil.write(quic, one)
            await asyncio.sleep(0.1)
            _ = sink.books  # a report is looked at when somebody asks
        assert why in await stream_ends(evil)
        assert isinstance(lost[0], RemoteProtocolError)
        books = sink.books
        assert books.balances
        assert (books.delivered, books.in_flight) in ((0, 0), (3, 0))
        assert books.dropped["lost"] == 8 - books.delivered
        sink.break_off(lost[0])
        with pytest.raises(BrokenError):
            sink.send_nowait(message(9))

    attacked(run)
