"""Bytes of a peer against everything that reads frames: what is wrong with them is said with two exceptions, no other.

    pip install atheris
    python tests/fuzz/fuzz_frames.py tests/fuzz/corpus

The first byte of an input picks the reader. A unit test runs the inputs in `corpus` without atheris.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec import bus_frames, route_frames, session_frames
from flowbridge.codec.bus_errors import error_in
from flowbridge.codec.bus_payload import decode as decode_payload
from flowbridge.codec.cbor import CborCodec
from flowbridge.codec.framing import FrameReader
from flowbridge.errors import DecodeError, RemoteProtocolError
from flowbridge.limits import GREETING_BYTES_MAX, HEADER_BYTES_MAX, SESSION_SKIPPED_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE: Final = 7
_FRONT: Final = 24  # a type and two lengths, at most


def _control(data: bytes) -> None:
    reader = session_frames.control_reader()
    for at in range(0, len(data), _PIECE):
        for frame in reader.feed(data[at : at + _PIECE]):
            with suppress(RemoteProtocolError):
                session_frames.read_control(*frame)
        assert reader.held_bytes <= GREETING_BYTES_MAX + SESSION_SKIPPED_BYTES_MAX + _FRONT


def _first(data: bytes) -> None:
    first = session_frames.first_frame()
    for at in range(0, len(data), _PIECE):
        found = first.feed(data[at : at + _PIECE])
        assert first.held_bytes <= HEADER_BYTES_MAX + _FRONT
        if found is not None:
            session_frames.read_first(*found[:3])
            return


def _bus(data: bytes) -> None:
    allowed = bus_frames.TO_SERVER | bus_frames.TO_CLIENT
    for kind, header, body in FrameReader(body_bytes_max=4096).feed(data):
        with suppress(RemoteProtocolError):
            values = bus_frames.decode(kind, header, body, allowed)
            if kind == bus_frames.ERROR:
                error_in(values)
            elif kind == bus_frames.SETTLE:
                bus_frames.pairs_in(values)
            elif kind == bus_frames.REPLY:
                bus_frames.request_in(values)
                bus_frames.envelope_in(values, bus_frames.REQUEST_POSITIONS)
            elif kind in (bus_frames.PUB, bus_frames.REQ, bus_frames.RESP, bus_frames.DELIVER):
                bus_frames.envelope_in(values, len(values) - 10)
            elif kind in (bus_frames.SUB, bus_frames.SUB_ACK, bus_frames.CONFIGURE):
                bus_frames.qos_in(values[-1])


def _route(data: bytes) -> None:
    trails = route_frames.TrailReader()
    readers: dict[int, Callable[[bytes], Any]] = {
        route_frames.ITEM: route_frames.read_item,
        route_frames.OPEN: lambda header: route_frames.read_open(header, "a/out->b/in"),
        route_frames.COUNTS: route_frames.read_counts,
        route_frames.CONTROL: trails.read,
    }
    for kind, header, _ in FrameReader(body_bytes_max=4096).feed(data):
        if kind in readers:
            with suppress(DecodeError):
                readers[kind](header)


def _header(data: bytes) -> None:
    CborCodec().decode(data, now_ns=10**12)


def _payload(data: bytes) -> None:
    if data:
        decode_payload(data[0], data[1:])


READERS: Final = (_control, _first, _bus, _route, _header, _payload)


def one_input(data: bytes) -> None:
    """Read an input; what escapes is a bug."""
    if data:
        with suppress(DecodeError, RemoteProtocolError):
            READERS[data[0] % len(READERS)](data[1:])


def main() -> None:
    """Run until something escapes; the arguments are those of libFuzzer."""
    atheris: Any = importlib.import_module("atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
