"""Messages as fast as they go, one message to four readers, and round trips between two event loops."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from ipc_ends import Letter, exchange, take_consumer
from ipc_pair import Bar, cpu_ns, percentiles_us, run_group
from ipc_peers import IceoryxReceiver, IceoryxSender, iceoryx_node, library

from flowbridge.shm.port import ShmProducer, ShmSpec, SlotPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc_ends import Contender, End

    from flowbridge.shm.port import ShmConsumer

BATCH: Final = 64
READERS: Final = 4

# --- messages per second ------------------------------------------------------------------------------------------


def stream(contender: Contender, size_bytes: int, count: int) -> dict[str, float]:
    """Messages per second from one process to the other; the receiver compares every one with what was sent."""
    shared = contender.prepare(size_bytes, size_bytes)
    expected = bytes(Letter(size_bytes).body)

    def sends(bar: Bar, rank: int) -> dict[str, Any]:
        end: End = contender.open(shared, rank)
        bar.wait(rank)
        send, payload = end.send, expected
        start, cpu = time.monotonic_ns(), cpu_ns()
        for _ in range(count):
            send(payload)
        cpu = cpu_ns() - cpu
        bar.wait(rank)
        end.close()
        return {"start_ns": start, "cpu_ns": cpu}

    def receives(bar: Bar, rank: int) -> dict[str, Any]:
        end: End = contender.open(shared, rank)
        bar.wait(rank)
        receive, wrong, cpu = end.receive, 0, cpu_ns()
        for _ in range(count):
            wrong += receive() != expected
        stop, cpu = time.monotonic_ns(), cpu_ns() - cpu
        bar.wait(rank)
        end.close()
        return {"stop_ns": stop, "cpu_ns": cpu, "wrong": wrong}

    return _rate(run_group([sends, receives]), count)


def _rate(found: list[dict[str, Any]], count: int) -> dict[str, float]:
    sent, received = found
    if received["wrong"]:
        raise ValueError(f"{received['wrong']} of {count} messages have other bytes than were sent")
    seconds = (received["stop_ns"] - sent["start_ns"]) / 1e9
    cpu_us = (sent["cpu_ns"] + received["cpu_ns"]) / 1e3 / count
    return {"million_per_s": count / seconds / 1e6, "cpu_us": cpu_us}


def ring_batches(size_bytes: int, count: int) -> dict[str, float]:
    """The ring with `send_many` of 64 and `take_records`, every payload compared."""
    pair = socket.socketpair()
    payload = bytes(Letter(size_bytes).body)
    count -= count % BATCH

    def sends(bar: Bar, rank: int) -> dict[str, Any]:
        producer = ShmProducer(ShmSpec(classes=(), window_items=4096, ring_bytes=1 << 20, prefault=True), name="bench")
        _hand_over(pair[0], producer)
        bar.wait(rank)
        batch, send, left = [payload] * BATCH, producer.send_many, count
        start, cpu = time.monotonic_ns(), cpu_ns()
        while left:
            done = send(batch if left >= BATCH else batch[:left])
            left -= done
            if done < BATCH and left:
                producer.wait_space(100_000_000)
        cpu = cpu_ns() - cpu
        bar.wait(rank)
        producer.close()
        return {"start_ns": start, "cpu_ns": cpu}

    def receives(bar: Bar, rank: int) -> dict[str, Any]:
        consumer = take_consumer(pair[1])
        bar.wait(rank)
        take, left, wrong, cpu = consumer.take_records, count, 0, cpu_ns()
        while left:
            records = take(256)
            if not records:
                first = consumer.receive_bytes()
                wrong += first != payload
                left -= 1
                continue
            wrong += sum(record[9] != payload for record in records)
            left -= len(records)
        stop, cpu = time.monotonic_ns(), cpu_ns() - cpu
        bar.wait(rank)
        consumer.close()
        return {"stop_ns": stop, "cpu_ns": cpu, "wrong": wrong}

    return _rate(run_group([sends, receives]), count)


def _hand_over(sock: socket.socket, producer: ShmProducer) -> None:
    socket.send_fds(sock, [b"d"], producer.descriptors())


# --- one to four --------------------------------------------------------------------------------------------------


def fan_out(name: str, size_bytes: int, count: int) -> dict[str, float]:
    """Median time until the last of four readers has said by a socket that it has the message."""
    acks = [socket.socketpair() for _ in range(READERS)]
    data = [socket.socketpair() for _ in range(READERS)]
    service, letter = f"flowbridge/{uuid.uuid4().hex}", Letter(size_bytes)
    warm = max(count // 10, 4)

    def publishes(bar: Bar, rank: int) -> dict[str, Any]:
        send, close = _fan_sender(name, size_bytes, [near for near, _ in data], service)
        bar.wait(rank)
        return _publish(send, close, letter, warm, count, [near for near, _ in acks])

    def reads(bar: Bar, rank: int) -> dict[str, Any]:
        receive, close = _fan_reader(name, size_bytes, data[rank - 1][1], service)
        bar.wait(rank)
        ack, cpu = acks[rank - 1][1], 0
        for number in range(warm + count):
            if number == warm:
                cpu = cpu_ns()
            letter.sent_ns(receive(), number)
            ack.sendall(b"a")
        cpu = cpu_ns() - cpu
        close()
        return {"cpu_ns": cpu}

    try:
        found = run_group([publishes, *[reads] * READERS])
    finally:
        for near, far in acks + data:
            near.close()
            far.close()
    cpu_us = sum(answer["cpu_ns"] for answer in found) / 1e3 / count
    return {"all_p50_us": found[0]["p50"], "all_p99_us": found[0]["p99"], "cpu_us": cpu_us}


def _publish(
    send: Callable[[Any], None],
    close: Callable[[], None],
    letter: Letter,
    warm: int,
    count: int,
    acks: list[socket.socket],
) -> dict[str, Any]:
    took: list[int] = []
    cpu = 0
    for number in range(warm + count):
        if number == warm:
            cpu = cpu_ns()
            took.clear()
        start = time.monotonic_ns()
        letter.stamp(number, start)
        send(letter.body)
        for ack in acks:
            if not ack.recv(1):
                raise EOFError("a reader is gone")
        took.append(time.monotonic_ns() - start)
    cpu = cpu_ns() - cpu
    close()
    return {"cpu_ns": cpu, **percentiles_us(took)}


def _fan_sender(
    name: str, size_bytes: int, socks: list[socket.socket], service: str
) -> tuple[Callable[[Any], None], Callable[[], None]]:
    if name == "flowbridge":
        pool = SlotPool(ShmSpec(classes=((size_bytes, 4),), prefault=True), name="bench")
        producers = [pool.producer(name=f"bench{index}") for index in range(len(socks))]
        for sock, producer in zip(socks, producers, strict=True):
            _hand_over(sock, producer)

        def close() -> None:
            for producer in producers:
                producer.close()
            pool.close()

        return lambda payload: pool.fan_send(producers, payload), close
    if name == "iceoryx2":
        node = iceoryx_node()
        return IceoryxSender(node, service, size_bytes, READERS).send, lambda: None
    if name == "pyzmq":
        zmq = library("zmq")

        context: Any = zmq.Context()
        publisher = context.socket(zmq.XPUB)
        publisher.linger = 0
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # else only the first of equal subscriptions is seen
        publisher.bind(f"ipc://@{service}")
        for sock in socks:
            sock.sendall(b"b")
        for _ in socks:
            publisher.recv()  # a subscription
        return lambda payload: publisher.send(payload, copy=False), lambda: context.destroy(0)

    def to_all(payload: Any) -> None:
        for sock in socks:
            sock.sendall(payload)

    return to_all, lambda: None


def _fan_reader(
    name: str, size_bytes: int, sock: socket.socket, service: str
) -> tuple[Callable[[], Any], Callable[[], None]]:
    if name == "flowbridge":
        consumer = take_consumer(sock)
        return consumer.receive, consumer.close
    if name == "iceoryx2":
        receiver = IceoryxReceiver(iceoryx_node(), service, READERS)
        return receiver.receive, receiver.close
    if name == "pyzmq":
        zmq = library("zmq")

        sock.recv(1)
        context: Any = zmq.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.connect(f"ipc://@{service}")
        subscriber.subscribe(b"")
        return lambda: subscriber.recv(copy=False).buffer, lambda: context.destroy(0)
    buffer = bytearray(size_bytes)

    def receive() -> bytearray:
        sock.recv_into(buffer, 0, socket.MSG_WAITALL)
        return buffer

    return receive, lambda: None


# --- event loops --------------------------------------------------------------------------------------------------


def loops(name: str, size_bytes: int, count: int) -> dict[str, float]:
    """Round trips between two uvloop programs; both keep their loop, and answer from its callbacks."""
    import uvloop

    pair = socket.socketpair()
    expected = bytes(Letter(size_bytes).body)

    def runs(bar: Bar, rank: int) -> dict[str, Any]:
        pair[1 - rank].close()
        session = _ring_session if name == "flowbridge" else _socket_session
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(session(pair[rank], bar, rank, expected, count))

    asked, answered = run_group([runs, runs])
    cpu_us = (asked["cpu_ns"] + answered["cpu_ns"]) / 1e3 / count
    return {"rtt_p50_us": asked["p50"], "rtt_p99_us": asked["p99"], "cpu_us": cpu_us}


class _Player:
    """Sends again whatever comes, until enough has come; side 0 keeps the times."""

    def __init__(self, rank: int, expected: bytes, count: int) -> None:
        self.send: Callable[[bytes], object] = self._nobody
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asks = rank == 0
        self._expected = expected
        self._left = count + count // 10
        self._took: list[int] = []
        self._start = 0
        self._cpu = cpu_ns()
        self._count = count

    @staticmethod
    def _nobody(payload: bytes) -> None:
        raise AssertionError("nothing is joined yet")

    def begin(self) -> None:
        if self._asks:
            self._start = time.monotonic_ns()
            self.send(self._expected)

    def came(self, payload: Any) -> None:
        now = time.monotonic_ns()
        if payload != self._expected:
            raise ValueError("other bytes came than were sent")
        self._took.append(now - self._start)
        self._left -= 1
        if self._left == self._count:
            self._took.clear()
            self._cpu = cpu_ns()
        if not self._asks:
            self.send(self._expected)
        if not self._left:
            self.over.set_result(None)
        elif self._asks:
            self._start = time.monotonic_ns()
            self.send(self._expected)

    def result(self) -> dict[str, Any]:
        return {"cpu_ns": cpu_ns() - self._cpu, **percentiles_us(self._took)}


class _Protocol(asyncio.Protocol):
    def __init__(self, player: _Player) -> None:
        self._player = player

    def data_received(self, data: bytes) -> None:
        self._player.came(data)


async def _socket_session(sock: socket.socket, bar: Bar, rank: int, expected: bytes, count: int) -> dict[str, Any]:
    player = _Player(rank, expected, count)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: _Protocol(player), sock=sock)
    player.send = transport.write
    return await _play(player, bar, rank, transport.close)


async def _ring_session(sock: socket.socket, bar: Bar, rank: int, expected: bytes, count: int) -> dict[str, Any]:
    player = _Player(rank, expected, count)
    producer = ShmProducer(ShmSpec(classes=(), prefault=True), name="bench")
    consumer: ShmConsumer = exchange(sock, producer)
    player.send = producer.try_send
    take, arm, clear = consumer.receive_bytes_nowait, consumer.arm, consumer.clear

    def readable() -> None:
        clear()
        while True:
            payload = take()
            if payload is not None:
                player.came(payload)
            elif arm():
                return

    loop = asyncio.get_running_loop()
    loop.add_reader(consumer.fileno(), readable)
    if not consumer.arm():
        loop.call_soon(readable)

    def close() -> None:
        loop.remove_reader(consumer.fileno())
        producer.close()
        consumer.close()

    return await _play(player, bar, rank, close)


async def _play(player: _Player, bar: Bar, rank: int, close: Callable[[], object]) -> dict[str, Any]:
    bar.wait(rank)
    player.begin()
    await player.over
    answer = player.result()
    bar.wait(rank)  # the last answer has arrived before anything is closed
    close()
    return answer
