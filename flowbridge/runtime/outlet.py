"""The sending side of a node: from a value on an output port to messages on its routes."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from flowbridge.envelope import Envelope
from flowbridge.errors import SchemaMismatchError, WouldBlock
from flowbridge.plan import ContentType, Policy, Scatter
from flowbridge.runtime.sizing import size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.contracts import DataSink, EventBus
    from flowbridge.envelope import TraceContext, Trail
    from flowbridge.plan import Port, Route


class Edge:
    """One route that starts here."""

    __slots__ = ("_budget_ns", "_priority", "_refuses", "_seq", "_trail_in", "_trail_out", "route", "sink")

    def __init__(self, route: Route, sink: DataSink) -> None:
        self.route = route
        self.sink = sink
        self._budget_ns = route.qos.deadline_ns
        self._priority = route.qos.priority
        self._refuses = route.qos.policy is Policy.ERROR
        self._seq = 0
        self._trail_in: Trail | None = None
        self._trail_out: Trail | None = None

    def envelope(
        self,
        value: Any,
        like: Envelope,
        size_bytes: int,
        now_ns: int,
        trace: TraceContext | None,
        headers: Mapping[str, str | int] | None,
    ) -> Envelope:
        """The message for this route: deadline and priority inherited from `like`, tightened by the route."""
        deadline_ns = like.deadline_ns
        if self._budget_ns is not None and now_ns + self._budget_ns < deadline_ns:
            deadline_ns = now_ns + self._budget_ns
        trail = like.trail
        if trail is not self._trail_in or trail is None:
            self._trail_in = trail
            self._trail_out = self._follow(trail)
        seq = self._seq
        self._seq = seq + 1
        priority = like.priority if self._priority is None else self._priority
        return Envelope(
            value,
            priority,
            deadline_ns,
            like.origin_ns,
            now_ns,
            size_bytes,
            seq,
            self._trail_out,
            trace,
            headers,
        )

    def _follow(self, trail: Trail | None) -> Trail | None:
        if trail is None:
            return None
        target = self.route.target_node
        if self.route.feedback:  # going round again makes no new path: return to where the target was first met
            back: Trail | None = trail
            while back is not None and back.node != target:
                back = back.parent
            return back or trail
        return trail.step(target)

    def try_send(self, envelope: Envelope) -> bool:
        """False when the sender must wait; WouldBlock when the route's policy is to refuse."""
        try:
            self.sink.send_nowait(envelope)
        except WouldBlock:
            if self._refuses:
                raise
            return False
        return True


class Outlet:
    """One output port with the routes and topics it feeds."""

    def __init__(
        self, node: str, port: Port, edges: Sequence[Edge], topics: Sequence[str], scatter: Scatter, bus: EventBus
    ) -> None:
        self._node = node
        self._port = port
        self.edges = tuple(edges)
        self._topics = tuple(topics)
        self._bus = bus
        self._scatter = scatter if len(edges) > 1 else Scatter.COPY
        self._turns = cycle(self.edges)
        self._scattered = 0
        self._only = self.edges[0] if len(self.edges) == 1 and not topics else None
        self._expected = _expected_type(port.content_type)
        self._schema: Any = None
        self.blocked: list[tuple[Edge | str, Envelope]] = []
        """Messages that wait for credit, in order; `flush` sends them."""

    @property
    def feeds(self) -> bool:
        """Whether anybody is joined to this port."""
        return bool(self.edges or self._topics)

    def expect(self, schema: Any) -> None:
        """Compare every Arrow batch with this schema from now on."""
        self._schema = schema

    def emit(self, value: Any, like: Envelope, now_ns: int, trace: TraceContext | None) -> bool:
        """Send to every route this value is for; False when `flush` must be awaited before anything else is sent."""
        if self._expected is not None:
            self._check(value)
        headers = like.headers
        if headers is not None:
            headers = {"correlation": headers["correlation"]} if "correlation" in headers else None
        size_bytes = size_of(value)
        only = self._only
        if only is not None:
            envelope = only.envelope(value, like, size_bytes, now_ns, trace, headers)
            if only.try_send(envelope):
                return True
            self.blocked.append((only, envelope))
            return False
        return self._emit_many(value, like, size_bytes, now_ns, trace, headers)

    def _emit_many(
        self,
        value: Any,
        like: Envelope,
        size_bytes: int,
        now_ns: int,
        trace: TraceContext | None,
        headers: Mapping[str, str | int] | None,
    ) -> bool:
        edges: Sequence[Edge] = self.edges
        if self._scatter is not Scatter.COPY:
            edges = (self._pick(like.priority),)
            headers = {"correlation": self._scattered}
            self._scattered += 1
        for edge in edges:
            envelope = edge.envelope(value, like, size_bytes, now_ns, trace, headers)
            if not edge.try_send(envelope):
                self.blocked.append((edge, envelope))
        for topic in self._topics:
            envelope = Envelope(
                value,
                like.priority,
                like.deadline_ns,
                like.origin_ns,
                now_ns,
                size_bytes,
                0,
                like.trail,
                trace,
                headers,
            )
            self.blocked.append((topic, envelope))
        return not self.blocked

    def _pick(self, priority: int) -> Edge:
        if self._scatter is Scatter.ROUND_ROBIN:
            return next(self._turns)
        return max(self.edges, key=lambda edge: edge.sink.credit_items(priority))

    async def flush(self) -> None:
        """Send what waits, in order, as credit comes."""
        blocked, self.blocked = self.blocked, []
        for where, envelope in blocked:
            if isinstance(where, str):
                await self._bus.publish(where, envelope)
            else:
                await where.sink.send(envelope)

    async def finish(self) -> None:
        """End every route of this port."""
        for edge in self.edges:
            await edge.sink.finish()

    def _check(self, value: Any) -> None:
        expected = self._expected
        if expected is not None and not isinstance(value, expected):
            wanted = self._port.content_type.value
            raise SchemaMismatchError(
                self._node, f"carries {wanted}, but was given a {type(value).__name__}", port=self._port.name
            )
        if self._schema is not None and not value.schema.equals(self._schema):
            raise SchemaMismatchError(
                self._node,
                f"is declared as {_one_line(self._schema)}, but was given {_one_line(value.schema)}",
                port=self._port.name,
            )


def _one_line(schema: Any) -> str:
    return "{" + ", ".join(f"{field.name}: {field.type}" for field in schema) + "}"


def _expected_type(content: ContentType) -> type | tuple[type, ...] | None:
    if content is ContentType.ARROW:
        from flowbridge.codec.arrow import RECORD_BATCH

        return RECORD_BATCH
    if content is ContentType.BYTES:
        return (bytes, bytearray, memoryview)
    if content in {ContentType.JSON, ContentType.CBOR}:
        return (dict, list, str, int, float, bool, type(None))
    return None
