"""What a payload costs in byte credit."""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZERS: dict[type, Callable[[Any], int]] = {bytes: len, bytearray: len, str: len, memoryview: attrgetter("nbytes")}


def size_of(payload: Any) -> int:
    """Bytes of a buffer or Arrow object (`nbytes`); of any other object its own size without what it refers to."""
    kind = type(payload)
    sizer = _SIZERS.get(kind)
    if sizer is None:
        sizer = _SIZERS[kind] = attrgetter("nbytes") if hasattr(payload, "nbytes") else sys.getsizeof
    return sizer(payload)
