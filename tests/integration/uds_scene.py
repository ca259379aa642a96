"""Two ends of a Unix socket on a loop of choice, and what arrives at them."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from flowbridge.transports.uds.stream import UdsStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
GUARD_SECONDS = 60


def open_descriptors() -> set[str]:
    """The descriptors of this process and what they stand for, without the one that reads them."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {Path('/proc/self/fd', name).readlink()}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


@cache
def _warm_up(loop: str) -> None:
    """A library may keep a descriptor of its own from the first loop on."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.sleep(0))


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run on a new loop of that kind; afterwards no descriptor is left over and nothing went wrong unseen."""
    wrong: list[dict[str, Any]] = []
    _warm_up(loop)
    before = open_descriptors()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: wrong.append(context))
        runner.run(asyncio.wait_for(main, GUARD_SECONDS))
    assert open_descriptors() == before
    assert wrong == []


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something holds; the guard of `run` ends a wait for nothing."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel
        await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let the loop turn, for whatever must not happen to have its chance."""
    for _ in range(count):
        await asyncio.sleep(0)


class End:
    """One end: its stream, what arrived and how it ended."""

    def __init__(self, sock: socket.socket, *, descriptors: bool = False) -> None:
        self.data = bytearray()
        self.descriptors: list[tuple[int, int]] = []
        """Each with how many bytes had arrived up to the end of the piece it came with."""
        self.lost: list[Exception | None] = []
        self.stream = UdsStream(
            sock, peer="peer", on_data=self._arrived, on_lost=self.lost.append, descriptors=descriptors
        )

    def _arrived(self, data: bytes, descriptors: Sequence[int]) -> None:
        self.data += data
        self.descriptors += [(len(self.data), descriptor) for descriptor in descriptors]

    def close(self) -> None:
        """Close the stream and what came over it."""
        self.stream.close()
        for _, descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


@contextmanager
def two_ends(*, descriptors: bool = False) -> Generator[tuple[End, End]]:
    """Two streams that are connected."""
    one, other = socket.socketpair()
    near, far = End(one, descriptors=descriptors), End(other, descriptors=descriptors)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@contextmanager
def end_and_socket(*, descriptors: bool = False) -> Generator[tuple[End, socket.socket]]:
    """A stream, and the bare socket that it is connected to, which waits 10 s at most."""
    one, other = socket.socketpair()
    other.settimeout(10)
    end = End(one, descriptors=descriptors)
    try:
        yield end, other
    finally:
        end.close()
        other.close()


@contextmanager
def pipes(count: int) -> Generator[tuple[list[int], list[int]]]:
    """So many pipes, as the ends to read and the ends to write."""
    made = [os.pipe() for _ in range(count)]
    try:
        yield [reader for reader, _ in made], [writer for _, writer in made]
    finally:
        for pair in made:
            for descriptor in pair:
                os.close(descriptor)
