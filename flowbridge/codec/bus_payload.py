"""The payloads of a bus link: bytes as they are, other values as CBOR (RFC 8949)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from flowbridge.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable

RAW: Final = 0
CBOR: Final = 1
_DEPTH_MAX: Final = 64


class _Refused(ValueError):
    """A tag was met."""


def _refuse(*_: object) -> Any:
    raise _Refused("a payload has no tags")


def _refuse_out(_: object, value: object) -> Any:
    raise EncodeError(f"a payload holds a {type(value).__name__}, which cannot leave its process")


_TAGS: Final[dict[int, Callable[[Any, bool], Any]]] = dict.fromkeys(
    (*(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000), 55799), _refuse
)


def encode(payload: Any) -> tuple[int, bytes]:
    """Which codec, and the bytes. Raises: EncodeError for a value that cannot leave its process."""
    if type(payload) is bytes:
        return RAW, payload
    if isinstance(payload, bytearray | memoryview):
        return RAW, bytes(cast("bytes | bytearray", payload))
    try:
        return CBOR, cbor2.dumps(payload, default=_refuse_out)
    except EncodeError:
        raise
    except (cbor2.CBOREncodeError, ValueError, RecursionError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, EncodeError) else error
        raise EncodeError(f"a payload cannot leave its process: {cause}") from error


def decode(codec: int, data: bytes) -> Any:
    """The value. Raises: DecodeError, and nothing else, for any bytes."""
    if codec == RAW:
        return data
    if codec != CBOR:
        raise DecodeError(f"payload codec is {codec}, neither {RAW} nor {CBOR}")
    try:
        return cbor2.loads(
            data, max_depth=_DEPTH_MAX, allow_indefinite=False, allow_duplicate_keys=False, tag_hook=_refuse,
            semantic_decoders=_TAGS,
        )  # fmt: skip
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DecodeError(f"a payload is not CBOR as agreed: {error}") from error
