"""Any payload comes back equal with equal types, or is refused; no damage to a record is more than an error."""

from __future__ import annotations

import datetime as dt
import decimal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.codec.tree import tree_from_bytes, tree_to_bytes
from flowbridge.errors import DecodeError, EncodeError, RemoteProtocolError

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

arrow: Any = pa  # the stubs leave much of it unknown

MUTATIONS: Final = 50_000
ZONES: Final = st.one_of(
    st.none(), st.just(dt.UTC), st.integers(-1439, 1439).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
)
PLAIN: Final = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(), st.binary()),
    *(st.datetimes(timezones=ZONES).map(lambda moment: moment.replace(fold=0)), st.dates(), st.decimals(), st.uuids()),
)
ODD: Final = st.one_of(
    *(st.sets(st.integers()), st.complex_numbers(), st.timedeltas(), st.fractions(), st.times()),
    *(st.binary().map(bytearray), st.text(st.characters(), max_size=3), st.just(object)),
)
KEYS: Final = st.one_of(st.text(max_size=4), st.integers(), st.binary(max_size=3))


def trees(leaves: SearchStrategy[Any], keys: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Values within lists, tuples and dicts."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            st.dictionaries(keys, inner, max_size=5),
        ),
        max_leaves=20,
    )


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down; one NaN equals another."""
    kind: Any = type(left)  # pyright: ignore[reportUnknownVariableType]
    if kind is not type(right):
        return False
    if kind is float or kind is decimal.Decimal:
        return repr(left) == repr(right)
    if kind is dict:
        pairs = zip(left, right, strict=True)
        return len(left) == len(right) and all(same(a, b) and same(left[a], right[b]) for a, b in pairs)
    if kind is list or kind is tuple:
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(trees(PLAIN, st.text(max_size=4)))
def test_a_tree_of_plain_values_comes_back_the_same(value: Any) -> None:
    assert same(tree_from_bytes(tree_to_bytes(value)), value)


@given(trees(st.one_of(PLAIN, ODD), st.one_of(KEYS, st.booleans(), st.none())))
def test_any_tree_comes_back_the_same_or_is_refused_by_its_path(value: Any) -> None:
    try:
        data = tree_to_bytes(value)
    except EncodeError as error:
        refusal = str(error)
    else:
        assert same(tree_from_bytes(data), value)
        return
    assert refusal.startswith("value")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_tree_or_an_error(data: bytes) -> None:
    try:
        value = tree_from_bytes(data)
    except DecodeError:
        return
    assert same(tree_from_bytes(tree_to_bytes(value)), value)


# --- Arrow ----------------------------------------------------------------------------------------------------------

LEAVES: Final[tuple[tuple[Any, SearchStrategy[Any]], ...]] = (
    (arrow.int8(), st.integers(-128, 127)),
    (arrow.uint64(), st.integers(0, 2**64 - 1)),
    (arrow.float64(), st.floats(allow_nan=False)),
    (arrow.bool_(), st.booleans()),
    (arrow.string(), st.text(max_size=6)),
    (arrow.large_binary(), st.binary(max_size=6)),
    (arrow.string_view(), st.text(max_size=20)),
    (arrow.binary(3), st.binary(min_size=3, max_size=3)),
    (arrow.timestamp("us", "UTC"), st.integers(-(2**50), 2**50)),
    (arrow.date32(), st.integers(-1000, 100_000)),
    (arrow.decimal128(12, 3), st.decimals(-1000, 1000, places=3)),
    (arrow.null(), st.none()),
    (arrow.dictionary(arrow.int16(), arrow.string()), st.text("abc", max_size=2)),
)


def wrapped(inner: tuple[Any, SearchStrategy[Any]]) -> SearchStrategy[tuple[Any, SearchStrategy[Any]]]:
    """Types that hold another one."""
    kind, values = inner
    optional = st.none() | values
    forms: list[tuple[Any, SearchStrategy[Any]]] = [
        (arrow.list_(kind), st.lists(optional, max_size=3)),
        (arrow.large_list(kind), st.lists(optional, max_size=3)),
        (arrow.list_(kind, 2), st.lists(optional, min_size=2, max_size=2)),
        (
            arrow.struct([arrow.field("a", kind), arrow.field("b", arrow.int8())]),
            st.fixed_dictionaries({"a": optional, "b": st.none()}),
        ),
        (arrow.map_(arrow.string(), kind), st.lists(st.tuples(st.text(max_size=3), optional), max_size=3)),
    ]
    return st.sampled_from(forms)


KINDS: Final = st.recursive(st.sampled_from(LEAVES), lambda inner: inner.flatmap(wrapped), max_leaves=3)


def column_of(kind: Any, values: list[Any]) -> Any:
    """One column; dictionaries are coded afterwards, since pyarrow makes none from Python values within others."""
    try:
        return arrow.array(values, kind)
    except (arrow.ArrowNotImplementedError, arrow.ArrowInvalid, TypeError):
        return arrow.array([None] * len(values), kind)


@st.composite
def batches(draw: DrawFn) -> Any:
    """A batch of up to four columns of any type, or a slice of one."""
    rows = draw(st.integers(0, 40))
    columns: list[Any] = []
    for kind, values in draw(st.lists(KINDS, max_size=4)):
        columns.append(column_of(kind, draw(st.lists(st.none() | values, min_size=rows, max_size=rows))))
    metadata: Any = draw(st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
    fields = [arrow.field(f"c{i % 3}", column.type, metadata=metadata) for i, column in enumerate(columns)]
    batch = arrow.RecordBatch.from_arrays(columns, schema=arrow.schema(fields, metadata=metadata))
    first = draw(st.integers(0, batch.num_rows))
    return batch.slice(first, draw(st.integers(0, batch.num_rows - first)))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(batches(), st.sampled_from(["none", "structure", "full"]), st.booleans())
def test_any_batch_comes_back_equal(batch: Any, validate: Any, as_table: bool) -> None:
    try:
        batch.validate(full=True)
    except arrow.ArrowInvalid:
        reject()  # pyarrow itself makes such batches of nulls in dictionaries; they are refused
    value: Any = arrow.Table.from_batches([batch, batch]) if as_table else batch
    writer, reader = PayloadWriter(), PayloadReader(validate=validate)
    prepared = writer.prepare(value)
    for control in prepared.before:
        reader.control(*control)
    slot = bytearray(b"\xa5" * prepared.nbytes)
    prepared.write_into(memoryview(slot))
    got = reader.read(prepared.codec, prepared.tag, slot)
    got.validate(full=True)
    assert type(got) is type(value)
    assert got.equals(value, check_metadata=True)


@given(st.integers(0, 4), st.integers(0, 3), st.binary(max_size=80))
def test_any_record_is_a_payload_or_an_error(codec: int, tag: int, data: bytes) -> None:
    reader = PayloadReader()
    reader.control(2, 0, arrow.schema({"a": arrow.string()}).serialize().to_pybytes())
    try:
        reader.read(codec, tag, data)
    except (DecodeError, RemoteProtocolError):
        return


def test_no_damage_to_a_record_is_a_crash() -> None:
    program = Path(__file__).with_name("payload_mutations.py")
    done = subprocess.run(
        [sys.executable, str(program), "7", str(MUTATIONS)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stderr[-3000:]}"
    read, refused = map(int, done.stdout.split())
    assert read + refused == MUTATIONS
    assert read > MUTATIONS // 10, "too few were read: the damage is noticed at once, and nothing is tried"
    assert refused > MUTATIONS // 10, "too few were refused"
