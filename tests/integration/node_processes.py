"""Nodes and hosts as processes of the command line, which meet over QUIC on this machine."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Self

from cli_scene import COMMAND
from quic_certs import Authority, make_ca, make_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S = 60.0  # how long a test waits for what must come
CA = make_ca("dev")


def certificates(folder: Path, name: str, *, ca: Authority = CA, trusts: Authority = CA, **how: Any) -> list[str]:
    """Write the certificate of a node, and give the options that name its files."""
    made = make_node(ca, how.pop("of", name), **how)
    options: list[str] = []
    for option, data in (("cert", made.certificate), ("key", made.key), ("ca", trusts.certificate)):
        path = folder / f"{name}.{option}.pem"
        path.touch(0o600)
        path.write_bytes(data)
        options += [f"--{option}", str(path)]
    return options


_ports = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A UDP port that nobody has now, below those that systems hand out, so that nobody is given it before its node."""
    while True:
        port = 20_000 + next(_ports) % 12_000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Lines:
    """The lines of a stream of a process, each with when it was read, in seconds of the monotonic clock."""

    def __init__(self, stream: IO[str] | None) -> None:
        assert stream is not None, "the stream is no pipe"
        self.read: list[tuple[float, str]] = []
        self._stream = stream
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for line in self._stream:
            self.read.append((time.monotonic(), line.rstrip("\n")))

    def when(self, *words: str, after: float = 0.0) -> float | None:
        """When the first line came that has all of these words."""
        return next((at for at, line in [*self.read] if at >= after and all(word in line for word in words)), None)

    @property
    def text(self) -> str:
        """All of them, once the stream has ended."""
        self._thread.join(PATIENCE_S)
        return "\n".join(line for _, line in self.read)


class Process:
    """A process of the command line; killed at the end of a ``with`` if it still runs."""

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self._popen = subprocess.Popen(
            [*prefix, *COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.out, self.err = Lines(self._popen.stdout), Lines(self._popen.stderr)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> float:
        """Send a signal; returns when."""
        now = time.monotonic()
        os.kill(self.pid, number)
        return now

    def wait(self) -> int:
        """The exit code."""
        return self._popen.wait(PATIENCE_S)

    def until(self, condition: Callable[[], object], why: str) -> None:
        """Wait until something is so, while this process runs."""
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, f"{why}:\n{self.said}"
            assert self.is_running, f"{why}, and it ended with {self._popen.returncode}:\n{self.said}"
            time.sleep(0.005)

    def hears(self, *words: str, after: float = 0.0) -> float:
        """Wait for a line on stderr with these words; returns when it came."""
        self.until(lambda: self.err.when(*words, after=after), f"nobody said {words}")
        found = self.err.when(*words, after=after)
        assert found is not None
        return found

    @property
    def said(self) -> str:
        """What it wrote so far."""
        return "\n".join(line for _, line in [*self.out.read, *self.err.read])

    def report(self, code: int = 0) -> dict[str, Any]:
        """The report of a run that has ended with this code."""
        assert self.wait() == code, self.said
        assert "Traceback" not in self.err.text, self.said
        found: dict[str, Any] = json.loads(self.out.text)
        return found

    @property
    def rss_kib(self) -> int:
        """Its resident memory (proc(5), VmRSS)."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.is_running:
            os.kill(self.pid, signal.SIGCONT)
            self._popen.kill()
        self._popen.wait()
        _ = self.out.text, self.err.text
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()


class NodeProcess(Process):
    """``flowbridge node``, once it listens."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *more: str,
        name: str = "edge-1",
        options: list[str] | None = None,
        prefix: tuple[str, ...] = (),
        host: str = "127.0.0.1",
    ) -> None:
        options = certificates(folder, name) if options is None else options
        listen = f"quic://{host}:{port}"
        super().__init__(folder, "node", "--listen", listen, "--name", name, *options, "--json", *more, prefix=prefix)
        try:
            self.listens_at = self.hears_event("listening")
        except BaseException:
            self.__exit__()
            raise

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in [*self.out.read]]

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    def hears_event(self, kind: str, after: float = 0.0) -> float:
        """Wait for an event; returns when it came."""
        words = (f'"event": "{kind}"',)
        self.until(lambda: self.out.when(*words, after=after), f"no event {kind}")
        found = self.out.when(*words, after=after)
        assert found is not None
        return found


class RunProcess(Process):
    """``flowbridge run`` of a flow that has parts at edge-1."""

    def __init__(
        self,
        folder: Path,
        port: int,
        flow: str = "flow.yaml",
        *more: str,
        options: list[str] | None = None,
        prefix: tuple[str, ...] = (),
        as_json: bool = True,
        host: str = "127.0.0.1",
    ) -> None:
        options = certificates(folder, "host") if options is None else options
        where = f"edge-1=quic://{host}:{port}"
        json_too = ("--json",) if as_json else ()
        super().__init__(folder, "run", flow, "--node", where, *options, *json_too, *more, prefix=prefix)


def flow(folder: Path, *nodes: str, name: str = "flow.yaml") -> Path:
    """Write a flow."""
    path = folder / name
    path.write_text("\n".join(["flowbridge: 1", "name: scene", "nodes:", *(f"  - {{{node}}}" for node in nodes), ""]))
    return path


def balance(report: dict[str, Any]) -> None:
    """Every edge accounts for every message."""
    for name, edge in report["edges"].items():
        out = edge["delivered"] + sum(edge["dropped"].values()) + edge["expired"] + edge["refused"]
        assert edge["sent"] == out, (name, edge)
        assert edge["in_flight"] == 0, name


def lost(report: dict[str, Any]) -> int:
    """Messages that went down with a process."""
    return sum(edge["dropped"].get("lost", 0) for edge in report["edges"].values())
