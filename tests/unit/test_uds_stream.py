"""Bytes over a Unix socket on both loops: order, partial writes, waiting, pausing, and every way to end."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from uds_scene import LOOPS, End, end_and_socket, run, turns, two_ends, until

from flowbridge.errors import BrokenError, ClosedError, RemoteProtocolError
from flowbridge.limits import STREAM_BYTES_HIGH, STREAM_BYTES_LOW, STREAM_PARTS_MAX
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.parametrize("loop", LOOPS)
MIB = 1024 * 1024
NOISE = bytes(range(251)) * 4_200  # about a MiB, whose pieces differ wherever it is cut


def test_parts_arrive_in_order_both_ways(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            near.stream.write(b"ab", bytearray(b"cd"), memoryview(b"ef"))
            near.stream.write(b"")
            near.stream.write(b"gh")
            far.stream.write(b"back")
            await until(lambda: len(far.data) == 8 and len(near.data) == 4)
            assert far.data == b"abcdefgh"
            assert near.data == b"back"
            assert near.stream.unsent_bytes == 0

    run(loop, main())


def test_more_parts_than_one_system_call_takes_all_arrive(loop: str) -> None:
    async def main() -> None:
        parts = [bytes([n % 251]) * (n % 7) for n in range(3 * STREAM_PARTS_MAX)]
        with two_ends() as (near, far):
            near.stream.write(*parts)
            whole = b"".join(parts)
            await until(lambda: len(far.data) == len(whole))
            assert far.data == whole

    run(loop, main())


def test_what_the_kernel_does_not_take_follows_in_order(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            for n in range(8):
                near.stream.write(b"%d" % n, NOISE)
            assert near.stream.unsent_bytes > 7 * len(NOISE)
            await near.stream.flushed()
            assert near.stream.unsent_bytes == 0
            await until(lambda: len(far.data) == 8 * (len(NOISE) + 1))
            assert far.data == b"".join(b"%d" % n + NOISE for n in range(8))

    run(loop, main())


def test_a_small_buffer_of_the_kernel_cuts_everything_and_loses_nothing(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            for end in (near, far):
                end.stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it its least
            for n in range(500):
                near.stream.write(bytes([n % 251]) * 97, memoryview(NOISE)[: n % 100])
            await until(lambda: near.stream.unsent_bytes == 0)
            whole = b"".join(bytes([n % 251]) * 97 + NOISE[: n % 100] for n in range(500))
            await until(lambda: len(far.data) == len(whole))
            assert far.data == whole

    run(loop, main())


# --- waiting --------------------------------------------------------------------------------------------------------


def test_a_writer_waits_above_the_high_mark_and_goes_on_at_the_low_one(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            other.setblocking(False)
            near.stream.write(bytes(STREAM_BYTES_HIGH // 2))
            await near.stream.drained()  # little enough
            near.stream.write(bytes(STREAM_BYTES_HIGH))
            waiting = asyncio.ensure_future(near.stream.drained())
            await turns()
            assert not waiting.done()
            while not waiting.done():
                with contextlib.suppress(BlockingIOError):
                    other.recv(4_096)
                await turns()
                assert waiting.done() == (near.stream.unsent_bytes <= STREAM_BYTES_LOW)
            await waiting

    run(loop, main())


def test_a_wait_that_is_cancelled_leaves_nothing_behind(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, _):
            near.stream.write(bytes(2 * STREAM_BYTES_HIGH))
            for _ in range(10):
                waiting = asyncio.ensure_future(near.stream.drained())
                await turns(2)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert not near.stream._waiters

    run(loop, main())


def test_close_wakes_whoever_waits_and_is_final(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, _):
            near.stream.write(bytes(2 * STREAM_BYTES_HIGH))
            waiting = [asyncio.ensure_future(wait()) for wait in (near.stream.drained, near.stream.flushed)]
            await turns()
            assert not any(task.done() for task in waiting)
            near.stream.close()
            near.stream.close()
            for task in waiting:
                with pytest.raises(ClosedError):
                    await task
            with pytest.raises(ClosedError):
                near.stream.write(b"x")
            near.stream.pause()
            near.stream.resume()
            near.stream.end()
            near.stream.fail(RuntimeError("late"))
            await turns()
            assert near.lost == []

    run(loop, main())


def test_a_peer_that_vanishes_wakes_whoever_waits(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            near.stream.write(bytes(2 * STREAM_BYTES_HIGH))
            waiting = [asyncio.ensure_future(wait()) for wait in (near.stream.drained, near.stream.flushed)]
            await turns()
            other.close()
            for task in waiting:
                with pytest.raises(BrokenError, match="peer: the connection is gone") as caught:
                    await task
                assert isinstance(caught.value.__cause__, OSError)
            await until(lambda: near.lost)
            assert len(near.lost) == 1
            with pytest.raises(BrokenError):
                near.stream.write(b"x")

    run(loop, main())


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_paused_stream_reads_nothing_and_the_peer_has_to_wait(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            far.stream.pause()
            far.stream.pause()
            near.stream.write(bytes(2 * STREAM_BYTES_HIGH))
            await turns(100)
            assert far.data == b""
            unsent = near.stream.unsent_bytes
            assert unsent > STREAM_BYTES_HIGH
            far.stream.resume()
            far.stream.resume()
            await near.stream.flushed()
            await until(lambda: len(far.data) == 2 * STREAM_BYTES_HIGH)

    run(loop, main())


def test_pausing_within_on_data_takes_effect_at_once(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        other.settimeout(10)
        found: list[bytes] = []

        def arrived(data: bytes, _descriptors: Sequence[int]) -> None:
            found.append(data)
            stream.pause()

        stream = UdsStream(one, peer="peer", on_data=arrived, on_lost=lambda _: None)
        for n in range(3):
            other.send(b"%d" % n)
            await until(lambda n=n: len(found) == n + 1)  # type: ignore[misc]
            other.send(b"more")
            await turns()
            assert len(found) == n + 1
            stream._sock.recv(100)
            stream.resume()
        stream.close()
        other.close()

    run(loop, main())


def test_a_signal_in_between_disturbs_nothing(loop: str) -> None:
    async def main() -> None:
        seen: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)  # without SA_RESTART: calls are interrupted
        try:
            with two_ends() as (near, far):
                for _ in range(50):
                    near.stream.write(NOISE)
                    await near.stream.flushed()
                await until(lambda: len(far.data) == 50 * len(NOISE))
                assert far.data == 50 * NOISE
                assert near.lost == far.lost == []
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert seen

    run(loop, main())


# --- ending ---------------------------------------------------------------------------------------------------------


def test_the_end_comes_after_everything_written_and_closes_one_half_only(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            for _ in range(3):
                near.stream.write(NOISE)
            near.stream.end()
            near.stream.end()
            with pytest.raises(ClosedError, match="writing was ended"):
                near.stream.write(b"x")
            await near.stream.flushed()
            await until(lambda: far.lost)
            assert far.lost == [None]
            assert far.data == 3 * NOISE
            assert near.lost == []
            far.stream.write(NOISE)
            await until(lambda: len(near.data) == len(NOISE))
            far.stream.end()
            await until(lambda: near.lost)
            assert near.lost == [None]
            await turns()
            assert far.lost == [None]

    run(loop, main())


def test_the_loss_is_told_once_though_writing_fails_after_the_end(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            other.close()
            await until(lambda: near.lost)
            with pytest.raises(BrokenError):
                near.stream.write(b"x")
            assert near.stream.is_lost
            await turns()
            assert near.lost == [None]

    run(loop, main())


def test_what_the_peer_said_before_it_went_is_read_though_writing_fails(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            other.send(b"go away, because")
            other.close()
            with pytest.raises(BrokenError):
                near.stream.write(b"x")
            assert near.stream.is_lost
            await until(lambda: near.lost)
            assert near.data == b"go away, because"
            assert isinstance(near.lost[0], BrokenPipeError)

    run(loop, main())


def test_what_a_vanished_peer_sent_is_read_to_the_last_byte_also_after_a_pause(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        other.setblocking(False)
        end = End(one)
        end.stream.pause()
        end.stream.write(b"never read")
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += other.send(NOISE[sent % 251 : sent % 251 + 5_000])
        other.close()
        await turns()
        assert end.lost == []
        end.stream.resume()
        end.stream.pause()
        end.stream.resume()
        await until(lambda: end.lost)
        assert len(end.data) == sent
        assert end.data == (NOISE * 3)[:sent]
        assert isinstance(end.lost[0], ConnectionResetError)
        end.close()

    run(loop, main())


def test_a_peer_that_leaves_something_unread_is_broken_after_what_it_sent(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            near.stream.write(b"never read")
            other.send(b"last words")
            other.close()
            await until(lambda: near.lost)
            assert near.data == b"last words"
            assert isinstance(near.lost[0], ConnectionResetError)
            with pytest.raises(BrokenError, match="reset"):
                await near.stream.drained()

    run(loop, main())


def test_a_protocol_error_of_the_reader_ends_the_connection_with_it(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        lost: list[Exception | None] = []

        def arrived(_data: bytes, _descriptors: Sequence[int]) -> None:
            raise RemoteProtocolError("nonsense")

        stream = UdsStream(one, peer="peer", on_data=arrived, on_lost=lost.append)
        other.send(b"x")
        await until(lambda: lost)
        assert str(lost[0]) == "nonsense"
        with pytest.raises(BrokenError, match="nonsense"):
            stream.write(b"x")
        other.settimeout(10)
        assert other.recv(1) == b""
        stream.close()
        other.close()

    run(loop, main())


def test_a_mistake_of_the_reader_is_reported_and_ends_the_connection(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        lost: list[Exception | None] = []
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        def arrived(_data: bytes, _descriptors: Sequence[int]) -> None:
            raise ZeroDivisionError("ours")

        stream = UdsStream(one, peer="peer", on_data=arrived, on_lost=lost.append)
        other.send(b"x")
        await until(lambda: lost)
        assert isinstance(lost[0], ZeroDivisionError)
        assert [context["exception"] for context in reported] == lost
        stream.close()
        other.close()

    run(loop, main())


def test_closing_within_on_data_is_the_last_that_is_heard(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        heard: list[object] = []

        def arrived(data: bytes, _descriptors: Sequence[int]) -> None:
            heard.append(data)
            stream.close()

        stream = UdsStream(one, peer="peer", on_data=arrived, on_lost=heard.append)
        other.send(b"x")
        other.close()
        await turns()
        assert heard == [b"x"]

    run(loop, main())


def test_a_stream_names_its_peer_and_its_state(loop: str) -> None:
    async def main() -> None:
        with two_ends() as (near, far):
            assert repr(near.stream) == "<UdsStream peer open, 0 bytes unsent>"
            near.stream.close()
            assert "closed" in repr(near.stream)
            far.stream.fail(OSError("gone"))
            assert "broken" in repr(far.stream)

    run(loop, main())


def test_a_forked_peer_that_is_killed_ends_the_bytes(loop: str) -> None:
    async def main() -> None:
        one, other = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            one.close()
            other.sendall(b"ready")
            while True:
                signal.pause()
        other.close()
        end = End(one)
        await until(lambda: len(end.data) == 5)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: end.lost)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
        assert end.lost == [None]
        end.close()

    run(loop, main())
