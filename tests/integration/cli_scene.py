"""The command line as a process, and operators for it to run."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

COMMAND = [sys.executable, "-c", "import sys; from flowbridge.cli import main; sys.exit(main())"]

OPERATORS = '''
import asyncio
import sys


async def endless():
    """A source that says when it has begun, and never ends."""
    n = 0
    while True:
        yield n
        n += 1
        if n == 3:
            print("started", file=sys.stderr, flush=True)
        await asyncio.sleep(0.001)


def boom(value):
    if value == 7:
        raise ValueError("seven")
    return value


async def stuck(value):
    await asyncio.sleep(3600)


def line(value, context):
    context.stdout.write(f"value {value}\\n")
'''


@contextmanager
def started(folder: Path, *args: str) -> Generator[subprocess.Popen[str]]:
    """A process whose flow has begun."""
    with subprocess.Popen(
        [*COMMAND, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "started\n"
            yield process
        finally:
            process.kill()
