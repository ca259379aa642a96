"""The two ends of a route: which record a payload becomes, what goes before it, and what comes out."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flowbridge.codec.batch import BatchTemplate
from flowbridge.codec.payload import MESSAGE, RAW, STREAM, TREE, PayloadReader, PayloadWriter
from flowbridge.errors import DecodeError, EncodeError, LocalProtocolError, RemoteProtocolError
from flowbridge.limits import (
    PAYLOAD_IN_PLACE_BYTES_MIN,
    PAYLOAD_SCHEMA_BYTES_MAX,
    PAYLOAD_SCHEMAS_MAX,
    PAYLOAD_VIEW_BYTES_MIN,
)

arrow: Any = pa  # the stubs leave much of it unknown


class Route:
    """A writer and a reader, and a slot between them."""

    def __init__(self) -> None:
        self.writer = PayloadWriter()
        self.reader = PayloadReader()
        self.controls = 0

    def carry(self, payload: Any, *, whole: bool = False) -> Any:
        """Send a payload through a slot, or as bytes, and give what arrives."""
        prepared = self.writer.prepare(payload)
        for control in prepared.before:
            self.reader.control(*control)
            self.controls += 1
        self.writer.announced(prepared)
        if whole:
            data = prepared.to_bytes()
            assert memoryview(data).nbytes == prepared.nbytes
            return self.reader.read(prepared.codec, prepared.tag, bytes(data))
        slot = bytearray(prepared.nbytes + 64)
        prepared.write_into(memoryview(slot))
        assert bytes(slot[prepared.nbytes :]) == bytes(64), "nothing is written beyond the record"
        return self.reader.read(prepared.codec, prepared.tag, memoryview(slot)[: prepared.nbytes].toreadonly())


def batch_of(*names: str) -> Any:
    """One row of these columns."""
    return arrow.record_batch({name: [1.5] for name in names})


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("nbytes", [0, 1, PAYLOAD_VIEW_BYTES_MIN - 1, PAYLOAD_VIEW_BYTES_MIN, 100_000])
def test_bytes_come_back_as_the_kind_of_bytes_they_were(nbytes: int, whole: bool) -> None:
    data = bytes(range(256)) * (nbytes // 256) + bytes(nbytes % 256)
    for payload in (data, bytearray(data), memoryview(data)):
        got = Route().carry(payload, whole=whole)
        assert type(got) is type(payload)
        assert got == payload


def test_a_large_memoryview_lies_in_the_slot_and_cannot_be_written() -> None:
    slot = bytearray(PAYLOAD_VIEW_BYTES_MIN)
    got = PayloadReader().read(RAW, 2, slot)
    assert got.readonly
    slot[7] = 9
    assert got[7] == 9
    small = PayloadReader().read(RAW, 2, memoryview(slot)[:10])
    slot[7] = 1
    assert small[7] == 9


@pytest.mark.parametrize(
    "view", [memoryview(b"abcd").cast("I"), memoryview(b"abcd")[::2], memoryview(bytes(4)).cast("B", (2, 2))]
)
def test_a_view_of_another_shape_is_refused(view: memoryview) -> None:
    with pytest.raises(EncodeError, match="memoryview of format"):
        PayloadWriter().prepare(view)


@pytest.mark.parametrize("payload", [None, True, 7, 1.5, "text", [1, "a"], {"a": {"b": 1}}, (1, (2,)), {1: 2}])
def test_a_tree_comes_back(payload: Any) -> None:
    prepared = PayloadWriter().prepare(payload)
    assert (prepared.codec, prepared.tag, prepared.before) == (TREE, 0, ())
    assert prepared.data is not None
    for whole in (False, True):
        got = Route().carry(payload, whole=whole)
        assert type(got) is type(payload)
        assert got == payload


@pytest.mark.parametrize(
    "payload", [{1, 2}, np.float64(1), np.zeros(2), arrow.array([1]), arrow.scalar(1), object(), {"a": {1}}]
)
def test_what_cannot_leave_its_process_is_refused(payload: Any) -> None:
    with pytest.raises(EncodeError, match=r"^value.* cannot leave its process; send "):
        PayloadWriter().prepare(payload)


def test_a_subclass_of_a_batch_or_of_bytes_is_refused() -> None:
    class Text(bytes):
        """Bytes that are more."""

    with pytest.raises(EncodeError, match=r"send bytes\(\.\.\.\)"):
        PayloadWriter().prepare(Text(b"x"))


def test_a_schema_goes_once_before_its_first_batch() -> None:
    route = Route()
    for names in (("a",), ("a",), ("b",), ("a",), ("b",)):
        assert route.carry(batch_of(*names)).equals(batch_of(*names), check_metadata=True)
    assert route.controls == 2


def test_schemas_that_differ_in_metadata_only_are_two() -> None:
    route = Route()
    plain = batch_of("a")
    for batch in (plain, plain.replace_schema_metadata({"k": "1"}), plain.replace_schema_metadata({"k": "2"}), plain):
        assert route.carry(batch).equals(batch, check_metadata=True)
    assert route.controls == 3


def test_a_schema_is_asked_for_until_it_is_on_its_way_and_again_for_a_new_peer() -> None:
    writer = PayloadWriter()
    first = writer.prepare(batch_of("a"))
    assert [control[:2] for control in first.before] == [(MESSAGE, first.tag)]
    again = writer.prepare(batch_of("a"))
    assert again.before == first.before
    writer.announced(again)
    assert writer.prepare(batch_of("a")).before == ()
    writer.forget()
    assert writer.prepare(batch_of("a")).before == first.before


def test_batches_of_more_schemas_than_there_are_numbers_bring_their_own() -> None:
    route = Route()
    for i in range(PAYLOAD_SCHEMAS_MAX + 3):
        assert route.carry(batch_of(f"c{i}")).equals(batch_of(f"c{i}"))
    assert route.controls == PAYLOAD_SCHEMAS_MAX
    assert route.writer.prepare(batch_of("c1")).codec == MESSAGE
    assert route.writer.prepare(batch_of("further")).codec == STREAM
    with pytest.raises(EncodeError, match=f"exceeds {PAYLOAD_SCHEMAS_MAX} Arrow schemas"):
        route.writer.prepare_template(BatchTemplate(arrow.schema({"further": arrow.int8()}), 1))


@pytest.mark.parametrize("whole", [False, True])
def test_batches_and_tables_of_all_sizes_come_back(whole: bool) -> None:
    route = Route()
    for rows in (0, 3, PAYLOAD_IN_PLACE_BYTES_MIN // 8, PAYLOAD_IN_PLACE_BYTES_MIN // 2):
        batch: Any = arrow.record_batch({"x": np.arange(rows) / 3})
        coded: Any = arrow.record_batch({"d": arrow.array(["a"] * rows).dictionary_encode()})
        for payload in (batch, batch.slice(rows // 3), coded, arrow.Table.from_batches([batch, batch])):
            assert route.carry(payload, whole=whole).equals(payload, check_metadata=True)


def test_a_template_is_announced_like_a_batch_and_read_like_one() -> None:
    writer, reader = PayloadWriter(), PayloadReader(validate="full")
    template = BatchTemplate(arrow.schema({"x": arrow.float64(), "n": arrow.int32()}), 5)
    prepared = writer.prepare_template(template)
    for control in prepared.before:
        reader.control(*control)
    writer.announced(prepared)
    slot = bytearray(prepared.nbytes)
    columns = template.views(memoryview(slot))
    columns["x"][:] = np.arange(5) / 2
    columns["n"][:] = 7
    got = reader.read(prepared.codec, prepared.tag, slot)
    assert got.to_pydict() == {"x": [0.0, 0.5, 1.0, 1.5, 2.0], "n": [7] * 5}
    assert writer.prepare(got).tag == prepared.tag
    assert writer.prepare_template(template).before == ()
    with pytest.raises(LocalProtocolError, match="through its views"):
        prepared.to_bytes()


def test_an_extension_type_comes_back_as_itself() -> None:
    ids = arrow.ExtensionArray.from_storage(arrow.uuid(), arrow.array([bytes(16), None], arrow.binary(16)))
    texts = arrow.ExtensionArray.from_storage(arrow.json_(), arrow.array(["{}", "[1]"]))
    batch = arrow.record_batch({"id": ids, "j": texts})
    assert PayloadWriter().prepare(batch).codec == MESSAGE
    assert Route().carry(batch).equals(batch, check_metadata=True)
    assert Route().carry(batch.slice(1)).equals(batch.slice(1), check_metadata=True)


def test_a_peer_that_breaks_the_rules_is_told_so() -> None:
    schema = arrow.schema({"a": arrow.int8()}).serialize().to_pybytes()
    other = arrow.schema({"b": arrow.int8()}).serialize().to_pybytes()
    reader = PayloadReader()
    with pytest.raises(RemoteProtocolError, match="number 3, which was not sent"):
        reader.read(MESSAGE, 3, b"")
    reader.control(MESSAGE, 3, memoryview(schema))
    reader.control(MESSAGE, 3, bytearray(schema))
    with pytest.raises(RemoteProtocolError, match="another Arrow schema"):
        reader.control(MESSAGE, 3, other)
    for tag in (-1, PAYLOAD_SCHEMAS_MAX):
        with pytest.raises(RemoteProtocolError, match=f"exceeds {PAYLOAD_SCHEMAS_MAX}"):
            reader.control(MESSAGE, tag, schema)
    with pytest.raises(RemoteProtocolError, match=f"exceeds {PAYLOAD_SCHEMA_BYTES_MAX} bytes"):
        reader.control(MESSAGE, 4, bytes(PAYLOAD_SCHEMA_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="control record of codec 1"):
        reader.control(TREE, 0, schema)
    for codec, tag in ((RAW, 3), (TREE, 1), (STREAM, 2), (4, 0), (-1, 0)):
        with pytest.raises(RemoteProtocolError, match=f"tag {tag}, which there is not"):
            reader.read(codec, tag, b"\0")
    for codec, tag in ((TREE, 0), (MESSAGE, 3), (STREAM, 0), (STREAM, 1)):
        with pytest.raises(DecodeError):
            reader.read(codec, tag, b"\x82")


def test_a_target_that_is_too_short_is_refused() -> None:
    for payload in (b"12345", {"a": 1}, batch_of("a")):
        prepared = PayloadWriter().prepare(payload)
        with pytest.raises(EncodeError, match=f"does not fit into {prepared.nbytes - 1}"):
            prepared.write_into(memoryview(bytearray(prepared.nbytes - 1)))


def test_who_sends_no_batch_loads_no_pyarrow() -> None:
    code = (
        "import sys; from flowbridge.codec.payload import PayloadReader, PayloadWriter;"
        "p = PayloadWriter().prepare({'a': 1}); PayloadReader().read(p.codec, p.tag, p.data);"
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
