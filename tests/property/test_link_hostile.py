"""A peer that lies about anything: the route breaks with a RemoteProtocolError, and nothing else happens.

`FLOWBRIDGE_MUTATIONS` sets how many frames are mutated.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Final

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_scene import calm, message, route_of

from flowbridge.codec.arrays import read_array, write_array
from flowbridge.codec.framing import prefix
from flowbridge.codec.route_frames import (
    BODY,
    CODEC_CONTEXT,
    CODEC_END,
    CODEC_TRAIL,
    CONTROL,
    COUNTS,
    END,
    ITEM,
    OPEN,
    TrailReader,
    read_counts,
    read_item,
    read_open,
    write_item,
)
from flowbridge.errors import BrokenError, DecodeError, RemoteProtocolError
from flowbridge.machines.outcome import Outcomes
from flowbridge.machines.queue import LaneQueue
from flowbridge.plan import Policy, Qos
from flowbridge.shm import native_problem
from flowbridge.testing.clock import ManualClock
from flowbridge.time.ledger import EdgeBooks
from flowbridge.transports.framed import FramedLink
from flowbridge.transports.link_port import LinkSink, LinkSource
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MUTATIONS: Final = int(os.environ.get("FLOWBRIDGE_MUTATIONS", "100000"))
FRAMES: Final = 12  # of one case
WEIRD: Final[tuple[Any, ...]] = (-1, 0, 1, 2, 3, 4, 255, 2**16, 2**32, 2**63 - 1, 2**63, 2**64 - 1, None, True, 1.5)
WEIRDER: Final[tuple[Any, ...]] = (*WEIRD, "", "x" * 300, b"y", [], [None, "", None], ["", "", {"a": 1}], {}, {"k": []})


class MemoryStream:
    """A `ByteStream` whose peer is the test; it keeps the promises of `UdsStream`."""

    def __init__(
        self,
        *,
        on_data: Callable[[bytes, Sequence[int]], None],
        on_lost: Callable[[Exception | None], None],
        descriptors: bool = False,
    ) -> None:
        self.descriptors = descriptors
        self.peer = "the liar"
        self.unsent_bytes = 0
        self.is_lost = False
        self._on_data = on_data
        self._on_lost = on_lost
        self._is_closed = False
        self._is_paused = False
        self._kept: list[bytes] = []

    def arrive(self, data: bytes) -> None:
        """The peer wrote this."""
        if self._is_paused:
            self._kept.append(data)
        elif not self.is_lost:
            try:
                self._on_data(data, ())
            except RemoteProtocolError as error:
                self.fail(error)

    def write(self, *parts: Any, descriptors: Sequence[int] = ()) -> None:
        """Into nothing."""

    async def drained(self) -> None:
        """It always is."""

    async def flushed(self) -> None:
        """It always is."""

    def pause(self) -> None:
        """Keep what arrives."""
        self._is_paused = True

    def resume(self) -> None:
        """Bring what was kept."""
        self._is_paused = False
        kept, self._kept = self._kept, []
        for data in kept:
            asyncio.get_running_loop().call_soon(self.arrive, data)

    def end(self) -> None:
        """Nothing to end."""

    def fail(self, error: Exception) -> None:
        """It is lost."""
        if not self.is_lost:
            self.is_lost = True
            asyncio.get_running_loop().call_soon(self._lose, error)

    def _lose(self, error: Exception) -> None:
        if not self._is_closed:
            self._on_lost(error)

    def close(self) -> None:
        """It is closed."""
        self.is_lost = self._is_closed = True


def framed(kind: int, header: bytes, body: bytes = b"") -> bytes:
    return prefix(kind, len(header), len(body)) + header + body


def some_frame(random: Random, seq: int) -> bytes:
    """One frame that a producer may send, before anybody lied about it."""
    kind = random.choice((ITEM, ITEM, ITEM, ITEM, CONTROL, END, BODY, COUNTS, OPEN, 0x2B, random.randrange(64)))
    if kind == ITEM:
        item = message(seq, lane=random.randrange(4), headers={"n": seq} if random.random() < 0.2 else None)
        header = write_item(item, random.choice((0, 0, 0, 1, 2, 3)), 0)
    elif kind == CONTROL:
        header = write_array((random.choice((2, CODEC_TRAIL, CODEC_CONTEXT, CODEC_END)), random.randrange(3)))
    else:
        header = write_array(())
    body = random.choice((b"", b"plain", cbor2.dumps(["a", "b"]), cbor2.dumps({"a": [1, None]}), random.randbytes(24)))
    if random.random() < 0.4:
        fields = read_array(header, None)
        if fields:
            fields[random.randrange(len(fields))] = random.choice(WEIRDER)
            header = cbor2.dumps(fields, canonical=True)
    return framed(kind, header, body)


def mutated(random: Random, data: bytes) -> bytes:
    """The same with a few bytes changed, lost, repeated or put in."""
    changed = bytearray(data)
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        at = random.randrange(len(changed))
        how = random.randrange(4)
        if how == 0:
            changed[at] = random.randrange(256)
        elif how == 1:
            changed[at] ^= 1 << random.randrange(8)
        elif how == 2 and len(changed) > 1:
            del changed[at]
        else:
            changed[at:at] = random.randbytes(random.randrange(1, 4))
    return bytes(changed)


def some_record(random: Random, seq: int) -> Any:
    """One record of a ring, with a lie or none."""
    lane, codec, tag = random.randrange(4), random.choice((0, 0, 0, 1, 2, 3)), 0
    fields = [seq, 2**63 - 1, 0, 0, 1]
    kind = random.choice((1, 1, 1, 3))
    if kind == 3:
        codec, tag = random.choice((2, CODEC_TRAIL, CODEC_CONTEXT, CODEC_END)), random.randrange(3)
    if random.random() < 0.2:
        fields[random.randrange(5)] = random.choice((-(2**63), -1, 2**63 - 1))
        fields[4] = random.choice((0, 2**63, 2**64 - 1))
    if random.random() < 0.1:
        lane = random.randrange(256)
    if random.random() < 0.2:
        codec, tag = random.randrange(2**16), random.randrange(2**32)
    data = random.choice((b"", b"plain", cbor2.dumps(["a", "b"]), cbor2.dumps([None, "", {"a": 1}])))
    return (mutated(random, data + b"\0")[:-1], lane, codec, *fields, tag, kind)


def small_qos(random: Random) -> Qos:
    return Qos(policy=random.choice(list(Policy)), capacity_items=4, high_items=4, low_items=1, capacity_bytes=100)


def checked(source: LinkSource, lost: list[Exception], failures: list[Any]) -> None:
    """What holds whatever the peer did."""
    assert not failures, failures
    while taken := source.take(9):
        source.settle(taken)
    assert source.books.balances
    assert source.books.in_flight == 0
    assert all(isinstance(error, RemoteProtocolError | BrokenError) for error in lost), lost


def run(case: Callable[[Random, list[Any]], Any], count: int) -> None:
    """Run so many cases on one loop, each with a seed of its own."""

    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        for seed in range(count):
            try:
                await case(Random(seed), failures)
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise

    asyncio.run(main())


def test_no_frame_of_a_producer_does_more_than_break_its_route() -> None:
    broken = 0

    async def case(random: Random, failures: list[Any]) -> None:
        nonlocal broken
        stream: list[MemoryStream] = []

        def connect(**given: Any) -> MemoryStream:
            stream.append(MemoryStream(**given))
            return stream[0]

        def frame(kind: int, header: bytes, body: bytes) -> None:
            half.frame(kind, header, body)

        def gone(error: Exception | None) -> None:
            half.lost(error)

        link = FramedLink(connect, on_frame=frame, on_lost=gone)
        half = StreamFarLink(link, TrailReader())
        source = LinkSource(route_of(small_qos(random)), ManualClock(), half)
        lost: list[Exception] = []
        source.on_lost = lost.append
        for seq in range(FRAMES):
            stream[0].arrive(mutated(random, some_frame(random, seq)))
        await calm(4)
        broken += bool(lost)
        checked(source, lost, failures)
        source.close()

    run(case, MUTATIONS // FRAMES)
    assert broken > MUTATIONS // FRAMES // 4


def test_no_frame_of_a_consumer_does_more_than_break_its_route() -> None:
    broken = 0

    async def case(random: Random, failures: list[Any]) -> None:
        nonlocal broken
        stream: list[MemoryStream] = []

        def connect(**given: Any) -> MemoryStream:
            stream.append(MemoryStream(**given))
            return stream[0]

        def frame(kind: int, header: bytes, body: bytes) -> None:
            half.frame(kind, header, body)

        def gone(error: Exception | None) -> None:
            half.lost(error)

        link = FramedLink(connect, on_frame=frame, on_lost=gone)
        half = StreamNearLink(link)
        sink = LinkSink(route_of(small_qos(random)), ManualClock(), half)
        lost: list[Exception] = []
        sink.on_lost = lost.append
        counts = [0] * 16
        for seq in range(FRAMES):
            if sink.credit_items(2):
                with suppress(BrokenError):  # the liar said that it closed
                    sink.send_many_nowait([message(seq)])
            for index in random.choice(((2, 6, 8), (2, 6, 9), (2, 6, 10), (2, 8), (15,), (14, 13))):
                counts[index] += random.choice((1, 1, 1, 0, 2, 2**62))
            report = framed(COUNTS, cbor2.dumps(counts, canonical=True))
            stream[0].arrive(mutated(random, report) if random.random() < 0.3 else report)
            assert sink.books.balances
            assert sink.books.in_flight >= 0
        await calm(4)
        broken += bool(lost)
        assert not failures, failures
        assert all(isinstance(error, RemoteProtocolError) for error in lost), lost
        sink.close()
        assert sink.books.balances
        assert sink.books.in_flight == 0

    run(case, MUTATIONS // FRAMES // 2)
    assert broken > MUTATIONS // FRAMES // 8


@pytest.mark.skipif(native_problem() is not None, reason="the native module is not built")
def test_no_record_of_a_producer_does_more_than_break_its_route() -> None:
    from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec
    from flowbridge.transports.uds.ring_far import RingFarLink

    broken = 0

    async def case(random: Random, failures: list[Any]) -> None:
        nonlocal broken
        stream: list[MemoryStream] = []

        def connect(**given: Any) -> MemoryStream:
            stream.append(MemoryStream(**given))
            return stream[0]

        def frame(kind: int, header: bytes, body: bytes) -> None:
            half.frame(kind, header, body)

        def gone(error: Exception | None) -> None:
            half.lost(error)

        producer = ShmProducer(ShmSpec(classes=(), ring_bytes=4096))
        link = FramedLink(connect, on_frame=frame, on_lost=gone)
        half = RingFarLink(ShmConsumer.attach(producer.descriptors()), link, TrailReader(), EdgeBooks())
        source = LinkSource(route_of(small_qos(random)), ManualClock(), half)
        lost: list[Exception] = []
        source.on_lost = lost.append
        for seq in range(FRAMES):
            record = some_record(random, seq)
            try:
                producer.try_send_records([record])
            except BrokenError:
                break
            if random.random() < 0.1:
                stream[0].arrive(framed(BODY, write_array(()), b"body"))
            await calm(2)
        if random.random() < 0.5:
            producer.close()
        await calm(4)
        broken += bool(lost)
        checked(source, lost, failures)
        source.close()
        producer.close()

    run(case, MUTATIONS // FRAMES // 4)
    assert broken > MUTATIONS // FRAMES // 16


READERS: Final[tuple[Callable[[bytes], object], ...]] = (
    read_item,
    read_counts,
    lambda data: read_open(data, "r"),
    lambda data: read_array(data, None),
    lambda data: TrailReader().read(data),
)
PLAIN: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=14,
)


@given(st.binary(max_size=80) | PLAIN.map(lambda value: cbor2.dumps(value, canonical=True)), st.sampled_from(READERS))
def test_a_header_is_read_or_refused(data: bytes, reader: Callable[[bytes], object]) -> None:
    try:
        reader(data)
    except DecodeError:
        return


@given(
    st.sampled_from(Policy),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=6),
    st.lists(st.lists(st.integers(0, 4), min_size=16, max_size=16), max_size=4),
)
def test_impossible_counts_leave_the_books_as_they_were(
    policy: Policy, sent: list[tuple[int, int]], reports: list[list[int]]
) -> None:
    books = EdgeBooks()
    queue = LaneQueue(Qos(policy=policy, capacity_items=9), books)
    outcomes = Outcomes(queue)
    for lane, size in sent:
        queue.pass_on(message(0, lane=lane, size_bytes=size))
        outcomes.pushed(lane, size)
    for report in reports:
        before = (books.sent, books.in_flight, books.delivered, books.expired, books.dropped_total)
        try:
            outcomes.apply(report)
        except RemoteProtocolError:
            assert before == (books.sent, books.in_flight, books.delivered, books.expired, books.dropped_total)
        assert books.balances
        assert books.in_flight == sum(lane.items for lane in queue.lanes)
        assert all(lane.items >= 0 and lane.bytes >= 0 for lane in queue.lanes)
        assert all(lane.items or not lane.bytes for lane in queue.lanes)
