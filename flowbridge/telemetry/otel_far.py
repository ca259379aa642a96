"""Makes spans of what `far_spans.FarInstrument` recorded in another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan, Tracer
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from flowbridge.envelope import Priority
from flowbridge.telemetry import names
from flowbridge.telemetry.tracecontext import RANDOM, SAMPLED, parse_tracestate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Tracer as AnyTracer

_PRIORITY_WORDS = tuple(priority.word for priority in Priority)
_INT64_MAX = 2**63 - 1


class FarSpans:
    """Gives spans of other processes to the processors of a tracer."""

    def __init__(self, tracer: AnyTracer, flow_name: str, scope: InstrumentationScope) -> None:
        self.can_export = isinstance(tracer, Tracer)
        """Whether the tracer is one of the SDK's: another takes no spans that it did not start."""
        self._tracer = tracer
        self._flow = flow_name
        self._scope = scope

    def take_in(self, spans: Sequence[Any]) -> None:
        """Export them. Raises: ValueError, TypeError for what is no span; those before it were exported."""
        tracer = self._tracer
        for plain in spans:
            span = self._span(*plain)
            if isinstance(tracer, Tracer):
                tracer.span_processor.on_end(span)

    def _span(
        self,
        node: str,
        edge: str | None,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        flags: int,
        tracestate: str,
        started_ns: int,
        ended_ns: int,
        *about: Any,
    ) -> ReadableSpan:
        if (len(trace_id), len(span_id), len(parent_id)) != (16, 8, 8) or not 0 < started_ns <= ended_ns <= _INT64_MAX:
            raise ValueError(f"a span of node {node!s:.80} has ids or times that cannot be")
        members = parse_tracestate(tracestate)
        state = TraceState(members) if members else None
        trace, own, parent = (int.from_bytes(part) for part in (trace_id, span_id, parent_id))
        known = TraceFlags(flags & (SAMPLED | RANDOM))
        context = SpanContext(trace, own, is_remote=False, trace_flags=known, trace_state=state)
        if not context.is_valid:
            raise ValueError(f"a span of node {node!s:.80} has an id of zero")
        error, text = about[5:]
        return ReadableSpan(
            f"{'start' if edge is None else 'process'} {node}",
            context,
            SpanContext(trace, parent, is_remote=True, trace_flags=known, trace_state=state) if parent else None,
            self._tracer.resource if isinstance(self._tracer, Tracer) else None,
            self._attributes(str(node), edge, error, *about[:5]),
            kind=SpanKind.PRODUCER if edge is None else SpanKind.CONSUMER,
            status=Status() if error is None else Status(StatusCode.ERROR, str(text)),
            start_time=started_ns,
            end_time=ended_ns,
            instrumentation_scope=self._scope,
        )

    def _attributes(
        self, node: str, edge: str | None, error: str | None, seq: int, size: int, queued: int, priority: int, left: Any
    ) -> dict[str, str | int | float]:
        attributes: dict[str, str | int | float] = {names.FLOW.name: self._flow, names.NODE.name: node}
        if edge is None:
            return attributes
        attributes[names.EDGE.name] = str(edge)
        attributes[names.MESSAGE_SEQ.name] = min(int(seq), _INT64_MAX)
        attributes[names.MESSAGE_SIZE.name] = min(int(size), _INT64_MAX)
        attributes[names.QUEUE_TIME.name] = queued / 1e9
        if 0 <= priority < len(_PRIORITY_WORDS):
            attributes[names.PRIORITY.name] = _PRIORITY_WORDS[priority]
        if left is not None:
            attributes[names.DEADLINE_REMAINING.name] = left / 1e9
        if error is not None:
            attributes[names.ERROR_TYPE.name] = str(error)
        return attributes
