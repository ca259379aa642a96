"""The findings of one text, gathered while it is compiled."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final, TypeAlias

from flowbridge.adapters.rule import FURTHER
from flowbridge.finding import Finding, Position
from flowbridge.limits import FINDINGS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowbridge.adapters.rule import Rule

Mark: TypeAlias = tuple[int, int]
"""Line and column, from 1."""

START: Final[Mark] = (1, 1)
_EFFORT_MAX: Final = 100_000  # comparisons of names in one run: then findings come without "did you mean"
_KEPT_MAX: Final = 10 * FINDINGS_MAX  # the rest is only counted


class Findings:
    """Every finding once; the same words at the same place (an alias, say) do not count again."""

    def __init__(self, file: str) -> None:
        self.file: Final = file
        self._kept: dict[tuple[Mark, str, str], Finding] = {}
        self._disputed: set[Mark] = set()
        self._further = 0
        self._effort = _EFFORT_MAX

    def __len__(self) -> int:
        return len(self._kept) + self._further

    def position(self, mark: Mark) -> Position:
        """A mark of this text as a position."""
        return Position(file=self.file, line=mark[0], column=mark[1])

    def add(self, rule: Rule, mark: Mark, message: str, hint: str = "") -> None:
        """Note that a rule is broken at a place."""
        key = (mark, rule.id, message)
        if key in self._kept:
            return
        if self.is_full:
            self._further += 1
            return
        if rule.id.startswith("FB1"):
            self._disputed.add(mark)
        self._kept[key] = Finding(position=self.position(mark), rule=rule.id, message=message, hint=hint)

    @property
    def is_full(self) -> bool:
        """True when further findings are only counted."""
        return len(self._kept) >= _KEPT_MAX

    def is_disputed(self, mark: Mark) -> bool:
        """True when it is already a finding that the value at this place cannot be read for certain."""
        return mark in self._disputed

    def did_you_mean(self, word: str, choices: Iterable[str], instead: str = "") -> str:
        """A suggestion like `word` out of `choices`, or `instead`."""
        if self._effort <= 0 or self.is_full:
            return instead
        all_choices = list(choices)
        for choice in all_choices:
            if choice.casefold() == word.casefold():
                return f"did you mean {choice}?"
        near = [choice for choice in all_choices if abs(len(choice) - len(word)) <= 1 + len(word) // 3]
        self._effort -= len(near) + len(all_choices) // 50
        best = difflib.get_close_matches(word, near, n=1, cutoff=0.6)
        return f"did you mean {best[0]}?" if best else instead

    def closed(self) -> list[Finding]:
        """All of them in the order of the text; beyond the limit a closing finding counts the rest."""
        found = sorted(self._kept.values(), key=lambda f: (f.position.line, f.position.column))
        further = len(found) - FINDINGS_MAX + self._further
        if further <= 0:
            return found
        last = found[FINDINGS_MAX - 1].position
        closing = Finding(position=last, rule=FURTHER.id, message=f"{further} further findings are not shown")
        return [*found[:FINDINGS_MAX], closing]
