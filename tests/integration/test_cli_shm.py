"""`flowbridge shm` beside real processes: one that holds leases, one that is stopped, those that were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_scene import call
from shm_scene import SMALL, ShmProducer, started

from flowbridge.shm.segment import posix_prefix

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HOLD = (
    "consumer = ShmConsumer.attach(fds)\n"
    "leases = [consumer.receive(10**10) for _ in range(2)]\n"
    "say('held')\n"
    "sys.stdin.readline()\n"
)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A folder for sockets with a short path."""
    with tempfile.TemporaryDirectory(prefix="fb") as folder:
        yield Path(folder)


def command(*args: str, runtime: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    environ = dict(os.environ) if runtime is None else os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
    return call(Path.cwd(), "shm", *args, environment=environ)


def listed(producer: ShmProducer, runtime: Path) -> dict[str, Any]:
    """What `ls --json` says of a channel."""
    done = command("ls", "--json", runtime=runtime)
    assert (done.returncode, done.stderr) == (0, "")
    inode = os.fstat(producer.descriptors()[0]).st_ino
    (found,) = [one for one in json.loads(done.stdout)["channels"] if one["id"].endswith(f":{inode}")]
    return dict(found)


def heard(process: subprocess.Popen[str]) -> str:
    """The next word that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_leases_are_shown_while_their_holder_runs_stands_still_and_is_dead(runtime: Path) -> None:
    with ShmProducer(SMALL, name="prices.out -> sink.in") as producer, started(HOLD, producer) as process:
        assert producer.send_many([b"x" * 300, b"x" * 5000, b"x" * 300]) == 3
        assert heard(process) == "held"
        found = listed(producer, runtime)
        assert (found["name"], found["state"], found["waiting"], found["slots_out"]) == (
            "prices.out -> sink.in",
            "open",
            1,
            3,
        )
        assert found["consumer"]["pid"] == process.pid
        assert found["consumer"]["state"] == "running"
        assert "ShmConsumer" in found["consumer"]["command"]
        leases = {lease["slot"]: lease for lease in found["leases"]}
        assert {slot: lease["slot_bytes"] for slot, lease in leases.items()} == {0: 4096, 4: 65536}
        assert {lease["holder_pid"] for lease in leases.values()} == {process.pid}

        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        later = listed(producer, runtime)
        assert later["consumer"]["state"] == "stopped"
        assert all(lease["held_ns"] > leases[lease["slot"]]["held_ns"] for lease in later["leases"])
        assert f"{process.pid} stopped" in command("ls", runtime=runtime).stdout

        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        dead = listed(producer, runtime)
        assert (dead["consumer"]["state"], len(dead["leases"])) == ("dead", 2)
        text = command("ls", runtime=runtime).stdout
        assert f"{process.pid} dead" in text
        assert "prices.out -> sink.in" in text
        assert producer.reclaim() == 1
        assert listed(producer, runtime)["leases"] == []


def test_a_lease_that_is_given_back_is_gone(runtime: Path) -> None:
    script = HOLD + "leases.clear()\nsay('free')\nsys.stdin.readline()\n"
    with ShmProducer(SMALL) as producer, started(script, producer) as process:
        producer.send_many([b"x" * 300, b"x" * 5000])
        assert heard(process) == "held"
        assert len(listed(producer, runtime)["leases"]) == 2
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert heard(process) == "free"
        assert listed(producer, runtime)["leases"] == []


def test_what_is_only_mapped_any_more_is_still_listed(runtime: Path) -> None:
    script = HOLD.replace("say(", "[os.close(fd) for fd in fds]\nsay(")
    producer = ShmProducer(SMALL, name="orphan")
    inode = os.fstat(producer.descriptors()[0]).st_ino
    with started(script, producer) as process:
        producer.send_many([b"x" * 300, b"x" * 5000])
        assert heard(process) == "held"
        producer.close()
        del producer
        document = json.loads(command("ls", "--json", runtime=runtime).stdout)
        (found,) = [one for one in document["channels"] if one["id"].endswith(f":{inode}")]
        assert process.pid in [holder["pid"] for holder in found["holders"]]
        if found["problem"]:
            assert "mapped only" in found["problem"]
            assert os.geteuid() != 0
        else:  # root may follow /proc/<pid>/map_files
            assert (found["state"], len(found["leases"])) == ("closed", 2)


@contextmanager
def making(script: str, *args: str) -> Generator[subprocess.Popen[str]]:
    """A process that makes something, says so, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", script + "print('made', flush=True)\nsys.stdin.readline()\n", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        try:
            assert heard(process) == "made"
            yield process
        finally:
            process.kill()


NAME = "import posix_ipc, sys\nkept = posix_ipc.SharedMemory(sys.argv[1], posix_ipc.O_CREX, mode=0o600)\n"


def collected(runtime: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """What `gc` removed, and what it left and why."""
    done = command("gc", "--json", *options, runtime=runtime)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["ok"]
    assert document["dry_run"] == ("--dry-run" in options)
    return document["removed"], {one["path"]: one["why"] for one in document["left"]}


def test_a_name_is_removed_when_its_maker_was_killed_and_not_before(runtime: Path) -> None:
    name = f"/{posix_prefix()}channel.{os.getpid():032x}"
    path = Path("/dev/shm" + name)
    try:
        with making(NAME, name) as process:
            process.send_signal(signal.SIGSTOP)
            removed, left = collected(runtime)
            assert (str(path) in removed, left[str(path)]) == (False, f"in use by process {process.pid}")
            process.kill()
            process.wait()
            assert str(path) in collected(runtime, "--dry-run")[0]
            assert path.exists()
            assert str(path) in command("ls", runtime=runtime).stdout
            assert str(path) in collected(runtime)[0]
            assert not path.exists()
            assert str(path) not in collected(runtime)[0]
    finally:
        path.unlink(missing_ok=True)


SOCKET = (
    "import pathlib, socket, sys\n"
    "from flowbridge.transports.uds.place import SocketLock, SocketPlace\n"
    "path = SocketPlace.of_user({'XDG_RUNTIME_DIR': sys.argv[1]}).new_path()\n"
    "lock = SocketLock.take(path, create=True)\n"
    "listener = socket.socket(socket.AF_UNIX)\n"
    "listener.bind(str(path))\n"
    "listener.listen()\n"
)


def test_a_socket_is_removed_when_its_owner_was_killed_and_not_before(runtime: Path) -> None:
    with making(SOCKET, str(runtime)) as process:
        (path,) = runtime.glob("flowbridge/*.sock")
        removed, left = collected(runtime)
        assert (removed.count(str(path)), left[str(path)]) == (0, "its owner lives")
        document = json.loads(command("ls", "--json", runtime=runtime).stdout)
        assert document["sockets"] == [{"path": str(path), "owner_lives": True}]
        process.kill()
        process.wait()
        document = json.loads(command("ls", "--json", runtime=runtime).stdout)
        assert document["sockets"] == [{"path": str(path), "owner_lives": False}]
        done = command("gc", "--dry-run", runtime=runtime)
        assert f"would remove {path}\n" in done.stdout
        assert path.exists()
        assert f"removed {path}\n" in command("gc", runtime=runtime).stdout
        assert not list(runtime.glob("flowbridge/*"))


def test_a_folder_of_sockets_that_is_not_private_is_said_and_not_touched(runtime: Path) -> None:
    folder = runtime / "flowbridge"
    folder.mkdir(mode=0o755)
    done = command("gc", runtime=runtime)
    assert done.returncode == 0
    assert "sockets were not looked at" in done.stderr


def test_wrong_use_is_said_with_its_exit_code(runtime: Path) -> None:
    assert command("ls", "--nothing", runtime=runtime).returncode == 2
    assert command("gc", "now", runtime=runtime).returncode == 2
