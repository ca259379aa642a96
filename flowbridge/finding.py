"""One thing found wrong in a text, with the place where a person can mend it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a text; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason why a flow was refused.

    `rule` is a stable id such as ``FB201``; `hint` is a suggestion ("did you mean ...?") or empty.
    """

    position: Position
    rule: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.position}: {self.rule} {self.message}" + (f" ({self.hint})" if self.hint else "")

    def to_json(self) -> dict[str, object]:
        """The form editors read: ``{file, line, column, rule, message, hint}``."""
        return {
            "file": self.position.file,
            "line": self.position.line,
            "column": self.position.column,
            "rule": self.rule,
            "message": self.message,
            "hint": self.hint,
        }
