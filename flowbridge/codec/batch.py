"""Arrow record batches and tables as bytes in a slot, and back in place.

Three forms, all of the Arrow columnar format, section on serialization and interprocess communication (IPC):
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc

*Schema*: the encapsulated Schema message. Sent once per route, under a number.

*Message*: one encapsulated RecordBatch message, uncompressed, for the schema of that number.

    0       4    FF FF FF FF
    4       4    i32, little endian: n, the bytes of metadata and padding
    8       n    metadata (a flatbuffer, Message.fbs), then zeros, so that 8 + n is a multiple of 8, and of 64 in a
                 message of `PAYLOAD_IN_PLACE_BYTES_MIN` bytes or more and in that of a `BatchTemplate`
    8 + n   m    the body: the buffers of the columns, where the metadata says; m is `bodyLength`. Nothing follows.

Any Arrow implementation reads it: ``pyarrow.ipc.read_record_batch(record, schema)``. Within the body every buffer
starts at a multiple of 8, as the writer of Arrow C++ puts it; those of a `BatchTemplate` start at multiples of 64. A
slice is written as its own rows only.

*Stream*: a whole IPC stream, schema included and end-of-stream marker last. For what a message cannot say alone:
columns that are dictionary-encoded, tables, and schemas beyond `PAYLOAD_SCHEMAS_MAX`. Its buffers start at multiples
of 8.

A batch that was read lies in the buffer it was read from and keeps it alive until its last slice is gone.

Garbage is refused before it can do harm. With ``structure`` every buffer is held against the record and the number of
rows, and the numbers that point elsewhere (offsets of text and lists, indices of dictionaries, unions) are each looked
at. Columns of fixed width cost nothing per row: where there are only such, head and length decide, and a message that
has those of the one before is not looked at again. ``full`` looks at all values, also whether text is UTF-8 and nulls
are as many as said. ``none`` trusts the sender with the memory of this process. Does not promise: anything when the
sender changes a record that it has handed over.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa

from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import PAYLOAD_IN_PLACE_BYTES_MIN, PAYLOAD_ROWS_MAX, PAYLOAD_SCHEMA_BYTES_MAX

if TYPE_CHECKING:
    from flowbridge.contracts import BytesLike

Validate: TypeAlias = Literal["none", "structure", "full"]

ALIGNMENT_BYTES: Final = 64
_CONTINUATION: Final = 0xFFFFFFFF
_PREFIX: Final = struct.Struct("<Ii")
_UINT32: Final = struct.Struct("<I")
_INT32: Final = struct.Struct("<i")
_UINT16: Final = struct.Struct("<H")
_INT64: Final = struct.Struct("<q")
_END_OF_STREAM_BYTES: Final = 8
_COPY_BYTES_MAX: Final = 4_096  # a copy of so many bytes takes less time than a view of a buffer
# Fields of the tables of Message.fbs, counted from 0.
_MESSAGE_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 3
_DICTIONARY_DATA = 1

_pa: Any = pa  # the stubs do not know all of pyarrow.ipc
_py_buffer: Final[Any] = pa.py_buffer
_read_message: Final[Any] = pa.ipc.read_message
_read_record_batch: Final[Any] = pa.ipc.read_record_batch


def _aligned(size_bytes: int) -> int:
    return (size_bytes + ALIGNMENT_BYTES - 1) // ALIGNMENT_BYTES * ALIGNMENT_BYTES


# --- schemas --------------------------------------------------------------------------------------------------------


class BatchSchema:
    """What is worked out once per schema: whether a message can carry its batches, and what to look at in them."""

    __slots__ = ("_good", "_heads", "_rows_aside_max", "needs_stream", "pointing", "schema")

    def __init__(self, schema: Any) -> None:
        self.schema: Final = schema
        self.needs_stream: Final = any(_any_type(kind, pa.types.is_dictionary) for kind in schema.types)
        self.pointing: Final = tuple(i for i, kind in enumerate(schema.types) if _any_type(kind, _points))
        self._rows_aside_max: Final = _rows_aside_max(schema.types)
        self._heads: tuple[int, int] | None = None
        self._good = (0, 0, b"")  # bytes of the last good message and of its head, and the head; if that decides alone

    def to_bytes(self) -> bytes:
        """The schema message. Raises: EncodeError when it is too long or would come back as another schema."""
        data: bytes = self.schema.serialize().to_pybytes()
        if len(data) > PAYLOAD_SCHEMA_BYTES_MAX:
            raise EncodeError(f"an Arrow schema exceeds {PAYLOAD_SCHEMA_BYTES_MAX} bytes: {len(data)}")
        if not schema_from_bytes(data).schema.equals(self.schema, check_metadata=True):
            raise EncodeError("an Arrow schema would come back as another one: is its extension type registered?")
        return data

    def write(self, batch: Any) -> BytesLike | None:
        """The message of a batch; None when it is large: then `large_record` writes it in place. Raises: EncodeError.

        It is a copy or a view of what pyarrow wrote, whichever takes less time.
        """
        if batch.num_rows > self._rows_aside_max and _is_large(batch):
            return None
        try:
            written: Any = batch.serialize()
        except pa.ArrowException as error:
            raise EncodeError(f"a batch cannot be written: {_brief(error)}") from error
        data: BytesLike = written.to_pybytes() if written.size <= _COPY_BYTES_MAX else memoryview(written).cast("B")
        return data

    def read(self, buffer: Any, validate: Validate = "structure") -> Any:
        """The batch whose message lies in a buffer. Raises: DecodeError, and nothing else, for any bytes."""
        try:
            size_bytes, head_bytes, head = self._good
            if type(buffer) is bytes:  # shorter, for what was small enough to be copied
                if len(buffer) == size_bytes and buffer.startswith(head) and validate == "structure":
                    return _read_record_batch(buffer, self.schema)
                return self._read_unknown(_py_buffer(buffer), validate)
            whole = _py_buffer(buffer)
            is_good = whole.size == size_bytes and whole.slice(0, head_bytes).to_pybytes() == head
            if is_good and validate == "structure":
                return _read_record_batch(whole, self.schema)
            return self._read_unknown(whole, validate)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"a batch cannot be read: {_brief(error)}") from error

    def _read_unknown(self, whole: Any, validate: Validate) -> Any:
        """A batch with a head that was not seen just before."""
        message = _read_message(whole)
        metadata = message.metadata
        head_bytes = 8 + metadata.size
        if validate != "none":
            first = int.from_bytes(metadata.slice(0, _PLAIN_BYTES).to_pybytes(), "little")
            if first & _PLAIN_MASK != _PLAIN_HEAD:
                _check_message(message, "record batch")
            if head_bytes + message.body.size != whole.size:
                raise DecodeError(f"a batch of {whole.size} bytes ends before its bytes do")
        batch = _read_record_batch(message, self.schema)
        _check_rows(batch, self, validate)
        if validate == "structure" and not self.pointing:
            self._good = whole.size, head_bytes, whole.slice(0, head_bytes).to_pybytes()
        return batch

    def head_bytes(self, batch: Any) -> tuple[int, int]:
        """How long the schema message and a batch message without its body are, as pyarrow's stream writer has them.

        The second is the same for all batches with rows: what changes in the metadata is of fixed width.
        """
        if self._heads is None:
            sink = pa.BufferOutputStream()
            _pa.ipc.new_stream(sink, self.schema).write_batch(batch.slice(0, 1))
            data = sink.getvalue().to_pybytes()
            schema_bytes = 8 + _INT32.unpack_from(data, 4)[0]
            self._heads = schema_bytes, 8 + _INT32.unpack_from(data, schema_bytes + 4)[0]
        return self._heads


def schema_from_bytes(data: BytesLike) -> BatchSchema:
    """The schema of a schema message. Raises: DecodeError, and nothing else, for any bytes."""
    try:
        schema = pa.ipc.read_schema(cast(Any, pa.py_buffer(data)))
        _check_names(schema)
        return BatchSchema(schema)
    except Exception as error:  # an extension type of the user's may raise anything
        raise DecodeError(f"an Arrow schema cannot be read: {_brief(error)}") from error


def _any_type(kind: Any, test: Any) -> bool:
    """Whether a test holds for a type or one within it."""
    if isinstance(kind, _pa.BaseExtensionType):
        return _any_type(kind.storage_type, test)
    return test(kind) or any(_any_type(kind.field(i).type, test) for i in range(kind.num_fields))


def _check_names(fields: Any) -> None:
    """That names are text. Raises: UnicodeDecodeError, here and not where an operator first asks for a column."""
    for field in fields:
        _ = field.name
        kind = field.type
        _check_names(kind.field(i) for i in range(kind.num_fields))


def _rows_aside_max(kinds: list[Any]) -> int:
    """How many rows are surely not large; -1 when not only the number of rows decides."""
    try:
        row_bits = sum(kind.bit_width + 1 for kind in kinds)  # and one says whether it is null
    except ValueError:
        return -1
    # Each of two buffers per column is filled up to a multiple of 8.
    return (8 * PAYLOAD_IN_PLACE_BYTES_MIN - 128 * len(kinds)) // row_bits if row_bits else -1


def _is_large(batch: Any) -> bool:
    """Whether a batch is written in place. Raises: EncodeError when it has too many rows."""
    if batch.num_rows > PAYLOAD_ROWS_MAX:
        raise EncodeError(f"a batch exceeds {PAYLOAD_ROWS_MAX} rows: {batch.num_rows}")
    # The buffers as a whole are at least what is written, and much faster to ask for.
    if batch.get_total_buffer_size() < PAYLOAD_IN_PLACE_BYTES_MIN:
        return False
    try:
        return pa.ipc.get_record_batch_size(batch) >= PAYLOAD_IN_PLACE_BYTES_MIN
    except pa.ArrowException as error:
        raise EncodeError(f"a batch cannot be written: {_brief(error)}") from error


def _points(kind: Any) -> bool:
    """Whether values of a type hold numbers that point into another buffer: a wrong one would be read through."""
    fixed = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)
    held = pa.types.is_struct(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_null(kind)
    return not (fixed or held)


def _brief(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


# --- out ------------------------------------------------------------------------------------------------------------


class BatchRecord:
    """A batch or table that is ready to be written: how many bytes it takes, and the one copy into them.

    `nbytes` is exact. The target must be at least as long, writable, and should start at a multiple of 64.
    """

    __slots__ = ("_start", "_what", "_write", "nbytes")

    def __init__(self, nbytes: int, what: Any, start: int, write: Any) -> None:
        self.nbytes: Final = nbytes
        self._what = what
        self._start = start
        self._write = write

    def write_into(self, target: memoryview) -> None:
        """Fill the first `nbytes` of the target; no reference to it is left."""
        if target.nbytes < self.nbytes:
            raise EncodeError(f"a record of {self.nbytes} bytes does not fit into {target.nbytes}")
        try:
            self._write(self._what, self._start, target.cast("B")[: self.nbytes])
        except pa.ArrowException as error:
            raise EncodeError(f"an Arrow record cannot be written: {_brief(error)}") from error


def large_record(batch: Any, known: BatchSchema) -> BatchRecord:
    """A batch in the message form, written in place. Raises: EncodeError."""
    try:
        schema_bytes, head_bytes = known.head_bytes(batch)
        start = -(schema_bytes + head_bytes) % ALIGNMENT_BYTES
        nbytes = start + schema_bytes + pa.ipc.get_record_batch_size(batch)
    except pa.ArrowException as error:
        raise EncodeError(f"a batch cannot be written: {_brief(error)}") from error
    return BatchRecord(nbytes, (batch, known.schema, schema_bytes), start, _write_in_place)


def stream_record(value: Any) -> BatchRecord:
    """A batch or a table in the stream form. Raises: EncodeError."""
    if value.num_rows > PAYLOAD_ROWS_MAX:
        raise EncodeError(f"a table exceeds {PAYLOAD_ROWS_MAX} rows: {value.num_rows}")
    sink = _pa.MockOutputStream()
    try:
        with _pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write(value)
    except pa.ArrowException as error:
        raise EncodeError(f"a {type(value).__name__} cannot be written: {_brief(error)}") from error
    return BatchRecord(sink.size(), value, 0, _write_stream)


def _write_in_place(what: tuple[Any, Any, int], start: int, target: memoryview) -> None:
    """Let pyarrow write a stream of one batch, then put the head of that batch over the schema, which is not wanted.

    Thus the body is copied once. `start` leaves as much room in front as aligns the body.
    """
    batch, schema, schema_bytes = what
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(target[start:]))
    _pa.ipc.new_stream(sink, schema).write_batch(batch)  # never closed: nothing is to follow the batch
    sink.close()
    head = start + schema_bytes
    mark, size_bytes = _PREFIX.unpack_from(target, head)
    body = head + 8 + size_bytes
    if mark != _CONTINUATION or not head < body <= target.nbytes or body % 8:
        raise EncodeError(f"pyarrow {pa.__version__} wrote no batch at byte {head}")
    metadata = bytes(target[head + 8 : body])
    _PREFIX.pack_into(target, 0, _CONTINUATION, body - 8)
    target[8 : 8 + size_bytes] = metadata
    target[8 + size_bytes : body] = bytes(body - 8 - size_bytes)


def _write_stream(value: Any, _start: int, target: memoryview) -> None:
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(target))
    with _pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    sink.close()


# --- in -------------------------------------------------------------------------------------------------------------


def value_from_stream(buffer: Any, *, table: bool, validate: Validate = "structure") -> Any:
    """The batch or table of a stream. Raises: DecodeError, and nothing else, for any bytes."""
    try:
        whole = pa.py_buffer(buffer)
        if validate != "none":
            _check_stream(whole)
        with pa.ipc.open_stream(whole) as reader:
            _check_names(reader.schema)
            value: Any = reader.read_all() if table else reader.read_next_batch()
            if not table and next(iter(reader), None) is not None:
                raise DecodeError("a stream has further batches")
        _check_rows(value, BatchSchema(value.schema), validate)
    except DecodeError:
        raise
    except Exception as error:  # an extension type of the user's may raise anything
        raise DecodeError(f"a stream cannot be read: {_brief(error)}") from error
    return value


def _check_rows(value: Any, known: BatchSchema, validate: Validate) -> None:
    if validate == "none":
        return
    if value.num_rows > PAYLOAD_ROWS_MAX:
        raise DecodeError(f"a batch exceeds {PAYLOAD_ROWS_MAX} rows: {value.num_rows}")
    if validate == "full":
        value.validate(full=True)
        return
    value.validate()
    for index in known.pointing:
        column: Any = value.column(index)
        # Text as bytes: looking for UTF-8 would take most of the time.
        kind: Any = type(column)  # pyright: ignore[reportUnknownVariableType]
        as_bytes = _AS_BYTES.get(kind)  # pyright: ignore[reportUnknownArgumentType]
        (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


_AS_BYTES: Final[dict[type, Any]] = {pa.StringArray: pa.binary(), pa.LargeStringArray: pa.large_binary()}


def _check_stream(whole: Any) -> None:
    size_bytes = _END_OF_STREAM_BYTES
    for index, message in enumerate(_pa.ipc.MessageReader.open_stream(whole)):
        if index:
            _check_message(message, "record batch" if message.type == "record batch" else "dictionary")
        size_bytes += 8 + message.metadata.size + message.body.size
    if size_bytes != whole.size:
        raise DecodeError(f"a stream of {whole.size} bytes ends before its bytes do")


def _check_message(message: Any, kind: str) -> None:
    """That a message is of a kind and not compressed: a few bytes could become any number of them.

    pyarrow has verified the flatbuffer by now; its tables are followed here since it does not show this field.
    """
    if message.type != kind:
        raise DecodeError(f"a record is {message.type}, not {kind}")
    metadata = memoryview(message.metadata).cast("B")
    header = _table(metadata, _UINT32.unpack_from(metadata)[0], _MESSAGE_HEADER)
    if kind == "dictionary":
        header = _table(metadata, header, _DICTIONARY_DATA)
    if _field(metadata, header, _BATCH_COMPRESSION):
        raise DecodeError("a batch is compressed, which is not agreed on")


def _field(metadata: memoryview, table: int, index: int) -> int:
    """Where a field of a flatbuffers table lies, 0 when it is left out."""
    vtable = table - _INT32.unpack_from(metadata, table)[0]
    if vtable < 0:
        raise DecodeError("a batch has a damaged header")
    place = 4 + 2 * index
    if place >= _UINT16.unpack_from(metadata, vtable)[0]:
        return 0
    offset: int = _UINT16.unpack_from(metadata, vtable + place)[0]
    return table + offset if offset else 0


def _table(metadata: memoryview, table: int, index: int) -> int:
    """Where the table or vector lies that a field refers to."""
    place = _field(metadata, table, index)
    if not place:
        raise DecodeError("a batch has a header without content")
    target: int = place + _UINT32.unpack_from(metadata, place)[0]
    return target


def _plain_head() -> tuple[int, int, int]:
    """How a head begins that is a batch, not compressed, and laid out as pyarrow does: bytes, mask and masked value.

    The mask has all bytes that `_check_message` follows; the values in between differ from batch to batch.
    """
    written = _pa.RecordBatch.from_arrays([pa.array([0])], names=["a"]).serialize()
    metadata = memoryview(_pa.ipc.read_message(written).metadata).cast("B")
    root: int = _UINT32.unpack_from(metadata)[0]
    header = _table(metadata, root, _MESSAGE_HEADER)
    followed = [(0, 4), (_field(metadata, root, _MESSAGE_TYPE), 1), (_field(metadata, root, _MESSAGE_HEADER), 4)]
    for table in (root, header):
        vtable = table - _INT32.unpack_from(metadata, table)[0]
        followed += (table, 4), (vtable, _UINT16.unpack_from(metadata, vtable)[0])
    size_bytes = max(first + count for first, count in followed)
    mask = 0
    for first, count in followed:
        mask |= ((1 << 8 * count) - 1) << 8 * first
    return size_bytes, mask, int.from_bytes(metadata[:size_bytes], "little") & mask


_PLAIN_BYTES, _PLAIN_MASK, _PLAIN_HEAD = _plain_head()


# --- columns computed in the slot -----------------------------------------------------------------------------------


class BatchTemplate:
    """A record of so many rows whose columns are computed where they will be read: nothing is copied.

        template = BatchTemplate(schema, 1000)
        columns = template.views(loan)  # at least template.nbytes, from a multiple of 64
        np.multiply(a, b, out=columns["price"])

    Once the views are filled, the buffer holds a message for that schema. Raises: EncodeError for a column whose values
    are not of fixed width and whole bytes, naming it.
    """

    __slots__ = ("_columns", "_gaps", "_head", "nbytes", "rows", "schema")

    def __init__(self, schema: Any, rows: int) -> None:
        if not 0 < rows <= PAYLOAD_ROWS_MAX:
            raise EncodeError(f"a template has 1 to {PAYLOAD_ROWS_MAX} rows, not {rows}")
        if len(set(schema.names)) != len(schema.names):
            raise EncodeError("a template has two columns of one name")
        self.schema: Final = schema
        self.rows: Final = rows
        dtypes = [_dtype(field) for field in schema]
        widest = max((dtype.itemsize for dtype in dtypes), default=0)
        zeros: Any = pa.py_buffer(bytes(widest * rows))
        arrays = [pa.Array.from_buffers(kind, rows, [None, zeros]) for kind in schema.types]
        written = _pa.RecordBatch.from_arrays(arrays, schema=schema).serialize()
        head_bytes = 8 + _INT32.unpack_from(written, 4)[0]
        head = bytearray(memoryview(written).cast("B")[:head_bytes])
        start = _aligned(head_bytes)
        _INT32.pack_into(head, 4, start - 8)
        self._columns, self._gaps, body_bytes = _lay_out(memoryview(head)[8:], schema.names, dtypes, rows, start)
        self._gaps.append((head_bytes, start))
        self._head: Final = bytes(head)
        self.nbytes: Final = start + body_bytes

    def views(self, target: memoryview) -> dict[str, np.ndarray[Any, Any]]:
        """Write all but the values into the target, and give the columns as arrays over it, by name.

        Dates and times of day are their integers; timestamps and durations are numpy's of the same unit. The values are
        what the memory held. Raises: EncodeError when the target is too short.
        """
        if target.nbytes < self.nbytes:
            raise EncodeError(f"a record of {self.nbytes} bytes does not fit into {target.nbytes}")
        target = target.cast("B")
        target[: len(self._head)] = self._head
        for first, last in self._gaps:
            target[first:last] = bytes(last - first)
        return {name: np.frombuffer(target, dtype, self.rows, offset) for name, dtype, offset in self._columns}

    def __repr__(self) -> str:
        return f"<BatchTemplate {self.rows} rows, {len(self._columns)} columns, {self.nbytes} B>"


def _lay_out(
    metadata: memoryview, names: list[str], dtypes: list[np.dtype[Any]], rows: int, start: int
) -> tuple[list[tuple[str, np.dtype[Any], int]], list[tuple[int, int]], int]:
    """Give every column a place at a multiple of 64, in the metadata too: columns, gaps, bytes of the body."""
    root = _UINT32.unpack_from(metadata)[0]
    buffers = _table(metadata, _table(metadata, root, _MESSAGE_HEADER), _BATCH_BUFFERS)
    columns: list[tuple[str, np.dtype[Any], int]] = []
    gaps: list[tuple[int, int]] = []
    offset = 0
    for index, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        size_bytes = dtype.itemsize * rows
        columns.append((name, dtype, start + offset))
        # Per column: an empty validity bitmap and the values, each an offset and a length.
        struct.pack_into("<qqqq", metadata, buffers + 4 + 32 * index, offset, 0, offset, size_bytes)
        gaps.append((start + offset + size_bytes, start + _aligned(offset + size_bytes)))
        offset = _aligned(offset + size_bytes)
    body_length = _field(metadata, root, _MESSAGE_BODY_LENGTH)
    if body_length:
        _INT64.pack_into(metadata, body_length, offset)
    return columns, gaps, offset


def _dtype(field: Any) -> np.dtype[Any]:
    kind = field.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    if pa.types.is_timestamp(kind):
        return np.dtype(f"datetime64[{kind.unit}]")
    if pa.types.is_duration(kind):
        return np.dtype(f"timedelta64[{kind.unit}]")
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return np.dtype(np.int32)
    if pa.types.is_date64(kind) or pa.types.is_time64(kind):
        return np.dtype(np.int64)
    raise EncodeError(f"column {field.name} is {kind}: a template has columns of numbers, dates and times only")
