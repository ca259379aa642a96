"""What ends a run before its flow does: signals, and a stdout that nobody reads any more."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TextIO, cast

from flowbridge.cli.output import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    """A running flow, as far as stopping it goes."""

    def drain(self) -> None: ...
    def abort(self) -> None: ...


class Stopper:
    """First signal: drain. Second: abort. Third: leave at once, even when an operator blocks the loop.

    Plain signal handlers rather than the loop's: those would wait for the loop as well.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, note: Callable[[str], None]) -> None:
        self._loop: Final = loop
        self._note: Final = note
        self._main = asyncio.current_task(loop)
        self._flow: Stoppable | None = None
        self._former: dict[int, Any] = {}
        self._drained = False
        self.signals = 0
        """How many came."""

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def attach(self, flow: Stoppable) -> None:
        """From now on a signal stops this flow; before, it cancels the start."""
        self._flow = flow
        if self._drained:
            flow.drain()

    def drain(self) -> None:
        """Stop the sources, now or as soon as there is a flow. Idempotent."""
        if self._flow is not None and not self._drained:
            self._flow.drain()
        self._drained = True

    def _on_signal(self, number: int, _frame: object) -> None:
        self.signals += 1
        if self.signals > 2:
            os.write(2, b"flowbridge: left at once; what was in flight is lost\n")
            os._exit(INTERRUPTED)
        self._loop.call_soon_threadsafe(self._act, self.signals, signal.Signals(number).name)

    def _act(self, count: int, name: str) -> None:
        if self._flow is None:
            if self._main is not None:
                self._main.cancel()
        elif count == 1:
            self._note(f"{name}: draining, the sources stop and the rest goes through; once more aborts")
            self.drain()
        else:
            self._note(f"{name}: aborting; once more leaves at once")
            self._flow.abort()


class GuardedStdout(io.TextIOBase):
    """stdout for operators: when its reader goes away, the flow is drained instead of failing a node."""

    def __init__(self, stream: TextIO, on_gone: Callable[[], object]) -> None:
        super().__init__()
        self._stream: Final = stream
        self._on_gone: Final = on_gone
        self.gone = False
        """Whether the reader went away."""

    def as_text_io(self) -> TextIO:
        """This object, for who wants a `TextIO`."""
        return cast("TextIO", self)

    def write(self, text: str, /) -> int:
        """Pass text on; swallowed once nobody reads."""
        self._guarded(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered; swallowed once nobody reads."""
        self._guarded(self._stream.flush)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self._stream.isatty()

    def _guarded(self, deed: Callable[[], object]) -> None:
        if self.gone:
            return
        try:
            deed()
        except BrokenPipeError:
            self.gone = True
            self._on_gone()
