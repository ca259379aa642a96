"""Frames against their grammar (RFC 8610): every value of a header is held against the file by pycddl.

pycddl gives up on groups within arrays and takes choices between arrays for too much, so arrays, groups, choices and
maps are walked here, and only what stands at one position is left to it. It reads the whole file all the same: what is
no CDDL does not pass.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import cbor2
import pycddl  # type: ignore[import-untyped]

import flowbridge.codec

FOLDER: Final = Path(flowbridge.codec.__file__).parent
_RULE: Final = re.compile(r"^([a-z][a-z0-9-]*) *= *", re.MULTILINE)
_OCCURRENCE: Final = re.compile(r"^(\d*\*\d*|\?) *")
_KEY: Final = re.compile(r"^[a-z][a-z0-9-]*: *")


_cddl: Final[Any] = pycddl  # which has no types


@cache
def _scalar(kind: str) -> Any:
    return _cddl.Schema(f"start = {kind}")


def _is_scalar(kind: str, data: bytes) -> bool:
    try:
        _scalar(kind).validate_cbor(data)
    except _cddl.ValidationError:
        return False
    return True


def _type(kind: str) -> type:
    """What a value of a scalar type is in Python; all that are not named are numbers."""
    word = kind.split(maxsplit=1)[0]
    return {"tstr": str, "bstr": bytes, "bool": bool, "null": type(None)}.get(word, int)


def _split(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand in no bracket."""
    parts = [""]
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == mark and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


class Grammar:
    """The rules of one file."""

    def __init__(self, name: str) -> None:
        text = (FOLDER / name).read_text(encoding="utf-8")
        _cddl.Schema(text)
        plain = re.sub(r";.*", "", text)
        found = list(_RULE.finditer(plain))
        ends = [one.start() for one in found[1:]] + [len(plain)]
        self.rules = {one[1]: " ".join(plain[one.end() : end].split()) for one, end in zip(found, ends, strict=True)}

    def fits(self, rule: str, header: bytes) -> bool:
        """Whether a header is what a rule says."""
        return self._fits(rule, cbor2.loads(header))

    def _fits(self, kind: str, value: object) -> bool:
        choices = _split(kind, "/")
        if len(choices) > 1:
            return any(self._fits(choice, value) for choice in choices)
        if kind in self.rules:
            return self._fits(self.rules[kind], value)
        if kind.startswith("["):
            values = cast("list[Any]", value)
            return type(value) is list and len(values) in self._ends(kind[1:-1].strip(), values, 0)
        if kind.startswith("{"):
            key_kind, value_kind = kind[1:-1].replace("*", "", 1).split("=>")
            entries: Any = value
            pairs: list[tuple[object, object]] = list(entries.items()) if type(value) is dict else [(None, None)]
            return all(self._fits(key_kind.strip(), key) and self._fits(value_kind.strip(), one) for key, one in pairs)
        if type(value) is not _type(kind):
            return False
        if isinstance(value, int) and (not -(2**64) <= value < 2**64 or (kind.startswith("nint") and value >= 0)):
            return False
        return _is_scalar(kind, cbor2.dumps(value))

    def _ends(self, group: str, values: list[Any], at: int) -> set[int]:
        """Where a group that begins at `at` may end."""
        ends = {at}
        for entry in _split(group, ",") if group else ():
            ends = {end for start in ends for end in self._entry(entry, values, start)}
        return ends

    def _entry(self, entry: str, values: list[Any], at: int) -> set[int]:
        least, most = 1, 1
        if occurrence := _OCCURRENCE.match(entry):
            low, star, high = occurrence[1].partition("*")
            least, most = (int(low or 0), int(high or len(values))) if star else (0, 1)
            entry = entry[occurrence.end() :]
        reached = {at}
        found = {at} if least == 0 else set[int]()
        for count in range(1, most + 1):
            reached = {end for start in reached for end in self._once(entry, values, start)}
            if not reached:
                break
            if count >= least:
                found |= reached
        return found

    def _once(self, entry: str, values: list[Any], at: int) -> set[int]:
        entry = _KEY.sub("", entry)
        entry = self.rules.get(entry, entry) if self.rules.get(entry, "").startswith("(") else entry
        if entry.startswith("("):
            return self._ends(entry[1:-1].strip(), values, at)
        return {at + 1} if at < len(values) and self._fits(entry, values[at]) else set()
