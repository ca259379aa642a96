"""Any frames in any pieces come out as they were; any garbage is a RemoteProtocolError and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.codec.framing import FrameReader, prefix, varint
from flowbridge.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

Frame = tuple[int, bytes, bytes]

FRAMES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 0x7F), st.integers(0, 0x3FFF)),
        st.binary(max_size=100),
        st.one_of(st.binary(max_size=100), st.integers(0, 20_000).map(lambda n: bytes(n % 251 for _ in range(n)))),
    ),
    max_size=8,
)
CUTS = st.lists(st.integers(1, 300), max_size=200)
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(st.integers(0, 2**62 - 1).map(varint), st.binary(max_size=20)), max_size=12).map(b"".join),
)


def encoded(frames: Iterable[Frame]) -> bytes:
    return b"".join(prefix(kind, len(header), len(body)) + header + body for kind, header, body in frames)


def pieces(data: bytes, cuts: list[int]) -> Iterable[bytes]:
    at = 0
    for cut in cuts:
        yield data[at : at + cut]
        at += cut
    yield data[at:]


def read(reader: FrameReader, parts: Iterable[bytes]) -> tuple[list[Frame], str]:
    """What comes out, and how it ended; anything but a RemoteProtocolError goes through."""
    frames: list[Frame] = []
    for part in parts:
        try:
            frames += reader.feed(part)
        except RemoteProtocolError as error:
            return frames, str(error)
    return frames, "" if reader.failure is None else str(reader.failure)


@given(FRAMES, CUTS)
def test_frames_come_out_as_they_went_in_whatever_the_pieces(frames: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader()
    assert read(reader, pieces(encoded(frames), cuts)) == (frames, "")
    assert reader.held_bytes == 0


@given(FRAMES, CUTS, st.data())
def test_a_stream_that_stops_anywhere_gives_the_whole_frames_and_holds_the_rest(
    frames: list[Frame], cuts: list[int], data: st.DataObject
) -> None:
    whole = encoded(frames)
    stop = data.draw(st.integers(0, len(whole)))
    reader = FrameReader()
    found, failure = read(reader, pieces(whole[:stop], cuts))
    assert failure == ""
    assert found == frames[: len(found)]
    assert reader.held_bytes == stop - len(encoded(found))


@given(FRAMES, GARBAGE, CUTS)
def test_garbage_ends_the_same_way_whatever_the_pieces(frames: list[Frame], garbage: bytes, cuts: list[int]) -> None:
    data = encoded(frames) + garbage
    one = FrameReader(header_bytes_max=200, body_bytes_max=30_000)
    many = FrameReader(header_bytes_max=200, body_bytes_max=30_000)
    found, failure = read(one, [data])
    assert read(many, pieces(data, cuts)) == (found, failure)
    assert found[: len(frames)] == frames
    if not failure:
        assert one.held_bytes == many.held_bytes <= 200 + 30_000 + 24


@given(st.binary(max_size=200))
def test_what_a_reader_takes_is_what_a_sender_would_write(data: bytes) -> None:
    reader = FrameReader()
    frames, failure = read(reader, [data])
    if not failure:
        assert data[: len(data) - reader.held_bytes] == encoded(frames)


@given(st.integers(0, 2**62 - 1))
def test_a_number_is_as_short_as_can_be_and_says_how_long_it_is(value: int) -> None:
    octets = varint(value)
    assert len(octets) == 1 << (octets[0] >> 6)
    assert int.from_bytes(octets, "big") & ((1 << (8 * len(octets) - 2)) - 1) == value
    assert len(octets) == 1 or value >= 1 << (8 * (len(octets) // 2) - 2)
