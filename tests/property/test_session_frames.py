"""What is written of a session can be read and is what the grammar says; nothing else can be read."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2
import pytest
from frame_grammar import Grammar
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.codec import session_frames as frames
from flowbridge.codec import session_words as words
from flowbridge.codec.codes import Code
from flowbridge.codec.framing import FirstFrame, prefix
from flowbridge.errors import DecodeError, EncodeError, RemoteProtocolError
from flowbridge.limits import (
    BODY_BYTES_MAX,
    GREETING_BYTES_MAX,
    HEADER_BYTES_MAX,
    SESSION_ACKS_MAX,
    SESSION_REPLAY_BYTES_MAX,
    SESSION_SKIPPED_BYTES_MAX,
    SESSION_STREAMS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GRAMMAR: Final = Grammar("session.cddl")
U32 = st.integers(0, 2**32 - 1)
U63 = st.integers(0, 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)


def text(bytes_max: int, bytes_min: int = 0) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), min_size=bytes_min, max_size=bytes_max).filter(
        lambda one: len(one.encode()) <= bytes_max
    )


def received(items_max: int) -> st.SearchStrategy[words.Received]:
    return st.dictionaries(U63, U64, max_size=min(items_max, 40)).map(lambda one: tuple(sorted(one.items())))


LIMITS = st.builds(
    words.SessionLimits,
    st.integers(HEADER_BYTES_MAX, BODY_BYTES_MAX),
    st.integers(HEADER_BYTES_MAX, SESSION_REPLAY_BYTES_MAX),
    st.integers(1, SESSION_STREAMS_MAX),
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**32 - 1),
)
VERSIONS = st.tuples(st.just(1), U32)
CAPS = st.lists(U32, max_size=64).map(tuple)
ID = st.binary(min_size=16, max_size=16)
STREAMS = received(SESSION_STREAMS_MAX)
ACKS = received(SESSION_ACKS_MAX)
TOKEN = text(300, 1)
FRAMES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "hello": st.builds(
        words.Hello, VERSIONS, text(128, 1), U64, ID, U64, CAPS, LIMITS, st.none() | TOKEN, STREAMS, U63
    ),
    "hello-ack": st.builds(
        words.HelloAck,
        *(VERSIONS, text(128, 1), U64, ID, U64, CAPS, LIMITS, st.sampled_from(words.Resumed), STREAMS, U63, U63, U63),
    ),
    "auth-frame": st.builds(words.Auth, TOKEN),
    "ping": st.builds(words.Ping, U63, U63, ACKS),
    "pong": st.builds(words.Pong, U63, U63, U63, U63, ACKS),
    "goaway": st.builds(words.Goaway, U32, U32, U32),
    "error": st.builds(words.Error, U32, st.sampled_from(words.Scope), U63, text(256), st.none() | U32),
    "ack": st.builds(words.Ack, ACKS),
    "open": st.builds(words.Open, U63, st.sampled_from(words.StreamKind), text(256), st.binary(max_size=32), U64),
    "accept": st.builds(words.Accept, U63, U64),
    "single": st.builds(words.Single, U63),
}
PAIRS: Final[dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
    "hello": (frames.write_hello, frames.read_hello),
    "hello-ack": (frames.write_hello_ack, frames.read_hello_ack),
    "auth-frame": (frames.write_auth, frames.read_auth),
    "ping": (frames.write_ping, frames.read_ping),
    "pong": (frames.write_pong, frames.read_pong),
    "goaway": (frames.write_goaway, frames.read_goaway),
    "error": (frames.write_error, frames.read_error),
    "ack": (frames.write_ack, frames.read_ack),
    "open": (frames.write_open, frames.read_open),
    "accept": (frames.write_accept, frames.read_accept),
    "single": (frames.write_single, frames.read_single),
}
WEIRD: Final[tuple[Any, ...]] = (
    *(-1, 0, 1, 2, 3, 4, 255, 2**16, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, None, True, False, 1.0, 1.5, "", "é"),
    *(
        "x" * 128,
        "x" * 129,
        "x" * 257,
        "x" * 9000,
        b"",
        b"y" * 16,
        b"y" * 33,
        [],
        [1],
        [1, 0],
        [1, "t"],
        [2, 0],
        [1, ""],
    ),
    *([[1, 2]], [[1, 2], [3]], [[0, 0]] * 1030, [1] * 65, {}, {"a": 1}, [[1, -1]], [1.0, "t"], [True, "t"]),
)


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_written_is_in_the_grammar_and_is_read_again(name: str) -> None:
    write, read = PAIRS[name]

    @given(FRAMES[name])
    def check(frame: Any) -> None:
        header = write(frame)
        assert GRAMMAR.fits(name, header)
        assert GRAMMAR.fits("header", header)
        assert read(header) == frame
        assert type(read(header)) is type(frame)

    check()


def rises(value: object) -> bool:
    """Whether the pairs in a list have numbers that rise, which no grammar tells."""
    if type(value) is not list:
        return True
    pairs = [cast("list[object]", one) for one in cast("list[object]", value) if type(one) is list]
    numbers = [pair[0] for pair in pairs if len(pair) == 2 and type(pair[0]) is int]
    return len(pairs) < 2 or all(low < high for low, high in pairwise(numbers))


@pytest.mark.parametrize("name", FRAMES)
def test_a_spoilt_position_is_refused_exactly_when_the_grammar_refuses_it(name: str) -> None:
    write, read = PAIRS[name]

    @given(FRAMES[name], st.data())
    def check(frame: Any, data: st.DataObject) -> None:
        items: list[Any] = cbor2.loads(write(frame))
        at = data.draw(st.integers(0, len(items)))
        spoilt = data.draw(st.sampled_from(WEIRD))
        is_inside = data.draw(st.booleans())
        inner: list[Any] = items[at] if at < len(items) and type(items[at]) is list else []
        if inner and is_inside:
            inner[data.draw(st.integers(0, len(inner) - 1))] = spoilt
        else:
            items[at : at + 1] = [spoilt]
        header = cbor2.dumps(items, canonical=True)
        fits = GRAMMAR.fits(name, header)
        fits = (
            fits
            and all(map(rises, items))
            and len(header) <= (GREETING_BYTES_MAX if "hello" in name else HEADER_BYTES_MAX)
        )
        try:
            read(header)
        except DecodeError:
            assert not fits
        else:
            assert fits

    check()


@pytest.mark.parametrize("name", FRAMES)
def test_a_writer_refuses_what_its_reader_would(name: str) -> None:
    write, read = PAIRS[name]

    @given(FRAMES[name], st.data())
    def check(frame: Any, data: st.DataObject) -> None:
        field = data.draw(st.sampled_from(frame._fields))
        spoilt = frame._replace(**{field: data.draw(st.sampled_from(WEIRD))})
        try:
            header = write(spoilt)
        except EncodeError:
            return
        read(header)

    check()


@pytest.mark.parametrize("name", FRAMES)
def test_any_bytes_are_read_or_a_decode_error(name: str) -> None:
    write, read = PAIRS[name]

    @given(FRAMES[name], st.data())
    def check(frame: Any, data: st.DataObject) -> None:
        header = bytearray(write(frame))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(header) - 1))
            header[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
            if not header:
                break
        for one in (bytes(header), data.draw(st.binary(max_size=60))):
            try:
                read(one)
            except DecodeError:
                continue
            assert GRAMMAR.fits(name, one)

    check()


# --- whole frames ----------------------------------------------------------------------------------------------------

CONTROL = st.one_of([strategy for name, strategy in FRAMES.items() if name not in ("open", "accept", "single")])
GREASE = st.builds(frames.grease, st.integers(0, 2**40), st.binary(max_size=40))


def test_frames_to_be_skipped_disturb_nothing() -> None:
    @given(st.lists(st.one_of(CONTROL.map(lambda one: (one, frames.whole(one))), GREASE.map(lambda one: (None, one)))))
    def check(said: list[tuple[Any, bytes]]) -> None:
        reader = frames.control_reader()
        found: list[Any] = []
        for piece in (b"".join(one for _, one in said),):
            found += [frames.read_control(*frame) for frame in reader.feed(piece)]
        assert found == [frame for frame, _ in said]
        assert reader.failure is None

    check()


def refusal(kind: int, header: bytes, body: bytes) -> int | None:
    """The code with which a frame is refused; None for one that is read or skipped."""
    try:
        frames.read_control(kind, header, body)
    except RemoteProtocolError as error:
        return error.code or 0
    return None


@given(CONTROL, st.data())
def test_a_mutated_control_stream_is_read_or_refused_with_a_code(frame: Any, data: st.DataObject) -> None:
    said = bytearray(frames.whole(frame) * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    reader = frames.control_reader()
    cut = data.draw(st.integers(0, len(said)))
    try:
        for piece in (bytes(said[:cut]), bytes(said[cut:])):
            for found in reader.feed(piece):
                assert refusal(*found) in (None, Code.FRAME, Code.CBOR, Code.UNEXPECTED, Code.VERSION)
    except RemoteProtocolError:
        pass
    assert reader.held_bytes <= GREETING_BYTES_MAX + SESSION_SKIPPED_BYTES_MAX + 24


@given(FRAMES["open"] | FRAMES["accept"], st.binary(max_size=50), st.lists(st.integers(1, 40)))
def test_the_first_frame_leaves_what_follows_as_it_came(frame: Any, more: bytes, cuts: list[int]) -> None:
    said = frames.whole(frame) + more
    first = frames.first_frame()
    found: tuple[int, bytes, bytes, bytes] | None = None
    at = 0
    for cut in [*cuts, len(said)]:
        found = first.feed(said[at : at + cut])
        at += cut
        if found is not None:
            break
    assert found is not None
    assert frames.read_first(*found[:3]) == frame
    assert found[3] + said[at:] == more
    assert not first.held_bytes


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=30))
def test_any_first_bytes_are_a_frame_or_a_remote_protocol_error(pieces: list[bytes]) -> None:
    first = FirstFrame()
    for piece in pieces:
        try:
            found = first.feed(piece)
        except RemoteProtocolError:
            return
        assert first.held_bytes <= HEADER_BYTES_MAX + 24
        if found is not None:
            with suppress(RemoteProtocolError):
                frames.read_first(*found[:3])
            return


def hello(**given: Any) -> words.Hello:
    limits = words.SessionLimits(2**20, 2**20, 64, 30_000, 250)
    return words.Hello((1, 0), "edge-1", 1, b"s" * 16, 1, (), limits, "secret", (), 5)._replace(**given)


def test_another_major_version_is_told_with_both_versions() -> None:
    items = cbor2.loads(frames.write_hello(hello()))
    items[0] = [2, 7]
    for more in ([], ["what version 2 adds"]):
        header = cbor2.dumps([*items, *more], canonical=True)
        with pytest.raises(RemoteProtocolError, match=r"speaks version 2\.7, here it is 1\.0") as caught:
            frames.read_control(words.HELLO, header, b"")
        assert caught.value.code == Code.VERSION


def test_a_greeting_holds_every_stream_of_a_session() -> None:
    streams = tuple((2**63 - 1 - SESSION_STREAMS_MAX + n, 2**64 - 1) for n in range(SESSION_STREAMS_MAX))
    full = hello(streams=streams, auth="t" * 8192, node="n" * 128, caps=(2**32 - 1,) * 64)
    assert frames.read_hello(frames.write_hello(full)) == full
    acks = words.Pong(2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1, streams[:SESSION_ACKS_MAX])
    assert frames.read_pong(frames.write_pong(acks)) == acks


def test_a_frame_where_it_does_not_belong_is_refused() -> None:
    for kind, header, body, code in (
        (words.OPEN, b"\x80", b"", Code.UNEXPECTED),
        (0x3E, b"", b"", Code.UNEXPECTED),
        (words.GOAWAY, frames.write_goaway(words.Goaway(1, 2, 3)), b"x", Code.FRAME),
        (words.GOAWAY, b"\x80", b"", Code.CBOR),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            frames.read_control(kind, header, body)
        assert caught.value.code == code
    with pytest.raises(RemoteProtocolError):
        frames.read_first(words.PING, frames.write_ping(words.Ping(1, 2, ())), b"")
    assert frames.read_control(0x33, b"whatever", b"it is") is None


def test_no_text_shows_a_token() -> None:
    assert "secret" not in repr(hello())
    assert "secret" not in repr(words.Auth("secret"))
    header = cbor2.dumps([[2, "secret"]], canonical=True)
    with pytest.raises(DecodeError) as caught:
        frames.read_auth(header)
    assert "secret" not in str(caught.value)
    with pytest.raises(EncodeError) as encoding:
        frames.write_auth(words.Auth("secret" * 2000))
    assert "secret" not in str(encoding.value)


def test_the_smaller_limits_of_both_sides_hold() -> None:
    one, other = words.SessionLimits(5000, 9000, 3, 40, 7), words.SessionLimits(6000, 8000, 4, 30, 8)
    assert one.agreed(other) == other.agreed(one) == words.SessionLimits(5000, 8000, 3, 30, 7)


def test_a_frame_to_be_skipped_has_any_odd_type_and_a_small_body() -> None:
    kinds = {frames.control_reader().feed(frames.grease(n))[0][0] for n in range(9000)}
    assert kinds == set(range(1, 0x4000, 2))
    with pytest.raises(EncodeError):
        frames.grease(1, b"x" * (SESSION_SKIPPED_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError):
        frames.control_reader().feed(prefix(1, 0, SESSION_SKIPPED_BYTES_MAX + 1))
