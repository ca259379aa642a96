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
    "try:\n    ShmProducer(ShmSpec(classes=((1 << 20, 8),), backing={backing!r}, prefault={prefault}))\n"
    "except ShmFullError as error:\n    print(error.need, error.free, error.hint)\n"
    "assert os.listdir('/proc/self/fd') == before\n"
    "assert not [name for name in os.listdir('/dev/shm') if name.startswith('fb.')]\n"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_in_small(size: str, script: str) -> str:
    """What a script prints that has a /dev/shm of its own of that size."""
    unshare = shutil.which("unshare")
    if unshare is None or run(unshare, "--mount", "true").returncode != 0:
        pytest.skip("no right to mount a small /dev/shm")
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" -c "$1"'
    done = run(unshare, "--mount", "sh", "-c", mount, sys.executable, script)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("size", "prefault", "need", "free"),
    [
        ("1m", True, 8 << 20, 1 << 20),  # all slots
        ("512k", False, 1 << 20, 512 << 10),  # one slot
        ("1m", False, ShmSpec(classes=((1 << 20, 8),)).channel_bytes, 0),  # the channel beside it
    ],
)
def test_a_full_shared_memory_says_what_is_needed_and_what_is_free(
    size: str, prefault: bool, need: int, free: int
) -> None:
    said = run_in_small(size, ASK.format(backing="posix", prefault=prefault)).split(maxsplit=2)
    assert [int(word) for word in said[:2]] == [need, free]
    assert "--shm-size" in said[2]
    assert "remount,size=" in said[2]


LATER = (
    "from flowbridge.errors import ShmFullError, WouldBlock\n"
    "from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec\n"
    "import os\n"
    "spec = ShmSpec(classes=((1 << 18, 8), (1 << 20, 4)), ring_bytes=4096, inline_bytes_max=256)\n"
    "producer = ShmProducer(spec)\n"
    "consumer = ShmConsumer.attach(producer.descriptors(), max_leases=99)\n"
    "def send(nbytes, fill):\n"
    "    try:\n        producer.send_nowait(bytes([fill]) * nbytes)\n"
    "    except WouldBlock as error:\n        return error.reason.value\n"
    "    except ShmFullError as error:\n        return f'full {error.need}'\n"
    "    return 'sent'\n"
)


def test_what_does_not_fit_later_waits_and_nothing_is_lost() -> None:
    script = (
        LATER + "said = [send(1 << 18, n) for n in range(8)]\n"
        "count = said.index('slots')\n"
        "assert set(said[count:]) == {'slots'}, said\n"
        "assert producer.pool.reserved_slots == (count, 0)\n"
        "leases = consumer.receive_many(99)\n"
        "assert [bytes(lease) for lease in leases] == [bytes([n]) * (1 << 18) for n in range(count)]\n"
        "leases.clear()\n"
        "assert [send(1 << 18, n) for n in range(count)] == ['sent'] * count\n"
        "leases = consumer.receive_many(99)\n"
        "assert [bytes(lease) for lease in leases] == [bytes([n]) * (1 << 18) for n in range(count)]\n"
        "print(count)\n"
    )
    assert 2 <= int(run_in_small("1m", script)) < 4


def test_a_payload_for_which_no_slot_has_memory_is_refused_and_the_rest_goes_on() -> None:
    script = (
        LATER + "print(send(1 << 20, 1), '-', send(1 << 20, 1), '-', send(1 << 18, 2), '-', send(10, 3))\n"
        "assert [len(lease) for lease in consumer.receive_many(9)] == [1 << 18, 10]\n"
        "assert producer.pool.reserved_slots == (1, 0)\n"
    )
    assert run_in_small("1m", script) == f"full {1 << 20} - full {1 << 20} - sent - sent\n"


def test_a_slot_is_used_as_soon_as_its_memory_is_to_be_had() -> None:
    script = (
        LATER + "import time\n"
        "fd = os.open('/dev/shm/other', os.O_CREAT | os.O_RDWR)\n"
        "os.posix_fallocate(fd, 0, 600 << 10)\n"
        "print(send(1 << 18, 1), send(1 << 18, 2))\n"
        "os.unlink('/dev/shm/other')\n"
        "os.close(fd)\n"
        "producer.send(b'3' * (1 << 18), 10**10)\n"
        "assert [bytes(lease)[:1] for lease in consumer.receive_many(9)] == [b'\\1', b'3']\n"
    )
    assert run_in_small("1m", script) == "sent slots\n"


def test_a_large_slot_that_has_memory_serves_when_a_small_one_has_none() -> None:
    script = (
        LATER + "print(send(1 << 20, 1))\n"
        "consumer.receive_many(9).clear()\n"
        "print([send(1 << 18, n) for n in range(4)])\n"
        "print(producer.pool.free_slots, producer.pool.reserved_slots)\n"
    )
    assert run_in_small("1408k", script) == "sent\n['sent', 'sent', 'slots', 'slots']\n(7, 3) (1, 1)\n"


@pytest.mark.parametrize("backing", ["posix", "memfd"])
def test_a_limit_on_file_sizes_is_named(backing: str) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = run(sys.executable, "-c", limit + ASK.format(backing=backing, prefault=False))
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
    assert spec.channel_bytes == 0x3000 + (256 << 10) + 4096  # 8 * (128 + 84) bytes in a page


ROUTE = """
import asyncio, sys
import pyarrow as pa
sys.path.insert(0, "tests/integration")
from link_scene import joined, message, until

async def main():
    batch = pa.RecordBatch.from_pydict({"n": pa.array(range(100_000), pa.int64())})
    payloads = [b"s" * 40_000, b"L" * 900_000, b"tiny", batch, b"L" * 900_000, b"s" * 40_000]
    async with joined("ring") as pair:
        pair.keep()
        got = []
        for number, payload in enumerate(payloads):
            await pair.sink.send(message(number, payload))
            await until(lambda: (got.extend(pair.take_all()), len(got) == number + 1)[1])
        assert [one.seq for one in got] == list(range(6))
        assert [bytes(one.payload) if one.seq != 3 else one.payload for one in got] == payloads
        assert got[3].payload.equals(batch)
        assert not pair.lost
        got.clear()
    print("all came")

asyncio.run(main())
"""


def test_a_route_sends_over_its_socket_what_no_slot_has_memory_for() -> None:
    assert run_in_small("600k", ROUTE) == "all came\n"


FLOW = """
import asyncio, logging, os, sys
sys.path.insert(0, "tests/integration")
from link_scene import Pair, calm, message, route_of, until
from flowbridge.testing.clock import ManualClock
from flowbridge.transports.uds import UdsTransport

async def main():
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    fill = os.open("/dev/shm/other", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fill, 0, FILL)
    before = os.listdir("/proc/self/fd")
    async with UdsTransport(ManualClock()) as transport:
        pair = Pair(transport, ManualClock(), route_of())
        await pair.open()
        got = []
        payloads = [b"tiny", b"s" * 40_000, b"L" * 900_000]
        for number, payload in enumerate(payloads):
            await pair.sink.send(message(number, payload))
            await until(lambda: (got.extend(pair.take_all()), len(got) == number + 1)[1])
        assert [bytes(one.payload) for one in got] == payloads
        print(pair.sink.books.without_ring, pair.sink.books.balances)
        got.clear()
        os.unlink("/dev/shm/other")
        os.close(fill)
        logging.disable()
        pair.keep()
        pair.cut()
        await until(lambda: len(pair.lost) == 2)
        pair.rejoin()
        await pair.sink.send(message(9, b"s" * 40_000))
        await until(lambda: (got.extend(pair.take_all()), got)[1])
        print(pair.sink.books.without_ring)
        got.clear()
    assert len(os.listdir("/proc/self/fd")) < len(before)
    assert not os.listdir("/dev/shm")

asyncio.run(main())
"""


@pytest.mark.parametrize(("free", "need"), [(0, 64 << 10), (100 << 10, ShmSpec().channel_bytes)])
def test_a_route_for_which_there_is_no_ring_goes_over_its_socket_and_says_so(free: int, need: int) -> None:
    said = run_in_small("2m", FLOW.replace("FILL", str((2 << 20) - free))).splitlines()
    assert said[0].startswith("a/out->b/in: goes over its socket")
    assert f" {need} are needed" in said[0]
    assert "--shm-size" in said[0]
    assert said[1:] == ["1 True", "1"], "one warning; and a ring when there is room again"
