"""gather: puts results that came from several workers back into order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.envelope import NO_DEADLINE
from flowbridge.operators.fault import LOG, ConfigError

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorContext, Outputs


class Gather:
    """Sends messages in the order of their header ``correlation``, which counts from 0.

    A message without that header passes at once. When `max_pending` messages wait for one that is missing, it is given
    up; should it come later, it is left out and counted in `late_messages`, because the order is what is promised.
    """

    def __init__(self, *, max_pending: int = 256) -> None:
        if max_pending < 1:
            raise ConfigError(f"max_pending is {max_pending}; it must be at least 1")
        self._max_pending = max_pending
        self._next = 0
        self._pending: dict[int, tuple[Any, int | None, int]] = {}
        self._context: OperatorContext
        self.late_messages = 0
        self.skipped = 0
        """How many numbers were given up."""

    def open(self, context: OperatorContext) -> None:
        """Remember where the envelope is found."""
        self._context = context

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        """Send what is in order now."""
        envelope = self._context.envelope
        number = envelope.headers.get("correlation") if envelope is not None and envelope.headers else None
        if envelope is None or not isinstance(number, int):
            return value
        if number == self._next and not self._pending:
            self._next += 1
            return value
        if number < self._next or number in self._pending:
            self.late_messages += 1
            return None
        deadline_ns = None if envelope.deadline_ns == NO_DEADLINE else envelope.deadline_ns
        self._pending[number] = (value, deadline_ns, envelope.priority)
        if len(self._pending) >= self._max_pending:
            self._skip()
        self._send(out)
        return None

    def finish(self, out: Outputs) -> None:
        """Send what waits, in order."""
        while self._pending:
            self._skip()
            self._send(out)
        if self.late_messages or self.skipped:
            LOG.warning(
                "node %s: %d results were given up, %d came too late or twice and were left out",
                self._context.node,
                self.skipped,
                self.late_messages,
            )

    def snapshot(self) -> dict[str, Any]:
        """What waits, and the number that is due."""
        return {"next": self._next, "pending": dict(self._pending), "late": self.late_messages, "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self._next, self._pending = state["next"], dict(state["pending"])
        self.late_messages, self.skipped = state["late"], state["skipped"]

    def _skip(self) -> None:
        first = min(self._pending)
        self.skipped += first - self._next
        self._next = first

    def _send(self, out: Outputs) -> None:
        while self._next in self._pending:
            value, deadline_ns, priority = self._pending.pop(self._next)
            # Another message may be in hand now: each keeps its own deadline and lane where those are stricter.
            out.emit(value, deadline_ns=deadline_ns, priority=priority)
            self._next += 1
