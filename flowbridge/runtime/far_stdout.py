"""Where operators in a worker print: the host writes it where its own operators do."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable


class FarStdout(io.TextIOBase):
    """Passes on whole lines at once, and what is left when it is flushed."""

    def __init__(self, tell: Callable[[str], None], *, is_terminal: bool, encoding: str) -> None:
        super().__init__()
        self._tell = tell
        self._is_terminal = is_terminal
        self._encoding = encoding
        self._begun: list[str] = []  # of a line that has no end yet

    def as_text_io(self) -> TextIO:
        """This object, for who wants a `TextIO`."""
        return cast("TextIO", self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the host's stream can show."""
        return self._encoding

    def write(self, text: str, /) -> int:
        """Pass text on, up to its last line end."""
        whole, end, rest = text.rpartition("\n")
        if end:
            self._tell("".join((*self._begun, whole, end)))
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        return len(text)

    def flush(self) -> None:
        """Pass on what is left."""
        if self._begun:
            self._tell("".join(self._begun))
            self._begun.clear()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the host's stream is a terminal."""
        return self._is_terminal
