"""Descriptors over a Unix socket: in order, with the bytes they belong to, and none left over anywhere."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
from uds_scene import LOOPS, end_and_socket, pipes, run, turns, two_ends, until

from flowbridge.errors import BrokenError, LocalProtocolError, RemoteProtocolError, ResourceError
from flowbridge.limits import DESCRIPTORS_MAX, STREAM_BYTES_HIGH

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def same(one: int, other: int) -> bool:
    """Whether two descriptors stand for the same thing."""
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


@contextlib.contextmanager
def no_descriptor_left() -> Generator[None]:
    """This process cannot open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pipes(1) as (readers, _):
        highest = os.dup(readers[0])
        os.close(highest)
    filled: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled:
            os.close(descriptor)


def test_descriptors_arrive_in_order_are_not_inherited_and_ours_stay_ours(loop: str) -> None:
    async def main() -> None:
        with two_ends(descriptors=True) as (near, far), pipes(DESCRIPTORS_MAX) as (readers, writers):
            near.stream.write(b"before")
            near.stream.write(b"with", descriptors=readers)
            near.stream.write(b"after")
            near.stream.write(b"more", descriptors=writers[:1])
            await until(lambda: len(far.data) == 19)
            assert far.data == b"beforewithaftermore"
            came = [descriptor for _, descriptor in far.descriptors]
            assert all(same(a, b) for a, b in zip(came, [*readers, writers[0]], strict=True))
            assert all(fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for descriptor in came)
            assert [at for at, _ in far.descriptors] == [10] * DESCRIPTORS_MAX + [19]

    run(loop, main())


def test_descriptors_wait_for_the_bytes_in_front_of_them(loop: str) -> None:
    async def main() -> None:
        with two_ends(descriptors=True) as (near, far), pipes(30) as (readers, _):
            far.stream.pause()
            near.stream.write(bytes(STREAM_BYTES_HIGH))
            ends: list[int] = []
            size = STREAM_BYTES_HIGH
            for number, reader in enumerate(readers):
                part = bytes(number * 3_000 + 1)
                near.stream.write(part, descriptors=[reader])
                ends.append(size)
                size += len(part)
            assert near.stream.unsent_bytes > 0
            far.stream.resume()
            await until(lambda: len(far.data) == size)
            assert len(far.descriptors) == len(readers)
            for (end_of_piece, came), begin, reader in zip(far.descriptors, ends, readers, strict=True):
                assert same(came, reader)
                assert end_of_piece > begin  # never before the first byte of what they belong to
            # ... nor with a piece that already holds what comes after that.
            for (end_of_piece, _), next_begin in zip(far.descriptors, [*ends[1:], size], strict=True):
                assert end_of_piece <= next_begin

    run(loop, main())


@pytest.mark.parametrize("how", ["close", "the peer vanishes"])
def test_descriptors_that_never_went_are_closed(loop: str, how: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other), pipes(3) as (readers, _):
            near.stream.write(bytes(2 * STREAM_BYTES_HIGH))
            near.stream.write(b"x", descriptors=readers)
            if how == "close":
                near.stream.close()
            else:
                other.close()
                await until(lambda: near.lost)

    run(loop, main())  # counts what is open


def test_what_cannot_be_passed_is_refused_and_the_connection_goes_on(loop: str) -> None:
    async def main() -> None:
        with two_ends(descriptors=True) as (near, far), pipes(1) as (readers, _):
            closed = os.dup(readers[0])
            os.close(closed)
            with pytest.raises(LocalProtocolError, match=f"at most {DESCRIPTORS_MAX} .* {DESCRIPTORS_MAX + 1}"):
                near.stream.write(b"x", descriptors=readers * (DESCRIPTORS_MAX + 1))
            with pytest.raises(LocalProtocolError, match="at least one byte"):
                near.stream.write(b"", descriptors=readers)
            with pytest.raises(LocalProtocolError, match="cannot pass"):
                near.stream.write(b"x", descriptors=[readers[0], closed])
            far.stream.pause()
            near.stream.write(bytes(STREAM_BYTES_HIGH))
            with pytest.raises(LocalProtocolError, match="cannot keep"):
                near.stream.write(b"x", descriptors=[closed])
            with no_descriptor_left(), pytest.raises(ResourceError, match=r"cannot keep .*Too many open files"):
                near.stream.write(b"x", descriptors=readers)
            far.stream.resume()
            near.stream.write(b"end", descriptors=readers)
            await until(lambda: len(far.data) == STREAM_BYTES_HIGH + 3)
            assert len(far.descriptors) == 1

    run(loop, main())


# --- a peer that means no good --------------------------------------------------------------------------------------


def test_a_peer_that_passes_too_many_at_once_is_cut_and_they_are_closed(loop: str) -> None:
    async def main() -> None:
        with end_and_socket(descriptors=True) as (near, other), pipes(1) as (readers, _):
            socket.send_fds(other, [b"x"], readers * (DESCRIPTORS_MAX + 1))
            await until(lambda: near.lost)
            assert isinstance(near.lost[0], RemoteProtocolError)
            assert near.data == b""
            with pytest.raises(BrokenError, match=f"more than {DESCRIPTORS_MAX} descriptors"):
                near.stream.write(b"x")

    run(loop, main())


def test_a_peer_that_hides_too_many_in_two_messages_is_cut_too(loop: str) -> None:
    async def main() -> None:
        with end_and_socket(descriptors=True) as (near, other), pipes(1) as (readers, _):
            half = array.array("i", readers * DESCRIPTORS_MAX).tobytes()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, half)
            try:
                other.sendmsg([b"x"], [rights, rights])
            except OSError:  # a kernel may refuse that itself
                return
            await until(lambda: near.lost)
            assert isinstance(near.lost[0], RemoteProtocolError)

    run(loop, main())


def test_descriptors_to_a_stream_that_wants_none_are_closed_by_the_kernel(loop: str) -> None:
    async def main() -> None:
        with end_and_socket() as (near, other):
            reader, writer = os.pipe()
            socket.send_fds(other, [b"data"], [writer] * 5)
            os.close(writer)
            await until(lambda: near.data)
            assert near.data == b"data"
            assert near.descriptors == []
            assert os.read(reader, 1) == b""  # the end of the pipe: nobody holds its writing side any more
            os.close(reader)
            await turns()
            assert near.lost == []

    run(loop, main())


def test_descriptors_that_find_no_room_here_break_the_connection_with_the_reason(loop: str) -> None:
    async def main() -> None:
        with end_and_socket(descriptors=True) as (near, other), pipes(1) as (readers, _):
            with no_descriptor_left():
                socket.send_fds(other, [b"x"], readers * 2)
                await until(lambda: near.lost)
            [error] = near.lost
            assert isinstance(error, OSError)
            assert error.errno == errno.EMFILE

    run(loop, main())
