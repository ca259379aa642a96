"""Streams that outlive connections, against a carrier and a keeper that only write down what they are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.errors import BrokenError, ClosedError, LocalProtocolError, RemoteProtocolError
from flowbridge.limits import REPLAY_BYTES_MAX, STREAM_BYTES_HIGH
from flowbridge.time.offset import ClockOffset
from flowbridge.transports.quic.engine import WRITE_BYTES_HIGH
from flowbridge.transports.quic.stream import Before, SessionStream

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from flowbridge.contracts import BytesLike
    from flowbridge.machines.admission import Rank


class Recorder:
    """A carrier and a keeper."""

    singles: Any = None

    def __init__(self) -> None:
        self.offset = ClockOffset()
        self.written = bytearray()
        self.ends = 0
        self.consumed = 0
        self.unsent = 0
        self.counts: list[int] = []
        self.failures: list[Exception] = []
        self.settled_times = 0

    def write(self, number: int, data: BytesLike, fin: bool) -> int:
        assert number == 8
        self.written += data
        self.ends += fin
        return self.unsent

    def consume(self, number: int, size_bytes: int) -> None:
        assert number == 8
        self.consumed += size_bytes

    def backlog(self, number: int) -> int:
        assert number == 8
        return self.unsent

    def before(self, stream: SessionStream, rank: Rank) -> Before | None:
        return None

    def prioritize(self, number: int, urgency: int, deadline: float | None) -> None:
        """Everything leaves at once."""

    def moved(self, stream: SessionStream) -> None:
        """Nobody asks."""

    def owes_count(self, stream: SessionStream, size_bytes: int) -> None:
        self.counts.append(size_bytes)

    def failed(self, stream: SessionStream, error: Exception) -> None:
        self.failures.append(error)

    def settled(self, stream: SessionStream) -> None:
        self.settled_times += 1


class Ends:
    """A stream, what carries it and what it brings."""

    def __init__(self, *, is_attached: bool = True, is_bound: bool = True) -> None:
        self.recorder = Recorder()
        self.stream = SessionStream(self.recorder, 0, 3, "label", b"key", peer="node x")
        self.brought: list[bytes] = []
        self.lost: list[Exception | None] = []
        if is_bound:
            self.bind()
        if is_attached:
            self.stream.attach(self.recorder, 8)

    def bind(self) -> None:
        self.stream.connect(on_data=lambda data, _: self.brought.append(data), on_lost=self.lost.append)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 10))


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_stream_is_taken_once() -> None:
    async def check() -> None:
        ends = Ends()
        with pytest.raises(LocalProtocolError, match="is taken already"):
            ends.bind()

    run(check())


def test_what_came_before_it_was_taken_is_brought_in_order_with_its_end() -> None:
    async def check() -> None:
        ends = Ends(is_bound=False)
        for piece in (b"one", b"two"):
            ends.stream.arrived(piece, False)
        ends.stream.arrived(b"", True)
        assert ends.recorder.consumed == 0
        ends.bind()
        await turns()
        assert b"".join(ends.brought) == b"onetwo"
        assert ends.lost == [None]
        assert ends.recorder.consumed == 6

    run(check())


def test_what_is_paused_is_not_consumed() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.arrived(b"first", False)
        ends.stream.pause()
        ends.stream.arrived(b"later" * 2000, True)
        await turns()
        assert (ends.recorder.consumed, ends.brought, ends.lost) == (5, [b"first"], [])
        assert ends.stream.come.count == 5
        ends.stream.resume()
        await turns()
        assert ends.recorder.consumed == 5 + 10_000
        assert (b"".join(ends.brought), ends.lost) == (b"first" + b"later" * 2000, [None])
        assert ends.stream.come.count == 5 + 10_000 + 1

    run(check())


def test_single_bytes_that_wait_are_kept_together() -> None:
    async def check() -> None:
        ends = Ends(is_bound=False)
        for number in range(10_000):
            ends.stream.arrived(bytes((number % 251,)), False)
        ends.bind()
        await turns()
        assert len(ends.brought) == 3
        assert b"".join(ends.brought) == bytes(number % 251 for number in range(10_000))
        assert all(type(data) is bytes for data in ends.brought)

    run(check())


def test_nothing_is_written_after_the_end() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.write(b"all")
        ends.stream.end()
        ends.stream.end()
        with pytest.raises(ClosedError, match="writing was ended"):
            ends.stream.write(b"more")
        assert (bytes(ends.recorder.written), ends.recorder.ends) == (b"all", 1)
        with pytest.raises(LocalProtocolError):
            Ends().stream.write(b"x", descriptors=(1,))

    run(check())


def test_a_new_connection_repeats_what_the_peer_has_not() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.write(b"abc", b"def")
        ends.stream.acknowledge(2)
        ends.stream.detach()
        ends.stream.write(b"ghi")
        ends.stream.end()
        again = Recorder()
        ends.stream.out.rewind(4)
        ends.stream.attach(again, 8)
        assert (bytes(again.written), again.ends) == (b"efghi", 1)
        with pytest.raises(RemoteProtocolError):
            ends.stream.acknowledge(11)

    run(check())


def test_a_direction_that_is_over_ends_its_new_quic_stream_too() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.write(b"abc")
        ends.stream.end()
        ends.stream.acknowledge(4)
        ends.stream.detach()
        ends.stream.out.rewind(4)
        again = Recorder()
        ends.stream.attach(again, 8)
        assert (bytes(again.written), again.ends) == (b"", 1)

    run(check())


def test_what_came_on_a_lost_connection_and_was_not_brought_is_forgotten() -> None:
    async def check() -> None:
        ends = Ends(is_bound=False)
        ends.stream.arrived(b"abc", True)
        ends.stream.detach()
        ends.stream.attach(ends.recorder, 8)
        ends.stream.come.restart(0)
        ends.bind()
        await turns()
        assert (ends.brought, ends.lost) == ([], [])
        ends.stream.arrived(b"abcd", False)
        assert ends.brought == [b"abcd"]

    run(check())


def test_a_failure_tells_the_peer_and_every_waiter_and_keeps_nothing() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.pause()
        ends.stream.arrived(b"x" * 10_000, False)
        ends.recorder.unsent = WRITE_BYTES_HIGH + 1
        ends.stream.write(bytes(STREAM_BYTES_HIGH * 2))
        waiting = asyncio.ensure_future(ends.stream.drained())
        await turns()
        ends.stream.fail(RemoteProtocolError("it lied"))
        ends.stream.fail(RemoteProtocolError("it lied again"))
        with pytest.raises(BrokenError, match="it lied"):
            await waiting
        assert list(map(str, ends.recorder.failures)) == ["it lied"]
        assert not ends.stream.is_behind
        assert ends.stream.out.kept_bytes == ends.stream.unsent_bytes == 0
        assert ends.lost == []  # it is paused
        ends.stream.resume()
        await turns()
        assert list(map(str, ends.lost)) == ["it lied"]
        assert ends.brought == []

    run(check())


def test_a_full_engine_and_a_full_memory_make_the_writer_wait() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.write(bytes(REPLAY_BYTES_MAX + STREAM_BYTES_HIGH + 100_000))
        assert REPLAY_BYTES_MAX <= len(ends.recorder.written) <= REPLAY_BYTES_MAX + 65_536
        waiting = asyncio.ensure_future(ends.stream.flushed())
        await turns()
        assert not waiting.done()
        ends.stream.acknowledge(len(ends.recorder.written))
        await waiting
        assert len(ends.recorder.written) == REPLAY_BYTES_MAX + STREAM_BYTES_HIGH + 100_000
        ends.recorder.unsent = WRITE_BYTES_HIGH + 1
        ends.stream.write(b"a")
        ends.stream.write(b"b")
        assert ends.recorder.written[-1:] == b"a"
        ends.recorder.unsent = 0
        ends.stream.room()
        assert ends.recorder.written[-2:] == b"ab"

    run(check())


def test_closing_sends_what_was_written_and_tells_nothing_more() -> None:
    async def check() -> None:
        ends = Ends()
        ends.stream.write(b"abc")
        ends.stream.close()
        ends.stream.arrived(b"unread", True)
        await turns()
        assert (bytes(ends.recorder.written), ends.recorder.ends) == (b"abc", 1)
        assert (ends.brought, ends.lost, ends.recorder.consumed) == ([], [], 6)
        ends.stream.acknowledge(4)
        assert ends.stream.is_over
        assert ends.recorder.settled_times == 1
        with pytest.raises(ClosedError, match="closed"):
            ends.stream.write(b"x")

    run(check())
