"""Arrow batches as bytes in a slot: the layout, one copy in, none out, and what garbage gets."""

from __future__ import annotations

import gc
import struct
import weakref
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest

from flowbridge.codec.batch import (
    BatchSchema,
    BatchTemplate,
    Validate,
    schema_from_bytes,
    stream_record,
    value_from_stream,
)
from flowbridge.codec.payload import PayloadWriter
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import PAYLOAD_IN_PLACE_BYTES_MIN, PAYLOAD_SCHEMA_BYTES_MAX

arrow: Any = pa  # the stubs leave much of it unknown

LARGE: Final = PAYLOAD_IN_PLACE_BYTES_MIN // 8 + 1  # rows of one float64 that are written in place
LEVELS: Final[tuple[Validate, ...]] = ("none", "structure", "full")


def slot(nbytes: int) -> Any:
    """Memory that starts at a multiple of 64 and was used before."""
    room = np.full(nbytes + 64, 0xA5, np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + nbytes]


def numbers(rows: int) -> Any:
    """Four columns, one of them text, with nulls and with metadata."""
    columns = {
        "x": arrow.array(np.arange(rows) / 3),
        "n": arrow.array(np.arange(rows), arrow.int32()),
        "s": arrow.array([None if i % 7 == 0 else "é" * (i % 16) for i in range(rows)]),
        "b": arrow.array([i % 3 == 0 for i in range(rows)]),
    }
    fields = [arrow.field(name, column.type, metadata={"unit": "V"}) for name, column in columns.items()]
    return arrow.record_batch(list(columns.values()), schema=arrow.schema(fields, metadata={"of": "test"}))


def written(batch: Any) -> Any:
    """The message of a batch, in a slot of its very size."""
    record = PayloadWriter().prepare(batch)
    room = slot(record.nbytes)
    record.write_into(memoryview(room))
    return room


def read(room: Any, schema: Any, validate: Validate = "structure") -> Any:
    """The batch that lies in a slot."""
    return BatchSchema(schema).read(room, validate)


@pytest.mark.parametrize("rows", [0, 1, 5, 64, 1000, LARGE])
@pytest.mark.parametrize("validate", LEVELS)
def test_a_batch_comes_back_equal(rows: int, validate: Validate) -> None:
    batch = numbers(rows)
    got = read(written(batch), batch.schema, validate)
    got.validate(full=True)
    assert got.equals(batch, check_metadata=True)


@pytest.mark.parametrize("rows", [1000, 4 * LARGE])
@pytest.mark.parametrize("first", [0, 3, 8, 64])
def test_a_slice_is_written_as_its_own_rows_only(rows: int, first: int) -> None:
    batch = numbers(rows)
    part = batch.slice(first, rows // 2)
    room = written(part)
    assert read(room, batch.schema).equals(part, check_metadata=True)
    assert room.nbytes < written(batch).nbytes * 0.6


@pytest.mark.parametrize("rows", [100, LARGE])
def test_the_body_is_aligned_and_what_is_read_lies_in_the_slot(rows: int) -> None:
    batch = numbers(rows)
    room = written(batch)
    mark, head_bytes = struct.unpack_from("<Ii", room)
    assert mark == 0xFFFFFFFF
    assert (8 + head_bytes) % (8 if rows < LARGE else 64) == 0
    address = room.ctypes.data
    for column in read(room, batch.schema).columns:
        for buffer in column.buffers():
            if buffer is not None:
                assert address <= buffer.address
                assert buffer.address + buffer.size <= address + room.nbytes
                assert buffer.address % 8 == 0


@pytest.mark.parametrize("rows", [100, LARGE])
def test_a_foreign_reader_understands_a_message(rows: int) -> None:
    batch = numbers(rows)
    room = written(batch)
    schema = arrow.ipc.read_schema(arrow.py_buffer(BatchSchema(batch.schema).to_bytes()))
    message = arrow.ipc.read_message(arrow.py_buffer(room))
    assert message.type == "record batch"
    assert 8 + message.metadata.size + message.body.size == room.nbytes
    assert arrow.ipc.read_record_batch(message, schema).equals(batch, check_metadata=True)


@pytest.mark.parametrize("rows", [100, LARGE])
def test_nothing_is_left_of_what_the_slot_held_before_the_body(rows: int) -> None:
    room = written(numbers(rows))
    head_bytes = struct.unpack_from("<i", room, 4)[0]
    metadata = bytes(room[8 : 8 + head_bytes])
    assert b"\xa5\xa5" not in metadata
    assert b"unit" not in metadata  # that of the schema, which was written there for a while


def test_a_slot_lives_until_the_last_slice_is_gone() -> None:
    class Lease:
        """Gone when nobody holds the memory."""

    batch = numbers(500)
    room = written(batch)
    lease = Lease()
    owned: Any = (np.ctypeslib.as_ctypes_type(np.uint8) * room.nbytes)()
    memoryview(owned).cast("B")[:] = memoryview(room)
    owned.lease = lease
    gone = weakref.ref(lease)
    got = read(memoryview(owned).toreadonly(), batch.schema)
    del lease, owned
    part = got.column(2).slice(3, 2)
    del got
    gc.collect()
    assert gone() is not None
    assert part.to_pylist() == batch.column(2).slice(3, 2).to_pylist()
    del part
    gc.collect()
    assert gone() is None


def test_writing_leaves_no_reference_to_the_target() -> None:
    for rows in (100, LARGE):
        batch = numbers(rows)
        record = PayloadWriter().prepare(batch)
        room = bytearray(record.nbytes)
        record.write_into(memoryview(room))
        room.append(0)  # BufferError while anybody looks at it
    table = stream_record(arrow.Table.from_batches([numbers(9)]))
    room = bytearray(table.nbytes)
    table.write_into(memoryview(room))
    room.append(0)


def test_a_target_that_is_too_short_is_refused() -> None:
    for rows in (10, LARGE):
        batch = numbers(rows)
        record = PayloadWriter().prepare(batch)
        with pytest.raises(EncodeError, match=f"{record.nbytes} bytes does not fit into {record.nbytes - 1}"):
            record.write_into(memoryview(bytearray(record.nbytes - 1)))


def test_rows_without_columns_are_counted() -> None:
    batch = numbers(7).select([])
    assert read(written(batch), batch.schema).num_rows == 7


def test_what_points_elsewhere_is_known_of_each_type() -> None:
    fixed = [
        *(
            arrow.int8(),
            arrow.float16(),
            arrow.bool_(),
            arrow.timestamp("ns", "UTC"),
            arrow.decimal128(9, 2),
            arrow.binary(4),
            arrow.null(),
        ),
        *(arrow.struct([("a", arrow.int64())]), arrow.list_(arrow.int8(), 3), arrow.date32(), arrow.duration("s")),
    ]
    pointing = [
        *(
            arrow.string(),
            arrow.large_binary(),
            arrow.string_view(),
            arrow.list_(arrow.int8()),
            arrow.map_(arrow.int8(), arrow.int8()),
        ),
        *(
            arrow.struct([("a", arrow.string())]),
            arrow.list_(arrow.string(), 3),
            arrow.dictionary(arrow.int8(), arrow.int8()),
        ),
        *(arrow.dense_union([arrow.field("a", arrow.int8())]), arrow.run_end_encoded(arrow.int32(), arrow.int8())),
    ]
    schema = arrow.schema([arrow.field(str(i), kind) for i, kind in enumerate([*fixed, *pointing])])
    assert BatchSchema(schema).pointing == tuple(range(len(fixed), len(fixed) + len(pointing)))


# --- dictionaries, tables -------------------------------------------------------------------------------------------


def through_a_stream(value: Any, validate: Validate = "structure") -> Any:
    """What comes of a value in the stream form."""
    record = stream_record(value)
    room = slot(record.nbytes)
    record.write_into(memoryview(room))
    return value_from_stream(room, table=isinstance(value, arrow.Table), validate=validate)


@pytest.mark.parametrize("validate", LEVELS)
def test_a_dictionary_travels_with_its_batch(validate: Validate) -> None:
    coded = arrow.array(["a", None, "b", "a"] * 50).dictionary_encode()
    batch: Any = arrow.record_batch({"d": coded, "n": arrow.array([[c] for c in coded], arrow.list_(coded.type))})
    assert BatchSchema(batch.schema).needs_stream
    for value in (batch, batch.slice(3, 5), batch.slice(0, 0), arrow.Table.from_batches([batch, batch.slice(7)])):
        assert through_a_stream(value, validate).equals(value, check_metadata=True)


def test_a_table_comes_back_without_and_with_rows() -> None:
    batch = numbers(LARGE)
    for table in (arrow.Table.from_batches([batch, batch.slice(5, 9)]), batch.schema.empty_table()):
        assert through_a_stream(table).equals(table, check_metadata=True)


# --- garbage --------------------------------------------------------------------------------------------------------


def compressed(batch: Any) -> Any:
    """The message of a batch with a compressed body, and the stream."""
    sink = arrow.BufferOutputStream()
    writer: Any = arrow.ipc.new_stream(sink, batch.schema, options=arrow.ipc.IpcWriteOptions(compression="lz4"))
    writer.write_batch(batch)
    writer.close()
    stream = sink.getvalue()
    messages = list(arrow.ipc.MessageReader.open_stream(stream))
    return messages[-1].serialize(), stream


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_head_that_was_good_is_looked_at_again_when_anything_in_it_or_the_length_differs(kind: Any) -> None:
    batch: Any = arrow.record_batch({"a": np.arange(9.0), "b": np.arange(9)})
    known = BatchSchema(batch.schema)
    room = bytes(written(batch))
    head_bytes = 8 + struct.unpack_from("<i", room, 4)[0]
    refused = 0
    for at in range(head_bytes):
        assert known.read(kind(room)).equals(batch)
        damaged = bytearray(room)
        damaged[at] ^= 0x81
        try:
            known.read(kind(damaged)).validate(full=True)
        except DecodeError:
            refused += 1
    assert refused > head_bytes // 4
    for data in (room[:-8], room[:head_bytes], room[:8], b"", room + bytes(8)):
        assert known.read(kind(room)).equals(batch)
        with pytest.raises(DecodeError):
            known.read(kind(data))


def test_a_good_head_vouches_for_no_text() -> None:
    batch: Any = arrow.record_batch({"s": arrow.array(["marker", "x"])})
    known = BatchSchema(batch.schema)
    room = bytearray(written(batch))
    assert known.read(bytes(room)).equals(batch)
    at = bytes(room).index(struct.pack("<iii", 0, 6, 7))
    struct.pack_into("<i", room, at + 4, 2**30)
    with pytest.raises(DecodeError):
        known.read(bytes(room))


def test_full_validation_looks_at_values_below_a_head_that_was_good() -> None:
    batch: Any = arrow.record_batch({"d": arrow.array([86_400_000], arrow.date64())})
    known = BatchSchema(batch.schema)
    room = bytes(written(batch))
    assert known.read(room).equals(batch)
    odd = room.replace(struct.pack("<q", 86_400_000), struct.pack("<q", 86_400_001))
    known.read(odd)
    with pytest.raises(DecodeError):
        known.read(odd, "full")


@pytest.mark.parametrize("kind", [arrow.float64(), arrow.bool_(), arrow.decimal128(9, 2), arrow.binary(3)])
def test_small_and_large_batches_of_fixed_width_come_back_equal(kind: Any) -> None:
    limit = 8 * PAYLOAD_IN_PLACE_BYTES_MIN // kind.bit_width
    schema = arrow.schema({"a": kind})
    for rows in (0, 1, limit // 2, limit - limit // 16, limit, limit + 64):
        batch: Any = arrow.record_batch([arrow.nulls(rows, kind)], schema=schema)
        assert read(written(batch), schema).equals(batch)


def test_a_small_message_is_at_hand_and_a_large_one_is_not() -> None:
    for rows in (1, 100, 2_000):
        prepared = PayloadWriter().prepare(numbers(rows))
        assert prepared.data is not None
        assert memoryview(prepared.data).format == "B"
        assert len(prepared.data) == prepared.nbytes
    assert PayloadWriter().prepare(numbers(LARGE)).data is None


def test_a_compressed_body_is_refused_before_it_is_unpacked() -> None:
    zeros: Any = arrow.record_batch({"a": np.zeros(100_000)})
    message, stream = compressed(zeros)
    assert arrow.ipc.read_record_batch(message, zeros.schema).equals(zeros)
    with pytest.raises(DecodeError, match="compressed"):
        read(message, zeros.schema)
    with pytest.raises(DecodeError, match="compressed"):
        value_from_stream(stream, table=False)
    coded: Any = arrow.record_batch({"d": arrow.array(["x" * 5000] * 9).dictionary_encode()})
    with pytest.raises(DecodeError, match="compressed"):
        value_from_stream(compressed(coded)[1], table=False)


def with_offset(batch: Any, row: int, value: int) -> Any:
    """The message of a batch with one column of text, one of whose offsets was changed."""
    room = written(batch)
    places = batch.column(0).buffers()[1]
    at = bytes(room).index(bytes(places)[: 4 * (batch.num_rows + 1)])
    struct.pack_into("<i", room, at + 4 * row, value)
    return room


@pytest.mark.parametrize("validate", ["structure", "full"])
@pytest.mark.parametrize("kind", [arrow.string(), arrow.binary()])
def test_offsets_that_leave_the_record_are_refused(validate: Validate, kind: Any) -> None:
    batch: Any = arrow.record_batch({"s": arrow.array(["ab", "cde", "f", "ghij"], kind)})
    for row, value in ((0, -1), (1, 2**30), (2, -(2**31)), (2, 1), (3, 11), (4, 2**31 - 1), (4, 10**6)):
        with pytest.raises(DecodeError):
            read(with_offset(batch, row, value), batch.schema, validate)


def test_an_index_beyond_its_dictionary_is_refused() -> None:
    batch: Any = arrow.record_batch(
        {"d": arrow.DictionaryArray.from_arrays(arrow.array([0, 1, 77], arrow.int8()), ["a", "b"], safe=False)}
    )
    record = stream_record(batch)
    room = bytearray(record.nbytes)
    record.write_into(memoryview(room))
    with pytest.raises(DecodeError):
        value_from_stream(room, table=False)


def test_a_message_for_another_schema_is_refused() -> None:
    batch: Any = arrow.record_batch({"a": arrow.array([1, 2], arrow.int8())})
    for other in (arrow.schema([("a", arrow.int64())]), arrow.schema([("a", arrow.int8()), ("b", arrow.int8())])):
        with pytest.raises(DecodeError):
            read(written(batch), other)


@pytest.mark.parametrize("rows", [9, LARGE])
def test_a_message_that_was_cut_or_went_on_is_refused(rows: int) -> None:
    batch = numbers(rows)
    data = bytes(written(batch))
    for nbytes in (0, 1, 4, 7, 8, 63, 64, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        with pytest.raises(DecodeError):
            read(data[:nbytes], batch.schema)
    with pytest.raises(DecodeError, match="ends before its bytes do"):
        read(data + bytes(8), batch.schema)


def test_a_stream_that_was_cut_or_went_on_is_refused() -> None:
    record = stream_record(numbers(9))
    room = bytearray(record.nbytes)
    record.write_into(memoryview(room))
    for data in (b"", room[:100], room[:-8], room + bytes(8), room + room):
        with pytest.raises(DecodeError):
            value_from_stream(bytes(data), table=False)
    two = stream_record(arrow.Table.from_batches([numbers(1), numbers(1)]))
    room = bytearray(two.nbytes)
    two.write_into(memoryview(room))
    with pytest.raises(DecodeError, match="further batches"):
        value_from_stream(bytes(room), table=False)


def test_text_that_is_not_utf8_is_found_by_full_validation_only() -> None:
    batch: Any = arrow.record_batch({"s": arrow.array(["marker"])})
    room = bytes(written(batch)).replace(b"marker", b"mark\xff\xff")
    assert read(room, batch.schema).column(0).cast(arrow.binary()).to_pylist() == [b"mark\xff\xff"]
    with pytest.raises(DecodeError):
        read(room, batch.schema, "full")


def test_a_schema_that_is_garbage_or_too_long_is_refused() -> None:
    good = BatchSchema(numbers(1).schema).to_bytes()
    assert schema_from_bytes(good).schema.equals(numbers(1).schema, check_metadata=True)
    for data in (b"", good[:20], bytes(200), written(numbers(1)).tobytes()):
        with pytest.raises(DecodeError):
            schema_from_bytes(data)
    with pytest.raises(DecodeError):
        schema_from_bytes(
            arrow.schema([("marker", arrow.int8())]).serialize().to_pybytes().replace(b"marker", b"mark\xff\xff")
        )
    long = arrow.schema([("a", arrow.int8())], metadata={"k": "x" * PAYLOAD_SCHEMA_BYTES_MAX})
    with pytest.raises(EncodeError, match=f"exceeds {PAYLOAD_SCHEMA_BYTES_MAX} bytes"):
        BatchSchema(long).to_bytes()


# --- templates ------------------------------------------------------------------------------------------------------

FIXED: Final[dict[str, Any]] = {
    "f": arrow.float64(),
    "h": arrow.float16(),
    "i": arrow.int8(),
    "u": arrow.uint16(),
    "t": arrow.timestamp("us", "UTC"),
    "d": arrow.duration("ms"),
    "day": arrow.date32(),
    "ms": arrow.date64(),
    "at": arrow.time32("s"),
    "ns": arrow.time64("ns"),
}


@pytest.mark.parametrize("rows", [1, 7, 64, 1001, LARGE])
def test_a_filled_template_is_a_message(rows: int) -> None:
    schema = arrow.schema(FIXED, metadata={"k": "v"})
    template = BatchTemplate(schema, rows)
    room = slot(template.nbytes)
    columns = template.views(memoryview(room))
    for index, (name, column) in enumerate(columns.items()):
        assert column.ctypes.data % 64 == 0
        column.view(np.uint8)[:] = 0
        value = 86_400_000 if name == "ms" else index + 1  # a date64 is a whole number of days
        column[-1] = np.asarray(value).astype(column.dtype)
    got: Any = None
    for validate in LEVELS:
        got = read(room, schema, validate)
        assert got.schema.equals(schema, check_metadata=True)
        assert got.num_rows == rows
        assert got.column(0)[rows - 1].as_py() == 1.0
        assert got.column(2)[rows - 1].as_py() == 3
        assert got.column(4).cast(arrow.int64())[rows - 1].as_py() == 5
        assert [column.null_count for column in got.columns] == [0] * len(FIXED)
    assert got.equals(arrow.ipc.read_record_batch(arrow.py_buffer(room), schema), check_metadata=True)


def test_a_template_writes_no_row_and_leaves_no_old_byte_between_columns() -> None:
    template = BatchTemplate(arrow.schema({"a": arrow.int8(), "b": arrow.int8()}), 3)
    room = slot(template.nbytes)
    for column in template.views(memoryview(room)).values():
        column[:] = 1
    assert b"\xa5" not in bytes(room)
    assert template.views(memoryview(room))["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "kind", [arrow.bool_(), arrow.string(), arrow.decimal128(9, 2), arrow.list_(arrow.int8()), arrow.null()]
)
def test_a_column_without_fixed_width_has_no_template(kind: Any) -> None:
    with pytest.raises(EncodeError, match="column odd is"):
        BatchTemplate(arrow.schema({"a": arrow.int8(), "odd": kind}), 3)


def test_a_template_needs_rows_names_of_their_own_and_room() -> None:
    schema = arrow.schema({"a": arrow.int8()})
    with pytest.raises(EncodeError, match="rows, not 0"):
        BatchTemplate(schema, 0)
    with pytest.raises(EncodeError, match="one name"):
        BatchTemplate(arrow.schema([("a", arrow.int8()), ("a", arrow.int8())]), 1)
    template = BatchTemplate(schema, 1)
    with pytest.raises(EncodeError, match="does not fit"):
        template.views(memoryview(bytearray(template.nbytes - 1)))
