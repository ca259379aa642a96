"""The header's wire form, position by position, and what the decoder refuses."""

# pyright: reportPrivateUsage=false
# What must not be left behind is seen only from inside.
from __future__ import annotations

from typing import Any

import cbor2
import pytest

from flowbridge.codec.cbor import CborCodec
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX, TOPICS_CACHED_MAX

NOW = 5_000_000_000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = bytes.fromhex(TRACEPARENT.replace("-", ""))
PLAIN: list[Any] = [1, "a.b", 7, None, 9, 2, None, None, None, 3, None]


def header(**changes: object) -> bytes:
    """A header with some positions changed, by name."""
    names = ["version", "topic", "seq", "ttl", "sent", "priority", "trace", "tracestate", "age", "size", "headers"]
    items = list(PLAIN)
    for name, value in changes.items():
        items[names.index(name)] = value
    return cbor2.dumps(items, canonical=True)


def refused(data: bytes) -> str:
    """Why the decoder refuses it."""
    with pytest.raises(DecodeError) as caught:
        CborCodec().decode(data, now_ns=NOW)
    return str(caught.value)


def test_the_wire_form_is_this_array() -> None:
    envelope = Envelope(
        "payload", Priority.HIGH, NOW + 250_000_999, NOW - 1_500_999, NOW - 10, 1500, 123,
        trace=TraceContext(TRACEPARENT, "k=v"), headers={"reply_to": "r", "n": -1},
    )  # fmt: skip
    data = CborCodec().encode(envelope, topic="robot.arm", now_ns=NOW)
    assert cbor2.loads(data) == [
        1, "robot.arm", 123, 250_000, NOW - 10, 1, TRACE, "k=v", 1_500, 1500, {"n": -1, "reply_to": "r"},
    ]  # fmt: skip
    assert data == cbor2.dumps(cbor2.loads(data), canonical=True)
    assert data[:1] == b"\x8b"


def test_a_plain_message_has_nulls() -> None:
    data = CborCodec().encode(Envelope(b"x", sent_ns=9, size_bytes=3, seq=7), topic="a.b", now_ns=NOW)
    assert cbor2.loads(data) == PLAIN


def test_the_topic_comes_back_and_the_payload_does_not() -> None:
    topic, envelope = CborCodec().decode(header(), now_ns=NOW)
    assert topic == "a.b"
    assert envelope.payload is None
    assert (envelope.seq, envelope.sent_ns, envelope.size_bytes) == (7, 9, 3)
    assert envelope.priority is Priority.NORMAL
    assert envelope.deadline_ns == NO_DEADLINE
    assert envelope.origin_ns == 0
    assert (envelope.trace, envelope.headers, envelope.trail) == (None, None, None)


def test_a_deadline_is_re_anchored_to_the_receiver() -> None:
    codec = CborCodec()
    data = codec.encode(Envelope(b"", deadline_ns=NOW + 2_000_999), topic="t", now_ns=NOW)
    assert codec.decode(data, now_ns=77)[1].deadline_ns == 77 + 2_000_000


def test_a_message_that_is_late_is_late_on_arrival() -> None:
    codec = CborCodec()
    for late_ns in (0, 1, 10**12):
        data = codec.encode(Envelope(b"", deadline_ns=NOW - late_ns), topic="t", now_ns=NOW)
        assert codec.decode(data, now_ns=50)[1].deadline_ns == 50


def test_the_longest_time_left_does_not_become_no_deadline() -> None:
    _, envelope = CborCodec().decode(header(ttl=(2**63 - 1) // 1000), now_ns=NOW)
    assert envelope.deadline_ns == NO_DEADLINE - 1


def test_the_age_travels_and_not_the_time_of_the_origin() -> None:
    codec = CborCodec()
    data = codec.encode(Envelope(b"", origin_ns=NOW - 3_000_500), topic="t", now_ns=NOW)
    assert codec.decode(data, now_ns=10**15)[1].origin_ns == 10**15 - 3_000_000


@pytest.mark.parametrize("origin_ns", [NOW + 10**9, -(2**63)])
def test_an_impossible_origin_is_bounded(origin_ns: int) -> None:
    codec = CborCodec()
    data = codec.encode(Envelope(b"", origin_ns=origin_ns), topic="t", now_ns=NOW)
    assert codec.decode(data, now_ns=NOW)[1].origin_ns <= NOW


@pytest.mark.parametrize(
    ("envelope", "position"),
    [
        (Envelope(b"", seq=-1), "seq"),
        (Envelope(b"", seq=2**63), "seq"),
        (Envelope(b"", sent_ns=-1), "sent_ns"),
        (Envelope(b"", size_bytes=2**63), "size_bytes"),
        (Envelope(b"", priority=4), "priority"),
        (Envelope(b"", priority=-1), "priority"),
        (Envelope(b"", trace=TraceContext("nonsense")), "trace"),
        (Envelope(b"", trace=TraceContext(TRACEPARENT.upper())), "trace"),
        (Envelope(b"", trace=TraceContext(TRACEPARENT + "-00")), "trace"),
        (Envelope(b"", trace=TraceContext(TRACEPARENT.replace("-", ""))), "trace"),
        (Envelope(b"", trace=TraceContext("00-" + "0" * 32 + "-b7ad6b7169203331-01")), "trace"),
        (Envelope(b"", trace=TraceContext("ff" + TRACEPARENT[2:])), "trace"),
        (Envelope(b"", trace=TraceContext(TRACEPARENT, "a=b\r\nSet-Cookie: x")), "tracestate"),
        (Envelope(b"", headers={"n": 2**63}), "headers"),
        (Envelope(b"", headers={"n": True}), "headers"),
        (Envelope(b"", headers={"n": 1.5}), "headers"),  # type: ignore[dict-item]  # the types forbid it, people do it
        (Envelope(b"", headers={1: "x"}), "headers"),  # type: ignore[dict-item]  # as above
        (Envelope(b"", seq=1.5), "seq"),  # type: ignore[arg-type]  # as above
    ],
)
def test_what_does_not_fit_is_refused_by_name(envelope: Envelope, position: str) -> None:
    with pytest.raises(EncodeError, match=f"position {position} "):
        CborCodec().encode(envelope, topic="t", now_ns=NOW)


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", "x" * 257, "\ud800"])
def test_a_bad_topic_is_not_written_and_not_remembered(topic: str) -> None:
    codec = CborCodec()
    for _ in range(2):
        with pytest.raises(EncodeError, match="topic"):
            codec.encode(Envelope(b""), topic=topic, now_ns=NOW)


def test_text_that_is_not_unicode_is_not_written() -> None:
    with pytest.raises(EncodeError, match="cannot be written"):
        CborCodec().encode(Envelope(b"", headers={"k": "\udfff"}), topic="t", now_ns=NOW)


def test_a_header_too_long_names_the_limit_and_its_length() -> None:
    codec = CborCodec()
    room = HEADER_BYTES_MAX - len(codec.encode(Envelope(b"", headers={"k": "x" * 256}), topic="t", now_ns=NOW)) + 256
    assert len(codec.encode(Envelope(b"", headers={"k": "x" * room}), topic="t", now_ns=NOW)) == HEADER_BYTES_MAX
    with pytest.raises(EncodeError, match=f"{HEADER_BYTES_MAX} bytes: {HEADER_BYTES_MAX + 1}"):
        codec.encode(Envelope(b"", headers={"k": "x" * (room + 1)}), topic="t", now_ns=NOW)
    assert f"{HEADER_BYTES_MAX} bytes: 5000" in refused(bytes(5000))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version is 2"),
        ({"version": True}, "version"),
        ({"version": "1"}, "version"),
        ({"topic": b"a.b"}, "topic"),
        ({"topic": None}, "topic"),
        ({"topic": "a..b"}, "empty word"),
        ({"topic": "a.>"}, "wildcard"),
        ({"topic": "gru\u0308n"}, "NFC"),
        ({"topic": ["a"]}, "topic"),
        ({"seq": -1}, "seq"),
        ({"seq": 2**63}, "seq"),
        ({"seq": 1.0}, "seq"),
        ({"seq": None}, "seq"),
        ({"seq": False}, "seq"),
        ({"ttl": -1}, "ttl_us"),
        ({"ttl": (2**63 - 1) // 1000 + 1}, "ttl_us"),
        ({"ttl": True}, "ttl_us"),
        ({"sent": "9"}, "sent_ns"),
        ({"priority": 4}, "priority"),
        ({"priority": None}, "priority"),
        ({"trace": TRACE[:25]}, "trace"),
        ({"trace": TRACE + b"x"}, "trace"),
        ({"trace": bytes(26)}, "trace"),
        ({"trace": b"\xff" + TRACE[1:]}, "trace"),
        ({"trace": TRACEPARENT}, "trace"),
        ({"tracestate": "k=v"}, "without a trace"),
        ({"trace": TRACE, "tracestate": ""}, "tracestate"),
        ({"trace": TRACE, "tracestate": "a\nb"}, "tracestate"),
        ({"trace": TRACE, "tracestate": b"k=v"}, "tracestate"),
        ({"age": -1}, "age_us"),
        ({"age": 2**62}, "age_us"),
        ({"size": -1}, "size_bytes"),
        ({"headers": ["k", "v"]}, "headers"),
        ({"headers": {b"k": "v"}}, "headers"),
        ({"headers": {"k": None}}, "headers"),
        ({"headers": {"k": b"v"}}, "headers"),
        ({"headers": {"k": True}}, "headers"),
        ({"headers": {"k": -(2**63) - 1}}, ""),
        ({"headers": {"k": 2**63}}, "headers"),
        ({"headers": {"k": ["v"]}}, "depth"),
    ],
)
def test_a_position_of_another_type_or_range_is_refused(changes: dict[str, object], why: str) -> None:
    assert why in refused(header(**changes))


def long_integer(data: bytes) -> bytes:
    """The same array, but with seq 7 written as a 64-bit integer."""
    at = data.index(b"\x07")
    return data[:at] + b"\x1b" + (7).to_bytes(8, "big") + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x8b",
        header()[:-1],
        header() + b"\x00",
        header() + header(),
        header() + b"\xff",
        b"\x9f" + header()[1:] + b"\xff",  # indefinite array
        header()[:-1] + b"\xbf\xff",  # indefinite map
        header()[:-1] + b"\xa2\x61k\x01\x61k\x02",  # a key twice
        header()[:-1] + b"\xa2\x61k\x01\x61j\x02",  # unsorted keys
        header()[:-1] + b"\xa1\x01\x02",  # a key that is no text
        b"\x8a" + header()[1:-1],
        b"\x8c" + header()[1:] + b"\xf6",
        b"\x9a\x00\x00\x00\x0b" + header()[1:],  # the array's length in four bytes
        long_integer(header()),
        header()[:-1] + b"\xf7",  # undefined in place of null
        b"\x8b" + b"\x81" * 2000,
        b"\x8b\x01\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",  # a text of 2**63-1 bytes
        b"\x8b\x9b\x00\x00\x01\x00\x00\x00\x00\x00",  # an array of 2**40 items
        b"\x8b\x01\x62\xff\xfe",  # not UTF-8
    ],
)
def test_a_header_in_any_other_form_is_refused(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize("tag", [*range(24), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 55799])
def test_every_tag_is_refused(tag: int) -> None:
    head = bytes([0xC0 | tag]) if tag < 24 else bytes([0xD8, tag]) if tag < 256 else b"\xd9" + tag.to_bytes(2, "big")
    for position in range(11):
        items = [cbor2.dumps(item) for item in PLAIN]
        for inner in (items[position], b"\x41\x07", b"\x61a", b"\x82\x00\x01"):
            tagged = list(items)
            tagged[position] = head + inner
            assert "tag" in refused(b"\x8b" + b"".join(tagged)) or inner is not items[position]
    assert refused(head + header())


def test_any_bytes_like_is_read() -> None:
    codec = CborCodec()
    data = header()
    for view in (bytearray(data), memoryview(data), memoryview(b"x" + data)[1:]):
        assert codec.decode(view, now_ns=NOW)[0] == "a.b"


def test_the_memory_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.codec.cbor.TOPICS_CACHED_MAX", 3)
    codec = CborCodec()
    for number in range(10):
        topic = f"t{number}"
        assert codec.decode(codec.encode(Envelope(b""), topic=topic, now_ns=NOW), now_ns=NOW)[0] == topic
        assert len(codec._prefixes) <= 3
    assert TOPICS_CACHED_MAX > 3


def test_a_codec_says_its_name_to_the_peer() -> None:
    assert CborCodec().name == "cbor-1"
