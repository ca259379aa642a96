"""The contenders of ipc.py: how each opens its two ends, sends one message and receives one.

`prepare` runs in the parent; what it gives is inherited by the two children, which call `open` with their side, 0 or 1.
A contender whose library is missing says so by `missing`, and is skipped by that name.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.shm.port import ShmConsumer, ShmProducer, ShmSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

ACK_BYTES = 16
HEADER_BYTES = 8


class End(Protocol):
    """One end: blocking calls. What `receive` gives is valid until the next call of `receive`."""

    def send(self, payload: Any, /) -> None:
        """Send a copy of the payload."""
        ...

    def receive(self) -> Any:
        """Wait for the next message; a buffer."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class Contender(Protocol):
    """A way to carry bytes between two processes."""

    name: str
    needs: str

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """Make what both children inherit; `there_bytes` is the most that side 0 sends at once."""
        ...

    def open(self, shared: Any, side: int) -> End:
        """Open one end in a child."""
        ...


def missing(contender: Contender) -> str | None:
    """Why it cannot take part, or None."""
    if contender.needs and importlib.util.find_spec(contender.needs) is None:
        return f"{contender.name}: skipped, {contender.needs} is not installed"
    return None


# --- flowbridge ---------------------------------------------------------------------------------------------------


def ring_spec(payload_bytes: int) -> ShmSpec:
    """A ring, and slots only if the payload needs them."""
    slots = ((payload_bytes, 4),) if payload_bytes > ShmSpec().inline_bytes_max else ()
    return ShmSpec(classes=slots, prefault=True)


class _RingEnd:
    def __init__(self, producer: ShmProducer, consumer: ShmConsumer, *, small: bool, spin_ns: int | None) -> None:
        self.producer = producer
        self.consumer = consumer
        self.send: Callable[[Any], None] = producer.send
        if spin_ns is not None:
            consumer.spin_ns_max = spin_ns
        self.receive: Callable[[], Any] = consumer.receive_bytes if small else self._lease
        self._held: Any = None

    def _lease(self) -> Any:
        self._held = None
        self._held = self.consumer.receive()
        return self._held

    def close(self) -> None:
        self._held = None
        self.producer.close()
        self.consumer.close()


class Ring:
    """The raw data port as it comes: whoever waits looks for a short time, then sleeps."""

    name = "flowbridge"
    needs = ""
    spin_ns: int | None = None

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """A socket pair: a handle does not outlive a fork, so each child makes its producer and passes it on."""
        return there_bytes, back_bytes, socket.socketpair()

    def open(self, shared: Any, side: int) -> _RingEnd:
        """Make our direction, hand its descriptors over, and join the other direction."""
        there_bytes, back_bytes, pair = shared
        sock, other = pair[side], pair[1 - side]
        other.close()
        mine, theirs = (there_bytes, back_bytes) if side == 0 else (back_bytes, there_bytes)
        producer = ShmProducer(ring_spec(mine), name="bench")
        consumer = exchange(sock, producer)
        return _RingEnd(producer, consumer, small=theirs <= ShmSpec().inline_bytes_max, spin_ns=self.spin_ns)


class SleepingRing(Ring):
    """The same, asleep at once, as the C ring beside it."""

    name = "flowbridge, no spin"
    spin_ns = 0


def exchange(sock: socket.socket, producer: ShmProducer) -> ShmConsumer:
    """Swap producers with the other side of a socket, which is closed."""
    socket.send_fds(sock, [b"d"], producer.descriptors())
    consumer = take_consumer(sock)
    sock.close()
    return consumer


def take_consumer(sock: socket.socket) -> ShmConsumer:
    """Join the channel whose descriptors come over a socket."""
    _, descriptors, _, _ = socket.recv_fds(sock, 1, 4)
    consumer = ShmConsumer.attach(descriptors, name="bench")
    for descriptor in descriptors:
        os.close(descriptor)
    return consumer


# --- what the standard library has --------------------------------------------------------------------------------


class _SocketEnd:
    def __init__(self, sock: socket.socket, receive_bytes: int) -> None:
        self._sock = sock
        self._buffer = bytearray(receive_bytes)
        self.send = sock.sendall

    def receive(self) -> bytearray:
        buffer = self._buffer
        got = self._sock.recv_into(buffer, 0, socket.MSG_WAITALL)
        if got < len(buffer):
            raise EOFError("the other side is gone")
        return buffer

    def close(self) -> None:
        self._sock.close()


class BareSocket:
    """A Unix stream socket; both sides know the size, nothing is framed."""

    name = "UDS"
    needs = ""

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """A pair of sockets with the largest buffers that the system grants."""
        pair = socket.socketpair()
        for sock in pair:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        return pair, there_bytes, back_bytes

    def open(self, shared: Any, side: int) -> _SocketEnd:
        """Keep one of the two."""
        pair, there_bytes, back_bytes = shared
        pair[1 - side].close()
        return _SocketEnd(pair[side], back_bytes if side == 0 else there_bytes)


class _PipeEnd:
    def __init__(self, connection: Connection) -> None:
        self.send = connection.send_bytes
        self.receive = connection.recv_bytes
        self.close = connection.close


class Pipe:
    """A duplex `multiprocessing.Pipe`."""

    name = "mp.Pipe"
    needs = ""

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """The pair."""
        import multiprocessing

        return multiprocessing.Pipe(duplex=True)

    def open(self, shared: Any, side: int) -> _PipeEnd:
        """Keep one of the two."""
        shared[1 - side].close()
        return _PipeEnd(shared[side])


# --- a stamped payload --------------------------------------------------------------------------------------------

_STAMP = struct.Struct("<qq")


class Letter:
    """A payload that carries when it was sent and its number, at its start and at its end."""

    def __init__(self, size_bytes: int) -> None:
        self.body = bytearray((index * 31 + 7) & 0xFF for index in range(min(size_bytes, 4096)))
        self.body *= -(-size_bytes // len(self.body))
        del self.body[size_bytes:]
        self.view = memoryview(self.body)
        self._middle = bytes(self.body[16:-8])

    def stamp(self, number: int, now_ns: int) -> None:
        """Write the time and the number."""
        _STAMP.pack_into(self.body, 0, now_ns, number)
        struct.pack_into("<q", self.body, len(self.body) - 8, number)

    def sent_ns(self, found: Any, number: int) -> int:
        """When a received payload was sent; checks its size, its number at both ends, of every 64th every byte."""
        view = memoryview(found)
        sent_ns: int
        sent_ns, first = _STAMP.unpack_from(view, 0)
        (last,) = struct.unpack_from("<q", view, view.nbytes - 8)
        if view.nbytes != len(self.body) or first != number or last != number:
            raise ValueError(f"message {number}: {view.nbytes} bytes, numbered {first} and {last}")
        if number % 64 == 0 and bytes(view[16:-8]) != self._middle:
            raise ValueError(f"message {number}: other bytes than were sent")
        return sent_ns
