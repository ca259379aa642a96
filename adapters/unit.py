"""Quantities of the flow language: durations, sizes and rates as text, and as integers of ns and bytes."""

from __future__ import annotations

import re
from typing import Final

from flowbridge.limits import DURATION_NS_MAX, QUEUE_BYTES_MAX

DURATION_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
SIZE_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h)$"
SIZE_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(B|kB|MB|GB|KiB|MiB|GiB)$"

_QUANTITY: Final = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,30}))?[ ]?([A-Za-zµμ]{0,20})")
_TYPICAL: Final = {
    "µs": "us", "μs": "us", "sec": "s", "secs": "s", "seconds": "s", "second": "s", "min": "m", "mins": "m",
    "minutes": "m", "hours": "h", "hour": "h", "hr": "h", "millis": "ms", "msec": "ms", "S": "s", "MS": "ms", "H": "h",
    "K": "KiB", "k": "kB", "KB": "kB", "kb": "kB", "kib": "KiB", "kiB": "KiB", "M": "MiB", "mb": "MB", "mib": "MiB",
    "G": "GiB", "gb": "GB", "gib": "GiB", "b": "B", "bytes": "B",
}  # fmt: skip


class UnitError(ValueError):
    """A text is no quantity of the wanted kind; `hint` suggests what was meant, or is empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint: Final = hint


class RangeError(UnitError):
    """A quantity is well written, but beyond its limit."""


def _parse(text: object, units: dict[str, int], kind: str, example: str) -> int:
    """Exact value of `text` in the base unit."""
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UnitError(f"a {kind} such as {example} is needed")
    if not isinstance(text, str):
        unit = example.lstrip("0123456789")
        raise UnitError(f"{kind} {text} has no unit", f"did you mean {text}{unit}?")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"{text[:40]!r} is no {kind}", f"write it like {example}")
    whole, fraction, unit = match[1], match[2] or "", match[3]
    if unit not in units:
        meant = _TYPICAL.get(unit, "")
        number = whole + ("." + fraction if fraction else "")
        hint = f"did you mean {number}{meant}?" if meant in units else f"units are {', '.join(units)}"
        raise UnitError(f"{kind} {text} has no unit" if not unit else f"{kind} {text}: unknown unit {unit}", hint)
    if " " in text:
        raise UnitError(f"{kind} {text!r} has a space in it", f"did you mean {text.replace(' ', '')}?")
    power: int = 10 ** len(fraction)
    value, rest = divmod(int(whole + fraction) * units[unit], power)
    if rest:
        raise UnitError(f"{kind} {text} is finer than 1{next(iter(units))}")
    return value


def parse_duration(text: object) -> int:
    """Nanoseconds of a text such as ``1.5s``; UnitError otherwise."""
    value = _parse(text, DURATION_NS, "duration", "20ms")
    if value > DURATION_NS_MAX:
        raise RangeError(f"duration {text} exceeds the limit of {duration_text(DURATION_NS_MAX)}")
    return value


def parse_size(text: object) -> int:
    """Bytes of a text such as ``64KiB``; UnitError otherwise."""
    value = _parse(text, SIZE_BYTES, "size", "64KiB")
    if value > QUEUE_BYTES_MAX:
        raise RangeError(f"size {text} exceeds the limit of {size_text(QUEUE_BYTES_MAX)}")
    return value


def parse_period(text: str) -> int:
    """Nanoseconds between two ticks of a duration (``100ms``) or a rate (``30hz``, rounded); UnitError otherwise."""
    if text.lower().endswith("hz"):
        match = _QUANTITY.fullmatch(text[:-2])
        if match is None or match[3] or not text.endswith(("hz", "Hz")):
            raise UnitError(f"{text[:40]!r} is no rate", "write it like 30hz")
        fraction = match[2] or ""
        rate = int(match[1] + fraction)
        if rate == 0:
            raise UnitError(f"rate {text} never ticks")
        power: int = 10 ** (9 + len(fraction))
        period_ns = (power + rate // 2) // rate
        if period_ns > DURATION_NS_MAX:
            raise RangeError(f"rate {text} is slower than the limit of once in {duration_text(DURATION_NS_MAX)}")
    else:
        period_ns = parse_duration(text)
    if period_ns == 0:
        raise UnitError(f"period {text} is not at least 1ns")
    return period_ns


def _text(value: int, units: dict[str, int]) -> str:
    for unit, scale in reversed(units.items()):
        if value >= scale and value * 1000 % scale == 0:
            whole, rest = divmod(value * 1000 // scale, 1000)
            return f"{whole}{f'.{rest:03}'.rstrip('0') if rest else ''}{unit}"
    return f"{value}{next(iter(units))}"


def duration_text(value_ns: int) -> str:
    """A text that `parse_duration` reads as exactly `value_ns`."""
    return _text(value_ns, DURATION_NS)


def size_text(value_bytes: int) -> str:
    """A text that `parse_size` reads as exactly `value_bytes`."""
    return _text(value_bytes, SIZE_BYTES)
