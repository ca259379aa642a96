"""Spans of sampled messages in a process that exports nothing itself: kept as plain values for its host.

What travels is one array a span, see `FarInstrument.taken`; `otel_far` makes spans of them. No library is needed here.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, Protocol

from flowbridge.envelope import NO_DEADLINE, TraceContext
from flowbridge.limits import SPAN_TEXT_CHARACTERS_MAX, SPANS_KEPT_MAX
from flowbridge.telemetry.tracecontext import RANDOM, SAMPLED, TraceParent, format_traceparent, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.envelope import Envelope


class TimeSource(Protocol):
    """The half of `contracts.Clock` that telemetry needs; every clock is one."""

    def now_ns(self) -> int: ...
    def unix_ns(self) -> int: ...


class FarInstrument:
    """Records one span per hop of a sampled message; see `contracts.KeepingInstrument` and `otel_trace.OtelInstrument`.

    Times are Unix nanoseconds by this machine's clocks, with one offset for the whole run.
    """

    def __init__(self, ratio: float, clock: TimeSource, *, draw: Callable[[], float] = random.random) -> None:
        self.lost = 0
        """Spans that were dropped, because nobody took `SPANS_KEPT_MAX` before them."""
        self._ratio: Final = ratio
        self._clock: Final = clock
        self._draw: Final = draw
        self._ids: Final = random.Random()  # noqa: S311 - not a secret; seeded by the system
        self._unix_offset_ns: Final = clock.unix_ns() - clock.now_ns()
        self._kept: list[list[Any]] = []

    def taken(self) -> list[list[Any]]:
        """What was recorded since the last call.

        Each: node; edge or None for a message that starts; trace id, span id and its parent's (0: none); flags;
        tracestate; start and end; seq, size in bytes, time in the queue, priority; what was left of the deadline or
        None; class and text of the error, or None twice.
        """
        kept, self._kept = self._kept, []
        return kept

    def start(self, node: str) -> TraceContext | None:
        """A message starts at a source: with probability `ratio` the context of its first span."""
        if self._draw() >= self._ratio:
            return None
        now_ns = self._clock.now_ns() + self._unix_offset_ns
        made = TraceParent(self._id(128), self._id(64), SAMPLED | RANDOM)
        self._keep([node, None, *_ids(made, 0), "", now_ns, now_ns, 0, 0, 0, 0, None, None, None])
        return TraceContext(format_traceparent(made), "")

    def hop(
        self, node: str, edge: str, envelope: Envelope, started_ns: int, ended_ns: int, error: BaseException | None
    ) -> TraceContext | None:
        """Record the call that handled `envelope`; the context its children carry."""
        trace = envelope.trace
        parent = None if trace is None else parse_traceparent(trace.traceparent)
        if trace is None or parent is None:
            return None
        if not parent.sampled:
            return trace
        made = TraceParent(parent.trace_id, self._id(64), parent.flags)
        left_ns = None if envelope.deadline_ns == NO_DEADLINE else envelope.deadline_ns - ended_ns
        offset_ns = self._unix_offset_ns
        times = [started_ns + offset_ns, ended_ns + offset_ns]
        about = [envelope.seq, envelope.size_bytes, max(0, started_ns - envelope.sent_ns), int(envelope.priority)]
        failure = [None, None] if error is None else list(_error(error))
        self._keep([node, edge, *_ids(made, parent.parent_id), trace.tracestate, *times, *about, left_ns, *failure])
        return TraceContext(format_traceparent(made), trace.tracestate)

    def _id(self, bits: int) -> int:
        return self._ids.getrandbits(bits) or 1

    def _keep(self, span: list[Any]) -> None:
        if len(self._kept) < SPANS_KEPT_MAX:
            self._kept.append(span)
        else:
            self.lost += 1


def _ids(made: TraceParent, parent_id: int) -> tuple[bytes, bytes, bytes, int]:
    return made.trace_id.to_bytes(16), made.parent_id.to_bytes(8), parent_id.to_bytes(8), made.flags


def _error(error: BaseException) -> tuple[str, str]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        return name, str(error)[:SPAN_TEXT_CHARACTERS_MAX]
    except Exception:
        return name, name
