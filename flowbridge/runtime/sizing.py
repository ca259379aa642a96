"""What a payload costs in byte credit."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTHS: Final[dict[type, Callable[[Any], int]]] = {bytes: len, bytearray: len, memoryview: attrgetter("nbytes")}


def sizer_of(kind: type) -> Callable[[Any], int]:
    """How to size values of a type: bytes of a buffer or Arrow object, else the object without what it refers to."""
    length = _LENGTHS.get(kind)
    if length is not None:
        return length
    if hasattr(kind, "nbytes"):
        return attrgetter("nbytes")
    own_size: Callable[[Any], int] = kind.__sizeof__  # unbound: called with the value
    return own_size
