"""Any envelope survives the header; any garbage is one DecodeError and nothing else."""

from __future__ import annotations

import contextlib
from datetime import UTC

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.codec.cbor import CborCodec
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, EncodeError

UINTS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
TOPICS = st.lists(st.sampled_from(["a", "robot", "grün", "arm-1", "x/y"]), min_size=1, max_size=8).map(".".join)
ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)


def trace_context(version: int, trace: int, span: int, flags: int, state: str) -> TraceContext:
    """A trace context from numbers."""
    return TraceContext(f"{version:02x}-{trace:032x}-{span:016x}-{flags:02x}", state)


TRACES = st.builds(
    trace_context,
    st.integers(0, 254),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 255),
    ASCII,
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
HEADERS = st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1)), max_size=8)
ENVELOPES = st.builds(
    Envelope,
    st.none(),
    st.sampled_from(list(Priority)),
    st.one_of(st.just(NO_DEADLINE), UINTS),
    UINTS,
    UINTS,
    UINTS,
    UINTS,
    st.none(),
    st.one_of(st.none(), TRACES),
    st.one_of(st.none(), HEADERS),
)
CLOCKS = st.integers(0, 2**62)


def fields(envelope: Envelope) -> tuple[object, ...]:
    """What travels unchanged."""
    headers = None if envelope.headers is None else dict(envelope.headers)
    return (
        envelope.priority,
        envelope.sent_ns,
        envelope.size_bytes,
        envelope.seq,
        envelope.trace,
        headers,
    )


@given(ENVELOPES, TOPICS, CLOCKS, CLOCKS)
def test_an_envelope_survives_and_its_deadline_never_grows(
    envelope: Envelope, topic: str, sent_at: int, got_at: int
) -> None:
    data = CborCodec().encode(envelope, topic=topic, now_ns=sent_at)
    got_topic, got = CborCodec().decode(data, now_ns=got_at)
    assert got_topic == topic
    assert fields(got) == fields(envelope)
    if envelope.deadline_ns == NO_DEADLINE:
        assert got.deadline_ns == NO_DEADLINE
    else:
        left = max(0, envelope.deadline_ns - sent_at)
        assert left - 1000 < got.deadline_ns - got_at <= left or got.deadline_ns == NO_DEADLINE - 1
    if envelope.origin_ns == 0:
        assert got.origin_ns == 0
    else:
        age = max(0, sent_at - envelope.origin_ns)
        assert age - 1000 < got_at - got.origin_ns <= age


@given(ENVELOPES, TOPICS, CLOCKS)
def test_encoding_is_deterministic_and_decoding_undoes_it_exactly(envelope: Envelope, topic: str, now_ns: int) -> None:
    codec = CborCodec()
    data = codec.encode(envelope, topic=topic, now_ns=now_ns)
    assert data == codec.encode(envelope, topic=topic, now_ns=now_ns) == cbor2.dumps(cbor2.loads(data), canonical=True)
    if envelope.headers:
        envelope.headers = dict(reversed(list(envelope.headers.items())))
        assert codec.encode(envelope, topic=topic, now_ns=now_ns) == data
    _, got = codec.decode(data, now_ns=now_ns)
    if got.origin_ns != 0 or envelope.origin_ns == 0:  # an origin at the very start of the clock reads as unknown
        assert codec.encode(got, topic=topic, now_ns=now_ns) == data


@given(st.binary(max_size=200))
def test_garbage_is_one_error(data: bytes) -> None:
    for candidate in (data, b"\x8b" + data, b"\x8b\x01\x61a" + data):
        with contextlib.suppress(DecodeError):
            CborCodec().decode(candidate, now_ns=0)


@given(ENVELOPES, TOPICS, st.data())
def test_a_damaged_header_is_a_value_or_one_error(envelope: Envelope, topic: str, data: st.DataObject) -> None:
    codec = CborCodec()
    header = bytearray(codec.encode(envelope, topic=topic, now_ns=0))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(header) - 1))
        match data.draw(st.sampled_from(["flip", "insert", "delete", "cut"])):
            case "flip":
                header[at] ^= data.draw(st.integers(1, 255))
            case "insert":
                header[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete" if len(header) > 1:
                del header[at]
            case _:
                del header[max(at, 1) :]
    try:
        got_topic, got = codec.decode(header, now_ns=0)
    except DecodeError:
        return
    # What was accepted is a header like any other: it has one form, and this is it.
    if got.origin_ns != 0 or cbor2.loads(bytes(header))[8] is None:
        assert codec.encode(got, topic=got_topic, now_ns=0) == bytes(header)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=30), st.datetimes()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
)


@given(st.lists(VALUES, min_size=11, max_size=11), st.sets(st.integers(0, 10)))
def test_any_cbor_in_any_position_is_a_value_or_one_error(values: list[object], kept: set[int]) -> None:
    good: list[object] = [1, "a", 0, None, 0, 2, None, None, None, 0, None]
    items = [good[at] if at in kept else value for at, value in enumerate(values)]
    with contextlib.suppress(DecodeError):
        CborCodec().decode(cbor2.dumps(items, timezone=UTC), now_ns=0)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers())))
def test_whatever_is_offered_is_written_or_one_error(topic: str, headers: dict[str, str | int]) -> None:
    codec = CborCodec()
    try:
        data = codec.encode(Envelope(b"", headers=headers), topic=topic, now_ns=0)
    except EncodeError:
        return
    assert codec.decode(data, now_ns=0)[0] == topic
