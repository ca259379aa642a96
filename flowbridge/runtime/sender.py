"""Sends what an operator gave: values, `Emit` objects, the contents of its outbox, replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE, Envelope, Trail
from flowbridge.errors import OperatorError, WouldBlock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.contracts import Clock
    from flowbridge.envelope import TraceContext
    from flowbridge.runtime.context import Outbox, Sent
    from flowbridge.runtime.outlet import Outlet


class Sender:
    """The outputs of one node. Waits for credit; keeps the order in which the operator sent."""

    def __init__(
        self, node: str, outlets: Mapping[str, Outlet], clock: Clock, *, priority: int, deadline_ns: int | None
    ) -> None:
        self.node = node
        self.outlets = outlets
        self._clock = clock
        self.priority = priority
        self.lasts_ns = NO_DEADLINE if deadline_ns is None else deadline_ns
        self._trail = Trail(node)

    @property
    def is_last(self) -> bool:
        """Whether nothing is sent on from here, so that paths end here."""
        return not any(outlet.feeds for outlet in self.outlets.values())

    def starting(self, now_ns: int, origin_ns: int | None = None) -> Envelope:
        """What a message that starts here inherits from: the node's own priority and deadline."""
        start_ns = now_ns if origin_ns is None else origin_ns
        deadline_ns = NO_DEADLINE if self.lasts_ns == NO_DEADLINE else now_ns + self.lasts_ns
        return Envelope(None, self.priority, deadline_ns, start_ns, now_ns, 0, 0, self._trail)

    async def send(self, value: Any, like: Envelope, trace: TraceContext | None) -> None:
        """Send one value (or `Emit`) as a child of `like`."""
        port = "out"
        if type(value) is Emit:
            like, port, value = _tightened(like, value.deadline_ns, value.priority), value.port, value.value
        outlet = self.outlets.get(port)
        if outlet is None:
            known = ", ".join(self.outlets) or "none"
            raise OperatorError(self.node, f"has no output port {port!r}; it has {known}")
        try:
            outlet.emit(value, like, self._clock.now_ns(), trace)
        except WouldBlock:
            if not outlet.push():  # the other routes of this port did not refuse it
                await outlet.flush()
            raise
        if not outlet.push():
            await outlet.flush()

    async def send_outbox(self, outbox: Outbox, like: Envelope | None, trace: TraceContext | None) -> None:
        """Send everything the box holds, as children of `like`, or as messages that start here."""
        entries, outbox.entries = outbox.entries, []
        for entry in entries:
            await self.send(Emit(entry.value, entry.port), self._parent(like, entry), trace)

    def _parent(self, like: Envelope | None, entry: Sent) -> Envelope:
        if entry.new or like is None:
            return self.starting(self._clock.now_ns(), entry.origin_ns)
        return _tightened(like, entry.deadline_ns, entry.priority)

    def abandon(self) -> None:
        """The node ended early: nothing that it made may be lost without being counted."""
        for outlet in self.outlets.values():
            for edge in outlet.edges:
                edge.abandon()

    async def finish(self) -> None:
        """End every output."""
        for outlet in self.outlets.values():
            await outlet.finish()


def _tightened(like: Envelope, deadline_ns: int | None, priority: int | None) -> Envelope:
    """A parent with a sooner deadline or a lower priority; neither can be had the other way."""
    if deadline_ns is None and priority is None:
        return like
    deadline = like.deadline_ns if deadline_ns is None else min(like.deadline_ns, deadline_ns)
    lane = like.priority if priority is None else max(like.priority, priority)
    return Envelope(
        None, lane, deadline, like.origin_ns, like.sent_ns, 0, like.seq, like.trail, like.trace, like.headers
    )
