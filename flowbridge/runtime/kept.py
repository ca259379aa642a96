"""The state of a node on its way between processes: bytes that only the process that runs the node opens."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from flowbridge.errors import DecodeError, EncodeError


@dataclass(frozen=True, slots=True)
class PackedState:
    """What `snapshot` of an operator in another process gave; its classes need not exist here."""

    data: bytes


def packed(state: Any) -> PackedState:
    """A state for another process. Raises: EncodeError."""
    if isinstance(state, PackedState):
        return state
    try:
        return PackedState(pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # whatever a user's class does when it is pickled
        raise EncodeError(f"a snapshot cannot be pickled: {type(error).__name__}: {error}") from error


def unpacked(state: Any) -> Any:
    """The state itself. Raises: DecodeError. Only for what this user's own processes packed."""
    if not isinstance(state, PackedState):
        return state
    try:
        return pickle.loads(state.data)  # noqa: S301
    except Exception as error:
        raise DecodeError(f"a snapshot cannot be unpickled: {type(error).__name__}: {error}") from error
