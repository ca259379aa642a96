"""What hostile peers are known to send, through every reader of frames; and the inputs kept for the fuzzer."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from flowbridge.codec import bus_frames, route_frames, session_frames, session_words
from flowbridge.codec.cbor import CborCodec
from flowbridge.codec.framing import FirstFrame, FrameReader, varint
from flowbridge.errors import DecodeError, RemoteProtocolError
from flowbridge.limits import GREETING_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

FUZZ: Final = Path(__file__).resolve().parents[1] / "fuzz"


def tagged(tag: int, content: bytes) -> bytes:
    head = b"\xc0" if tag < 24 else b"\xd8" if tag < 256 else b"\xd9"
    number = b"" if tag < 24 else tag.to_bytes(1 if tag < 256 else 2, "big")
    return bytes((head[0] | (tag if tag < 24 else 0),)) + number + content


def bignums(count: int) -> bytes:
    """A map whose keys all have the hash 0."""
    keys = [b"\xc2\x58\x40" + ((2**61 - 1) * (n + 2**440)).to_bytes(64, "big") for n in range(count)]
    return b"\x81\xb9" + count.to_bytes(2, "big") + b"".join(key + b"\x00" for key in keys)


OPEN: Final = session_frames.write_open(session_words.Open(1, session_words.StreamKind.BUS, "bus", b"", 0))
ATTACKS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "a million arrays": b"\x81" * 10**6,
    "4000 arrays": b"\x81" * 4000,
    "5 arrays": b"\x81" * 5 + b"\x00",
    "4000 maps": b"\xa1\x00" * 2000,
    "4000 tags": b"\x81" + b"\xc6" * 4000,
    "2**60 bytes": b"\x81\x5b" + (2**60).to_bytes(8, "big"),
    "2**60 letters": b"\x81\x7b" + (2**60).to_bytes(8, "big"),
    "2**40 items": b"\x9b" + (2**40).to_bytes(8, "big"),
    "2**40 items within": b"\x81\x9b" + (2**40).to_bytes(8, "big"),
    "2**40 pairs": b"\x81\xbb" + (2**40).to_bytes(8, "big"),
    "an array without end": b"\x9f\x01\xff",
    "bytes without end": b"\x81\x5f\x41a\xff",
    "text without end": b"\x81\x7f\x61a\xff",
    "a map without end": b"\x81\xbf\x61a\x01\xff",
    "a key twice": b"\x81\xa2\x61a\x01\x61a\x02",
    "bignums as keys": bignums(50),
    "many bignums as keys": bignums(400),
    "a bignum": b"\x81\xc2\x49\x01" + bytes(8),
    "a NaN": b"\x81\xf9\x7e\x00",
    "undefined": b"\x81\xf7",
    "a simple value": b"\x81\xf8\xff",
    "reserved": b"\x81\x1c",
    "a break": b"\xff",
    "no UTF-8": b"\x81\x62\xc3\x28",
    "a surrogate": b"\x81\x63\xed\xa0\x80",
    "a long form": b"\x81\x18\x05",
    "a map": b"\xa0",
    "a number": b"\x00",
    "cut off": OPEN[:-1],
    "one more byte": OPEN + b"\x00",
    "twice": OPEN * 2,
    "self-described": tagged(55799, OPEN),
    "shared, with itself": b"\x81" + tagged(28, b"\x81" + tagged(29, b"\x00")),
    **{
        f"tag {tag}": b"\x81" + tagged(tag, content)
        for tag, content in {
            0: b"\x74" + b"2013-03-21T20:04:00Z",
            1: b"\x00",
            2: b"\x41\x01",
            3: b"\x41\x01",
            4: b"\x82\x20\x01",
            5: b"\x82\x20\x01",
            25: b"\x00",
            28: b"\x80",
            29: b"\x00",
            30: b"\x82\x01\x02",
            35: b"\x66(a+)+$",
            36: b"\x61a",
            37: b"\x50" + bytes(16),
            52: b"\x44" + bytes(4),
            54: b"\x50" + bytes(16),
            100: b"\x00",
            256: b"\x80",
            258: b"\x80",
            260: b"\x44" + bytes(4),
            261: b"\xa1\x44" + bytes(4) + b"\x08",
            1004: b"\x6a2013-03-21",
            43000: b"\x80",
            99: b"\x00",
            6: b"\x00",
        }.items()
    },
}
ALL: Final = bus_frames.TO_SERVER | bus_frames.TO_CLIENT
READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "control": lambda data: session_frames.read_control(session_words.PING, data, b""),
    "greeting": lambda data: session_frames.read_control(session_words.HELLO, data, b""),
    "first": lambda data: session_frames.read_first(session_words.ACCEPT, data, b""),
    "open": session_frames.read_open,
    "item": route_frames.read_item,
    "counts": route_frames.read_counts,
    "trail": lambda data: route_frames.TrailReader().read(data),
    "bus publication": lambda data: bus_frames.decode(bus_frames.PUB, data, b"", ALL),
    "bus settings": lambda data: bus_frames.decode(bus_frames.CONFIGURE, data, b"", ALL),
    "header": lambda data: CborCodec().decode(data, now_ns=0),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", READERS)
def test_a_known_attack_is_refused(reader: str, attack: str) -> None:
    with pytest.raises((DecodeError, RemoteProtocolError)):
        READERS[reader](ATTACKS[attack])


def test_the_array_that_attacks_are_made_of_is_in_order() -> None:
    assert session_frames.read_open(OPEN).label == "bus"


@pytest.mark.parametrize("size", [2**14 - 1, 2**20, 2**30 - 1, 2**61])
def test_a_length_that_is_announced_takes_no_memory(size: int) -> None:
    fronts = [b"\x02" + varint(size) + b"\x00", b"\x02\x00" + varint(size), b"\x02" + varint(size) * 2]
    tracemalloc.start()
    try:
        for front in fronts:
            for one in (session_frames.control_reader(), session_frames.first_frame(), FirstFrame(), FrameReader()):
                try:
                    one.feed(front)
                except RemoteProtocolError:
                    continue
                assert one.held_bytes <= 24
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_single_bytes_cost_what_they_are() -> None:
    reader = session_frames.control_reader()
    front = b"\x02" + varint(GREETING_BYTES_MAX) + b"\x00"
    for byte in front + bytes(GREETING_BYTES_MAX - 1):
        assert reader.feed(bytes((byte,))) == []
    assert reader.held_bytes == len(front) + GREETING_BYTES_MAX - 1
    assert len(reader.feed(b"\x00")) == 1
    assert not reader.held_bytes


def target() -> ModuleType:
    """tests/fuzz/fuzz_frames.py, which is no test."""
    spec = importlib.util.spec_from_file_location("fuzz_frames", FUZZ / "fuzz_frames.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_input_of_the_corpus_escapes_and_each_reader_has_some() -> None:
    fuzz: Any = target()
    picked: set[int] = set()
    for path in sorted((FUZZ / "corpus").iterdir()):
        data = path.read_bytes()
        fuzz.one_input(data)
        fuzz.one_input(data[:-1])
        picked.add(data[0] % len(fuzz.READERS))
    assert picked == set(range(len(fuzz.READERS)))


def test_what_escapes_a_reader_is_seen() -> None:
    fuzz: Any = target()

    def broken(_: bytes) -> None:
        raise KeyError("a bug")

    fuzz.READERS = (broken,)
    with pytest.raises(KeyError):
        fuzz.one_input(b"\x00")
    fuzz.one_input(b"")
