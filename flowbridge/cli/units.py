"""Durations, sizes and counts as people write and read them."""

from __future__ import annotations

import re
from typing import Final

from flowbridge.limits import DURATION_NS_MAX

_DURATION_NS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIZE_BYTES: Final = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)
BENCH_BYTES_MAX: Final = 2**30


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of ``10ns 5us 20ms 1.5s 2m 1h``; ValueError saying what is wrong."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in _DURATION_NS:
        raise ValueError(f"{text!r} is no duration; write a number and one of {', '.join(_DURATION_NS)}, such as 10s")
    value_ns = round(float(match[1]) * _DURATION_NS[match[2]])
    if value_ns > DURATION_NS_MAX:
        raise ValueError(f"{text} is more than the longest duration, {DURATION_NS_MAX // (24 * 3600 * 10**9)} days")
    return value_ns


def parse_size_bytes(text: str) -> int:
    """Bytes of ``64 512B 1KiB 1MB``; ValueError saying what is wrong."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE_BYTES:
        raise ValueError(f"{text!r} is no size; write a number and one of {', '.join(filter(None, _SIZE_BYTES))}")
    return round(float(match[1]) * _SIZE_BYTES[match[2]])


def duration_text(value_ns: float | None) -> str:
    """A duration with three digits and a unit; a dash for None."""
    if value_ns is None:
        return "-"
    for unit, scale in (("h", 3600e9), ("m", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        # Minutes and hours only from two of them on: 90 s reads better than 1.5 m.
        if value_ns >= scale * (2 if unit in "hm" else 1):
            return f"{value_ns / scale:.3g} {unit}" if value_ns < 1000 * scale else f"{value_ns / scale:.0f} {unit}"
    return f"{value_ns:.0f} ns"


def size_text(value: int) -> str:
    """A size in binary units with up to three digits."""
    for unit in ("GiB", "MiB", "KiB"):
        if value >= _SIZE_BYTES[unit]:
            return f"{value / _SIZE_BYTES[unit]:.4g} {unit}"
    return f"{value} B"


def count_text(value: int, thing: str) -> str:
    """``1 finding``, ``2 findings``, ``1,000 findings``."""
    return f"{value:,} {thing}{'' if value == 1 else 's'}"


def rate_text(per_second: float) -> str:
    """``12,345/s`` or, below ten, with one decimal."""
    return f"{per_second:,.0f}/s" if per_second >= 10 or per_second == 0 else f"{per_second:.1f}/s"
