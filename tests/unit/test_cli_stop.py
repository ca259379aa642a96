"""What ends a run early: signals and a closed stdout."""

from __future__ import annotations

import asyncio
import io
import os
import signal

import pytest

from flowbridge.cli.run_stop import GuardedStdout, Stopper


class Flow:
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    def abort(self) -> None:
        self.told.append("abort")


async def turns() -> None:
    """Let callbacks of signals come through."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_the_second_aborts(number: signal.Signals) -> None:
    async def main() -> tuple[list[str], list[str], int]:
        notes: list[str] = []
        flow = Flow()
        with Stopper(asyncio.get_running_loop(), notes.append) as stopper:
            stopper.attach(flow)
            for _ in range(2):
                os.kill(os.getpid(), number)
                await turns()
            return flow.told, notes, stopper.signals

    told, notes, signals = asyncio.run(main())
    assert told == ["drain", "abort"]
    assert [note.split(",")[0].split(";")[0] for note in notes] == [
        f"{number.name}: draining",
        f"{number.name}: aborting",
    ]
    assert signals == 2


def test_a_signal_before_the_flow_has_started_cancels_the_start() -> None:
    async def main() -> bool:
        with Stopper(asyncio.get_running_loop(), lambda _: None):
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return True
        return False

    assert asyncio.run(main())


def test_a_drain_asked_for_before_there_is_a_flow_is_done_when_there_is_one() -> None:
    async def main() -> list[str]:
        flow = Flow()
        with Stopper(asyncio.get_running_loop(), lambda _: None) as stopper:
            stopper.drain()
            stopper.attach(flow)
            stopper.drain()
        return flow.told

    assert asyncio.run(main()) == ["drain"]


def test_the_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        with Stopper(asyncio.get_running_loop(), lambda _: None):
            assert signal.getsignal(signal.SIGTERM) != before[1]

    asyncio.run(main())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_closed_reader_is_told_once_and_swallows_the_rest() -> None:
    reading, writing = os.pipe()
    told: list[str] = []
    with open(writing, "w", buffering=1, encoding="utf-8") as stream:
        stdout = GuardedStdout(stream, lambda: told.append("gone"))
        assert stdout.write("read\n") == 5
        assert os.read(reading, 100) == b"read\n"
        os.close(reading)
        assert [stdout.write("unread\n"), stdout.write("unread\n")] == [7, 7]
        stdout.flush()
        assert stdout.gone
        assert told == ["gone"]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # so that closing has somewhere to flush to
        os.close(nowhere)


def test_print_works_on_guarded_stdout() -> None:
    text = io.StringIO()
    print("a", 1, file=GuardedStdout(text, list).as_text_io(), flush=True)
    assert text.getvalue() == "a 1\n"
