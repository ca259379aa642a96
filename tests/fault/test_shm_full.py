"""A machine that has too little: memory, file size, descriptors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shm_scene import ShmSpec

ROOT = Path(__file__).parents[2]
ASK = (
    "from flowbridge.errors import ShmFullError\n"
    "from flowbridge.shm.port import ShmProducer, ShmSpec\n"
    "import os\n"
    "before = os.listdir('/proc/self/fd')\n"
    "try:\n    ShmProducer(ShmSpec(classes=((1 << 20, 8),), backing={backing!r}))\n"
    "except ShmFullError as error:\n    print(error.need, error.free, error.hint)\n"
    "assert os.listdir('/proc/self/fd') == before\n"
    "assert not [name for name in os.listdir('/dev/shm') if name.startswith('fb.')]\n"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_full_shared_memory_says_what_is_needed_and_what_is_free() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or run(unshare, "--mount", "true").returncode != 0:
        pytest.skip("no right to mount a small /dev/shm")
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1"'
    done = run(unshare, "--mount", "sh", "-c", mount, sys.executable, ASK.format(backing="posix"))
    assert done.returncode == 0, done.stderr
    need, free, hint = done.stdout.split(maxsplit=2)
    assert (int(need), int(free)) == (8 << 20, 1 << 20)
    assert "--shm-size" in hint
    assert "remount,size=" in hint


@pytest.mark.parametrize("backing", ["posix", "memfd"])
def test_a_limit_on_file_sizes_is_named(backing: str) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = run(sys.executable, "-c", limit + ASK.format(backing=backing))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{8 << 20} None")
    assert "ulimit -f" in done.stdout


@pytest.mark.parametrize("backing", ["posix", "memfd"])
def test_running_out_of_descriptors_is_broken_and_nothing_stays_open(backing: str) -> None:
    script = (
        "import os, resource\n"
        "from flowbridge.errors import BrokenError\n"
        "from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec\n"
        f"spec = ShmSpec(classes=((4096, 1),), backing={backing!r})\n"
        "producer = ShmProducer(spec)\n"
        "producer.close()\n"
        "producer = ShmProducer(spec)\n"
        "def count(): return len(os.listdir('/proc/self/fd'))\n"
        "before, failures = count(), []\n"
        "def squeezed(call, limit):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))\n"
        "    try:\n        call()\n"
        "    except BrokenError as error:\n        failures.append(str(error))\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 4096))\n"
        "    assert count() == before, (limit, count(), before)\n"
        "for limit in range(3, 11):\n"
        "    squeezed(lambda: ShmProducer(spec), limit)\n"
        "made = len(failures)\n"
        "for limit in range(7, 9):\n"
        "    squeezed(lambda: ShmConsumer.attach(producer.descriptors()), limit)\n"
        "print(made, len(failures) - made, *failures)\n"
    )
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    made, joined, said = done.stdout.split(maxsplit=2)
    assert int(made) >= 4
    assert int(joined) == 2
    assert said.count("Too many open files") + said.count("maximum number of files open") == int(made) + int(joined)


def test_the_default_shape_is_as_large_as_it_says() -> None:
    spec = ShmSpec()
    assert spec.pool_bytes == 84 << 20
    assert spec.completion_items == 128
    assert spec.channel_bytes == 0x3000 + (256 << 10) + 4096
