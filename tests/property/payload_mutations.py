"""Damages records by chance and reads them: run as a program, so that a crash is one of its own process.

usage: payload_mutations.py SEED COUNT; prints how many were read and how many refused.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import faulthandler
import random
import sys
from typing import Any, Final

import pyarrow as pa

from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.errors import DecodeError, RemoteProtocolError

arrow: Any = pa  # the stubs leave much of it unknown

EXTREMES: Final = (0, 1, 7, 8, 63, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
REFUSALS: Final = (DecodeError, RemoteProtocolError)


def samples() -> list[Any]:
    """One payload for each way of reading."""
    rows = 21
    batch: Any = arrow.record_batch(
        {
            "f": arrow.array([None if i % 5 == 0 else i / 3 for i in range(rows)]),
            "s": arrow.array([None if i % 7 == 0 else "é" * (i % 9) for i in range(rows)]),
            "ls": arrow.array([str(i) for i in range(rows)], arrow.large_string()),
            "v": arrow.array([f"{i} " * (i % 12) for i in range(rows)], arrow.string_view()),
            "b": arrow.array([i % 3 == 0 for i in range(rows)]),
            "l": arrow.array([["x" * i] * (i % 3) for i in range(rows)]),
            "st": arrow.array([{"x": i, "y": str(i)} for i in range(rows)]),
            "m": arrow.array([[(str(i), i)] for i in range(rows)], arrow.map_(arrow.string(), arrow.int64())),
            "fl": arrow.array([[i, i] for i in range(rows)], arrow.list_(arrow.int32(), 2)),
            "n": arrow.nulls(rows),
            "u": arrow.UnionArray.from_dense(
                arrow.array([i % 2 for i in range(rows)], arrow.int8()),
                arrow.array([i // 2 for i in range(rows)], arrow.int32()),
                [arrow.array(list(range(rows))), arrow.array([str(i) for i in range(rows)])],
            ),
        }
    )
    coded: Any = arrow.record_batch(
        {"d": arrow.array(["a", "b", None, "a"] * 5).dictionary_encode(), "i": list(range(20))}
    )
    tree = {
        "a": [1, -2.5, None, True, "text", b"bytes", 2**70],
        "t": (1, (2, "x")),
        "k": {1: "one", "two": 2},
        "d": [dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC), dt.datetime(2021, 1, 1), dt.date(2022, 2, 2)],
        "n": decimal.Decimal("-1.50"),
    }
    numbers: Any = arrow.record_batch({"a": [1.5] * 9, "b": [1] * 9})
    return [batch, numbers, batch.select([1]), coded, arrow.Table.from_batches([coded, coded]), tree, [1, "x"], b"raw"]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A record with a few bytes changed, lost or added."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        at = chance.randrange(len(changed))
        if chance.random() < 0.5:
            at = min(at, chance.randrange(512))  # heads are short, and most is decided in them
        way = chance.randrange(8)
        if way < 3:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 3:
            changed[at] = chance.randrange(256)
        elif way < 6:
            width = chance.choice((2, 4, 8))
            at -= at % width
            value = chance.choice(EXTREMES) % 2 ** (8 * width)
            changed[at : at + width] = value.to_bytes(width, "little")
        elif way == 6:
            del changed[at:]
        else:
            changed[at:at] = chance.randbytes(chance.choice((1, 8, 64)))
    return bytes(changed)


def touch(value: Any) -> None:
    """Look at all of a value that was read, as an operator would."""
    if isinstance(value, arrow.RecordBatch | arrow.Table):
        if value.num_rows > 10_000:  # columns of nulls have no bytes to bound them
            value = value.slice(value.num_rows - 1_000)
        # Text need not be UTF-8, a number need not be a date: an operator gets an exception of Python, no crash.
        with contextlib.suppress(ValueError, OverflowError):
            value.to_pylist()
        with contextlib.suppress(arrow.ArrowException):
            value.take(list(range(value.num_rows))[::-1])
    else:
        repr(value)


def mutate(seed: int, count: int) -> tuple[int, int]:
    """Read so many damaged records; how many were read all the same, and how many refused."""
    chance = random.Random(seed)
    writer = PayloadWriter()
    prepared = [writer.prepare(payload) for payload in samples()]
    records = [(p.codec, p.tag, bytes(p.to_bytes())) for p in prepared]
    controls = [control for p in prepared for control in p.before]
    readers = [PayloadReader(validate="structure"), PayloadReader(validate="full")]
    for reader in readers:
        for control in controls:
            reader.control(*control)
    read = 0
    for turn in range(count):
        try:
            if turn % 16 == 0:
                codec, tag, data = chance.choice(controls)
                PayloadReader().control(codec, tag, damaged(data, chance))
            else:
                codec, tag, data = chance.choice(records)
                touch(chance.choice(readers).read(codec, tag, damaged(data, chance)))
            read += 1
        except REFUSALS:
            pass
    return read, count - read


if __name__ == "__main__":
    faulthandler.enable()
    print(*mutate(int(sys.argv[1]), int(sys.argv[2])))
