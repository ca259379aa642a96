"""Durations, sizes and counts as people write and read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.adapters import unit

if TYPE_CHECKING:
    from collections.abc import Callable

BENCH_BYTES_MAX: Final = 2**30


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of ``10ns 5us 20ms 1.5s 2m 1h``; ValueError saying what is wrong."""
    return _said(unit.parse_duration, text)


def parse_size_bytes(text: str) -> int:
    """Bytes of ``64 512B 1KiB 1MB``; ValueError saying what is wrong."""
    text = text.strip()
    return int(text) if text.isdecimal() else _said(unit.parse_size, text)


def _said(parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text.strip())
    except unit.UnitError as error:
        raise ValueError(f"{error} ({error.hint})" if error.hint else str(error)) from error


def duration_text(value_ns: float | None) -> str:
    """A duration with three digits and a unit; a dash for None."""
    if value_ns is None:
        return "-"
    for word, scale in (("h", 3600e9), ("m", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        # Minutes and hours only from two of them on: 90 s reads better than 1.5 m.
        if value_ns >= scale * (2 if word in "hm" else 1):
            return f"{value_ns / scale:.3g} {word}" if value_ns < 1000 * scale else f"{value_ns / scale:.0f} {word}"
    return f"{value_ns:.0f} ns"


def size_text(value: int) -> str:
    """A size in binary units with up to three digits."""
    for word, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.4g} {word}"
    return f"{value} B"


def count_text(value: int, thing: str) -> str:
    """``1 finding``, ``2 findings``, ``1,000 findings``."""
    return f"{value:,} {thing}{'' if value == 1 else 's'}"


def rate_text(per_second: float) -> str:
    """``12,345/s`` or, below ten, with one decimal."""
    return f"{per_second:,.0f}/s" if per_second >= 10 or per_second == 0 else f"{per_second:.1f}/s"
