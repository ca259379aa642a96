"""Processes of this machine that run parts of a flow: how they are started, spoken to and ended.

A worker is ``python -m flowbridge.worker FD``; FD is its end of a socket pair. Ends of routes are sockets that go over
that pair (unix(7), SCM_RIGHTS). Whoever dies closes its end with that, so each sees the other's death.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from flowbridge.errors import RemoteProtocolError, ResourceError
from flowbridge.transports.framed import FramedLink, connector
from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from flowbridge.plan import Placement

_MODULE = "flowbridge.worker"
_LOOK_S = 0.005  # between two looks at a child where the kernel has no pidfd


class SocketPartLink:
    """A control connection over a socket; see `placing.PartLink`. An end of a route is a connected socket."""

    is_same_user = True
    """One of both started the other."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.peer = peer
        self._sock: socket.socket | None = sock
        self._link: FramedLink | None = None
        self._on_frame: Callable[[int, bytes, Sequence[Any]], None]

    def listen(
        self,
        on_frame: Callable[[int, bytes, Sequence[Any]], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        """Call back for every frame, and once when the peer is gone."""
        assert self._sock is not None, f"{self.peer}: is listened to already"
        self._on_frame = on_frame
        connect = connector(UdsStream, self._sock, peer=self.peer)
        self._sock = None
        self._link = FramedLink(connect, on_frame=self._frame, on_lost=on_lost, descriptors=True)

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        assert self._link is not None, f"{self.peer}: nobody listens"
        if header not in (b"", b"\x01"):
            raise RemoteProtocolError(f"{self.peer}: frame {kind:#x} has a header that says nothing: {header!r:.40}")
        ends = tuple(socket.socket(fileno=number) for number in self._link.take_descriptors(len(header)))
        self._on_frame(kind, body, ends)

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        """Send a frame, and with it a socket, which is closed here; never waits. Raises: BrokenError, ClosedError."""
        assert self._link is not None, f"{self.peer}: nobody listens"
        if end is None:
            self._link.send(kind, b"", body)
            return
        sock: socket.socket = end
        with sock:
            self._link.send(kind, b"\x01", body, (sock.fileno(),))

    def close(self) -> None:
        """Close at once. Idempotent."""
        if self._link is not None:
            self._link.close()
        elif self._sock is not None:
            self._sock.close()

    def __repr__(self) -> str:
        return f"<SocketPartLink {self.peer}>"


class LocalWorker:
    """A child process; see `placing.Worker`."""

    def __init__(self, process: str, child: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.name = f"process {process} (pid {child.pid})"
        self.link = SocketPartLink(sock, self.name)
        self._child = child
        self._ended = asyncio.get_running_loop().create_task(self._watch(), name=self.name)

    async def _watch(self) -> None:
        """Return once the child is gone, and reap it."""
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(self._child.pid)
        except (AttributeError, OSError):  # another system than Linux, or one older than 5.3
            while self._child.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            return
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._child.wait()

    async def wait(self) -> str:
        """Return once the process is gone: how it ended."""
        await asyncio.shield(self._ended)
        code = self._child.returncode
        if code >= 0:
            return f"exited with code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def terminate(self) -> None:
        """Ask it to end."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without asking."""
        self._send_signal(signal.SIGKILL)

    def _send_signal(self, number: signal.Signals) -> None:
        if not self._ended.done():  # it is not reaped, so the id is still its own
            self._child.send_signal(number)

    def __repr__(self) -> str:
        return f"<LocalWorker {self.name}>"


def start_worker(place: Placement) -> LocalWorker:
    """Start the process of a place on this machine. Raises: ResourceError."""
    import subprocess  # a worker starts none

    assert place.process is not None, f"{place} names no process"
    ours, theirs = pair()
    with theirs:
        # -P: a module of the working directory must not stand in for one of the standard library.
        command = [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())]
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))  # noqa: S603
        except OSError as error:
            ours.close()
            raise ResourceError(f"process {place.process} cannot be started: {error}") from error
    return LocalWorker(place.process, child, ours)


def meet_host(address: str) -> SocketPartLink:
    """In a worker: the connection to its host, from the descriptor that it was started with. Raises: ResourceError."""
    try:
        sock = socket.socket(fileno=int(address))
        sock.getpeername()
    except (ValueError, OSError) as error:
        raise ResourceError(f"descriptor {address} is no connection to a host: {error}") from error
    sock.set_inheritable(False)
    return SocketPartLink(sock, f"host (pid {os.getppid()})")


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. Raises: ResourceError."""
    try:
        return socket.socketpair()
    except OSError as error:
        raise ResourceError(f"a connection between two processes cannot be made: {error}") from error
