"""Where sockets live, and what a dead owner left: decided by who may enter and who holds the lock."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from flowbridge.errors import LocalProtocolError, ResourceError
from flowbridge.limits import SOCKET_PATH_BYTES_MAX
from flowbridge.transports.uds.place import SocketLock, SocketPlace, check_socket_path, lock_path

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def tmp_path() -> Generator[Path]:
    """A folder with a short name: that of a socket has at most 107 bytes (unix(7))."""
    with TemporaryDirectory(prefix="fb-") as folder:
        yield Path(folder)


def private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def dead_socket(path: Path) -> None:
    """A socket that nobody listens to any more, and its lock file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
    lock_path(path).touch(0o600)


def test_the_runtime_folder_of_the_user_is_taken_when_it_is_ours_alone(tmp_path: Path) -> None:
    runtime = private(tmp_path / "run")
    place = SocketPlace.of_user({"XDG_RUNTIME_DIR": str(runtime)}, fallback=tmp_path)
    assert place.folder == runtime / "flowbridge"
    assert place.folder.stat().st_mode & 0o777 == 0o700
    assert SocketPlace.of_user({"XDG_RUNTIME_DIR": str(runtime)}, fallback=tmp_path).folder == place.folder


def test_without_such_a_folder_there_is_one_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "link").symlink_to(private(tmp_path / "run"))
    mine = tmp_path / f"flowbridge-{os.geteuid()}"
    for runtime in (None, "", "run", str(tmp_path / "missing"), str(tmp_path / "open"), str(tmp_path / "link")):
        environ = {} if runtime is None else {"XDG_RUNTIME_DIR": runtime}
        assert SocketPlace.of_user(environ, fallback=tmp_path).folder == mine
    assert mine.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_enter_is_refused_with_the_cure(tmp_path: Path) -> None:
    folder = private(tmp_path / "place")
    for mode in (0o755, 0o710, 0o701, 0o770):
        folder.chmod(mode)
        with pytest.raises(ResourceError, match=f"others may enter \\(mode {mode:04o}\\): chmod 700"):
            SocketPlace(folder)
        assert folder.stat().st_mode & 0o777 == mode


def test_a_symbolic_link_a_file_and_a_missing_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(private(tmp_path / "target"))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(ResourceError, match="symbolic link"):
            SocketPlace(tmp_path / name)
    with pytest.raises(ResourceError):
        SocketPlace(tmp_path / "dangling")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ResourceError, match="cannot be made: No such file"):
        SocketPlace(tmp_path / "no" / "place")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = private(tmp_path / "place")
    os.chown(folder, 12_345, -1)
    with pytest.raises(ResourceError, match="belongs to user 12345, not to 0"):
        SocketPlace(folder)


def test_a_path_longer_than_the_kernel_takes_is_refused_at_once(tmp_path: Path) -> None:
    fits = Path("/" + "x" * (SOCKET_PATH_BYTES_MAX - 6) + ".sock")
    check_socket_path(fits)
    with pytest.raises(LocalProtocolError, match="exceeds 107 bytes: 108: /yx"):
        check_socket_path(Path(f"{fits.parent}y{fits.name}"))
    with pytest.raises(LocalProtocolError, match="exceeds 107 bytes"):  # counted in bytes, not in characters
        check_socket_path(Path("/" + "ü" * 60 + ".sock"))
    with pytest.raises(LocalProtocolError, match="exceeds 107 bytes"):
        SocketPlace(tmp_path / ("x" * 100))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LocalProtocolError, match=r"does not end in \.sock"):
        check_socket_path(Path("/x.lock"))


def test_names_are_of_this_process_and_do_not_repeat(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / "p")
    names = {place.new_path().name for _ in range(100)}
    assert len(names) == 100
    for name in names:
        host, pid, tail = name.removesuffix(".sock").split("-")
        assert (host, pid) == ("host", str(os.getpid()))
        assert len(tail) == 8
        int(tail, 16)


# --- what is stale --------------------------------------------------------------------------------------------------


def test_what_a_dead_owner_left_is_found_and_removed_and_nothing_else(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / "p")
    held, dead, half, lone = (place.folder / f"{name}.sock" for name in ("held", "dead", "half", "lone"))
    for path in (held, dead, lone):
        dead_socket(path)
    lock_path(lone).unlink()  # without a lock file, nobody can tell whose it is
    lock_path(half).touch(0o600)  # its owner died before the socket had its name
    dead_socket(place.folder / "half.new.sock")
    (place.folder / "half.new.sock").rename(place.folder / "half.new")
    lock_path(place.folder / "half.new.sock").unlink()
    (place.folder / "notes.txt").touch()
    lock = SocketLock.take(held)
    assert lock is not None
    assert place.sockets() == [dead, half, held]
    assert place.stale_sockets() == [dead, half]
    assert place.live_sockets() == [held]
    before = sorted(place.folder.iterdir())
    assert place.stale_sockets() == [dead, half]
    assert sorted(place.folder.iterdir()) == before
    assert place.remove_stale() == [dead, half]
    assert sorted(path.name for path in place.folder.iterdir()) == [
        "held.sock",
        "held.sock.lock",
        "lone.sock",
        "notes.txt",
    ]
    assert place.remove_stale() == []
    lock.let_go()
    assert place.remove_stale() == [held]


def test_a_file_in_the_place_of_a_socket_is_never_removed(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / "p")
    path = place.folder / "data.sock"
    path.write_text("precious")
    lock_path(path).touch()
    assert place.remove_stale() == [path]
    assert path.read_text() == "precious"


def test_a_socket_that_answers_is_not_removed_though_its_lock_was_replaced_by_hand(tmp_path: Path) -> None:
    place = SocketPlace(tmp_path / "p")
    path = place.folder / "live.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        lock_path(path).touch(0o600)
        assert place.stale_sockets() == []
        assert place.remove_stale() == []
        assert path.is_socket()


def test_a_lock_is_held_by_one_and_free_again_when_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert SocketLock.take(path) is None  # not there, and not to be made
    first = SocketLock.take(path, create=True)
    assert first is not None
    assert SocketLock.take(path, create=True) is None
    first.remove()
    first.remove()
    assert not lock_path(path).exists()
    again = SocketLock.take(path, create=True)
    assert again is not None
    again.let_go()
    assert lock_path(path).exists()
    lock_path(path).unlink()


def test_a_lock_file_that_is_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.touch()
    lock_path(tmp_path / "a.sock").symlink_to(target)
    lock_path(tmp_path / "b.sock").mkdir()
    for name in ("a.sock", "b.sock"):
        with pytest.raises(ResourceError, match="cannot be opened"):
            SocketLock.take(tmp_path / name, create=True)
    tmp_path.chmod(0o700)
    place = SocketPlace(tmp_path)
    assert place.stale_sockets() == place.remove_stale() == []  # neither can be judged
    assert target.exists()
