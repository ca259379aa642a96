"""Payloads to records and back: what crosses the border of a process is equal on both sides, and of the same type.

A record is a codec, a tag and bytes; whoever carries it adds its own header and knows where it ends.

    codec      tag              bytes
    0 RAW      0 bytes, 1 bytearray, 2 memoryview
                                as they are
    1 TREE     0                one CBOR item: see `flowbridge.codec.tree`
    2 MESSAGE  number of the schema
                                an Arrow record batch: see `flowbridge.codec.batch`
    3 STREAM   0 batch, 1 table an Arrow IPC stream: what a message cannot carry

The only control record has codec 2: its tag is a number, its bytes the Arrow schema that has this number on the route
from now on. It goes before the first batch of that schema.

On both tiers an operator gets the type that was sent. `bytes` come back as `bytes`, whatever their length. Who wants
no copy sends a `memoryview`: it comes back as a memoryview, read-only, that lies in the slot and holds it from
`PAYLOAD_VIEW_BYTES_MIN` bytes on (smaller ones are copied). Batches always lie in the slot. Anything that would come
back as something else is refused with EncodeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.tree import tree_from_bytes, tree_to_bytes
from flowbridge.errors import EncodeError, LocalProtocolError, RemoteProtocolError
from flowbridge.limits import PAYLOAD_SCHEMA_BYTES_MAX, PAYLOAD_SCHEMAS_MAX, PAYLOAD_VIEW_BYTES_MIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.codec.batch import BatchRecord, BatchSchema, BatchTemplate, Validate
    from flowbridge.contracts import BytesLike

RAW: Final = 0
TREE: Final = 1
MESSAGE: Final = 2
STREAM: Final = 3

_BYTES, _BYTEARRAY, _MEMORYVIEW = 0, 1, 2
_BATCH, _TABLE = 0, 1
Control = tuple[int, int, bytes]
"""A control record: codec, tag, bytes."""


class Prepared:
    """A payload on its way out: `nbytes` bytes that are `data`, or that `write_into` puts where they are wanted.

    `data` is None when the bytes are not at hand; then `write_into` makes them, with one copy. What is in `before` goes
    first, as control records, even if this record then does not go.
    """

    __slots__ = ("before", "codec", "data", "nbytes", "tag")

    # Positional on purpose: this is built once per message.
    def __init__(
        self, codec: int, tag: int, data: BytesLike | None, nbytes: int, before: tuple[Control, ...] = ()
    ) -> None:
        self.codec = codec
        self.tag = tag
        self.data = data
        self.nbytes = nbytes
        self.before = before

    def write_into(self, target: memoryview) -> None:
        """Fill the first `nbytes` of a writable target, which should start at a multiple of 64.

        Raises: EncodeError when the target is too short; LocalProtocolError for a template, whose views write.
        """
        if self.data is None:
            raise LocalProtocolError("the record of a template is written through its views")
        if target.nbytes < self.nbytes:
            raise EncodeError(f"a record of {self.nbytes} bytes does not fit into {target.nbytes}")
        target.cast("B")[: self.nbytes] = self.data

    def to_bytes(self) -> BytesLike:
        """The bytes by themselves, for a carrier that has no place to offer; a copy when they are not at hand."""
        if self.data is not None:
            return self.data
        data = bytearray(self.nbytes)
        self.write_into(memoryview(data))
        return data

    def __repr__(self) -> str:
        return f"<Prepared codec {self.codec} tag {self.tag} {self.nbytes} B>"


class _PreparedBatch(Prepared):
    __slots__ = ("_record",)

    def __init__(self, codec: int, tag: int, record: BatchRecord, before: tuple[Control, ...] = ()) -> None:
        super().__init__(codec, tag, None, record.nbytes, before)
        self._record = record

    def write_into(self, target: memoryview) -> None:
        self._record.write_into(target)


def _equals_none(_schema: object, _check_metadata: bool) -> bool:
    return False


# Of the last batch: its schema's `equals` and `write`, the number, the control records, and the schema itself.
_Last = tuple[Any, Any, int, tuple[Control, ...], Any]
_NO_LAST: Final[_Last] = (_equals_none, None, 0, (), None)


class PayloadWriter:
    """The sending end of one route: remembers which schemas the other end has.

    With ``alone=True`` every record stands by itself: batches travel with their schema, and nothing goes before them.
    """

    __slots__ = ("_alone", "_announced", "_batch_type", "_last", "_schemas")

    def __init__(self, *, alone: bool = False) -> None:
        self._alone = alone
        self._schemas: list[tuple[BatchSchema, int, bytes]] = []
        self._last: _Last = _NO_LAST
        self._announced: set[int] = set()
        self._batch_type: Any = Prepared  # pyarrow.RecordBatch once one came; pyarrow may be absent

    def prepare(self, payload: Any) -> Prepared:
        """The record of a payload. The payload must not change until it is written.

        Raises: EncodeError that says what in it cannot leave the process, and what to send instead.
        """
        kind: Any = type(payload)  # pyright: ignore[reportUnknownVariableType]
        if kind is bytes:
            return Prepared(RAW, _BYTES, payload, len(payload))
        if kind is self._batch_type:
            return self._prepare_batch(payload)
        if kind is dict or kind is list or kind is str:
            data = tree_to_bytes(payload)
            return Prepared(TREE, 0, data, len(data))
        if kind is bytearray:
            return Prepared(RAW, _BYTEARRAY, payload, len(payload))
        if kind is memoryview:
            return _prepare_view(payload)
        if kind.__module__ == "pyarrow.lib":
            if kind.__name__ == "RecordBatch":
                self._batch_type = kind
                return self._prepare_batch(payload)
            if kind.__name__ == "Table":
                return _prepare_stream(payload, _TABLE)
        data = tree_to_bytes(payload)
        return Prepared(TREE, 0, data, len(data))

    def prepare_template(self, template: BatchTemplate) -> Prepared:
        """Codec, tag and control records of a record whose columns are computed in place: nothing to write.

        Raises: EncodeError when the route has too many schemas.
        """
        found = self._known(template.schema)
        if found is None:
            raise EncodeError(f"a route exceeds {PAYLOAD_SCHEMAS_MAX} Arrow schemas: a template needs one of them")
        _, number, data = found
        before = () if number in self._announced else ((MESSAGE, number, data),)
        return Prepared(MESSAGE, number, None, template.nbytes, before)

    def announced(self, prepared: Prepared) -> None:
        """The control records of `prepared.before` are on their way; until this is said, they are asked for again."""
        self._announced.update(tag for _, tag, _ in prepared.before)
        self._last = _NO_LAST

    def forget(self) -> None:
        """The other end is a new one: it has no schema yet."""
        self._announced.clear()
        self._last = _NO_LAST

    def _prepare_batch(self, batch: Any) -> Prepared:
        equals, write, number, before, known = self._last
        if not equals(batch.schema, True):
            entry = self._known(batch.schema)
            if entry is None or entry[0].needs_stream:
                return _prepare_stream(batch, _BATCH)
            known, number, schema_data = entry
            write = known.write
            before = () if number in self._announced else ((MESSAGE, number, schema_data),)
            self._last = known.schema.equals, write, number, before, known
        data = write(batch)
        if data is not None:
            return Prepared(MESSAGE, number, data, len(data), before)
        from flowbridge.codec.batch import large_record

        return _PreparedBatch(MESSAGE, number, large_record(batch, known), before)

    def _known(self, schema: Any) -> tuple[BatchSchema, int, bytes] | None:
        """The schema with its number, a new one if need be; None when there are too many."""
        from flowbridge.codec.batch import BatchSchema

        for entry in self._schemas:
            if entry[0].schema.equals(schema, check_metadata=True):
                return entry
        if self._alone or len(self._schemas) >= PAYLOAD_SCHEMAS_MAX:
            return None
        known = BatchSchema(schema)
        entry = known, len(self._schemas), known.to_bytes()
        self._schemas.append(entry)
        return entry

    def __repr__(self) -> str:
        return f"<PayloadWriter {len(self._schemas)} schemas, {len(self._announced)} announced>"


def _prepare_stream(value: Any, tag: int) -> Prepared:
    from flowbridge.codec.batch import stream_record

    return _PreparedBatch(STREAM, tag, stream_record(value))


def _prepare_view(view: memoryview) -> Prepared:
    if view.format != "B" or view.ndim != 1 or not view.c_contiguous:
        raise EncodeError(
            f"value: a memoryview of format {view.format!r} and {view.ndim} dimensions would come back as one of bytes;"
            " send view.cast('B') of one that is contiguous"
        )
    return Prepared(RAW, _MEMORYVIEW, view, view.nbytes)


class PayloadReader:
    """The receiving end of one route.

    `validate` says how closely Arrow batches are looked at: see `flowbridge.codec.batch`.
    """

    __slots__ = ("_reads", "_schemas", "_validate")

    def __init__(self, *, validate: Validate = "structure") -> None:
        self._schemas: dict[int, bytes] = {}
        self._reads: dict[int, Callable[[Any, Validate], Any]] = {}
        self._validate: Validate = validate

    def control(self, codec: int, tag: int, data: BytesLike) -> None:
        """A control record of the other end. Said twice is as good as once.

        Raises: DecodeError for a schema that cannot be read; RemoteProtocolError for an unknown record, too many or too
        long schemas, or another schema under a number that has one.
        """
        if codec != MESSAGE:
            raise RemoteProtocolError(f"a control record of codec {codec}, which has none")
        if not 0 <= tag < PAYLOAD_SCHEMAS_MAX:
            raise RemoteProtocolError(f"a route exceeds {PAYLOAD_SCHEMAS_MAX} Arrow schemas: number {tag}")
        size_bytes = memoryview(data).nbytes
        if size_bytes > PAYLOAD_SCHEMA_BYTES_MAX:
            raise RemoteProtocolError(f"an Arrow schema exceeds {PAYLOAD_SCHEMA_BYTES_MAX} bytes: {size_bytes}")
        copy = bytes(data)  # it stays; the slot it came in does not
        before = self._schemas.get(tag)
        if before is None:
            from flowbridge.codec.batch import schema_from_bytes

            self._reads[tag] = schema_from_bytes(copy).read
            self._schemas[tag] = copy
        elif before != copy:
            raise RemoteProtocolError(f"number {tag} has another Arrow schema already")

    def read(self, codec: int, tag: int, buffer: Any) -> Any:
        """The payload of a record. Batches and memoryviews lie in the buffer and keep it alive.

        `buffer` is bytes, or anything with the buffer protocol whose bytes stay as they are while it lives.
        Raises: DecodeError when the bytes are not what the codec says, RemoteProtocolError for a codec or tag that
        there is not; nothing else, for any bytes.
        """
        if codec == RAW:
            return buffer if tag == _BYTES and type(buffer) is bytes else _read_raw(tag, buffer)
        if codec == MESSAGE:
            read = self._reads.get(tag)
            if read is None:
                raise RemoteProtocolError(f"a batch of the Arrow schema with number {tag}, which was not sent")
            return read(buffer, self._validate)
        if codec == TREE and tag == 0:
            return tree_from_bytes(buffer)
        if codec == STREAM and tag in (_BATCH, _TABLE):
            from flowbridge.codec.batch import value_from_stream

            return value_from_stream(buffer, table=tag == _TABLE, validate=self._validate)
        raise RemoteProtocolError(f"a payload of codec {codec} with tag {tag}, which there is not")

    def __repr__(self) -> str:
        return f"<PayloadReader {len(self._schemas)} schemas, validate {self._validate}>"


def _read_raw(tag: int, buffer: Any) -> Any:
    if tag == _BYTES:
        return buffer if type(buffer) is bytes else bytes(buffer)
    if tag == _BYTEARRAY:
        return bytearray(buffer)
    if tag == _MEMORYVIEW:
        view = memoryview(buffer)
        return view.cast("B").toreadonly() if view.nbytes >= PAYLOAD_VIEW_BYTES_MIN else memoryview(bytes(view))
    raise RemoteProtocolError(f"bytes with tag {tag}, which there is not")
