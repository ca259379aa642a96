"""Routes in a process that has too few descriptors, and in one that forks."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from link_scene import KINDS, calm, joined, message, until

from flowbridge.errors import FlowbridgeError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def at_most(more: int) -> Generator[None]:
    """Let this process open so many descriptors more, and no further one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    plugs = [os.open("/dev/null", os.O_RDONLY)]
    while plugs[-1] != len(os.listdir("/proc/self/fd")) - 2:  # there are no gaps any more
        plugs.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (plugs[-1] + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for plug in plugs:
            os.close(plug)


@pytest.mark.parametrize("kind", KINDS)
def test_a_route_that_lacks_descriptors_is_refused_or_broken_by_name_and_leaves_none_open(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, "flowbridge"):
        caplog.set_level(logging.CRITICAL, logger=name)

    async def main() -> None:
        async with asyncio.timeout(30), joined(kind) as pair:
            await calm()
            failures: list[str] = []
            opened = 0
            for more in range(24):
                before = len(os.listdir("/proc/self/fd"))
                with at_most(more):
                    try:
                        port = await pair.transport.open_port(pair.route)
                    except ResourceError as error:
                        failures.append(str(error))
                    else:
                        opened += 1
                        lost: list[Exception] = []
                        port.source.on_lost = lost.append
                        port.sink.on_lost = lost.append
                        port.sink.send_nowait(message(0, b"one"))
                        await until(lambda: lost or port.source.take(1))  # noqa: B023 - it is over before the next
                        failures += map(str, lost)
                        port.sink.close()
                        await port.source.aclose()
                        port.source.close()
                        del port, lost
                await calm()
                gc.collect()
                assert len(os.listdir("/proc/self/fd")) <= before, more
            assert opened >= 3
            assert failures
            for text in failures:
                what = ("a/out->b/in", "slots: ", "a connection between two processes cannot be made")
                assert any(one in text for one in what), text
            await pair.sink.send(message(1, b"as before"))
            await until(pair.take_all)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_takes_nothing_from_the_routes_of_its_parent(kind: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), joined(kind) as pair:
            payloads = [bytes([number]) * (10 if number % 2 else 50_000) for number in range(6)]
            for number, payload in enumerate(payloads):
                await pair.sink.send(message(number, payload))
            await calm()
            lent = list(pair.source.take(2))
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    pair.sink.send_nowait(message(99, b"from the child"))
                    assert bytes(lent[0].payload) == payloads[0]
                    pair.source.settle(lent)
                    lent.clear()
                    gc.collect()
                    code = 0
                except FlowbridgeError:
                    code = 0  # it may be told that this is not its route
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
            assert os.waitstatus_to_exitcode(status) == 0
            found = [bytes(envelope.payload) for envelope in lent]
            pair.source.settle(lent)
            lent.clear()
            await pair.sink.send(message(6, b"after"))
            while len(found) < 7:
                await calm(2)
                found += [bytes(envelope.payload) for envelope in pair.take_all()]
            await until(lambda: not pair.source.owes_report)
            await calm()
            assert found == [*payloads, b"after"]
            assert pair.sink.books.delivered == 7
            assert pair.sink.books.balances

    asyncio.run(main())
