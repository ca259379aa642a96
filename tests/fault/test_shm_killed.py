"""Processes that die, stop or fork while they hold one end of a shared-memory channel."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shm_scene import SMALL, ShmConsumer, ShmProducer, ShmSpec, SlotPool, channel, open_descriptors, started

from flowbridge.errors import BlockReason, BrokenError, ClosedError, EndOfStream, WouldBlock

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000


def heard(process: subprocess.Popen[str]) -> str:
    """The next word that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def killed(process: subprocess.Popen[str]) -> None:
    """Kill a process and leave it unburied, as a parent that is busy does."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def sending(script: str) -> Generator[tuple[subprocess.Popen[str], ShmConsumer, socket.socket]]:
    """Another process that makes a producer and hands its descriptors over a socket."""
    prelude = (
        "import os, signal, socket, sys, time\n"
        "from flowbridge.shm.port import ShmProducer, ShmSpec\n"
        "producer = ShmProducer(ShmSpec(classes=((65536, 4),), ring_bytes=4096, inline_bytes_max=256))\n"
        "def say(word):\n    print(word, flush=True)\n"
        "link = socket.socket(fileno=int(sys.argv[1]))\n"
        "socket.send_fds(link, [b'channel'], producer.descriptors())\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + script, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(theirs.fileno(),),
            cwd=ROOT,
        )
        theirs.close()
        with process:
            try:
                _, descriptors, _, _ = socket.recv_fds(ours, 16, 8)
                try:
                    consumer = ShmConsumer.attach(descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
                with consumer:
                    yield process, consumer, ours
            finally:
                process.kill()


def test_two_processes_exchange_everything_in_order() -> None:
    script = (
        "for number in range(20000):\n"
        "    producer.send(number.to_bytes(4, 'little') * (number * 7 % 200), tag=number)\n"
        "producer.close()\n"
    )
    before = open_descriptors()
    with sending(script) as (process, consumer, _):
        for number in range(20000):
            lease = consumer.receive(30 * SECOND)
            assert lease is not None
            assert lease.tag == lease.seq == number
            assert bytes(lease) == number.to_bytes(4, "little") * (number * 7 % 200)
            lease.release()
        with pytest.raises(EndOfStream):
            consumer.receive(30 * SECOND)
        assert process.wait() == 0
    assert open_descriptors() == before


def test_no_wake_up_is_lost_when_two_processes_take_turns() -> None:
    script = (
        "from flowbridge.shm.port import ShmConsumer\n"
        "_, descriptors, _, _ = socket.recv_fds(link, 16, 8)\n"
        "consumer = ShmConsumer.attach(descriptors)\n"
        "for _ in range(5000):\n"
        "    producer.send(consumer.receive_bytes())\n"
        "say(consumer.stats().late_wakes)\n"
    )
    with sending(script) as (process, consumer, link), ShmProducer(SMALL) as producer:
        socket.send_fds(link, [b"channel"], producer.descriptors())
        for number in range(5000):
            producer.send(number.to_bytes(4, "little"))
            assert consumer.receive_bytes(30 * SECOND) == number.to_bytes(4, "little")
        assert heard(process) == "0"
        assert consumer.stats().late_wakes == 0


def test_a_producer_killed_in_the_middle_of_a_loan_leaves_what_it_had_sent() -> None:
    script = (
        "producer.send_nowait(b'first')\n"
        "producer.send_nowait(b's' * 50000)\n"
        "loan = producer.loan(60000)\n"
        "memoryview(loan)[:30000] = b'h' * 30000\n"
        "say('half')\n"
        "time.sleep(60)\n"
    )
    with sending(script) as (process, consumer, _):
        assert heard(process) == "half"
        killed(process)
        assert consumer.receive_bytes(SECOND) == b"first"
        lease = consumer.receive(SECOND)
        with pytest.raises(BrokenError, match="vanished after 2 messages"):
            consumer.receive()
        assert lease is not None
        assert bytes(lease) == b"s" * 50000


def test_a_producer_killed_between_its_store_and_its_wake_is_still_heard() -> None:
    with channel() as (producer, consumer), ThreadPoolExecutor(1) as pool:
        with mmap.mmap(producer.descriptors()[0], SMALL.channel_bytes) as memory:
            waiting = pool.submit(consumer.receive)
            while memory[0x2080] == 0:  # until it sleeps, or is about to
                pass
            record = struct.pack("<BBHIQQqqqQII", 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0)
            memory[0x3000:0x3045] = record + b"quiet"
            struct.pack_into("<Q", memory, 0x1000, 128)
        lease = waiting.result()
        assert lease is not None
        assert bytes(lease) == b"quiet"
        assert consumer.stats().late_wakes == 1


HOLD = (
    "consumer = ShmConsumer.attach(fds)\n"
    "leases = [consumer.receive(10**10) for _ in range(3)]\n"
    "say('held')\n"
    "time.sleep(60)\n"
)


def test_the_slots_of_a_killed_consumer_come_back() -> None:
    with ShmProducer(SMALL) as producer, started(HOLD, producer) as process:
        assert producer.send_many([b"x" * 3000] * 5) == 5
        assert heard(process) == "held"
        killed(process)
        producer.send_many([b"y" * 3000] * 20)
        with pytest.raises(BrokenError, match="vanished after 3 messages"):
            producer.send(b"y" * 3000)
        unreceived = producer.stats().waiting_items
        assert producer.reclaim() == unreceived >= 2
        assert producer.pool.free_slots == (4, 2)
        with ShmConsumer.attach(producer.descriptors()) as heir:
            assert heir.receive_nowait() is None
            producer.send_nowait(b"z" * 3000)
            lease = heir.receive_nowait()
            assert lease is not None
            assert (bytes(lease), lease.nbytes) == (b"z" * 3000, 3000)
            assert producer.stats().slots_out == 1


def test_a_pool_gets_back_what_a_killed_consumer_of_a_closed_producer_had() -> None:
    pool = SlotPool(SMALL)
    producer = pool.producer()
    with started(HOLD, producer) as process:
        assert producer.send_many([b"x" * 3000] * 3) == 3
        assert heard(process) == "held"
        producer.close()
        assert not producer.reclaim_from_dead()
        assert pool.free_slots == (1, 2)
        killed(process)
        assert producer.reclaim_from_dead()
        assert pool.free_slots == (4, 2)
    pool.close()


def test_a_stopped_consumer_is_slow_not_dead() -> None:
    script = (
        "consumer = ShmConsumer.attach(fds)\n"
        "say('ready')\n"
        "sys.stdin.readline()\n"
        "count = 0\n"
        "while count < 40:\n"
        "    assert int(consumer.receive_bytes(10**10)) == count\n"
        "    count += 1\n"
        "say(count)\n"
    )
    with ShmProducer(SMALL) as producer, started(script, producer) as process:
        assert heard(process) == "ready"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        sent = producer.send_many(str(number).encode() for number in range(40))
        assert sent == 16
        with pytest.raises(WouldBlock) as caught:
            producer.send(b"16", 250_000_000)
        assert caught.value.reason is BlockReason.CREDIT_ITEMS
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        for number in range(sent, 40):
            producer.send(str(number).encode(), 30 * SECOND)
        assert heard(process) == "40"


def test_a_handle_in_a_forked_child_is_refused_and_its_end_disturbs_nobody() -> None:
    script = (
        "import gc, os\n"
        "from flowbridge.errors import ClosedError\n"
        "from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec\n"
        "producer = ShmProducer(ShmSpec(classes=((4096, 4),)))\n"
        "consumer = ShmConsumer.attach(producer.descriptors())\n"
        "producer.send_many([b'x' * 3000, b'y' * 3000])\n"
        "lease, loan = consumer.receive_nowait(), producer.loan(9)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    refused = 0\n"
        "    calls = [consumer.receive_nowait, consumer.arm, consumer.fileno, lambda: producer.try_send(b'z'),\n"
        "             producer.reclaim, loan.commit, lambda: producer.loan(1), consumer.wake_producer]\n"
        "    for call in calls:\n"
        "        try:\n            call()\n"
        "        except ClosedError as error:\n            refused += 'child' in str(error)\n"
        "    assert bytes(lease) == b'x' * 3000\n"
        "    del lease, loan\n"
        "    producer.close()\n"
        "    consumer.close()\n"
        "    del producer, consumer, calls, call\n"
        "    gc.collect()\n"
        "    os._exit(refused)\n"
        "_, status = os.waitpid(child, 0)\n"
        "assert os.waitstatus_to_exitcode(status) == 8, status\n"
        "assert producer.pool.free_slots == (1,)\n"
        "assert consumer.receive_bytes_nowait() == b'y' * 3000\n"
        "producer.send_nowait(b'still here')\n"
        "assert consumer.receive_bytes_nowait() == b'still here'\n"
        "lease.release()\n"
        "loan.abort()\n"
        "assert producer.pool.free_slots == (4,)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", ["consumer.receive()", "producer.send(b'x')"])
def test_a_signal_reaches_python_out_of_a_waiting_call(call: str) -> None:
    script = (
        "import signal\n"
        "from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec\n"
        "producer = ShmProducer(ShmSpec(classes=(), window_items=1))\n"
        "consumer = ShmConsumer.attach(producer.descriptors())\n"
        "if 'send' in sys.argv[1]:\n    producer.send_nowait(b'x')\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "try:\n    eval(sys.argv[1])\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", "import sys\n" + script, call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "interrupted\n", done.stderr


def test_a_large_copy_lets_other_threads_close_both_ends() -> None:
    spec = ShmSpec(classes=((8 << 20, 2),), window_items=4)
    for _ in range(20):
        with channel(spec) as (producer, consumer), ThreadPoolExecutor(2) as pool:
            payload = bytes(8 << 20)
            sent = pool.submit(producer.try_send, payload)
            producer.close()
            assert sent.exception() is None or isinstance(sent.exception(), ClosedError)
            taken = pool.submit(consumer.receive_bytes, SECOND)
            consumer.close()
            if taken.exception() is None:
                assert taken.result() == payload
            else:
                assert isinstance(taken.exception(), ClosedError | EndOfStream)
