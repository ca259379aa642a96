"""Flows with nodes in worker processes: operators for them, and a look at what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli_scene import WARM_PROCESSES
from flow_scene import balanced, compiled, flow_text
from shm_names import left_since, names

from flowbridge.errors import FlowbridgeError
from flowbridge.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from flowbridge.contracts import Instrument
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow

MS = 1_000_000
S = 1_000_000_000
PATIENCE_S = 60.0  # how long a test waits for what must come

OPERATORS = textwrap.dedent(
    '''
    import asyncio
    import os
    import signal
    import time


    def numbers(count=100):
        return list(range(count))


    class Numbers:
        """0, 1, 2 ...; goes on from its snapshot."""

        def __init__(self, count=100, pause_ms=0.0):
            self.count, self.pause_ms, self.next = count, pause_ms, 0

        async def produce(self):
            while self.next < self.count:
                number, self.next = self.next, self.next + 1
                yield number
                await asyncio.sleep(self.pause_ms / 1000)

        def snapshot(self):
            return State(self.next)

        def restore(self, state):
            self.next = state.next


    class State:
        """Known only to those who load this file."""

        def __init__(self, next):
            self.next = next


    async def endless():
        n = 0
        while True:
            yield n
            n += 1
            await asyncio.sleep(0.001)


    def double(value):
        return 2 * value


    def with_pid(value):
        return {"n": value, "pid": os.getpid()}


    def fails_at_7(value):
        if value == 7:
            raise ValueError("seven")
        return value


    class DiesOnce:
        """Kills its process at 50 unless a file says that it did before."""

        def __init__(self, mark, at=50, number=signal.SIGKILL):
            self.mark, self.at, self.number = mark, at, number

        def process(self, value):
            if value >= self.at and not os.path.exists(self.mark):
                with open(self.mark, "w"):
                    pass
                os.kill(os.getpid(), self.number)
            return value


    class Gathers:
        """Keeps what it handles, and dies the first time that it handles certain numbers; at the end it sends all."""

        def __init__(self, folder, deaths):
            self.folder, self.deaths, self.seen = folder, deaths, []

        def process(self, value):
            with open(f"{self.folder}/handled", "a") as file:
                file.write(f"{value}\\n")
            if value in self.deaths and not os.path.exists(f"{self.folder}/{value}"):
                with open(f"{self.folder}/{value}", "w"):
                    pass
                self.fail()
            self.seen.append(value)

        def fail(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def finish(self, out):
            out.emit(self.seen)

        def snapshot(self):
            return self.seen

        def restore(self, state):
            self.seen = state


    class GathersAndFails(Gathers):
        def fail(self):
            raise RuntimeError("not yet")


    class TellsGaps(DiesOnce):
        """Passes on what it is told to be missing, before the next number."""

        gap = None

        def on_gap(self, port, gap):
            self.gap = gap

        def process(self, value):
            gap, self.gap = self.gap, None
            if gap is not None:
                yield [gap.from_seq, gap.to_seq, gap.count]
            yield super().process(value)


    def dies_at_50(value):
        if value == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return value


    def exits_at_50(value):
        if value == 50:
            os._exit(9)
        return value


    class Tells:
        """Publishes what it gets by itself, and passes it on."""

        def open(self, context):
            self.bus = context.bus

        async def process(self, value):
            from flowbridge import Envelope

            await self.bus.publish("told", Envelope(value))
            return value


    def marks(value):
        if value == 20:
            open("begun", "w").close()
        return value


    def marks_and_blocks(value):
        if value == 20:
            open("begun", "w").close()
            time.sleep(3600)
        return value


    async def slowly(value):
        await asyncio.sleep(0.02)
        return value


    def blocks(value):
        time.sleep(3600)
    '''
)


def workers() -> set[int]:
    """The processes that this one started for a flow and that still are, zombies too."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(name))
    return found - WARM_PROCESSES


def folder_of(tmp_path: Path) -> str:
    """A folder with the operators."""
    (tmp_path / "ops.py").write_text(OPERATORS)
    return str(tmp_path)


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def process(self, value: Any) -> None:
        self.values.append(value)


Drive = "Callable[[RunningFlow], Coroutine[Any, Any, object]]"


def run_placed(
    tmp_path: Path,
    *nodes: str,
    operators: Mapping[str, Any] | None = None,
    drive: Callable[[RunningFlow], Coroutine[Any, Any, object]] | None = None,
    state: Mapping[str, Any] | None = None,
    drain_ns: int = 20 * S,
    head: str = "",
    instruments: Sequence[Instrument] = (),
) -> RunReport:
    """Run a flow of nodes to its end on the real clock; nothing of it is left, and its books balance."""
    base_dir = folder_of(tmp_path)

    async def main() -> RunReport:
        async with Host(operators=dict(operators or {}), drain_ns=drain_ns, instruments=instruments) as host:
            flow = await host.start(compiled(flow_text(*nodes, head=head), base_dir), state=state)
            try:
                if drive is not None:
                    await drive(flow)
                return await asyncio.wait_for(flow.wait(), PATIENCE_S)
            finally:
                await flow.aclose()

    with nothing_left():
        report = asyncio.run(main())
    balanced(report)
    return report


def refusal(tmp_path: Path, *nodes: str, operators: Mapping[str, Any] | None = None) -> list[str]:
    """The lines of the error that starting a flow raises."""
    base_dir = folder_of(tmp_path)

    async def main() -> str:
        async with Host(operators=dict(operators or {})) as host:
            try:
                await asyncio.wait_for(host.start(compiled(flow_text(*nodes), base_dir)), PATIENCE_S)
            except FlowbridgeError as error:
                return str(error)
        raise AssertionError("the flow was started")

    with nothing_left():
        return asyncio.run(main()).splitlines()


@contextlib.contextmanager
def nothing_left() -> Any:
    """No process, no descriptor and no shared memory that was not there before."""
    before = workers(), set(os.listdir("/proc/self/fd")), names()
    yield
    assert workers() == before[0]
    assert set(os.listdir("/proc/self/fd")) <= before[1]
    assert not left_since(before[2])


async def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return once something is so."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + patience_s
    while not condition():
        assert loop.time() < end_s, what
        await asyncio.sleep(0.005)
