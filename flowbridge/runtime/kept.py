"""The state of a node on its way between processes: bytes that only the process that runs the node opens.

Between processes of one user it is a pickle, so that a class of an operator comes through. From another host a pickle
would be a program: there a state is plain data, in the form in which payloads travel (`flowbridge.codec.payload`).
"""

from __future__ import annotations

import enum
import pickle
from dataclasses import dataclass
from typing import Any, Final

from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.errors import CodecError, DecodeError, EncodeError, ProtocolError, RemoteProtocolError

_HEAD_BYTES: Final = 2  # codec and tag of a record of `codec.payload`; both are below 256 where no route has schemas


class Form(enum.Enum):
    """How a state is written."""

    PICKLE = "pickle"  # any picklable object; only between processes of one user
    PLAIN = "plain"  # what may be a payload between processes: numbers, text, lists, dicts, Arrow batches ...


@dataclass(frozen=True, slots=True)
class PackedState:
    """What `snapshot` of an operator in another process gave; its classes need not exist here."""

    data: bytes
    form: Form = Form.PICKLE

    def to_plain(self) -> list[Any]:
        """What travels: the form and the bytes."""
        return [self.form.value, self.data]


def packed_from_plain(plain: Any, *, same_user: bool) -> PackedState:
    """What `PackedState.to_plain` gave. Raises: RemoteProtocolError for a pickle of another host; ValueError."""
    form, data = plain
    if not isinstance(data, bytes):
        raise ValueError(f"a state is bytes, not {type(data).__name__}")
    found = PackedState(data, Form(form))
    if found.form is Form.PICKLE and not same_user:
        raise RemoteProtocolError("a pickled state came from another host, where only plain data is read")
    return found


def packed(state: Any, form: Form = Form.PICKLE) -> PackedState:
    """A state for another process. One that was packed before keeps its form. Raises: EncodeError."""
    if isinstance(state, PackedState):
        if state.form is Form.PICKLE and form is Form.PLAIN:
            raise EncodeError("the snapshot was pickled for processes of this machine and cannot go to another host")
        return state
    if form is Form.PLAIN:
        return _plain(state)
    try:
        return PackedState(pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # whatever a user's class does when it is pickled
        raise EncodeError(f"a snapshot cannot be pickled: {type(error).__name__}: {error}") from error


def _plain(state: Any) -> PackedState:
    try:
        record = PayloadWriter(alone=True).prepare(state)
    except CodecError as error:
        raise EncodeError(f"a snapshot that goes to another host must be plain data: {error}") from error
    return PackedState(bytes((record.codec, record.tag)) + bytes(record.to_bytes()), Form.PLAIN)


def unpacked(state: Any) -> Any:
    """The state itself. Raises: DecodeError. A pickle is only there when this user's own processes packed it."""
    if not isinstance(state, PackedState):
        return state
    if state.form is Form.PLAIN:
        return _from_plain(state.data)
    try:
        return pickle.loads(state.data)  # noqa: S301
    except Exception as error:
        raise DecodeError(f"a snapshot cannot be unpickled: {type(error).__name__}: {error}") from error


def _from_plain(data: bytes) -> Any:
    if len(data) < _HEAD_BYTES:
        raise DecodeError(f"a snapshot has {len(data)} bytes, which is no record")
    try:
        return PayloadReader(validate="full").read(data[0], data[1], data[_HEAD_BYTES:])
    except ProtocolError as error:
        raise DecodeError(f"a snapshot cannot be read: {error}") from error
