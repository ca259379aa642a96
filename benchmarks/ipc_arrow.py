"""Arrow batches one way, and columns that are computed where they will be read."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from ipc_ends import ACK_BYTES, Ring
from ipc_pair import Bar, cpu_ns, percentiles_us, run_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc_ends import Contender

_ROOM_BYTES: Final = 4096
"""What an Arrow message of this schema needs beside its columns, rounded up generously."""
COLUMNS: Final = ("sent_ns", "a", "b", "c")


class Columns:
    """A batch over numpy columns of which the first holds the time and the number of the message."""

    def __init__(self, size_bytes: int) -> None:
        self.rows = max(size_bytes // 32, 2)
        self._times = np.zeros(self.rows, np.int64)
        others = [np.arange(self.rows, dtype=np.float64) * factor for factor in (1, 2, 3)]
        self.batch = pa.RecordBatch.from_arrays([pa.array(self._times), *map(pa.array, others)], names=list(COLUMNS))

    def stamp(self, number: int, now_ns: int) -> None:
        """Write into the batch; nothing is built."""
        self._times[0] = now_ns
        self._times[-1] = number

    def sent_ns(self, batch: pa.RecordBatch, number: int) -> int:
        """When a received batch was sent; checks its number, the last value, and of every 64th all columns."""
        times = batch.column(0).to_numpy()
        if batch.num_rows != self.rows or times[-1] != number or batch.column(3)[-1].as_py() != 3.0 * (self.rows - 1):
            raise ValueError(f"batch {number}: {batch.num_rows} rows, numbered {times[-1]}")
        if number % 64 == 0 and not all(batch.column(i).equals(self.batch.column(i)) for i in (1, 2, 3)):
            raise ValueError(f"batch {number}: other columns than were sent")
        return int(times[0])


def _peer_codec(contender: Contender, columns: Columns) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """An IPC message without its schema, which both sides know: the cheapest that pyarrow has."""
    schema = columns.batch.schema

    def pack(batch: pa.RecordBatch) -> Any:
        buffer: Any = batch.serialize()
        # iceoryx2 is handed an address, which ctypes takes from writable memory alone: numpy gives it for any.
        return np.frombuffer(buffer, np.uint8) if contender.needs == "iceoryx2" else memoryview(buffer)

    def unpack(data: Any) -> pa.RecordBatch:
        return pa.ipc.read_record_batch(pa.py_buffer(data), schema)

    return pack, unpack


def arrow(contender: Contender, size_bytes: int, count: int) -> dict[str, float]:
    """One way: from before the batch is encoded to after its columns can be read."""
    columns = Columns(size_bytes)
    ours = isinstance(contender, Ring)
    framed_bytes = size_bytes + _ROOM_BYTES if ours else columns.batch.serialize().size
    shared = contender.prepare(framed_bytes, ACK_BYTES)
    warm = max(count // 10, 4)

    def sends(bar: Bar, rank: int) -> dict[str, Any]:
        end = contender.open(shared, rank)
        bar.wait(rank)
        write = _ring_writer(end) if ours else _plain_writer(end, _peer_codec(contender, columns)[0])
        cpu = 0
        for number in range(warm + count):
            if number == warm:
                cpu = cpu_ns()
            columns.stamp(number, time.monotonic_ns())
            write(columns.batch)
            end.receive()
        cpu = cpu_ns() - cpu
        end.close()
        return {"cpu_ns": cpu}

    def receives(bar: Bar, rank: int) -> dict[str, Any]:
        end = contender.open(shared, rank)
        bar.wait(rank)
        read = _ring_reader(end) if ours else _plain_reader(end, _peer_codec(contender, columns)[1])
        took: list[int] = []
        ack, cpu = bytearray(ACK_BYTES), 0
        for number in range(warm + count):
            if number == warm:
                cpu = cpu_ns()
                took.clear()
            batch = read()
            now = time.monotonic_ns()
            took.append(now - columns.sent_ns(batch, number))
            del batch
            end.send(ack)
        cpu = cpu_ns() - cpu
        time.sleep(0.02)  # the last answer is on its way
        end.close()
        return {"cpu_ns": cpu, **percentiles_us(took)}

    sent, received = run_group([sends, receives])
    cpu_us = (sent["cpu_ns"] + received["cpu_ns"]) / 1e3 / count
    return {"one_way_p50_us": received["p50"], "one_way_p99_us": received["p99"], "cpu_us": cpu_us}


def _plain_writer(end: Any, pack: Callable[[Any], Any]) -> Callable[[Any], None]:
    send = end.send
    return lambda batch: send(pack(batch))


def _plain_reader(end: Any, unpack: Callable[[Any], Any]) -> Callable[[], Any]:
    receive = end.receive
    return lambda: unpack(receive())


def _ring_writer(end: Any) -> Callable[[Any], None]:
    from flowbridge.shm.arrow import BatchProducer

    return BatchProducer(end.producer).send_batch


def _ring_reader(end: Any) -> Callable[[], Any]:
    from flowbridge.shm.arrow import BatchConsumer

    return BatchConsumer(end.consumer).receive_batch


# --- computed in place --------------------------------------------------------------------------------------------


def computed(contender: Contender, size_bytes: int, count: int) -> dict[str, float]:
    """One way from before a column is computed: by the ring in a loaned slot, by others in memory that is copied."""
    shared = contender.prepare(size_bytes, ACK_BYTES)
    rows, warm = size_bytes // 8, max(count // 10, 4)
    source = np.arange(rows, dtype=np.float64)
    ours = isinstance(contender, Ring)

    def sends(bar: Bar, rank: int) -> dict[str, Any]:
        end: Any = contender.open(shared, rank)
        bar.wait(rank)
        private = bytearray(0 if ours else size_bytes)
        cpu = 0
        for number in range(warm + count):
            if number == warm:
                cpu = cpu_ns()
            start = time.monotonic_ns()
            if ours:
                loan = end.producer.loan(size_bytes)
                with memoryview(loan) as target:
                    _compute(source, np.frombuffer(target, np.float64), number, start)
                loan.commit()
            else:
                _compute(source, np.frombuffer(private, np.float64), number, start)
                end.send(private)
            end.receive()
        cpu = cpu_ns() - cpu
        end.close()
        return {"cpu_ns": cpu}

    def receives(bar: Bar, rank: int) -> dict[str, Any]:
        end = contender.open(shared, rank)
        bar.wait(rank)
        took: list[int] = []
        ack, cpu = bytearray(ACK_BYTES), 0
        for number in range(warm + count):
            if number == warm:
                cpu = cpu_ns()
                took.clear()
            found = np.frombuffer(end.receive(), np.float64)
            now = time.monotonic_ns()
            took.append(now - int(found[:1].view(np.int64)[0]))
            if found[1] != number + 1 or found[-1] != rows - 1 + number:
                raise ValueError(f"message {number}: other values than were computed")
            del found
            end.send(ack)
        cpu = cpu_ns() - cpu
        time.sleep(0.02)
        end.close()
        return {"cpu_ns": cpu, **percentiles_us(took)}

    sent, received = run_group([sends, receives])
    cpu_us = (sent["cpu_ns"] + received["cpu_ns"]) / 1e3 / count
    return {"one_way_p50_us": received["p50"], "one_way_p99_us": received["p99"], "cpu_us": cpu_us}


def _compute(source: Any, target: Any, number: int, start_ns: int) -> None:
    np.add(source, float(number), out=target)
    target[:1].view(np.int64)[0] = start_ns
