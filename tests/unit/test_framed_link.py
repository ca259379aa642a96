"""Frames over real sockets, plain and clogged: order, descriptors with their frame, violations, and the end."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from uds_scene import LOOPS, open_descriptors, pipes, run, turns, until

from flowbridge.codec.framing import prefix
from flowbridge.errors import BrokenError, ClosedError, EncodeError, RemoteProtocolError
from flowbridge.limits import DESCRIPTORS_MAX, HEADER_BYTES_MAX
from flowbridge.testing.stream_faults import clogged
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parametrize("loop", LOOPS)
PIECES = [0, 1, 7, 5_000]
"""The largest piece of a clogged stream; 0 is plain."""


class Side:
    """A link, the frames that came over it and how it ended; a header that is a number takes as many descriptors."""

    def __init__(self, sock: socket.socket, pieces: int = 0, **given: Any) -> None:
        self.frames: list[tuple[int, bytes, bytes]] = []
        self.taken: deque[tuple[int, ...]] = deque()
        self.lost: list[Exception | None] = []
        self._takes = bool(given.get("descriptors"))
        self.on_frame: Callable[[int, bytes, bytes], None] | None = None
        connect = connector(UdsStream, sock, peer="peer")
        if pieces:
            connect = clogged(connect, seed=pieces, piece_bytes_max=pieces)
        self.link = FramedLink(connect, on_frame=self._arrived, on_lost=self.lost.append, **given)

    def _arrived(self, kind: int, header: bytes, body: bytes) -> None:
        self.frames.append((kind, header, body))
        if self._takes and header[:1].isdigit():
            self.taken.append(self.link.take_descriptors(int(header)))
        if self.on_frame is not None:
            self.on_frame(kind, header, body)

    def close(self) -> None:
        self.link.close()
        while self.taken:
            for descriptor in self.taken.popleft():
                os.close(descriptor)


class Pair:
    """Two linked sides."""

    def __init__(self, pieces: int = 0, **given: Any) -> None:
        one, other = socket.socketpair()
        self.near, self.far = Side(one, pieces, **given), Side(other, pieces, **given)

    def __enter__(self) -> tuple[Side, Side]:
        return self.near, self.far

    def __exit__(self, *exc: object) -> None:
        self.near.close()
        self.far.close()


class SidedSocket:
    """A side, and the bare socket it is linked to."""

    def __init__(self, **given: Any) -> None:
        one, self.other = socket.socketpair()
        self.side = Side(one, **given)

    def __enter__(self) -> tuple[Side, socket.socket]:
        return self.side, self.other

    def __exit__(self, *exc: object) -> None:
        self.side.close()
        self.other.close()


@pytest.mark.parametrize("pieces", PIECES)
def test_frames_keep_order_and_content_both_ways(loop: str, pieces: int) -> None:
    async def main() -> None:
        chance = random.Random(pieces)
        sizes = [0, 1, 63, 64, 4_095, 4_096, 4_097, 20_000, 300_000][: 9 if pieces in {0, 5_000} else 5]
        sent = [(n, chance.randbytes(n % 70), chance.randbytes(chance.choice(sizes))) for n in range(40)]
        with Pair(pieces) as (near, far):
            for frame in sent:
                near.link.send(*frame)
                far.link.send(*frame)
            await until(lambda: len(near.frames) == len(far.frames) == len(sent))
            assert near.frames == far.frames == sent

    run(loop, main())


@pytest.mark.parametrize("pieces", PIECES)
def test_descriptors_are_there_while_their_frame_is_handled(loop: str, pieces: int) -> None:
    async def main() -> None:
        with Pair(pieces, descriptors=True) as (near, far), pipes(30) as (readers, _):
            wanted: list[tuple[int, ...]] = []
            at = 0
            for n in range(60):
                count = (0, 0, 1, 3)[n % 4] if at < 27 else 0
                mine = tuple(readers[at : at + count])
                at += count
                wanted.append(mine)
                near.link.send(
                    2, b"%d" % count, bytes((n * 977) % (9_000 if pieces in {0, 5_000} else 300)), descriptors=mine
                )
            await until(lambda: len(far.frames) == 60)
            inodes = [tuple(os.fstat(descriptor).st_ino for descriptor in group) for group in far.taken]
            assert inodes == [tuple(os.fstat(descriptor).st_ino for descriptor in group) for group in wanted]

    run(loop, main())


@pytest.mark.parametrize("pieces", PIECES)
def test_descriptors_that_their_frame_leaves_are_closed_and_never_another_frames(loop: str, pieces: int) -> None:
    async def main() -> None:
        with Pair(pieces, descriptors=True) as (near, far), pipes(2) as (readers, _):
            size = 100 if pieces in {0, 5_000} else 4
            open_before = len(open_descriptors())
            for n in range(50):
                near.link.send(3, b"skip me", bytes(n * size), descriptors=[readers[0]])
                if n % 3 == 0:
                    near.link.send(2, b"", bytes(10))
                near.link.send(2, b"1", bytes(n * size // 2), descriptors=[readers[1]])
            await until(lambda: len(far.taken) == 50)
            assert {os.fstat(group[0]).st_ino for group in far.taken} == {os.fstat(readers[1]).st_ino}
            while far.taken:
                os.close(far.taken.popleft()[0])
            assert len(open_descriptors()) == open_before

    run(loop, main())


def test_a_frame_that_needs_more_descriptors_than_came_ends_the_link(loop: str) -> None:
    async def main() -> None:
        with Pair(descriptors=True) as (near, far), pipes(1) as (readers, _):
            near.link.send(2, b"2", descriptors=readers)
            await until(lambda: far.lost)
            assert isinstance(far.lost[0], RemoteProtocolError)
            assert "needs 2 descriptors, 1 came" in str(far.lost[0])

    run(loop, main())


def test_a_flood_of_descriptors_within_a_frame_is_cut_at_the_limit(loop: str) -> None:
    async def main() -> None:
        with SidedSocket(descriptors=True) as (side, other), pipes(1) as (readers, _):
            other.settimeout(10)
            before = len(open_descriptors())
            socket.send_fds(other, [prefix(2, 0, 1_000_000)], readers)
            most = 0

            def count(*_: object) -> bool:
                nonlocal most
                most = max(most, len(open_descriptors()) - before)
                return bool(side.lost)

            for _ in range(40):
                try:
                    socket.send_fds(other, [b"x"], readers * 3)
                except BrokenPipeError:
                    break
                await turns(3)
                count()
            await until(count)
            assert "descriptors go with a frame" in str(side.lost[0])
            assert most <= DESCRIPTORS_MAX + 3
            assert len(open_descriptors()) <= before

    run(loop, main())


@pytest.mark.parametrize("garbage", [b"\xff" * 8, b"\x02\x50\x01\x00", b"\x02\x00\xbf\xff\xff\xff", b"\x40\x01"])
def test_garbage_ends_the_link_after_the_frames_in_front_of_it(loop: str, garbage: bytes) -> None:
    async def main() -> None:
        with SidedSocket(body_bytes_max=1_000) as (side, other):
            other.send(prefix(2, 0, 2) + b"ok" + garbage + prefix(2, 0, 2) + b"no")
            await until(lambda: side.lost)
            assert side.frames == [(2, b"", b"ok")]
            assert isinstance(side.lost[0], RemoteProtocolError)
            with pytest.raises(BrokenError):
                side.link.send(2, b"")

    run(loop, main())


@pytest.mark.parametrize("cut", [1, 2, 3, 8])
def test_an_end_within_a_frame_is_an_error_and_between_two_it_is_not(loop: str, cut: int) -> None:
    async def main() -> None:
        frame = prefix(2, 1, 7) + b"hbodybod"
        with SidedSocket() as (side, other):
            other.send(frame + frame[:cut])
            other.close()
            await until(lambda: side.lost)
            assert side.frames == [(2, b"h", b"bodybod")]
            assert f"ended within a frame, after {cut} bytes" in str(side.lost[0])
        with SidedSocket() as (side, other):
            other.send(frame)
            other.close()
            await until(lambda: side.lost)
            assert side.lost == [None]

    run(loop, main())


def test_a_frame_that_is_too_large_is_refused_and_nothing_of_it_is_sent(loop: str) -> None:
    async def main() -> None:
        with Pair(body_bytes_max=1_000) as (near, far):
            with pytest.raises(EncodeError, match=r"0 \+ 1001 bytes exceeds 4096 \+ 1000"):
                near.link.send(2, b"", bytes(1_001))
            with pytest.raises(EncodeError):
                near.link.send(2, bytes(HEADER_BYTES_MAX + 1))
            with pytest.raises(EncodeError):
                near.link.send(0x4000, b"")
            near.link.send(2, bytes(HEADER_BYTES_MAX), bytes(1_000))
            await until(lambda: far.frames)
            assert far.frames == [(2, bytes(HEADER_BYTES_MAX), bytes(1_000))]

    run(loop, main())


@pytest.mark.parametrize("pieces", PIECES)
def test_closing_while_a_frame_is_handled_ends_it_there(loop: str, pieces: int) -> None:
    async def main() -> None:
        with Pair(pieces, descriptors=True) as (near, far), pipes(1) as (readers, _):
            far.on_frame = lambda kind, header, body: far.link.close()
            for _ in range(5):
                near.link.send(2, b"", bytes(10), descriptors=readers)
            await until(lambda: far.frames)
            await turns(100)
            assert len(far.frames) == 1
            assert far.lost == []
            with pytest.raises(ClosedError):
                far.link.send(2, b"")

    run(loop, main())


@pytest.mark.parametrize("pieces", PIECES)
def test_a_refusal_of_the_handler_ends_the_link_and_a_mistake_is_reported_too(loop: str, pieces: int) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        for error in (RemoteProtocolError("not now"), ZeroDivisionError("ours")):
            with Pair(pieces) as (near, far):

                def fail(kind: int, header: bytes, body: bytes, error: Exception = error) -> None:
                    raise error

                far.on_frame = fail
                near.link.send(2, b"a")
                near.link.send(2, b"b")
                await until(lambda far=far, near=near: far.lost and near.lost)  # type: ignore[misc]
                assert far.frames == [(2, b"a", b"")]
                assert far.lost == [error]
        assert [str(context["exception"]) for context in reported] == ["ours"]

    run(loop, main())


def test_a_link_shows_its_stream_and_names_its_peer(loop: str) -> None:
    async def main() -> None:
        with Pair(5) as (near, _):
            assert near.link.peer == "peer"
            assert "CloggedStream <UdsStream peer open" in repr(near.link)

    run(loop, main())
