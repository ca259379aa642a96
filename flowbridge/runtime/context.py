"""What an operator holds in its hands: its context, and the box that collects what it sends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TextIO

from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import OperatorError
from flowbridge.limits import OUTBOX_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.contracts import Clock, EventBus
    from flowbridge.envelope import Envelope
    from flowbridge.plan import PluginManifest


class Context:
    """See `contracts.OperatorContext`."""

    def __init__(
        self, manifest: PluginManifest, clock: Clock, bus: EventBus, base_dir: str, stdout: TextIO | None
    ) -> None:
        self.node = manifest.node
        self.manifest = manifest
        self.clock = clock
        self.bus = bus
        self.base_dir = base_dir
        self.stdout = stdout
        self.envelope: Envelope | None = None
        self.log = logging.LoggerAdapter(logging.getLogger("flowbridge.operator"), {"node": manifest.node})

    def remaining_ns(self) -> int:
        """Nanoseconds until the deadline of the message being handled; a very large number without one."""
        deadline_ns = NO_DEADLINE if self.envelope is None else self.envelope.deadline_ns
        return deadline_ns if deadline_ns == NO_DEADLINE else deadline_ns - self.clock.now_ns()


class Sent:
    """One entry of an outbox."""

    __slots__ = ("deadline_ns", "new", "origin_ns", "port", "priority", "value")

    def __init__(
        self,
        value: Any,
        port: str,
        deadline_ns: int | None = None,
        priority: int | None = None,
        *,
        new: bool = False,
        origin_ns: int | None = None,
    ) -> None:
        self.value = value
        self.port = port
        self.deadline_ns = deadline_ns
        self.priority = priority
        self.new = new
        self.origin_ns = origin_ns


class Outbox:
    """See `contracts.Outputs`: collects during a call what is sent after it."""

    def __init__(self, node: str, send_now: Callable[[Any, str], Awaitable[None]]) -> None:
        self._node = node
        self._send_now = send_now
        self.entries: list[Sent] = []

    def emit(
        self, value: Any, port: str = "out", *, deadline_ns: int | None = None, priority: int | None = None
    ) -> None:
        """Send after this call of the operator returns."""
        self._add(Sent(value, port, deadline_ns, priority))

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        """Send a message that starts here."""
        self._add(Sent(value, port, new=True, origin_ns=origin_ns))

    async def send(self, value: Any, port: str = "out") -> None:
        """Send at once, after what was emitted before, waiting for credit."""
        await self._send_now(value, port)

    def _add(self, entry: Sent) -> None:
        if len(self.entries) >= OUTBOX_ITEMS_MAX:
            self.entries.clear()
            raise OperatorError(
                self._node, f"emitted more than {OUTBOX_ITEMS_MAX} messages in one call; use `await out.send(...)`"
            )
        self.entries.append(entry)
