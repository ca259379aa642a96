"""Sockets and real processes: killed owners, frozen ones, other users, and many who start and clean up at once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from uds_scene import LOOPS, run, until

from flowbridge.errors import BrokenError
from flowbridge.transports.uds.listener import connect, listen
from flowbridge.transports.uds.peer import PeerCredentials, start_ticks, watch
from flowbridge.transports.uds.place import SocketPlace, lock_path

if TYPE_CHECKING:
    from collections.abc import Generator

SECOND = 10**9
OWNER = """
import asyncio, sys
from pathlib import Path
from flowbridge.transports.uds.listener import listen

async def main():
    listen(Path(sys.argv[1]), lambda sock, peer: None)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
RIVAL = """
import asyncio, os, random, socket, struct, sys, time
from pathlib import Path
from flowbridge.errors import BusyError
from flowbridge.transports.uds.listener import listen
from flowbridge.transports.uds.place import SocketPlace

chance = random.Random(int(sys.argv[2]))
place = SocketPlace(Path(sys.argv[1]))
path = place.folder / "contested.sock"
end = time.monotonic() + float(sys.argv[3])

def reaches_me():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        return struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == os.getpid()

async def main():
    owned = 0
    while time.monotonic() < end:
        place.remove_stale()
        place.stale_sockets()
        try:
            listener = listen(path, lambda sock, peer: sock.close())
        except BusyError:
            continue
        owned += 1
        for _ in range(chance.randrange(20)):
            if not reaches_me():
                os._exit(9)
            await asyncio.sleep(0)
        if chance.random() < 0.02:
            os.kill(os.getpid(), 9)
        listener.close()
    os._exit(0 if owned else 5)

asyncio.run(main())
"""
CONNECTOR = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sys.exit(0 if sock.recv(1) == b"" else 7)
"""


def started(code: str) -> subprocess.Popen[bytes]:
    """A process that runs some Python."""
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.fixture
def owner(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    """A process that listens at ``a.sock`` of the place ``p``."""
    place = SocketPlace(tmp_path / "p")
    command = [sys.executable, "-c", OWNER, str(place.folder / "a.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_owner_leaves_what_the_next_start_removes(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    place = SocketPlace(tmp_path / "p")
    path = place.folder / "a.sock"
    assert place.live_sockets() == [path]
    owner.send_signal(signal.SIGSTOP)  # frozen is not dead
    assert place.remove_stale() == []
    owner.kill()
    owner.wait()
    assert sorted(place.folder.iterdir()) == [path, lock_path(path)]
    assert place.stale_sockets() == [path]

    async def main() -> None:
        with pytest.raises(BrokenError, match="stale"):
            await connect(path, timeout_ns=SECOND)

    asyncio.run(main())
    assert place.remove_stale() == [path]
    assert list(place.folder.iterdir()) == []


def test_a_zombie_owner_is_dead(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    place = SocketPlace(tmp_path / "p")
    os.kill(owner.pid, signal.SIGKILL)
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    assert start_ticks(owner.pid) is None
    assert place.remove_stale() == [place.folder / "a.sock"]


def test_rivals_that_start_die_and_clean_up_never_take_a_live_socket(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / "p")
    seed = random.randrange(2**32)
    rivals: list[subprocess.Popen[bytes]] = []
    ended: list[int] = []
    end = time.monotonic() + 6
    try:
        while time.monotonic() < end or rivals:
            for rival in [rival for rival in rivals if rival.poll() is not None]:
                ended.append(rival.wait())
                rivals.remove(rival)
            left = end - time.monotonic()
            while len(rivals) < 4 and left > 1:
                command = [sys.executable, "-c", RIVAL, str(place.folder), str(seed + len(ended)), str(left - 0.5)]
                rivals.append(subprocess.Popen(command))
            time.sleep(0.01)
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert set(ended) <= {0, 5, -signal.SIGKILL}, f"seed {seed}: {ended}"  # 9: somebody else answered
    assert -signal.SIGKILL in ended, f"seed {seed}: nobody died, so nothing was tried"
    place.remove_stale()
    assert list(place.folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can be somebody else")
def test_another_user_is_refused_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    # Below a folder that everybody may enter, as ours never is: the second line of defence.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)

        async def main() -> None:
            path = Path(folder, "a.sock")
            came: list[socket.socket] = []
            listener = listen(path, lambda sock, _: came.append(sock))
            os.chmod(path, 0o666)
            command = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/env", "python3", "-c", CONNECTOR]
            for n in (1, 2):
                process = await asyncio.create_subprocess_exec(*command, str(path))
                assert await process.wait() == 0
                assert listener.strangers == n
            assert came == []
            listener.close()

        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if "of user 65534" in record.getMessage()] != []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_watched_process_that_is_killed_is_told_once_though_nobody_waited_for_it(loop: str) -> None:
    async def main() -> None:
        process = started("import signal; signal.pause()")
        ended: list[int] = []
        ticks = start_ticks(process.pid)
        assert ticks is not None
        watches = [watch(process.pid, ended.append, started_ticks=ticks) for _ in range(2)]
        unwanted = watch(process.pid, ended.append)
        unwanted.close()
        unwanted.close()
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.05)
        assert ended == []  # frozen is not dead
        process.kill()
        await until(lambda: len(ended) == 2)
        assert start_ticks(process.pid) is None
        process.wait()
        assert ended == [process.pid] * 2
        for watched in watches:
            watched.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_process_that_is_gone_or_a_stranger_by_now_is_told_at_once(loop: str) -> None:
    async def main() -> None:
        process = started("")
        process.wait()
        ended: list[int] = []
        watch(process.pid, ended.append)
        assert ended == []  # not from within the call
        await until(lambda: ended)
        ours = start_ticks(os.getpid())
        assert ours is not None
        watch(os.getpid(), ended.append, started_ticks=ours - 1)
        await until(lambda: len(ended) == 2)
        mine = watch(os.getpid(), ended.append, started_ticks=ours)
        await asyncio.sleep(0.02)
        mine.close()
        assert ended == [process.pid, os.getpid()]
        with pytest.raises(BrokenError, match="cannot watch process 0"):
            watch(0, ended.append)

    run(loop, main())


def test_credentials_need_a_socket_that_is_open() -> None:
    one, other = socket.socketpair()
    other.close()
    assert PeerCredentials.of(one).pid == os.getpid()
    one.close()
    with pytest.raises(BrokenError, match="cannot learn"):
        PeerCredentials.of(one)
