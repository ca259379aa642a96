"""One subscription: the port behind it, and the end that its subscriber holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.codec.codes import Code, error_of
from flowbridge.envelope import Envelope
from flowbridge.errors import BlockReason, ResourceError, WouldBlock
from flowbridge.limits import LANES
from flowbridge.plan import Plane, Policy, Route
from flowbridge.transports.route_queue import QueueSink, QueueSource, RouteQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import Clock
    from flowbridge.errors import FlowbridgeError
    from flowbridge.plan import Qos
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.bus_gate import Gate


class LocalSubscription(QueueSource):
    """The subscriber's end; see `contracts.Subscription`."""

    __slots__ = ("port",)

    port: SubscriptionPort

    @property
    def pattern(self) -> str:
        """What it subscribed to."""
        return self.port.pattern

    @property
    def group(self) -> str | None:
        """The queue group it is a member of."""
        return self.port.group

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """Return what `take` lent; the credit goes to whoever waited longest for it."""
        QueueSource.settle(self, taken, expired=expired)
        if self.port.waited_by:
            self.port.admit()

    def drain(self) -> None:
        """Be published to no more; once everything that is queued was taken, it has ended. Idempotent."""
        if not self._ends.ended:
            self.port.drain()
            self._queue.finished = self._ends.guarded = True
            self._ends.tell()

    async def aclose(self) -> None:
        """Take no more, and be published to no more. Idempotent."""
        self.port.leave()
        queued = [envelope for lane in self.port.ends.queue.lanes for envelope in lane.queue]
        await super().aclose()
        for envelope in queued:
            self.port.unanswered(envelope, error_of(Code.REFUSED, "the responder left before it took the request"))

    def __repr__(self) -> str:
        return f"<LocalSubscription {self.port.route.id}>"


class SubscriptionPort:
    """The queue of one subscription. Publishers wait at gates, not here, so its sink never makes anybody wait."""

    __slots__ = (
        *("_deadline_ns", "_leave", "_priority", "_seq", "ends", "group"),
        *("is_draining", "pattern", "route", "sink", "subscription", "unanswered", "waited_by"),
    )

    def __init__(
        self,
        pattern: str,
        group: str | None,
        *,
        edge: str,
        qos: Qos,
        clock: Clock,
        books: EdgeBooks,
        leave: Callable[[SubscriptionPort], None],
        unanswered: Callable[[Envelope, FlowbridgeError], None],
    ) -> None:
        route = Route(
            id=edge,
            plane=Plane.BUS,
            source_node="bus",
            source_port=pattern,
            target_node="",
            target_port="",
            qos=qos,
            topic=pattern,
            group=group,
        )
        self.route = route
        self.ends = RouteQueue(edge, qos, clock, books)  # the books of the edge may have had a subscription before
        self.sink = QueueSink(self.ends)
        self.subscription = LocalSubscription(self.ends)
        self.subscription.port = self
        self.pattern = pattern
        self.group = group
        self.waited_by: list[Gate] = []  # the gates at which a message waits that this port may take
        self.unanswered = unanswered
        self.is_draining = False  # it gets nothing more, but is not closed
        self._leave = leave
        self._seq = 0
        self._priority = qos.priority
        self._deadline_ns = qos.deadline_ns

    @property
    def source(self) -> LocalSubscription:
        """The subscriber's end, under the name that data ports have for it."""
        return self.subscription

    @property
    def waits(self) -> bool:
        """Whether a full queue makes the publisher wait."""
        return self.route.qos.policy is Policy.BLOCK

    def lane(self, message: Envelope) -> int:
        """The lane a published message goes to."""
        return message.priority if self._priority is None else self._priority

    def deadline_ns(self, message: Envelope) -> int:
        """The deadline of a published message here; `sent_ns` of the message is when it was published."""
        if self._deadline_ns is None:
            return message.deadline_ns
        return min(message.deadline_ns, message.sent_ns + self._deadline_ns)

    def lacks(self, message: Envelope, now_ns: int) -> BlockReason | None:
        """What there is no credit for; None when the message would go in, or is late and needs no credit.

        Under `block` a queue found full is from then on above its watermark, as if the message had been offered.
        """
        if self.deadline_ns(message) <= now_ns:
            return None
        number = self.lane(message)
        queue = self.ends.queue
        lane = queue.lanes[number]
        qos = self.route.qos
        credit = queue.credit_items(number)
        if qos.policy is not Policy.BLOCK and qos.policy is not Policy.ERROR:
            return None if credit else BlockReason.CREDIT_ITEMS
        if not lane.items or (credit and lane.bytes + message.size_bytes <= qos.capacity_bytes):
            return None  # an empty lane takes a message of any size
        return queue.reason(self._copy(message, now_ns))

    def put(self, message: Envelope, *, waited: bool = False) -> bool | None:
        """Queue a copy with this subscription's number, priority and deadline.

        False when it was refused, was late (both are counted), or the subscription is closed (counted nowhere). None
        when it has to wait for credit.
        """
        now_ns = self.ends.clock.now_ns()
        copy = self._copy(message, now_ns)
        late = copy.deadline_ns <= now_ns
        if late and waited:
            self.expire()
            return False
        try:
            self.sink.send_nowait(copy)
        except WouldBlock:
            return None if self.waits else False
        except ResourceError:
            return False
        self._seq += 1
        return not late

    def _copy(self, message: Envelope, now_ns: int) -> Envelope:
        return Envelope(
            message.payload,
            message.priority if self._priority is None else self._priority,
            message.deadline_ns if self._deadline_ns is None else self.deadline_ns(message),
            message.origin_ns,
            now_ns,
            message.size_bytes,
            self._seq,
            message.trail,
            message.trace,
            message.headers,
        )

    def expire(self) -> None:
        """Count a message whose deadline passed while it waited for this subscription."""
        self.ends.queue.expire_waiting()

    def admit(self) -> None:
        """Let in what waits, as far as there is credit now."""
        if not self.waited_by:
            return
        if len(self.waited_by) == 1:
            self.waited_by[0].admit()
            return
        for lane in range(LANES):
            gates = list(self.waited_by)
            while gates := [gate for gate in gates if gate.waits[lane]]:
                first = min(gates, key=lambda gate: gate.waits[lane][0].delivery.number)
                if not first.admit_first(lane):
                    gates.remove(first)

    def leave(self) -> None:
        """The subscription ends: nothing more is to come here, and nothing is taken."""
        self.is_draining = False
        self._leave(self)

    def drain(self) -> None:
        """Nothing more is to come here; what is queued can be taken."""
        self.is_draining = True
        self._leave(self)

    def __repr__(self) -> str:
        return f"<SubscriptionPort {self.route.id} {self.ends.queue!r}>"
