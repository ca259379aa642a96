"""Frames: their bytes, their limits, and what a reader costs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from flowbridge.codec.framing import FrameReader, prefix, varint
from flowbridge.errors import EncodeError, RemoteProtocolError
from flowbridge.limits import HEADER_BYTES_MAX

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("value", "octets"),
    [  # the examples of RFC 9000, appendix A.1, and the borders
        (37, "25"),
        (15_293, "7bbd"),
        (494_878_333, "9d7f3e7d"),
        (151_288_809_941_952_652, "c2197c5eff14e88c"),
        (0, "00"),
        (0x3F, "3f"),
        (0x40, "4040"),
        (0x3FFF, "7fff"),
        (0x4000, "80004000"),
        (0x3FFF_FFFF, "bfffffff"),
        (0x4000_0000, "c000000040000000"),
        (2**62 - 1, "ffffffffffffffff"),
    ],
)
def test_a_number_has_the_bytes_of_the_standard(value: int, octets: str) -> None:
    assert varint(value).hex() == octets


@pytest.mark.parametrize("value", [-1, 2**62])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(EncodeError, match=str(value)):
        varint(value)


@pytest.mark.parametrize("kind", [-1, 0x4000, 2**62])
def test_a_type_that_does_not_fit_is_refused_by_the_sender(kind: int) -> None:
    with pytest.raises(EncodeError):
        prefix(kind, 0, 0)


def test_a_type_at_its_limit_arrives() -> None:
    assert FrameReader().feed(prefix(0x3FFF, 1, 2) + b"hbb") == [(0x3FFF, b"h", b"bb")]


@pytest.mark.parametrize("octets", ["4025", "80000025", "c000000000000025", "c000000000004000"])
def test_a_number_in_more_bytes_than_it_needs_is_refused(octets: str) -> None:
    with pytest.raises(RemoteProtocolError, match="needs fewer"):
        FrameReader().feed(bytes.fromhex(octets))


@pytest.mark.parametrize("octets", ["02403f0000", "0200403f00", "0240404000", "023f403f00"])
def test_a_length_in_two_bytes_that_needs_one_is_refused_in_front_of_a_whole_frame(octets: str) -> None:
    with pytest.raises(RemoteProtocolError, match="needs fewer"):
        FrameReader().feed(bytes.fromhex(octets) + bytes(200))


@pytest.mark.parametrize("header_bytes", [0, 1, 63, 64, 65, 255, 256, 1023, 1024])
@pytest.mark.parametrize("body_bytes", [0, 1, 63, 64, 65, 255, 256, 1023, 1024, 16_383, 16_384])
def test_lengths_on_both_sides_of_a_form_arrive(header_bytes: int, body_bytes: int) -> None:
    frame = prefix(2, header_bytes, body_bytes) + b"h" * header_bytes + b"b" * body_bytes
    assert prefix(2, header_bytes, body_bytes) == varint(2) + varint(header_bytes) + varint(body_bytes)
    assert FrameReader().feed(frame * 2) == [(2, b"h" * header_bytes, b"b" * body_bytes)] * 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (varint(0x4000), "frame type 0x4000"),
        (varint(2) + varint(HEADER_BYTES_MAX + 1), f"{HEADER_BYTES_MAX} bytes: {HEADER_BYTES_MAX + 1}"),
        (varint(2) + varint(0) + varint(1_001), "1000 bytes: 1001"),
        (varint(2) + varint(0) + varint(2**62 - 1), "1000 bytes"),
    ],
)
def test_a_length_beyond_its_limit_is_refused_as_soon_as_it_is_read(data: bytes, says: str) -> None:
    reader = FrameReader(body_bytes_max=1_000)
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) == []
    with pytest.raises(RemoteProtocolError, match=says):
        reader.feed(data[-1:])


def test_frames_in_front_of_a_violation_are_delivered_and_nothing_behind_it() -> None:
    good, bad = prefix(2, 0, 1) + b"a", varint(0x4000)
    reader = FrameReader()
    assert reader.failure is None
    assert reader.feed(good + bad + good) == [(2, b"", b"a")]
    assert "0x4000" in str(reader.failure)
    with pytest.raises(RemoteProtocolError, match="0x4000"):
        reader.feed(good)


def test_an_announced_body_costs_nothing_before_it_comes() -> None:
    tracemalloc.start()
    try:
        reader = FrameReader()
        reader.feed(prefix(2, 0, 1024 * MIB))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_body_that_comes_in_single_bytes_costs_little_more_than_its_bytes() -> None:
    reader = FrameReader()
    reader.feed(prefix(2, 0, MIB // 8))
    piece = bytes(1)
    tracemalloc.start()
    try:
        for _ in range(MIB // 8 - 1):
            reader.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < MIB // 4
    finally:
        tracemalloc.stop()
    assert reader.feed(piece) == [(2, b"", bytes(MIB // 8))]
    assert reader.held_bytes == 0


class CountedBytes(bytes):
    """Bytes that know how often their content was copied by slicing."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        get: Any = super().__getitem__
        part: Any = get(key)
        if isinstance(part, bytes):
            CountedBytes.copied += len(part)
        return part


def test_a_large_body_in_pieces_is_neither_joined_nor_cut_once_per_piece() -> None:
    # Not by a clock: by the peak of memory, and by what is sliced off the pieces.
    size, piece = 64 * MIB, CountedBytes(64 * 1024)
    CountedBytes.copied = 0
    reader = FrameReader()
    reader.feed(prefix(2, 0, size))
    tracemalloc.start()
    try:
        for _ in range(size // len(piece) - 1):
            assert reader.feed(piece) == []
        held_peak = tracemalloc.get_traced_memory()[1]
        [(_, _, body)] = reader.feed(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(body) == size
    assert CountedBytes.copied == 0
    assert held_peak < size * 5 // 4
    assert peak < size * 9 // 4
    assert reader.held_bytes == 0
