"""The sending side of a node: from a value on an output port to messages on its routes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from flowbridge.envelope import Envelope
from flowbridge.errors import BrokenError, EncodeError, ResourceError, SchemaMismatchError, WouldBlock
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.plan import ContentType, Policy, Scatter
from flowbridge.runtime.sizing import sizer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowbridge.contracts import DataSink, EventBus
    from flowbridge.envelope import TraceContext, Trail
    from flowbridge.plan import Port, Route


class Edge:
    """One route that starts here."""

    __slots__ = (
        "_budget_ns",
        "_lost",
        "_priority",
        "_send_many",
        "_seq",
        "_trail_in",
        "_trail_out",
        "_waits",
        "lined_up",
        "refuses",
        "route",
        "sink",
    )

    def __init__(self, route: Route, sink: DataSink, lost: Callable[[Envelope], None] | None = None) -> None:
        self.route = route
        self.sink = sink
        self._send_many = sink.send_many_nowait
        self._lost = lost  # told of every message that was too late to be sent
        self.lined_up: list[Envelope] = []
        self._budget_ns = route.qos.deadline_ns
        self._priority = route.qos.priority
        self._waits = route.qos.policy is Policy.BLOCK
        self.refuses = route.qos.policy is Policy.ERROR
        self._seq = 0
        self._trail_in: Trail | None = None
        self._trail_out: Trail | None = None

    def add(
        self,
        value: Any,
        like: Envelope,
        size_bytes: int,
        now_ns: int,
        trace: TraceContext | None,
        headers: Mapping[str, str | int] | None,
    ) -> None:
        """Line up a child of `like`: deadline and priority inherited, tightened by the route.

        Raises: WouldBlock when the policy is to refuse; such a route lines nothing up.
        """
        deadline_ns = like.deadline_ns
        if self._budget_ns is not None and now_ns + self._budget_ns < deadline_ns:
            deadline_ns = now_ns + self._budget_ns
        trail = like.trail
        if trail is not self._trail_in or trail is None:
            self._trail_in = trail
            self._trail_out = self._follow(trail)
        seq = self._seq
        self._seq = seq + 1
        envelope = Envelope(
            value,
            like.priority if self._priority is None else self._priority,
            deadline_ns,
            like.origin_ns,
            now_ns,
            size_bytes,
            seq,
            self._trail_out,
            trace,
            headers,
        )
        self.lined_up.append(envelope)
        if self.refuses:
            missed = self._missed
            try:
                self.sink.send_nowait(envelope)
            except BrokenError:
                if not self.route.feedback:
                    raise
                self.drop("abort")
            finally:
                self.lined_up.clear()
            if self._missed != missed:
                self._lose((envelope,), 1)

    def add_many(
        self,
        values: Iterable[Any],
        likes: Iterable[Envelope],
        times_ns: Iterable[int],
        sizer: Callable[[Any], int],
    ) -> None:
        """As `add`, for many values that are neither traced nor carry headers. The loop is the hot path of a node."""
        budget_ns, priority, seq = self._budget_ns, self._priority, self._seq
        trail_in, trail_out = self._trail_in, self._trail_out
        append = self.lined_up.append
        for value, like, now_ns in zip(values, likes, times_ns, strict=False):
            deadline_ns = like.deadline_ns
            if budget_ns is not None and now_ns + budget_ns < deadline_ns:
                deadline_ns = now_ns + budget_ns
            if like.trail is not trail_in:
                trail_in = like.trail
                trail_out = self._follow(trail_in)
            append(
                Envelope(
                    value,
                    like.priority if priority is None else priority,
                    deadline_ns,
                    like.origin_ns,
                    now_ns,
                    sizer(value),
                    seq,
                    trail_out,
                )
            )
            seq += 1
        self._seq, self._trail_in, self._trail_out = seq, trail_in, trail_out

    def room(self, priority: int) -> int:
        """How many messages may be lined up before one of them must wait; what is dropped needs no room."""
        if not self._waits:
            return SLICE_ITEMS_MAX
        lane = priority if self._priority is None else self._priority
        return self.sink.credit_items(lane) - len(self.lined_up)

    def push(self) -> bool:
        """Send what is lined up; False when some of it must wait for credit."""
        lined_up = self.lined_up
        if lined_up:
            misses = self.sink.books.missed
            missed = misses.late + misses.transport
            try:
                sent = self._send_many(lined_up)
            except BrokenError:
                if not self.route.feedback:
                    raise
                self.drop("abort")
                return True
            except EncodeError:  # the first of them cannot leave this process: counted as refused, and given up
                del lined_up[0]
                raise
            if misses.late + misses.transport != missed:
                self._lose(lined_up[:sent], misses.late + misses.transport - missed)
            if sent < len(lined_up):
                del lined_up[:sent]
                return False
            lined_up.clear()
        return True

    def abandon(self) -> None:
        """Send what is lined up if there is credit; count the rest as dropped by `abort`."""
        with suppress(ResourceError, EncodeError):  # then nothing more can be sent
            self.push()
        self.drop("abort")

    def drop(self, policy: str) -> None:
        """Give up what is lined up and count it: there is no credit for it, or nobody to take it."""
        books = self.sink.books
        if self.lined_up:
            books.sent += len(self.lined_up)
            books.drop(policy, len(self.lined_up))
            self.lined_up.clear()

    @property
    def _missed(self) -> int:
        """How many messages were too late to be sent."""
        missed = self.sink.books.missed
        return missed.late + missed.transport

    def _lose(self, offered: Sequence[Envelope], count: int) -> None:
        """So many of these were too late: those with the earliest deadlines."""
        if self._lost is not None:
            for envelope in sorted(offered, key=attrgetter("deadline_ns"))[:count]:
                self._lost(envelope)

    async def flush(self) -> None:
        """Send what is lined up, as credit comes. Cancelled: what was not sent is lined up still."""
        while not self.push():
            envelope, sent, missed = self.lined_up.pop(0), self.sink.books.sent, self._missed
            try:
                await self.sink.send(envelope)
            except (asyncio.CancelledError, BrokenError) as error:
                if self.sink.books.sent == sent:  # else it was taken just then
                    self.lined_up.insert(0, envelope)
                if isinstance(error, asyncio.CancelledError) or not self.route.feedback:
                    raise
                continue  # a loop that has ended: the next push counts what is left
            if self._missed != missed:
                self._lose((envelope,), 1)

    def _follow(self, trail: Trail | None) -> Trail | None:
        if trail is None:
            return None
        target = self.route.target_node
        if trail.node == target:  # a timer: the message starts where it is handled
            return trail
        if self.route.feedback:  # going round again makes no new path: return to where the target was first met
            back: Trail | None = trail
            while back is not None and back.node != target:
                back = back.parent
            return back or trail
        return trail.step(target)


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
        self._is_special = any(edge.refuses for edge in self.edges)
        self._scatter = scatter if len(edges) > 1 else Scatter.COPY
        self._turns = cycle(self.edges)
        self._scattered = 0
        self._only = self.edges[0] if len(self.edges) == 1 and not topics else None
        self._expected = _expected_type(port.content_type)
        self.check: Callable[[Any], None] | None = self._check if self._expected is not None else None
        """Raises SchemaMismatchError for a value that this port does not carry; None when it carries anything."""
        self._schema: Any = None
        self._kind: type | None = None
        self._sizer: Callable[[Any], int] = sizer_of(bytes)
        self._published: list[tuple[str, Envelope]] = []

    @property
    def feeds(self) -> bool:
        """Whether anybody is joined to this port."""
        return bool(self.edges or self._topics)

    def room(self, priority: int) -> int:
        """How many messages may be emitted before one of them must wait for credit; at least one."""
        if self._only is not None:
            return max(1, self._only.room(priority))
        return max(1, min([edge.room(priority) for edge in self.edges], default=SLICE_ITEMS_MAX))

    def expect(self, schema: Any) -> None:
        """Compare every Arrow batch with this schema from now on."""
        self._schema = schema
        self.check = self._check

    @property
    def schema(self) -> Any:
        """The Arrow schema that every batch must have, None when any will do."""
        return self._schema

    @property
    def is_special(self) -> bool:
        """Whether a message may be refused, so that each must be sent by itself."""
        return self._is_special

    def emit(self, value: Any, like: Envelope, now_ns: int, trace: TraceContext | None) -> None:
        """Line a value up for every route it is for, as a child of `like`; `push` or `flush` sends it.

        Whoever emits must push before it lets other tasks run, and flush when push says so.
        """
        if self.check is not None:
            self.check(value)
        headers = like.headers
        if headers is not None:
            headers = {"correlation": headers["correlation"]} if "correlation" in headers else None
        kind: type[object] = value.__class__
        if kind is not self._kind:  # values of one port are mostly of one type: look its sizer up once
            self._kind, self._sizer = kind, sizer_of(kind)
        only = self._only
        if only is not None:
            only.add(value, like, self._sizer(value), now_ns, trace, headers)
        else:
            self._emit_many(value, like, now_ns, trace, headers)

    def emit_many(self, values: Sequence[Any], likes: Iterable[Envelope], times_ns: Sequence[int]) -> None:
        """As `emit`, for many values that were checked already, are not traced and carry no headers."""
        only = self._only
        kinds = set(map(type, values))
        if only is None or len(kinds) != 1:
            for value, like, now_ns in zip(values, likes, times_ns, strict=False):
                self.emit(value, like, now_ns, None)
            return
        only.add_many(values, likes, times_ns, sizer_of(kinds.pop()))

    def _emit_many(
        self,
        value: Any,
        like: Envelope,
        now_ns: int,
        trace: TraceContext | None,
        headers: Mapping[str, str | int] | None,
    ) -> None:
        size_bytes = self._sizer(value)
        edges: Sequence[Edge] = self.edges
        if self._scatter is not Scatter.COPY:
            edges = (self._pick(like.priority),)
            headers = {"correlation": self._scattered}
            self._scattered += 1
        refused: WouldBlock | None = None
        for edge in edges:
            try:
                edge.add(value, like, size_bytes, now_ns, trace, headers)
            except WouldBlock as error:  # one that refuses does not take the message from the others
                refused = refused or error
        for topic in self._topics:
            deadline_ns, origin_ns = like.deadline_ns, like.origin_ns
            message = Envelope(value, like.priority, deadline_ns, origin_ns, now_ns, size_bytes, 0, like.trail, trace)
            self._published.append((topic, message))
        if refused is not None:
            raise refused

    def _pick(self, priority: int) -> Edge:
        if self._scatter is Scatter.ROUND_ROBIN:
            return next(self._turns)
        return max(self.edges, key=lambda edge: edge.sink.credit_items(priority) - len(edge.lined_up))

    def push(self) -> bool:
        """Send what is lined up; False when `flush` must be awaited before more is emitted."""
        only = self._only
        if only is not None:
            return only.push()
        # Every edge is tried: one that is full does not keep the others waiting.
        pushed = [edge.push() for edge in self.edges]
        return all(pushed) and not self._published

    async def flush(self) -> None:
        """Send everything, as credit comes."""
        for edge in self.edges:
            await edge.flush()
        published, self._published = self._published, []
        for topic, envelope in published:
            await self._bus.publish(topic, envelope)

    async def finish(self) -> None:
        """End every route of this port; what is lined up goes first."""
        if not self.push():
            await self.flush()
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
                f"is declared as {one_line(self._schema)}, but was given {one_line(value.schema)}",
                port=self._port.name,
            )


def one_line(schema: Any) -> str:
    """An Arrow schema as messages show it."""
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
