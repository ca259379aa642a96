"""What a host and its workers tell each other."""

from __future__ import annotations

import pytest

from flowbridge.codec.part_frames import PartFrame, read_error, read_part, write_error, write_part
from flowbridge.errors import EncodeError, FlowbridgeError, OperatorError, RemoteProtocolError


def test_a_frame_comes_through() -> None:
    content = {"node": "a", "state": b"x", "at": 2**62}
    assert read_part("w", 0x48, write_part(content)) == (PartFrame.DRAIN, content)


@pytest.mark.parametrize(
    ("kind", "body"), [(0x41, b"\xa0"), (0x48, b""), (0x48, b"\x80"), (0x48, b"\xff"), (0x48, b"\x9f\x01")]
)
def test_anything_else_is_a_fault_of_the_peer_by_name(kind: int, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="process w"):
        read_part("process w", kind, body)


def test_what_cannot_be_written_is_said() -> None:
    with pytest.raises(EncodeError, match="cannot be written"):
        write_part({"x": object()})


def test_an_error_keeps_its_class_its_text_and_its_causes() -> None:
    error = OperatorError("n", "boom", port="in", seq=3)
    error.__cause__ = ValueError("seven")
    error.__cause__.__cause__ = KeyError("x")
    again = read_error(write_error(error))
    assert type(again) is OperatorError
    assert str(again) == str(error)
    assert (again.node, again.port, again.seq) == ("n", "in", 3)
    assert str(again.__cause__) == "ValueError: seven"
    assert again.__cause__ is not None
    assert str(again.__cause__.__cause__) == "KeyError: 'x'"


def test_an_error_of_somebody_else_is_named() -> None:
    again = read_error(write_error(ZeroDivisionError("by zero")))
    assert type(again) is FlowbridgeError
    assert str(again) == "ZeroDivisionError: by zero"
