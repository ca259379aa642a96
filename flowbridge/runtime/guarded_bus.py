"""GuardedBus: a bus as one peer may use it, for whoever serves it to another host or uses it on behalf of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flowbridge.errors import AuthError
from flowbridge.machines.node_acl import Action, overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from flowbridge.contracts import DataPort, EventBus, Subscription
    from flowbridge.envelope import Envelope
    from flowbridge.errors import FlowbridgeError
    from flowbridge.machines.node_acl import NodeAcl
    from flowbridge.plan import Qos
    from flowbridge.time.ledger import EdgeBooks

_PUBLISHING = (Action.PUB, Action.REQ)
_HEARING = (Action.SUB, Action.SERVE)


class GuardedBus:
    """An `EventBus` on which a principal does what an ACL allows; the rest raises AuthError before it is done.

    It does not own the bus: `aclose` leaves it open.
    """

    def __init__(self, bus: EventBus, acl: NodeAcl, principal: str) -> None:
        self._bus = bus
        self._acl = acl
        self._principal = principal
        if hasattr(bus, "watch"):  # an optional part of a bus: see `transports.bus_server`
            self.watch = self._watch
        if hasattr(bus, "ask"):
            self.ask = self._ask
        if hasattr(bus, "unanswered"):
            self.unanswered: Callable[[Envelope, FlowbridgeError], None] = cast(Any, bus).unanswered

    async def publish(self, topic: str, envelope: Envelope) -> int:
        """See `EventBus`; needs `pub`."""
        self._acl.check(self._principal, Action.PUB, topic)
        return await self._bus.publish(topic, envelope)

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        """See `EventBus`; needs `pub`."""
        self._acl.check(self._principal, Action.PUB, topic)
        return self._bus.publish_nowait(topic, envelope)

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        """See `EventBus`; needs `pub`."""
        self._acl.check(self._principal, Action.PUB, topic)
        return await self._bus.broadcast(topic, envelope)

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        """See `EventBus`; needs `req`."""
        self._acl.check(self._principal, Action.REQ, topic)
        return await self._bus.request(topic, envelope, timeout_ns=timeout_ns, idempotent=idempotent)

    def _ask(self, topic: str, envelope: Envelope, timeout_ns: int, answer: Any, who: str = "") -> Any:
        """One attempt of a request, whose id is the principal's own; needs `req`."""
        self._acl.check(self._principal, Action.REQ, topic)
        bus: Any = self._bus
        return bus.ask(topic, envelope, timeout_ns, answer, who or self._principal)

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        """See `EventBus`; whoever got the request may answer it."""
        await self._bus.reply(request, envelope)

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        """See `EventBus`; whoever got the request may refuse it."""
        await self._bus.refuse(request, error)

    def subscribe(
        self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """See `EventBus`; needs `sub`, of every topic of the pattern."""
        self._acl.check(self._principal, Action.SUB, pattern)
        return self._bus.subscribe(pattern, group=group, qos=qos, edge=edge)

    def configure(self, pattern: str, qos: Qos) -> None:
        """Raises: AuthError; the host that owns the bus configures it."""
        raise AuthError(f"{self._principal} may not configure the topics {pattern!r:.80} of another host")

    def books(self) -> Mapping[str, EdgeBooks]:
        """See `EventBus`."""
        return self._bus.books()

    async def aclose(self) -> None:
        """Leave the bus as it is."""

    def _watch(self, callback: Callable[[DataPort, bool], None]) -> Callable[[], None]:
        """Tell of the subscriptions that concern the principal: it may publish to them, or have opened them."""
        rules = [rule for rule in self._acl.rules if rule.allows and rule.action in (*_PUBLISHING, *_HEARING)]

        def concerned(port: DataPort, is_open: bool) -> None:
            topic = port.route.topic
            if topic is not None and any(overlap(rule.name, topic) for rule in rules):
                callback(port, is_open)

        bus: Any = self._bus
        stop: Callable[[], None] = bus.watch(concerned)
        return stop

    def __repr__(self) -> str:
        return f"<GuardedBus {self._principal} at {self._bus!r}>"
