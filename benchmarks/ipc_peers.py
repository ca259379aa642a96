"""The messaging products among the contenders of ipc.py: pyzmq, iceoryx2 and zenoh, each as its manual uses it."""

from __future__ import annotations

import ctypes
import importlib
import os
import tempfile
import time
import uuid
from typing import Any


def library(name: str) -> Any:
    """A peer's module, which need not be installed where this is checked."""
    return importlib.import_module(name)


# --- pyzmq --------------------------------------------------------------------------------------------------------

_ZERO_COPY_BYTES_MIN = 65536  # pyzmq's own threshold


class _ZmqEnd:
    def __init__(self, address: str, side: int) -> None:
        zmq = library("zmq")

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._frame: Any = None
        if side == 0:
            self._socket.bind(address)
        else:
            self._socket.connect(address)

    def send(self, payload: Any) -> None:
        self._socket.send(payload, copy=len(payload) < _ZERO_COPY_BYTES_MIN)

    def receive(self) -> Any:
        self._frame = self._socket.recv(copy=False)
        return self._frame.buffer

    def close(self) -> None:
        self._frame = None
        self._socket.close()
        self._context.term()


class Zmq:
    """pyzmq over ipc, a PAIR of sockets."""

    name = "pyzmq"
    needs = "zmq"

    def prepare(self, there_bytes: int, back_bytes: int) -> str:
        """An address in the abstract name space: nothing in the file system."""
        return f"ipc://@flowbridge-{uuid.uuid4().hex}"

    def open(self, shared: str, side: int) -> _ZmqEnd:
        """Bind or connect."""
        return _ZmqEnd(shared, side)


# --- iceoryx2 -----------------------------------------------------------------------------------------------------


def _address(payload: Any) -> Any:
    """What memmove reads from: an array's address, or that of writable memory."""
    array = getattr(payload, "ctypes", None)
    return array.data if array is not None else (ctypes.c_char * len(payload)).from_buffer(payload)


class IceoryxSender:
    """Publisher and notifier: a sample is one copy in, then an event."""

    def __init__(self, node: Any, name: str, size_bytes: int, readers: int = 1) -> None:
        iox2 = library("iceoryx2")

        service = (
            node.service_builder(iox2.ServiceName.new(name))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_subscribers(max(readers, 1))
            .open_or_create()
        )
        events = node.service_builder(iox2.ServiceName.new(name)).event().open_or_create()
        self._publisher = service.publisher_builder().initial_max_slice_len(size_bytes).create()
        self._notifier = events.notifier_builder().create()
        self._keep = service, events

    def send(self, payload: Any) -> None:
        """Copy in, send, wake."""
        nbytes = len(payload)
        sample = self._publisher.loan_slice_uninit(nbytes)
        ctypes.memmove(sample.payload_ptr, _address(payload), nbytes)
        sample.assume_init().send()
        self._notifier.notify()


class IceoryxReceiver:
    """Subscriber and listener: a sample is read where it lies."""

    def __init__(self, node: Any, name: str, readers: int = 1) -> None:
        iox2 = library("iceoryx2")

        service = (
            node.service_builder(iox2.ServiceName.new(name))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_subscribers(max(readers, 1))
            .open_or_create()
        )
        events = node.service_builder(iox2.ServiceName.new(name)).event().open_or_create()
        self._subscriber = service.subscriber_builder().create()
        self._listener = events.listener_builder().create()
        self._second = iox2.Duration.from_secs(1)
        self._sample: Any = None
        self._keep = service, events

    def receive(self) -> Any:
        """Take, or wait for the event and look again."""
        if self._sample is not None:
            self._sample.delete()
        while True:
            sample = self._sample = self._subscriber.receive()
            if sample is not None:
                found = sample.payload()
                return (ctypes.c_uint8 * found.len()).from_address(found.as_ptr())
            self._listener.timed_wait(self._second)

    def close(self) -> None:
        """Give the last sample back."""
        if self._sample is not None:
            self._sample.delete()
            self._sample = None


def iceoryx_node() -> Any:
    """A node of this process."""
    iox2 = library("iceoryx2")

    iox2.set_log_level(iox2.LogLevel.Error)
    return iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)


class _IceoryxEnd:
    def __init__(self, name: str, side: int, size_bytes: int) -> None:
        self._node = iceoryx_node()
        self._receiver = IceoryxReceiver(self._node, f"{name}/{1 - side}")
        self._sender = IceoryxSender(self._node, f"{name}/{side}", size_bytes)
        self.send = self._sender.send
        self.receive = self._receiver.receive

    def close(self) -> None:
        self._receiver.close()
        del self.send, self.receive, self._sender, self._receiver, self._node


class Iceoryx:
    """iceoryx2: publish-subscribe for the data, an event for the wake-up."""

    name = "iceoryx2"
    needs = "iceoryx2"

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """A name."""
        return f"flowbridge/{uuid.uuid4().hex}", there_bytes, back_bytes

    def open(self, shared: Any, side: int) -> _IceoryxEnd:
        """Two services for each direction."""
        name, there_bytes, back_bytes = shared
        return _IceoryxEnd(name, side, back_bytes if side else there_bytes)


# --- zenoh --------------------------------------------------------------------------------------------------------

_SHARED_BYTES_MIN = 4096  # below, shared memory costs more than it saves


class _ZenohEnd:
    def __init__(self, name: str, side: int, size_bytes: int) -> None:
        zenoh = library("zenoh")

        config = zenoh.Config()
        path = f"unixsock-stream/{tempfile.gettempdir()}/{name}"
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("listen/endpoints", f'["{path}"]' if side == 0 else "[]")
        config.insert_json5("connect/endpoints", f'["{path}"]' if side == 1 else "[]")
        config.insert_json5("transport/shared_memory/enabled", "true")
        self._path = path
        self._session = zenoh.open(config)
        self._subscriber = self._session.declare_subscriber(f"{name}/{1 - side}")
        block = zenoh.CongestionControl.BLOCK
        self._publisher = self._session.declare_publisher(f"{name}/{side}", congestion_control=block)
        self._provider: Any = None
        if size_bytes >= _SHARED_BYTES_MIN:
            self._provider = zenoh.shm.ShmProvider.default_backend(4 * size_bytes)
            self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
        until = time.monotonic() + 10
        while not self._publisher.matching_status.matching:  # what is put before goes nowhere
            if time.monotonic() > until:
                raise TimeoutError("zenoh: the two sessions did not find each other in 10 s")
            time.sleep(0.01)

    def send(self, payload: Any) -> None:
        if self._provider is None:
            self._publisher.put(bytes(payload))
            return
        place = self._provider.alloc(len(payload), policy=self._policy)
        place[:] = payload if isinstance(payload, bytearray) else bytes(payload)  # it takes no other buffer
        self._publisher.put(place)

    def receive(self) -> bytes:
        return bytes(self._subscriber.recv().payload)

    def close(self) -> None:
        self._session.close()
        self.__dict__.clear()  # the last reference takes its shared memory with it


class Zenoh:
    """zenoh between two peers on a Unix socket, payloads in its shared memory."""

    name = "zenoh"
    needs = "zenoh"

    def prepare(self, there_bytes: int, back_bytes: int) -> Any:
        """A name for the socket and the keys."""
        return f"flowbridge-{os.getpid()}-{uuid.uuid4().hex[:8]}", there_bytes, back_bytes

    def open(self, shared: Any, side: int) -> _ZenohEnd:
        """Listen or connect."""
        name, there_bytes, back_bytes = shared
        return _ZenohEnd(name, side, back_bytes if side else there_bytes)
