"""What the two processes of a trial of `quic.py` share: a socket to talk by, certificates, and the meter of each."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ipc_pair import TrialError, cpu_ns, run_group

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from ipc_pair import Bar

HOST: Final = "127.0.0.1"
_FAILED: Final = b"x\n"
NEAR, FAR = "near", "far"
CROWD: Final = tuple(f"near-{number}" for number in range(9))
"""Names for more sessions than a node takes of one."""
ENGINE = ["aioquic"]
"""The engine of ours, and what is beside it."""
IDLE_S: Final = 20
"""For how long nothing is asked of connections."""
LOOP: list[str] = ["uvloop"]
"""The name of the loop that every trial runs on."""


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates of both ends and of who signed them."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """... of one end."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """... of one end."""
        return self.folder / f"{name}.key"

    @property
    def ca(self) -> Path:
        """Who signed both."""
        return self.folder / "ca.pem"


class Talk:
    """One end of a socket pair between the processes: words before a trial, two marks around what is measured."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._began = 0
        self._took = 0
        self._counted: Callable[[], int] = int
        self._packets = 0

    def tell(self, word: Any) -> None:
        """Say something that JSON can."""
        self._sock.sendall(json.dumps(word).encode() + b"\n")

    def hear(self) -> Any:
        """What the other one says; the loop stands still until it does."""
        self._sock.setblocking(True)  # a loop that has watched it may have changed that
        line = bytearray()
        while not line.endswith(b"\n"):  # byte by byte: what follows may be a mark
            byte = self._sock.recv(1)
            if not byte:
                raise TrialError("the other process ended first")
            line += byte
        if bytes(line) == _FAILED:
            raise TrialError("the other process failed")
        return json.loads(line)

    def fail(self) -> None:
        """Say that nothing more will come, to one that hears as to one that watches."""
        self._sock.sendall(_FAILED)

    # --- the one that measures ----------------------------------------------------------------------------------------

    def begin(self, packets: Callable[[], int]) -> None:
        """What is measured begins."""
        self._sock.sendall(b"b")
        self._counted, self._packets = packets, packets()
        self._began = cpu_ns()

    def end(self) -> dict[str, Any]:
        """... and has ended."""
        self._took = cpu_ns() - self._began
        self._sock.sendall(b"e")
        return self.spent()

    # --- the other ----------------------------------------------------------------------------------------------------

    def watch(self, packets: Callable[[], int]) -> asyncio.Future[None]:
        """Measure between the marks of the other process; done once it has ended."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def marked() -> None:
            for mark in self._sock.recv(1):
                if mark == ord("b"):
                    self._counted, self._packets = packets, packets()
                    self._began = cpu_ns()
                elif mark == ord("e"):
                    self._took = cpu_ns() - self._began
                    loop.remove_reader(self._sock.fileno())
                    done.set_result(None)
                elif not done.done():
                    loop.remove_reader(self._sock.fileno())
                    done.set_exception(TrialError("the other process failed"))

        loop.add_reader(self._sock.fileno(), marked)
        return done

    def spent(self) -> dict[str, Any]:
        """Processor time and packets of this process between the marks."""
        return {"cpu_ns": self._took, "packets": self._counted() - self._packets}


def no_packets() -> int:
    """Nobody counts them."""
    return 0


def run_pair(
    near: Callable[[Talk], Coroutine[Any, Any, dict[str, Any]]],
    far: Callable[[Talk], Coroutine[Any, Any, dict[str, Any]]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run both ends in processes of their own. Raises: TrialError."""
    socks = socket.socketpair()

    def child(rank: int, work: Callable[[Talk], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
        socks[1 - rank].close()
        talk = Talk(socks[rank])
        try:
            return _on_loop(work(talk))
        except BaseException:
            talk.fail()
            raise

    def first(_: Bar, rank: int) -> dict[str, Any]:
        return child(rank, near)

    def second(_: Bar, rank: int) -> dict[str, Any]:
        return child(rank, far)

    try:
        found = run_group([first, second])
    finally:
        for sock in socks:
            sock.close()
    return found[0], found[1]


def _on_loop(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if LOOP[0] == "uvloop":
        from uvloop import new_event_loop

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def both(near: dict[str, Any], far: dict[str, Any], count: int) -> dict[str, float]:
    """What both ends spent on each of `count` messages, and on each packet if they were counted."""
    cpu, packets = near["cpu_ns"] + far["cpu_ns"], near["packets"] + far["packets"]
    found = {"cpu_us": cpu / count / 1e3, "packets": packets / count}
    if packets:
        found["cpu_packet_us"] = cpu / packets / 1e3
    return found


def bulk_figures(sent: dict[str, Any], taken: dict[str, Any], count: int, size_bytes: int) -> dict[str, float]:
    """Speed, and the speed that the busier end would reach with a core of its own."""
    mib = count * size_bytes / 2**20
    slower_s = max(sent["cpu_ns"], taken["cpu_ns"]) / 1e9
    return {"mib_per_s": mib / sent["wall_s"], "mib_per_cpu_s": mib / slower_s, **both(sent, taken, count)}


def connections(dialled: dict[str, Any], taken: dict[str, Any], count: int) -> dict[str, float]:
    """What a connection takes."""
    return {
        "kib_near": dialled["bytes"] / 1024,
        "kib_far": taken["bytes"] / 1024,
        "per_s": count / dialled["wall_s"],
        "cpu_ms_near": dialled["cpu_ns"] / count / 1e6,
        "cpu_ms_far": taken["cpu_ns"] / count / 1e6,
        "idle_near": dialled["idle"],
        "idle_far": taken["idle"],
    }


async def idle_percent() -> float:
    """What this process takes of a core while nothing is asked of it."""
    began = cpu_ns()
    await asyncio.sleep(IDLE_S)
    return (cpu_ns() - began) / IDLE_S / 1e7


def resident_bytes() -> int:
    """What of this process is in memory, without what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Stopwatch:
    """Wall time of each round trip."""

    def __init__(self) -> None:
        self.took_ns: list[int] = []
        self._began = time.perf_counter_ns()

    def begin(self) -> None:
        """All that follows counts."""
        self.took_ns.clear()
        self._began = time.perf_counter_ns()

    def since(self, began_ns: int) -> None:
        """One is over."""
        self.took_ns.append(time.perf_counter_ns() - began_ns)

    @property
    def wall_s(self) -> float:
        """Since the beginning."""
        return (time.perf_counter_ns() - self._began) / 1e9
