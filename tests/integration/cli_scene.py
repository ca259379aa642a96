"""The command line as a process, and operators for it to run."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

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

WARM = """
import json, os, sys

import flowbridge.adapters.flow, flowbridge.cli.app, flowbridge.cli.run_loop, flowbridge.codec.arrow, flowbridge.host
import flowbridge.operators.file_sink, flowbridge.operators.file_source, flowbridge.operators.window
import flowbridge.runtime.runner, flowbridge.transports.inproc.port, pyarrow.parquet, typer._adapters, uvloop

for line in sys.stdin:
    folder, out, err, sys.argv[1:], environment = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for number, path in enumerate((os.devnull, out, err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
        sys.exit(flowbridge.cli.main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports what a run needs once, and forks for each command line: a process costs a second of a core otherwise."""

WARM_PROCESSES: set[int] = set()
"""Those of this process, which live as long as it does."""

PATIENCE_S = 300


@functools.cache
def _warm() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    WARM_PROCESSES.add(process.pid)
    atexit.register(process.communicate)
    return process


def call(folder: Path, *args: str, environment: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, in a process that is forked from one that has imported it."""
    process = _warm()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        process.stdin.write(json.dumps([str(folder), str(out), str(err), args, dict(environment)]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        assert ready, f"flowbridge {' '.join(args)} still runs after {PATIENCE_S} s"
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(args, code, out.read_text(), err.read_text())


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
