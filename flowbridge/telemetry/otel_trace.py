"""Spans of sampled messages: `contracts.Instrument` on the OpenTelemetry tracing API."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from flowbridge.envelope import NO_DEADLINE, Priority, TraceContext
from flowbridge.telemetry import names
from flowbridge.telemetry.tracecontext import (
    TraceParent,
    format_traceparent,
    format_tracestate,
    parse_traceparent,
    parse_tracestate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span, Tracer

    from flowbridge.envelope import Envelope
    from flowbridge.telemetry.otel_far import FarSpans

_logger: Final = logging.getLogger(__name__)
_PRIORITY_WORDS: Final = tuple(priority.word for priority in Priority)
_NOWHERE: Final = Context()  # a span started here has no parent, whatever the application's current span is


class TimeSource(Protocol):
    """The half of `contracts.Clock` that telemetry needs; every clock is one."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds, as the envelopes carry them."""
        ...

    def unix_ns(self) -> int:
        """Nanoseconds since 1970."""
        ...


class SystemTime:
    """The clocks of this machine."""

    def now_ns(self) -> int:
        """`time.monotonic_ns`."""
        return time.monotonic_ns()

    def unix_ns(self) -> int:
        """`time.time_ns`."""
        return time.time_ns()


class OtelInstrument:
    """Records one span per hop of a sampled message.

    Whether a message is sampled is decided once, where it starts: one random number per message, compared with `ratio`.
    Every later hop obeys the `sampled` flag the message carries; unsampled ones cost the look at that flag and carry
    their context on unchanged. A context that is not valid ends there: children carry none.

    Monotonic times become Unix times by one offset taken when the instrument is made, so a step of the wall clock
    during a run does not tear a trace apart; the spans then keep the wall clock of the start.
    """

    def __init__(
        self,
        tracer: Tracer,
        flow_name: str,
        ratio: float,
        clock: TimeSource,
        *,
        draw: Callable[[], float] = random.random,
        far: FarSpans | None = None,
    ) -> None:
        self._tracer: Final = tracer
        self._flow: Final = flow_name
        self.ratio: Final = ratio
        """The share of messages that are traced."""
        self._far: Final = far
        self._has_said = False
        self._draw: Final = draw
        self._clock: Final = clock
        self._unix_offset_ns: Final = clock.unix_ns() - clock.now_ns()

    def start(self, node: str) -> TraceContext | None:
        """A message starts at a source: with probability `ratio` the context of its first span."""
        if self._draw() >= self.ratio:
            return None
        now_ns = self._clock.now_ns() + self._unix_offset_ns
        span = self._tracer.start_span(
            f"start {node}",
            _NOWHERE,
            SpanKind.PRODUCER,
            {names.FLOW.name: self._flow, names.NODE.name: node},
            start_time=now_ns,
        )
        span.end(now_ns)
        return _context_of(span)

    def hop(
        self, node: str, edge: str, envelope: Envelope, started_ns: int, ended_ns: int, error: BaseException | None
    ) -> TraceContext | None:
        """Record the call that handled `envelope`; the context its children carry."""
        trace = envelope.trace
        if trace is None:
            return None
        parent = parse_traceparent(trace.traceparent)
        if parent is None:
            return None
        if not parent.sampled:
            return trace
        span = self._tracer.start_span(
            f"process {node}",
            set_span_in_context(NonRecordingSpan(_span_context(parent, trace.tracestate)), _NOWHERE),
            SpanKind.CONSUMER,
            self._attributes(node, edge, envelope, started_ns, ended_ns),
            start_time=started_ns + self._unix_offset_ns,
        )
        if error is not None:
            _record_error(span, error, ended_ns + self._unix_offset_ns)
        span.end(ended_ns + self._unix_offset_ns)
        return _context_of(span)

    def take_in(self, spans: Sequence[Any]) -> None:
        """Export what other processes recorded. Raises: ValueError, TypeError for what is no span."""
        if self._far is not None:
            if not self._far.can_export and not self._has_said:
                self._has_said = True
                _logger.warning("spans of other processes are left out: the application's tracer is not of the SDK")
            self._far.take_in(spans)

    def _attributes(
        self, node: str, edge: str, envelope: Envelope, started_ns: int, ended_ns: int
    ) -> dict[str, str | int | float]:
        attributes: dict[str, str | int | float] = {
            names.FLOW.name: self._flow,
            names.NODE.name: node,
            names.EDGE.name: edge,
            names.MESSAGE_SEQ.name: envelope.seq,
            names.MESSAGE_SIZE.name: envelope.size_bytes,
            names.QUEUE_TIME.name: max(0, started_ns - envelope.sent_ns) / 1e9,
        }
        if 0 <= envelope.priority < len(_PRIORITY_WORDS):
            attributes[names.PRIORITY.name] = _PRIORITY_WORDS[envelope.priority]
        if envelope.deadline_ns != NO_DEADLINE:
            attributes[names.DEADLINE_REMAINING.name] = (envelope.deadline_ns - ended_ns) / 1e9
        return attributes


def _span_context(parent: TraceParent, tracestate: str) -> SpanContext:
    members = parse_tracestate(tracestate) if tracestate else None
    state = TraceState(members) if members else None
    return SpanContext(
        parent.trace_id, parent.parent_id, is_remote=False, trace_flags=TraceFlags(parent.flags), trace_state=state
    )


def _context_of(span: Span) -> TraceContext | None:
    """The context to carry on, None from a provider that records nothing at all."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    parent = TraceParent(context.trace_id, context.span_id, context.trace_flags)
    return TraceContext(format_traceparent(parent), format_tracestate(tuple(context.trace_state.items())))


def _record_error(span: Span, error: BaseException, unix_ns: int) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute(names.ERROR_TYPE.name, name)
    try:
        description = str(error)
        span.record_exception(error, timestamp=unix_ns)
    except Exception:
        description = name
    span.set_status(Status(StatusCode.ERROR, description))
