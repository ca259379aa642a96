"""Fixed CBOR arrays, the headers of frames: one form for each, and nothing else is read (RFC 8949, section 4.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cbor2

from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


NOT_AGREED: Final = (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError)
"""What `read_plain` raises."""


def _refuse_tag(*_: object) -> Any:
    raise ValueError("a header has no tags")


# Tags that cbor2 would act upon by itself (it compiles regular expressions, say); all others go to the tag hook.
_TAGS: Final = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_NO_TAGS: Final[dict[int, Callable[[Any, bool], Any]]] = dict.fromkeys(_TAGS, _refuse_tag)


def read_plain(data: bytes, depth_max: int, loads: Callable[..., Any] = cbor2.loads) -> Any:
    """A value of a header: no tags, no indefinite lengths, no key twice. Raises: `NOT_AGREED` (name it)."""
    return loads(
        data,
        max_depth=depth_max,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        tag_hook=_refuse_tag,
        semantic_decoders=_NO_TAGS,
    )


INT_MAX: Final = 2**63 - 1
_DEPTH_MAX: Final = 4


def write_array(items: Sequence[object], bytes_max: int = HEADER_BYTES_MAX) -> bytes:
    """An array of plain values in its deterministic form. Raises: EncodeError."""
    try:
        data = cbor2.dumps(list(items), canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError, OverflowError) as error:
        raise EncodeError(f"a frame header cannot be written: {error}") from error
    if len(data) > bytes_max:
        raise EncodeError(f"a frame header exceeds {bytes_max} bytes: {len(data)}")
    return data


def read_array(data: bytes, positions: int | None, bytes_max: int = HEADER_BYTES_MAX) -> list[Any]:
    """The items of an array of so many positions, None for any number. Raises: DecodeError, for any bytes."""
    if len(data) > bytes_max:
        raise DecodeError(f"a frame header exceeds {bytes_max} bytes: {len(data)}")
    try:
        items: Any = read_plain(data, _DEPTH_MAX)
        if not _is_array(items) or cbor2.dumps(items, canonical=True) != data:
            raise DecodeError("a frame header is not one array in deterministic form (RFC 8949 section 4.2.1)")
    except DecodeError:
        raise
    except NOT_AGREED as error:
        raise DecodeError(f"a frame header is not CBOR as agreed: {error}") from error
    found: list[Any] = items
    if positions is not None and len(found) != positions:
        raise DecodeError(f"a frame header has {len(found)} positions, not {positions}")
    return found


def _is_array(items: Any) -> bool:
    return type(items) is list


def uint(value: object, name: str, value_max: int = INT_MAX) -> int:
    """A number that a peer sent, within its bounds. Raises: DecodeError."""
    if type(value) is not int or not 0 <= value <= value_max:
        raise DecodeError(f"position {name} is {repr(value)[:48]}, not in 0..{value_max}")
    return value
