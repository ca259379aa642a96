"""What a payload costs in byte credit."""

from __future__ import annotations

from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTHS: Final[dict[type, Callable[[Any], int]]] = {bytes: len, bytearray: len, memoryview: attrgetter("nbytes")}


def sizer_of(kind: type) -> Callable[[Any], int]:
    """How to size values of a type.

    Buffers: their bytes. Arrow: the buffers that the value keeps alive, as a whole even when it is a slice (`nbytes`
    would take 2 us and more). Any other object: itself, without what it refers to.
    """
    length = _LENGTHS.get(kind)
    if length is not None:
        return length
    if hasattr(kind, "get_total_buffer_size"):
        return methodcaller("get_total_buffer_size")
    if hasattr(kind, "nbytes"):
        return attrgetter("nbytes")
    own_size: Any = kind.__sizeof__  # unbound: called with the value
    return cast("Callable[[Any], int]", own_size)
