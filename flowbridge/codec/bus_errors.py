"""Errors that cross a bus link, with their class; those that have a code keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.bus_frames import mixed
from flowbridge.codec.codes import CODE_MAX, coded, error_as
from flowbridge.errors import (
    AuthError,
    BlockReason,
    BrokenError,
    BusyError,
    ClosedError,
    DeadlineExceeded,
    DecodeError,
    Effect,
    EncodeError,
    FlowbridgeError,
    LocalProtocolError,
    NoResponderError,
    OverloadError,
    RemoteProtocolError,
    WouldBlock,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLASSES: Final = (  # the position is the number on the wire: add at the end only
    FlowbridgeError,
    NoResponderError,
    LocalProtocolError,
    ClosedError,
    BrokenError,
    BusyError,
    EncodeError,
    DecodeError,
    RemoteProtocolError,
    AuthError,
)
_WOULD_BLOCK: Final = 32
_DEADLINE: Final = 33
_CODED: Final = 34  # its code and when to ask again stand where others have times
_TEXT_MAX: Final = 512
_REASONS: Final = {reason.value: reason for reason in BlockReason}
_EFFECTS: Final = {effect.value: effect for effect in Effect}


def error_out(call: int, error: Exception) -> bytes:
    """The header of an ERROR frame. A class that does not cross goes as its nearest base that does."""
    if isinstance(error, WouldBlock):
        return mixed(call, _WOULD_BLOCK, _short(error.where), error.reason.value, 0, 0)
    if isinstance(error, OverloadError) or (isinstance(error, FlowbridgeError) and error.code is not None):
        error = coded(error)
        assert error.code is not None, "it has a code now"
        again_ns = error.retry_after_ns
        return mixed(call, _CODED, _short(str(error)), "", error.code, 0 if again_ns is None else again_ns + 1)
    if isinstance(error, DeadlineExceeded):
        deadline_ns, now_ns = max(0, error.deadline_ns), max(0, error.now_ns)
        return mixed(call, _DEADLINE, _short(error.where), error.effect.value, deadline_ns, now_ns)
    code = max(number for number, kind in enumerate(_CLASSES) if number == 0 or isinstance(error, kind))
    told = str(error) if isinstance(error, FlowbridgeError) else f"{type(error).__name__}: {error}"
    effect = error.effect if isinstance(error, FlowbridgeError) else Effect.MAYBE
    return mixed(call, code, _short(told), effect.value, 0, 0)


def error_in(values: Sequence[Any]) -> FlowbridgeError:
    """The error of an ERROR frame. Raises: RemoteProtocolError for one that is none."""
    _, code, told, word, deadline_ns, now_ns = values
    if code == _WOULD_BLOCK and word in _REASONS:
        return WouldBlock(_REASONS[word], told)
    if code == _CODED and deadline_ns <= CODE_MAX:
        return error_as(deadline_ns, told, now_ns - 1 if now_ns else None)
    effect = _EFFECTS.get(word)
    if effect is None or (code >= len(_CLASSES) and code != _DEADLINE):
        raise RemoteProtocolError(f"frame 0xe: error {code} with {word[:32]!r} is unknown")
    if code == _DEADLINE:
        return DeadlineExceeded(told, deadline_ns, now_ns, effect)
    error: FlowbridgeError = _CLASSES[code](told)
    error.effect = effect
    return error


def _short(told: str) -> str:
    return told.encode(errors="replace").decode()[:_TEXT_MAX]
