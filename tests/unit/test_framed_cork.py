"""Frames that are kept to go out together: with what they go, in which order, and what happens at the end."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from uds_scene import LOOPS, pipes, run, turns, until

from flowbridge.codec.framing import prefix
from flowbridge.errors import BrokenError, RemoteProtocolError
from flowbridge.limits import CORKED_BYTES_MAX
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

pytestmark = pytest.mark.parametrize("loop", LOOPS)


class Echo:
    """A link that answers each frame with its like, and the bare socket at its other end."""

    def __init__(self, **given: Any) -> None:
        one, self.other = socket.socketpair()
        self.other.setblocking(False)
        self.lost: list[Exception | None] = []
        self.refuses = b"no"
        self.seen: Callable[[], None] | None = None
        connect = connector(UdsStream, one, peer="peer")
        self.link = FramedLink(connect, on_frame=self._arrived, on_lost=self.lost.append, **given)

    def _arrived(self, kind: int, header: bytes, body: bytes) -> None:
        if body == self.refuses:
            raise RemoteProtocolError("refused")
        self.link.send(kind, header, body)
        if self.seen is not None:
            self.seen()

    def arrived(self) -> bytes:
        """What is at the other end now."""
        try:
            return self.other.recv(1 << 20)
        except BlockingIOError:
            return b""


@contextmanager
def echo(**given: Any) -> Generator[Echo]:
    one = Echo(**given)
    try:
        yield one
    finally:
        one.link.close()
        one.other.close()


def frame(body: bytes) -> bytes:
    return prefix(2, 0, len(body)) + body


def test_what_is_kept_goes_out_in_order_when_the_cork_is_drawn(loop: str) -> None:
    async def main() -> None:
        with echo() as one:
            one.link.cork()
            for body in (b"a", b"b", b"c"):
                one.link.send(2, b"", body)
                assert one.arrived() == b""
            one.link.uncork()
            assert one.arrived() == frame(b"a") + frame(b"b") + frame(b"c")
            one.link.send(2, b"", b"d")
            assert one.arrived() == frame(b"d")

    run(loop, main())


def test_what_is_kept_for_a_turn_goes_out_after_it(loop: str) -> None:
    async def main() -> None:
        with echo() as one:
            one.link.cork_turn()
            one.link.send(2, b"", b"a")
            one.link.cork_turn()
            one.link.send(2, b"", b"b")
            assert one.arrived() == b""
            await turns(3)
            assert one.arrived() == frame(b"a") + frame(b"b")

    run(loop, main())


@pytest.mark.parametrize("corks", [False, True])
def test_the_answers_to_one_read_are_kept_only_by_a_link_that_corks(loop: str, corks: bool) -> None:
    async def main() -> None:
        with echo(corks=corks) as one:
            early: list[bytes] = []
            one.seen = lambda: early.append(one.arrived())
            one.other.send(frame(b"a") + frame(b"b"))
            await until(lambda: len(early) == 2)
            assert early == ([b"", b""] if corks else [frame(b"a"), frame(b"b")])
            assert one.arrived() == (frame(b"a") + frame(b"b") if corks else b"")

    run(loop, main())


def test_answers_in_front_of_a_violation_are_still_sent(loop: str) -> None:
    async def main() -> None:
        with echo(corks=True) as one:
            one.other.send(frame(b"a") + frame(b"b") + frame(b"no") + frame(b"c"))
            await until(lambda: one.lost)
            assert one.arrived() == frame(b"a") + frame(b"b")
            with pytest.raises(BrokenError):
                one.link.send(2, b"")

    run(loop, main())


def test_closing_lets_go_what_is_kept(loop: str) -> None:
    async def main() -> None:
        with echo() as one:
            one.link.cork_turn()
            one.link.send(2, b"", b"a")
            one.link.close()
            assert one.arrived() == frame(b"a")
            await turns(3)
            assert one.arrived() == b""

    run(loop, main())


def test_large_bodies_descriptors_and_too_much_let_go_what_is_kept(loop: str) -> None:
    async def main() -> None:
        with echo(descriptors=True) as one, pipes(1) as (readers, _):
            one.link.cork()
            one.link.send(2, b"", b"a")
            one.link.send(2, b"", bytes(5_000))
            assert one.arrived() == frame(b"a") + frame(bytes(5_000))
            one.link.send(2, b"", b"b")
            one.link.send(2, b"", b"c", descriptors=readers)
            assert one.arrived() == frame(b"b") + frame(b"c")  # the descriptor is closed by the kernel, unseen
            count = CORKED_BYTES_MAX // 4_000 + 1
            for _ in range(count):
                one.link.send(2, b"", bytes(4_000))
            assert one.arrived() == frame(bytes(4_000)) * count

    run(loop, main())


def test_a_connection_that_is_gone_is_told_at_once_also_with_a_cork(loop: str) -> None:
    async def main() -> None:
        with echo() as one:
            one.link.stream.fail(RemoteProtocolError("away"))
            one.link.cork()
            with pytest.raises(BrokenError):
                one.link.send(2, b"")

    run(loop, main())


def test_a_peer_that_went_while_frames_were_kept_is_told_by_on_lost(loop: str) -> None:
    async def main() -> None:
        with echo() as one:
            one.link.cork_turn()
            one.link.send(2, b"", b"a")
            one.other.close()
            await until(lambda: one.lost)
            with pytest.raises(BrokenError):
                one.link.send(2, b"")

    run(loop, main())
