"""The event bus of one process: topics, queue groups, and requests with replies.

A published envelope is never changed. Every subscription gets a copy of its own, with its own `seq`; all copies share
the payload and the headers, to which ``topic`` is added. A subscription is a data port, so credit, lanes and policies
are those of the data plane.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import coded
from flowbridge.envelope import Envelope, Priority
from flowbridge.errors import (
    BlockReason,
    ClosedError,
    FlowbridgeError,
    LocalProtocolError,
    NoResponderError,
    WouldBlock,
)
from flowbridge.limits import SUBSCRIPTIONS_MAX, TOPICS_CACHED_MAX, TOPICS_REACH_MAX
from flowbridge.machines.topics import TopicEntry, TopicTable, check_pattern, covers
from flowbridge.plan import Qos
from flowbridge.transports.bus_books import SubscriptionBooks
from flowbridge.transports.bus_gate import Delivery, Gate, Wait
from flowbridge.transports.bus_port import LocalSubscription, SubscriptionPort
from flowbridge.transports.bus_repeats import REQUEST_ID, Repeats
from flowbridge.transports.bus_replies import REPLY_TO, ReplyTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flowbridge.contracts import Clock, DataPort
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.bus_replies import Answer, PendingReply

REPLIES = "(replies)"


@dataclass(frozen=True, slots=True)
class _Fanout:
    """What publishing to one topic means, until somebody comes or goes."""

    gates: tuple[Gate, ...]  # each subscription without a group, each group once
    every: tuple[Gate, ...]  # each subscription
    priority: Priority | None
    deadline_ns: int | None


_GATE_REACH: Final = 64  # what a gate before a group costs, in references


class _Opening:
    """A subscription for the length of an ``async with``."""

    __slots__ = ("_bus", "_edge", "_group", "_pattern", "_qos", "_subscription")

    def __init__(self, bus: LocalEventBus, pattern: str, group: str | None, qos: Qos | None, edge: str) -> None:
        self._bus = bus
        self._pattern = pattern
        self._group = group
        self._qos = qos
        self._edge = edge
        self._subscription: LocalSubscription | None = None

    async def __aenter__(self) -> LocalSubscription:
        if self._subscription is not None:
            raise LocalProtocolError(f"subscription {self._pattern!r} is entered a second time: subscribe again")
        self._subscription = self._bus.open(self._pattern, self._group, self._qos, self._edge)
        return self._subscription

    async def __aexit__(self, *exc: object) -> None:
        assert self._subscription is not None, "left without being entered"
        await self._subscription.aclose()


class LocalEventBus:
    """Keeps `contracts.EventBus`.

    - *Groups* go by name: members that subscribed with different patterns are still one group; one gets the message.
    - *Accepted* means that a queue took charge of the message. One that is late or refused is in the books only.
    - *QoS of a topic* (`configure`, first match wins): its deadline only tightens; its priority replaces NORMAL, which
      is what a message has that asks for nothing, and never another. The QoS of a subscription then holds for that
      subscription alone, and its priority, if any, replaces the message's.
    - *Requests* carry a deadline tightened to their timeout, and their reply carries the same.

    Does not promise: that a cancelled `publish` reached nobody; whoever had credit has the message.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._table: TopicTable[SubscriptionPort] = TopicTable(cached_max=0)  # the fanouts are remembered instead
        self._fanouts: dict[str, _Fanout] = {}
        self._reach = 0  # about how much all of them hold, as `TOPICS_REACH_MAX` counts
        self._entries: dict[SubscriptionPort, TopicEntry[SubscriptionPort]] = {}
        self._draining: dict[SubscriptionPort, None] = {}  # they left, and are not closed yet
        self._own: dict[SubscriptionPort, Gate] = {}
        self._groups: dict[str, dict[tuple[SubscriptionPort, ...], Gate]] = {}
        self._topics: dict[str, Qos] = {}
        self._books = SubscriptionBooks()
        self._replies = ReplyTable()
        self._repeats = Repeats(clock, self._request)
        self._numbers = itertools.count()
        self._watchers: list[Callable[[DataPort, bool], None]] = []
        self._closed = False

    # --- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, envelope: Envelope) -> int:
        """Give the message to every subscription and to one member of every group, waiting for those that block."""
        fanout = self._fanout(topic)
        return await self._deliver(fanout.gates, self._message(topic, envelope, fanout))

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        """As `publish`, but every member of every group gets it."""
        fanout = self._fanout(topic)
        return await self._deliver(fanout.every, self._message(topic, envelope, fanout))

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        """As `publish`; WouldBlock, and nobody got it, when some subscription would make it wait."""
        fanout = self._fanout(topic)
        message = self._message(topic, envelope, fanout)
        for gate in fanout.gates:
            reason = gate.reason(message)
            if reason is not None:
                raise WouldBlock(reason, gate.members[0].route.id)
        # A subscriber told of the message might use up credit that was there a moment ago; then it comes in later.
        delivery = self._give(fanout.gates, message)
        return delivery.accepted + len(delivery.waits)

    async def _deliver(self, gates: tuple[Gate, ...], message: Envelope) -> int:
        delivery = self._give(gates, message)
        if delivery.waits:
            await delivery.finished()
            self._check_open()
        return delivery.accepted

    def _give(self, gates: tuple[Gate, ...], message: Envelope) -> Delivery:
        delivery = Delivery(message, next(self._numbers))
        for gate in gates:
            accepted = gate.offer(message)
            if accepted is None:
                gate.wait(delivery)
            else:
                delivery.accepted += accepted
        return delivery

    def _message(self, topic: str, envelope: Envelope, fanout: _Fanout) -> Envelope:
        """The message as all subscriptions see it; `sent_ns` is when it was published."""
        now_ns = self._clock.now_ns()
        priority, deadline_ns = envelope.priority, envelope.deadline_ns
        if fanout.priority is not None and priority == Priority.NORMAL:
            priority = fanout.priority
        if fanout.deadline_ns is not None:
            deadline_ns = min(deadline_ns, now_ns + fanout.deadline_ns)
        headers: dict[str, str | int] = {**envelope.headers} if envelope.headers else {}
        headers["topic"] = topic
        return Envelope(
            envelope.payload,
            priority,
            deadline_ns,
            envelope.origin_ns,
            now_ns,
            envelope.size_bytes,
            0,
            envelope.trail,
            envelope.trace,
            headers,
        )

    def _fanout(self, topic: str) -> _Fanout:
        self._check_open()
        fanout = self._fanouts.get(topic)
        if fanout is None:
            ports = self._table.match(topic)
            self._reach += 2 * len(ports) + (_GATE_REACH if any(port.group is not None for port in ports) else 0)
            if len(self._fanouts) >= TOPICS_CACHED_MAX or self._reach > TOPICS_REACH_MAX:
                self._forget()
            qos = self._configured(topic)
            fanout = self._fanouts[topic] = _Fanout(
                tuple(self._gates(ports)),
                tuple(self._own[port] for port in ports),
                None if qos is None else qos.priority,
                None if qos is None else qos.deadline_ns,
            )
        return fanout

    def _forget(self) -> None:
        """What topics reach is found again; with it go the gates of groups before which nothing waits."""
        self._fanouts.clear()
        self._reach = 0
        self._groups = {
            group: kept
            for group, gates in self._groups.items()
            if (kept := {members: gate for members, gate in gates.items() if any(gate.waits)})
        }

    def _gates(self, ports: tuple[SubscriptionPort, ...]) -> Iterable[Gate]:
        groups: dict[str, list[SubscriptionPort]] = {}
        for port in ports:
            if port.group is not None:
                groups.setdefault(port.group, []).append(port)
        for port in ports:
            if port.group is None:
                yield self._own[port]
            elif groups[port.group][0] is port:
                members = tuple(groups[port.group])
                known = self._groups.setdefault(port.group, {})
                gate = known.get(members)
                if gate is None:
                    gate = known[members] = Gate(members, self._clock, port.group)
                yield gate

    # --- requests --------------------------------------------------------------------------------------------------

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        """Publish, and wait for the first reply; when every subscription refused the request, WouldBlock."""
        repeats, began_ns = self._repeats, self._clock.now_ns()
        envelope = repeats.begin(envelope, idempotent)
        try:
            return await self._request(topic, envelope, timeout_ns)
        except FlowbridgeError as error:
            failure = error
        return await repeats.again(topic, envelope, began_ns + timeout_ns, failure, idempotent)

    async def _request(self, topic: str, envelope: Envelope, timeout_ns: int) -> Envelope:
        """One attempt."""
        answer: asyncio.Future[Envelope | FlowbridgeError] = asyncio.get_running_loop().create_future()
        pending = self.ask(topic, envelope, timeout_ns, answer)
        try:
            outcome = await answer
        finally:
            pending.close()
        if isinstance(outcome, Envelope):
            return outcome
        raise outcome

    def ask(self, topic: str, envelope: Envelope, timeout_ns: int, answer: Answer, who: str = "") -> PendingReply:
        """As one attempt of `request`, for those that are no task: `answer` is given the outcome, maybe at once.

        Close what this returns once there is an outcome, or when it is not wanted any more. `who` asks: ids of
        requests are its own. Raises: as `request`, where it is known at once that there will be no reply.
        """
        fanout = self._fanout(topic)
        message = self._message(topic, envelope, fanout)
        deadline_ns = message.deadline_ns = min(message.deadline_ns, message.sent_ns + timeout_ns)
        name = message.headers.get(REQUEST_ID) if message.headers else None
        if name is not None:
            known = self._replies.known(message, (topic, name), who, self._clock, answer)
            if known is not None:
                return known
        if not fanout.gates:
            raise NoResponderError(f"topic {topic!r} has no subscriber, so nobody replies")
        pending = self._replies.expect(message, topic, self._clock, answer)
        if name is not None:
            self._replies.remember(pending, (topic, name), who, message.sent_ns)
        assert isinstance(message.headers, dict), "made a moment ago, and in nobody else's hands yet"
        message.headers[REPLY_TO] = pending.key
        try:
            pending.watch()
            delivery = pending.delivery = self._give(fanout.gates, message)
            if not delivery.accepted:
                if not delivery.waits and deadline_ns > self._clock.now_ns():
                    raise WouldBlock(BlockReason.CREDIT_ITEMS, f"every subscription to {topic}")
                delivery.on_end = pending.unheard
        except BaseException:
            pending.close()
            raise
        return pending

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        """Answer a request; a reply that nobody waits for any more is counted as expired."""
        self._check_open()
        self._replies.deliver(request, envelope, self._clock.now_ns())

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        """Answer a request with an error; one that nobody waits for any more is counted as expired."""
        self._check_open()
        self._replies.refuse(request, coded(error), self._clock.now_ns())

    def unanswered(self, request: Envelope, error: FlowbridgeError) -> None:
        """A responder left, and will not answer; once all did who accepted the request, it fails with this error."""
        self._replies.unanswered(request, error)

    # --- subscriptions ---------------------------------------------------------------------------------------------

    def subscribe(self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = "") -> _Opening:
        """Open a subscription for the length of an ``async with``. Raises: LocalProtocolError for a bad pattern."""
        check_pattern(pattern)
        return _Opening(self, pattern, group, qos, edge)

    def open(self, pattern: str, group: str | None, qos: Qos | None, edge: str) -> LocalSubscription:
        """Open a subscription until it is closed; `subscribe` is the safer way."""
        self._check_open()
        if len(self._table) >= SUBSCRIPTIONS_MAX:
            raise LocalProtocolError(f"pattern {pattern!r} is one more than {SUBSCRIPTIONS_MAX} subscriptions")
        name, books = self._books.open(edge or (f"bus/{pattern}" if group is None else f"bus/{pattern} ({group})"))
        port = SubscriptionPort(
            pattern,
            group,
            edge=name,
            qos=qos if qos is not None else self._default_qos(pattern),
            clock=self._clock,
            books=books,
            leave=self._leave,
            unanswered=self.unanswered,
        )
        self._entries[port] = self._table.add(pattern, port)
        self._own[port] = Gate((port,), self._clock)
        self._changed(port.group)
        for watcher in tuple(self._watchers):
            watcher(port, True)
        return port.subscription

    def _leave(self, port: SubscriptionPort) -> None:
        if port.is_draining:
            self._draining[port] = None
        else:
            self._draining.pop(port, None)
        entry = self._entries.pop(port, None)
        if entry is None:
            return
        self._table.remove(entry)
        own = self._own.pop(port)
        self._changed(port.group)
        for wait in own.clear():
            wait.over(accepted=False)
        self._books.close(port.route.id)
        for watcher in tuple(self._watchers):
            watcher(port, False)

    def _changed(self, group: str | None) -> None:
        """Somebody came or went. What waits for the group lines up again, at the gates that there are now."""
        self._fanouts.clear()
        gates = self._groups.pop(group, {}) if group is not None else {}
        waits: list[Wait] = [wait for gate in gates.values() for wait in gate.clear()]
        waits.sort(key=lambda wait: wait.delivery.number)
        for wait in waits:
            gate = None if self._closed else self._gate_of(group, wait.delivery.message)
            if gate is None:
                wait.over(accepted=False)
            else:
                gate.append(wait)
        for port in tuple(dict.fromkeys(port for wait in waits for port in wait.gate.members)):
            port.admit()

    def _gate_of(self, group: str | None, message: Envelope) -> Gate | None:
        assert message.headers is not None, "a published message has a topic"
        fanout = self._fanout(str(message.headers["topic"]))
        return next((gate for gate in fanout.gates if gate.group == group), None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the bus is closed")

    def watch(self, callback: Callable[[DataPort, bool], None]) -> Callable[[], None]:
        """Tell of each subscription: `callback(port, True)` now or as it opens, `callback(port, False)` once it closed.

        The port is to be looked at, not used: its sink says what credit there is. Returns how to stop it.
        """
        self._watchers.append(callback)
        for port in tuple(self._entries):
            callback(port, True)

        def stop() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return stop

    # --- settings and books ----------------------------------------------------------------------------------------

    def configure(self, pattern: str, qos: Qos) -> None:
        """Set the QoS of topics; the first pattern that matches wins, and setting one again keeps its place."""
        check_pattern(pattern)
        if len(self._topics) >= SUBSCRIPTIONS_MAX and pattern not in self._topics:
            raise LocalProtocolError(f"pattern {pattern!r} is one more than {SUBSCRIPTIONS_MAX} settings of topics")
        self._topics[pattern] = qos
        self._fanouts.clear()

    def _configured(self, pattern: str) -> Qos | None:
        """The first setting that holds for every topic the pattern matches."""
        return next((qos for general, qos in self._topics.items() if covers(general, pattern)), None)

    def _default_qos(self, pattern: str) -> Qos:
        # Priority and deadline of the topic are in the message already when it is published.
        qos = self._configured(pattern)
        return Qos() if qos is None else replace(qos, priority=None, deadline_ns=None)

    def books(self) -> Mapping[str, EdgeBooks]:
        """The counts by edge name; an edge subscribed to again goes on with the books it had.

        Replies are under ``(replies)``; beyond `PATHS_MAX` closed edges the oldest are added up under ``(others)``.
        """
        books = self._books.all()
        if self._replies.books.sent or len(self._replies):
            books[REPLIES] = self._replies.books
        return books

    async def aclose(self) -> None:
        """Close every subscription; whoever waits gets ClosedError. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._replies.close()
        self._repeats.hurry()
        for port in (*self._entries, *self._draining):
            await port.subscription.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._entries)} subscriptions, {len(self._replies)} requests"
        return f"<LocalEventBus {state}>"
