"""A link that refuses what cannot be in time: the sink counts it as expired on the way, once, and gives its credit."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from link_scene import message, route_of

from flowbridge.codec.route_frames import TrailReader
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.quiet import quiet, quiet_after
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.link_port import LinkSink
from flowbridge.transports.link_source import LinkSource
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from flowbridge.envelope import Envelope


class EvenOnly:
    """Admits messages of even numbers."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def admits(self, envelope: Envelope) -> bool:
        return envelope.seq % 2 == 0

    def wrote(self, envelope: Envelope) -> None:
        self.written.append(envelope.seq)


@asynccontextmanager
async def route(qos: Qos, course: EvenOnly) -> AsyncGenerator[tuple[LinkSink, LinkSource]]:
    near, far = socket.socketpair()

    def end_of(sock: socket.socket, half: Callable[[], StreamNearLink | StreamFarLink]) -> FramedLink:
        def frame(kind: int, header: bytes, body: bytes) -> None:
            half().frame(kind, header, body)

        def lost(error: Exception | None) -> None:
            half().lost(error)

        return FramedLink(connector(UdsStream, sock, peer="other end"), on_frame=frame, on_lost=lost)

    near_half = StreamNearLink(end_of(near, lambda: near_half), course=course)
    far_half = StreamFarLink(end_of(far, lambda: far_half), TrailReader())
    clock = ManualClock()
    sink, source = LinkSink(route_of(qos), clock, near_half), LinkSource(route_of(qos), clock, far_half)
    try:
        yield sink, source
    finally:
        sink.close()
        source.close()


async def take_all(source: LinkSource) -> list[int]:
    seqs: list[int] = []
    while True:
        await quiet()
        taken = source.take(100)
        if not taken:
            return seqs
        seqs += [envelope.seq for envelope in taken]
        source.settle(taken)


@pytest.mark.parametrize("policy", [Policy.BLOCK, Policy.ERROR, Policy.DROP_OLDEST, Policy.DROP_NEWEST])
def test_what_is_refused_is_counted_once_as_expired_on_the_way(policy: Policy) -> None:
    async def main() -> None:
        course = EvenOnly()
        async with route(Qos(policy=policy), course) as (sink, source):
            for seq in range(5):
                sink.send_nowait(message(seq))
            assert sink.send_many_nowait([message(seq) for seq in range(5, 10)]) == 5
            await sink.send(message(10))
            await sink.send(message(11))
            assert await take_all(source) == course.written == [0, 2, 4, 6, 8, 10]
            with quiet_after(lambda: source.owes_report):
                await quiet()
            books = sink.books
            assert (books.sent, books.delivered, books.expired, books.in_flight) == (12, 6, 6, 0)
            assert (books.missed.transport, books.missed.total) == (6, 6)
            assert books.balances
            assert source.books.expired == 0

    asyncio.run(main())


def test_the_credit_of_what_is_refused_lets_the_next_sender_in() -> None:
    async def main() -> None:
        qos = Qos(policy=Policy.BLOCK, capacity_items=1, high_items=1, low_items=0)
        async with route(qos, EvenOnly()) as (sink, source):
            await sink.send(message(0))
            senders = [asyncio.ensure_future(sink.send(message(seq))) for seq in (1, 3, 5, 2)]
            await quiet()
            assert not any(sender.done() for sender in senders)
            assert await take_all(source) == [0, 2]
            await asyncio.gather(*senders)
            await quiet()
            assert (sink.books.sent, sink.books.delivered, sink.books.expired) == (5, 2, 3)
            assert sink.books.balances

    asyncio.run(main())
