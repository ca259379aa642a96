"""Two clocks that differ by hours: every deadline passes at the right instant on both sides of a link."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from link_scene import route_of

from flowbridge import registry
from flowbridge.codec.route_frames import TrailReader
from flowbridge.envelope import NO_DEADLINE, Envelope
from flowbridge.errors import DeadlineExceeded, Effect, NoResponderError
from flowbridge.testing.clock import START_NS, ManualClock
from flowbridge.testing.conformance.message import MS, message, number_of, take_all
from flowbridge.testing.quiet import quiet, quiet_after
from flowbridge.time.far import SHARED, FarTimes
from flowbridge.time.offset import DRIFT_PPM, SAMPLES, ClockOffset
from flowbridge.transports.bus_client import BusClient
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.link_port import LinkSink, LinkSource
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from flowbridge.contracts import EventBus

HOUR: Final = 3600 * 10**9
SKEW: Final = 5 * HOUR + 1_234_567
ORIGIN: Final = START_NS - 7 * MS


class Clocks:
    """A clock here, one there that is hours ahead, and what each side knows of the other's."""

    def __init__(self, *, rtt_ns: int = 0, skew_ns: int = SKEW) -> None:
        self.here = ManualClock()
        self.there = ManualClock(START_NS + skew_ns)
        self.from_here = ClockOffset()
        self.from_there = ClockOffset()
        now = START_NS - rtt_ns
        self.from_here.add(now, now + skew_ns + rtt_ns // 2, now + skew_ns + rtt_ns // 2, now + rtt_ns)
        now += skew_ns
        self.from_there.add(now, now - skew_ns + rtt_ns // 2, now - skew_ns + rtt_ns // 2, now + rtt_ns)
        self.times_here = FarTimes(self.here, self.from_here)
        self.times_there = FarTimes(self.there, self.from_there)

    async def advance(self, by_ns: int) -> None:
        """The same time passes on both sides."""
        await self.here.advance(by_ns)
        await self.there.advance(by_ns)


def sent(clocks: Clocks, deadline_ns: int, *, origin_ns: int = ORIGIN) -> Envelope:
    """What a message looks like on the wire."""
    return clocks.times_here.leaving(Envelope(b"", 2, deadline_ns, origin_ns, START_NS - 1))


# --- the times alone -------------------------------------------------------------------------------------------------


def test_on_the_wire_stands_what_is_left_how_old_it_is_and_when_it_was_written() -> None:
    wire = sent(Clocks(), START_NS + 30 * MS)
    assert (wire.deadline_ns, wire.origin_ns, wire.sent_ns) == (30 * MS, 7 * MS, START_NS)


def test_none_is_zero_on_the_wire_and_a_deadline_that_passed_is_one() -> None:
    wire = sent(Clocks(), NO_DEADLINE, origin_ns=0)
    assert (wire.deadline_ns, wire.origin_ns) == (0, 0)
    assert sent(Clocks(), START_NS - HOUR).deadline_ns == 1
    assert sent(Clocks(), START_NS, origin_ns=START_NS).origin_ns == 1


def test_the_time_under_way_is_taken_off() -> None:
    async def main() -> None:
        clocks = Clocks()
        one = sent(clocks, START_NS + 30 * MS)
        await clocks.advance(4 * MS)
        clocks.times_there.arrived(one)
        there = START_NS + SKEW
        assert (one.deadline_ns, one.origin_ns, one.sent_ns) == (there + 30 * MS, there - 7 * MS, there)

    asyncio.run(main())


def test_a_message_that_waited_through_an_outage_expires_when_it_should() -> None:
    async def main() -> None:
        clocks = Clocks(rtt_ns=20 * MS)  # too uncertain for this deadline: what is certain is taken off all the same
        one = sent(clocks, START_NS + 30 * MS)
        await clocks.advance(40 * MS)
        clocks.times_there.arrived(one)
        assert START_NS + SKEW + 30 * MS <= one.deadline_ns <= START_NS + SKEW + 41 * MS
        late = sent(clocks, START_NS + 60 * MS)
        await clocks.advance(10_000 * MS)
        clocks.times_there.arrived(late)
        assert late.deadline_ns == clocks.there.now_ns()  # it has expired

    asyncio.run(main())


def test_half_a_round_trip_is_taken_off_while_nothing_better_is_known() -> None:
    clocks = Clocks(rtt_ns=20 * MS)
    one = sent(clocks, START_NS + 30 * MS)
    clocks.times_there.arrived(one)
    assert one.deadline_ns == START_NS + SKEW + 20 * MS
    clocks.from_there.reset()
    other = sent(clocks, START_NS + 30 * MS)
    clocks.times_there.arrived(other)
    assert other.deadline_ns == START_NS + SKEW + 30 * MS


def test_nothing_a_peer_says_puts_origin_or_sent_into_the_future() -> None:
    clocks = Clocks()
    for sent_ns in (0, START_NS, START_NS + HOUR, 2**63 - 1):
        for left_ns in (0, 1, 30 * MS, 2**63 - 1):
            for age_ns in (0, 1, 2**63 - 1):
                one = Envelope(b"", 2, left_ns, age_ns, sent_ns)
                clocks.times_there.arrived(one)
                now_ns = clocks.there.now_ns()
                assert 0 <= one.sent_ns <= now_ns
                assert 0 <= one.origin_ns <= now_ns
                assert now_ns <= one.deadline_ns <= NO_DEADLINE
                assert (one.deadline_ns == NO_DEADLINE) == (left_ns in (0, 2**63 - 1))
                assert (one.origin_ns == 0) == (age_ns == 0)


def test_shared_times_leave_everything_as_it_is() -> None:
    one = Envelope(b"", 2, 5, 3, 4)
    assert SHARED.leaving(one) is one
    assert SHARED.leaving(one, 9).deadline_ns == 9
    SHARED.arrived(one)
    error = DeadlineExceeded("x", 1, 2)
    assert SHARED.leaving_error(error) is error
    SHARED.arrived_error(error)
    assert (one.deadline_ns, one.origin_ns, one.sent_ns, error.deadline_ns, error.now_ns) == (5, 3, 4, 1, 2)


def test_a_missed_deadline_is_told_by_how_much() -> None:
    clocks = Clocks()
    error = DeadlineExceeded("it", START_NS, START_NS + 3 * MS, Effect.MAYBE)
    wire = clocks.times_here.leaving_error(error)
    assert isinstance(wire, DeadlineExceeded)
    assert (wire.deadline_ns, wire.now_ns, str(wire)) == (0, 3 * MS, str(error))
    clocks.times_there.arrived_error(wire)
    now_ns = clocks.there.now_ns()
    assert (wire.deadline_ns, wire.now_ns, wire.effect) == (now_ns - 3 * MS, now_ns, Effect.MAYBE)
    other = NoResponderError("nobody")
    assert clocks.times_here.leaving_error(other) is other


# --- the offset ------------------------------------------------------------------------------------------------------


def test_the_shortest_round_trip_tells_the_offset() -> None:
    offset = ClockOffset()
    assert offset.best() is None
    assert offset.add(0, 1_000 + 50, 1_000 + 50, 100)
    assert offset.add(100, 1_100 + 9, 1_100 + 9, 110)
    assert offset.add(110, 1_110 + 900, 1_110 + 900, 1_110)
    best = offset.best()
    assert best is not None
    assert (best.theta_ns, best.rtt_ns) == (1_004, 10)
    assert offset.srtt_ns == 100 + (10 - 100) // 8 + (1_000 - 88) // 8
    offset.reset()
    assert (offset.best(), offset.srtt_ns) == (None, 0)


def test_an_old_sample_gives_way_to_one_that_is_surer_by_now() -> None:
    offset = ClockOffset()
    offset.add(0, 0, 0, 1 * MS)
    age_ns = 100 * MS * 1_000_000 // DRIFT_PPM
    offset.add(age_ns, age_ns, age_ns, age_ns + 2 * MS)
    best = offset.best()
    assert best is not None
    assert best.rtt_ns == 2 * MS


def test_only_the_last_samples_count_and_impossible_ones_do_not() -> None:
    offset = ClockOffset()
    assert not offset.add(10, 0, 0, 9)
    assert not offset.add(0, 10, 9, 10)
    assert not offset.add(0, 0, 100, 50)
    assert offset.best() is None
    offset.add(0, 0, 0, 1)
    for _ in range(SAMPLES):
        offset.add(10, 10, 10, 500)
    best = offset.best()
    assert best is not None
    assert best.rtt_ns == 490


# --- a route ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def route(clocks: Clocks) -> AsyncGenerator[tuple[LinkSink, LinkSource]]:
    one = route_of()
    near, far = socket.socketpair()

    def end_of(sock: socket.socket, half: Callable[[], StreamNearLink | StreamFarLink]) -> FramedLink:
        def frame(kind: int, header: bytes, body: bytes) -> None:
            half().frame(kind, header, body)

        def lost(error: Exception | None) -> None:
            half().lost(error)

        return FramedLink(connector(UdsStream, sock, peer="other end"), on_frame=frame, on_lost=lost)

    near_half = StreamNearLink(end_of(near, lambda: near_half), clocks.times_here)
    far_half = StreamFarLink(end_of(far, lambda: far_half), TrailReader(), clocks.times_there)
    sink, source = LinkSink(one, clocks.here, near_half), LinkSource(one, clocks.there, far_half)
    try:
        yield sink, source
    finally:
        sink.close()
        source.close()


def test_a_message_of_a_route_expires_at_the_same_instant_on_both_sides() -> None:
    async def main() -> None:
        clocks = Clocks()
        async with route(clocks) as (sink, source):
            for seq in range(3):
                sink.send_nowait(message(seq, deadline_ns=START_NS + 10 * MS))
            sink.send_nowait(message(3))
            await quiet()
            await clocks.advance(10 * MS - 1)
            first = await source.receive()
            assert first.envelope.deadline_ns == clocks.there.now_ns() + 1
            assert first.envelope.sent_ns == START_NS + SKEW
            first.release()
            await clocks.advance(1)
            last = await source.receive()
            assert (last.envelope.seq, last.envelope.deadline_ns) == (3, NO_DEADLINE)
            last.release()
            with quiet_after(lambda: source.owes_report):
                await quiet()
            assert (source.books.delivered, source.books.expired) == (2, 2)
            assert (sink.books.delivered, sink.books.expired) == (2, 2)
            assert sink.books.balances
            assert source.books.balances

    asyncio.run(main())


# --- a bus -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bus(clocks: Clocks) -> AsyncGenerator[tuple[BusClient, EventBus]]:
    """A client here, the host of the bus there."""
    transport = registry.transport("inproc", clocks.there)
    host = await transport.open_bus()
    server = BusServer(host, clocks.there)
    ours, theirs = socket.socketpair()
    server.attach(connector(UdsStream, theirs, peer="client"), clocks.times_there)
    client = BusClient(connector(UdsStream, ours, peer="host"), clocks.here, clocks.times_here)
    try:
        await client.greet()
        yield client, host
    finally:
        await client.aclose()
        await server.aclose()
        await transport.aclose()


@pytest.mark.parametrize("skew_ns", [SKEW, -SKEW // 20])
def test_a_publication_expires_at_the_same_instant_on_both_sides(skew_ns: int) -> None:
    async def main() -> None:
        clocks = Clocks(skew_ns=skew_ns)
        async with bus(clocks) as (client, host), host.subscribe("t") as there, client.subscribe("t") as here:
            for number in (1, 2):
                assert await client.publish("t", message(number, deadline_ns=START_NS + 10 * MS)) == 2
            assert await client.publish("t", message(3)) == 2
            await quiet()
            await clocks.advance(10 * MS - 1)
            for subscription, clock in ((there, clocks.there), (here, clocks.here)):
                lease = await subscription.receive()
                assert lease.envelope.deadline_ns == clock.now_ns() + 1
                assert lease.envelope.sent_ns == clock.now_ns() - 10 * MS + 1
                lease.release()
            await clocks.advance(1)
            for subscription in (there, here):
                lease = await subscription.receive()
                assert (number_of(lease.envelope), lease.envelope.deadline_ns) == (3, NO_DEADLINE)
                lease.release()
                await quiet()
                assert subscription.books.expired == 1
                assert subscription.books.balances

    asyncio.run(main())


def test_one_that_was_late_when_it_was_published_is_late_there() -> None:
    async def main() -> None:
        clocks = Clocks()
        async with bus(clocks) as (client, host), host.subscribe("t") as there:
            await client.publish("t", message(1, deadline_ns=START_NS))
            await client.publish("t", message(2, deadline_ns=START_NS + 2))
            assert await take_all(there) == [2]
            assert there.books.expired == 1

    asyncio.run(main())


def test_a_request_and_its_reply_keep_their_deadline_across_clocks() -> None:
    async def main() -> None:
        clocks = Clocks()
        async with bus(clocks) as (client, host), host.subscribe("ask") as there:
            asking = asyncio.create_task(client.request("ask", message(1), timeout_ns=20 * MS))
            await quiet()
            await clocks.advance(5 * MS)
            with await there.receive() as request:
                assert request.deadline_ns == clocks.there.now_ns() + 15 * MS
                await host.reply(request, message(2))
            answer = await asking
            assert number_of(answer) == 2
            assert answer.deadline_ns == START_NS + 20 * MS
            assert answer.sent_ns == clocks.here.now_ns()

    asyncio.run(main())


def test_a_request_that_nobody_answers_fails_when_its_time_is_over() -> None:
    async def main() -> None:
        clocks = Clocks()
        async with bus(clocks) as (client, host), host.subscribe("ask"):
            asking = asyncio.create_task(client.request("ask", message(1), timeout_ns=20 * MS))
            await quiet()
            await clocks.advance(20 * MS - 1)
            assert not asking.done()
            await clocks.there.advance(1)  # the host sees it first, and says so
            with pytest.raises(DeadlineExceeded) as caught:
                await asking
            assert caught.value.deadline_ns == caught.value.now_ns == clocks.here.now_ns()
            await clocks.here.advance(1)

    asyncio.run(main())


def test_a_client_that_serves_sees_the_request_in_its_own_time() -> None:
    async def main() -> None:
        clocks = Clocks()
        async with bus(clocks) as (client, host), client.subscribe("ask") as here:
            asking = asyncio.create_task(host.request("ask", message(1), timeout_ns=20 * MS))
            await quiet()
            await clocks.advance(5 * MS)
            with await here.receive() as request:
                assert request.deadline_ns == clocks.here.now_ns() + 15 * MS
                await client.reply(request, message(2))
            assert (await asking).deadline_ns == START_NS + SKEW + 20 * MS
            late = asyncio.create_task(host.request("ask", message(3), timeout_ns=20 * MS))
            await quiet()
            lease = await here.receive()
            await clocks.advance(20 * MS)
            with pytest.raises(DeadlineExceeded):
                await late
            await client.reply(lease.envelope, message(4))
            lease.release()
            replies = client.books()["(replies)"]
            assert (replies.delivered, replies.expired, replies.missed.late) == (1, 1, 1)

    asyncio.run(main())
