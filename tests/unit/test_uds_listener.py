"""Listening and connecting: who gets in, what is refused with which words, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
from uds_scene import LOOPS, run, turns, until

from flowbridge.errors import BrokenError, BusyError, DeadlineExceeded, Effect, ResourceError
from flowbridge.transports.uds.listener import connect, listen
from flowbridge.transports.uds.peer import PeerCredentials
from flowbridge.transports.uds.place import SocketPlace, lock_path

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.parametrize("loop", LOOPS)
SECOND = 10**9


class Door:
    """Takes every connection and keeps it."""

    def __init__(self) -> None:
        self.came: list[socket.socket] = []
        self.peers: list[PeerCredentials] = []

    def __call__(self, sock: socket.socket, peer: PeerCredentials) -> None:
        self.came.append(sock)
        self.peers.append(peer)

    def close(self) -> None:
        while self.came:
            self.came.pop().close()


def test_both_ends_know_each_other_and_nothing_is_left_behind(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        place, door = SocketPlace(tmp_path / "p"), Door()
        path = place.new_path()
        listener = listen(path, door)
        assert path.stat().st_mode & 0o777 == 0o600
        assert sorted(place.folder.iterdir()) == [path, lock_path(path)]
        assert place.live_sockets() == [path]
        assert place.remove_stale() == []
        sock = await connect(path, timeout_ns=SECOND)
        await until(lambda: door.came)
        us = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
        assert door.peers == [us]
        assert PeerCredentials.of(sock) == us
        assert sock.getblocking() is False
        assert door.came[0].getblocking() is False
        assert not os.get_inheritable(door.came[0].fileno())
        assert (listener.accepted, listener.connections) == (1, 1)
        listener.close()
        listener.close()
        assert list(place.folder.iterdir()) == []
        sock.send(b"still there")
        assert door.came[0].recv(100) == b"still there"
        door.close()
        assert listener.connections == 0
        sock.close()

    run(loop, main())


def test_a_second_listener_is_refused_and_the_first_goes_on(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        door = Door()
        path = tmp_path / "a.sock"
        listener = listen(path, door)
        with pytest.raises(BusyError, match=r"a\.sock: another process listens there"):
            listen(path, door)
        lock_path(path).unlink()  # by hand
        with pytest.raises(BusyError, match="without a lock"):
            listen(path, door)
        (await connect(path, timeout_ns=SECOND)).close()
        await until(lambda: door.came)
        door.close()
        listener.close()
        assert os.listdir(tmp_path) == []

    run(loop, main())


def test_what_a_dead_owner_left_is_replaced(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.sock"
        for leftover in (path, path.with_suffix(".new")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.bind(str(leftover))
        lock_path(path).touch(0o600)
        door = Door()
        listener = listen(path, door)
        (await connect(path, timeout_ns=SECOND)).close()
        await until(lambda: door.came)
        door.close()
        listener.close()
        assert os.listdir(tmp_path) == []

    run(loop, main())


def test_a_listener_that_cannot_be_leaves_nothing_behind(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.sock"
        path.write_text("precious")
        with pytest.raises(ResourceError, match="is there, and is no socket"):
            listen(path, Door())
        assert path.read_text() == "precious"
        assert os.listdir(tmp_path) == ["a.sock"]
        with pytest.raises(ResourceError, match="No such file"):
            listen(tmp_path / "missing" / "a.sock", Door())

    run(loop, main())


# --- connecting -----------------------------------------------------------------------------------------------------


def test_each_way_not_to_connect_has_its_words(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        stale = tmp_path / "stale.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(stale))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(tmp_path / "other.sock"))
            for name, says in (
                ("missing.sock", "no such socket: is the host running"),
                ("stale.sock", "nobody listens: the socket is stale"),
                ("other.sock", "cannot connect: "),
            ):
                with pytest.raises(BrokenError, match=f"{name}: {says}") as caught:
                    await connect(tmp_path / name, timeout_ns=SECOND)
                assert caught.value.effect is Effect.NONE

    run(loop, main())


def test_a_full_backlog_is_waited_for_and_no_longer_than_allowed(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(path))
            sock.listen(0)
            first = await connect(path, timeout_ns=SECOND)
            with pytest.raises(DeadlineExceeded):
                await connect(path, timeout_ns=1)
            waiting = asyncio.ensure_future(connect(path, timeout_ns=60 * SECOND))
            await turns()
            assert not waiting.done()
            sock.accept()[0].close()
            (await waiting).close()
            first.close()

    run(loop, main())


# --- more than there is room for ------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_closed_at_once_until_there_is_room(
    loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        path, door = tmp_path / "a.sock", Door()
        listener = listen(path, door, connections_max=3)
        socks = [await connect(path, timeout_ns=SECOND) for _ in range(10)]
        await until(lambda: listener.refused == 7)
        assert (listener.accepted, listener.connections) == (3, 3)
        assert [sock.recv(1) for sock in socks[3:]] == [b""] * 7
        door.came.pop().close()
        socks.append(await connect(path, timeout_ns=SECOND))
        await until(lambda: listener.accepted == 4)
        assert listener.connections == 3
        for sock in socks:
            sock.close()
        door.close()
        listener.close()

    run(loop, main())
    assert [record.getMessage() for record in caplog.records if "beyond 3" in record.getMessage()] != []
    assert len(caplog.records) == 1  # once, not seven times


def test_without_descriptors_accepting_pauses_does_not_spin_and_goes_on(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path, door = tmp_path / "a.sock", Door()
        listener = listen(path, door)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            client.connect(str(path))
            await until(lambda: listener.pauses)
            await turns(200)
            assert listener.pauses == 1
            assert "paused" in repr(listener)
            assert door.came == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: door.came)
        assert "open, 1 connections" in repr(listener)
        client.close()
        door.close()
        listener.close()

    run(loop, main())


def test_a_connection_that_cannot_be_served_costs_that_one_only(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        reported: list[str] = []
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))

        def refuse(sock: socket.socket, peer: PeerCredentials) -> None:
            raise RuntimeError("cannot serve")

        path = tmp_path / "a.sock"
        listener = listen(path, refuse)
        socks = [await connect(path, timeout_ns=SECOND) for _ in range(2)]
        await until(lambda: len(reported) == 2)
        assert reported == ["cannot serve"] * 2
        assert [sock.recv(1) for sock in socks] == [b"", b""]
        for sock in socks:
            sock.close()
        listener.close()

    run(loop, main())


def test_closing_while_a_connection_comes_accepts_no_more(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path, came = tmp_path / "a.sock", list[socket.socket]()

        def close(sock: socket.socket, peer: PeerCredentials) -> None:
            came.append(sock)
            listener.close()

        listener = listen(path, close)
        socks = [await connect(path, timeout_ns=SECOND) for _ in range(3)]
        await until(lambda: came)
        await turns()
        assert len(came) == 1
        for sock in (*socks, *came):
            sock.close()

    run(loop, main())
