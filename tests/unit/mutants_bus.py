"""Event buses with one bug each. The docstring says which."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from reference_bus import ReferenceBus, ReferenceSubscription

from flowbridge.envelope import Envelope
from flowbridge.errors import BrokenError, Effect, FlowbridgeError, WouldBlock
from flowbridge.limits import RETRY_BASE_NS
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from typing import Any

    from flowbridge.contracts import Clock
    from flowbridge.time.ledger import EdgeBooks


class GroupDeliversTwice(ReferenceBus):
    """Two members of a group get each message."""

    def targets(self, topic: str, envelope: Envelope, *, everyone: bool = False) -> list[ReferenceSubscription]:
        chosen = super().targets(topic, envelope, everyone=everyone)
        others = [one for one in self.open if one.group and self.matches(one.pattern, topic) and one not in chosen]
        return chosen + others[:1]


class GroupForgetsAMessage(ReferenceBus):
    """Groups get nothing when somebody without a group is there."""

    def targets(self, topic: str, envelope: Envelope, *, everyone: bool = False) -> list[ReferenceSubscription]:
        chosen = super().targets(topic, envelope, everyone=everyone)
        alone = [one for one in chosen if one.group is None]
        return alone or chosen


class FavoursTheFirst(ReferenceBus):
    """The first member of a group gets everything."""

    def member(self, members: list[ReferenceSubscription], envelope: Envelope) -> ReferenceSubscription:
        return min(members, key=lambda one: one.credit_items(envelope.priority) == 0)


class IgnoresCreditOfMembers(ReferenceBus):
    """A full member of a group gets its share all the same."""

    def member(self, members: list[ReferenceSubscription], envelope: Envelope) -> ReferenceSubscription:
        return min(members, key=lambda one: one.served)


class RestMatchesNothing(ReferenceBus):
    """``>`` stands for no word, too."""

    def matches(self, pattern: str, topic: str) -> bool:
        return super().matches(pattern, topic) or (pattern.endswith(".>") and super().matches(pattern[:-2], topic))


class StarMatchesMany(ReferenceBus):
    """A last ``*`` stands for many words."""

    def matches(self, pattern: str, topic: str) -> bool:
        return super().matches(pattern[:-1] + ">" if pattern.endswith("*") else pattern, topic)


class StarMatchesPartly(ReferenceBus):
    """A first word matches by its beginning."""

    def matches(self, pattern: str, topic: str) -> bool:
        return super().matches(pattern, topic) or (pattern.endswith(".*") and topic.startswith(pattern[:-2]))


class BroadcastSkips(ReferenceBus):
    """`broadcast` reaches one member of each group."""

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        return await self.publish(topic, envelope)


class FullOneStopsOthers(ReferenceBus):
    """When one subscription refuses, those after it get nothing."""

    async def deliver(self, topic: str, envelope: Envelope, targets: Sequence[ReferenceSubscription]) -> int:
        count = 0
        for one in targets:
            if not await self.give(one, self.copy(topic, envelope)):
                break
            count += 1
        return count


class FullOneDropsForAll(ReferenceBus):
    """When one subscription is full, its drop policy drops the message for everybody."""

    async def deliver(self, topic: str, envelope: Envelope, targets: Sequence[ReferenceSubscription]) -> int:
        full = [one for one in targets if one.qos.policy is Policy.DROP_NEWEST and one.lacking(envelope)]
        return await super().deliver(topic, envelope, full or targets)


class PublishDoesNotWait(ReferenceBus):
    """A full `block` subscription loses messages."""

    async def give(self, one: ReferenceSubscription, envelope: Envelope) -> bool:
        try:
            one.send_nowait(envelope)
        except WouldBlock:
            return False
        return True


class NowaitReachesSome(ReferenceBus):
    """`publish_nowait` gives the message to some before it finds that it would block."""

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        targets = self.targets(topic, envelope)
        for one in targets:
            one.send_nowait(self.copy(topic, envelope))
        return len(targets)


class WaitsForNobody(ReferenceBus):
    """A request to nobody waits for its timeout."""

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        try:
            return await super().request(topic, envelope, timeout_ns=timeout_ns, idempotent=idempotent)
        except FlowbridgeError:
            if not self.closed:
                await self.clock.sleep_until(self.due_ns(envelope, timeout_ns))
            raise


class IgnoresTimeout(ReferenceBus):
    """A request waits for its deadline."""

    def due_ns(self, envelope: Envelope, timeout_ns: int) -> int:
        return envelope.deadline_ns


class IgnoresDeadline(ReferenceBus):
    """A request waits for its timeout, also beyond its deadline."""

    def due_ns(self, envelope: Envelope, timeout_ns: int) -> int:
        return self.clock.now_ns() + timeout_ns


class SaysNoEffect(ReferenceBus):
    """A request that timed out says that nothing happened."""

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        try:
            return await super().request(topic, envelope, timeout_ns=timeout_ns, idempotent=idempotent)
        except FlowbridgeError as error:
            error.effect = Effect.NONE
            raise


class ReplyExtendsTheDeadline(ReferenceBus):
    """A reply has the deadline its responder gave it."""

    def inherit(self, request: Envelope, reply: Envelope) -> None:
        reply.priority = request.priority


class ReplyKeepsItsPriority(ReferenceBus):
    """A reply has the priority its responder gave it."""

    def inherit(self, request: Envelope, reply: Envelope) -> None:
        reply.deadline_ns = request.deadline_ns


class RepliesToTheOldest(ReferenceBus):
    """A reply goes to the request that waits longest, whoever was asked."""

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        if len(self.requests) > 1:
            request = self.requests[max(self.requests)][0]
        await super().reply(request, envelope)


class GivesUpAtOnce(ReferenceBus):
    """No request is made again."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        return None


class AsksAgainAtOnce(ReferenceBus):
    """There is no pause between attempts."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        return None if super().again_ns(error, attempt, idempotent) is None else self.clock.now_ns()


class IgnoresRetryAfter(ReferenceBus):
    """The pause is its own, whatever the responder says."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        if super().again_ns(error, attempt, idempotent) is None:
            return None
        return self.clock.now_ns() + (RETRY_BASE_NS << (attempt - 1))


class RepeatsWhatMayBeDone(ReferenceBus):
    """Every request is taken for one that may be done twice."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        return super().again_ns(error, attempt, True)


class NeverRepeatsWhatMayBeDone(ReferenceBus):
    """No request is taken for one that may be done twice."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        return super().again_ns(error, attempt, False)


class LeavesRequestsBehind(ReferenceBus):
    """A request that its responder dropped waits for its deadline."""

    def left(self, request: Envelope) -> None:
        pass


class AsksWithoutBudget(ReferenceBus):
    """Every request is made four times."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.budget.spend = lambda: True  # type: ignore[method-assign]


class AsksForEver(ReferenceBus):
    """There is no last attempt."""

    def again_ns(self, error: FlowbridgeError, attempt: int, idempotent: bool) -> int | None:
        return super().again_ns(error, 1, idempotent)


class DoesItTwice(ReferenceBus):
    """An id means nothing."""

    def name_of(self, topic: str, headers: Mapping[str, str | int]) -> object:
        return None


class OneIdForAllTopics(ReferenceBus):
    """An id is looked up without its topic."""

    def name_of(self, topic: str, headers: Mapping[str, str | int]) -> object:
        return super().name_of("", headers)


class KnowsForEver(ReferenceBus):
    """Outcomes are never forgotten."""

    def kept_ns(self) -> int:
        return 10**18


class KnowsOnlyReplies(ReferenceBus):
    """What was refused for good is done again."""

    def ended(self, request: Envelope, outcome: Envelope | FlowbridgeError) -> None:
        if isinstance(outcome, Envelope):
            super().ended(request, outcome)
        else:
            self.known.pop(self.names.get(int((request.headers or {})["reply_to"])), None)


class ForgetsLateReplies(ReferenceBus):
    """A late reply is not counted."""

    def lost(self, books: EdgeBooks) -> None:
        books.sent -= 1


class LateReplyFails(ReferenceBus):
    """A late reply raises in the responder."""

    def lost(self, books: EdgeBooks) -> None:
        books.expired += 1
        raise BrokenError("nobody waits")


class LeavesRequestsWaiting(ReferenceBus):
    """Closing the bus forgets the requests."""

    async def aclose(self) -> None:
        requests, self.requests = self.requests, {}
        await super().aclose()
        self.requests = requests


class BreaksRequests(ReferenceBus):
    """Closing the bus tells the requests that the world broke it."""

    def pending_error(self) -> FlowbridgeError:
        return BrokenError("gone")


class NeverCloses(ReferenceBus):
    """A closed bus goes on."""

    def check_open(self) -> None:
        pass


class AcceptsAnyTopic(ReferenceBus):
    """Topics are not looked at."""

    def check(self, text: str, *, pattern: bool = False) -> None:
        if pattern:
            super().check(text, pattern=True)


class AcceptsAnyPattern(ReferenceBus):
    """Patterns are not looked at."""

    def check(self, text: str, *, pattern: bool = False) -> None:
        if not pattern:
            super().check(text)


class IgnoresConfiguration(ReferenceBus):
    """`configure` has no effect on messages."""

    def copy(self, topic: str, envelope: Envelope) -> Envelope:
        topics, self.topics = self.topics, []
        try:
            return super().copy(topic, envelope)
        finally:
            self.topics = topics


class LastConfigurationWins(ReferenceBus):
    """The last pattern that matches wins."""

    def configure(self, pattern: str, qos: Qos) -> None:
        self.topics.insert(0, (pattern, qos))


class ConfigurationExtends(ReferenceBus):
    """The deadline of a topic replaces that of a message."""

    def copy(self, topic: str, envelope: Envelope) -> Envelope:
        copy = super().copy(topic, envelope)
        qos = self.qos_of(topic)
        if qos is not None and qos.deadline_ns is not None:
            copy.deadline_ns = self.clock.now_ns() + qos.deadline_ns
        return copy


class ChangesWhatIsPublished(ReferenceBus):
    """The publisher's own message is changed."""

    def copy(self, topic: str, envelope: Envelope) -> Envelope:
        copy = super().copy(topic, envelope)
        envelope.headers = copy.headers
        return copy


class ForgetsHeaders(ReferenceBus):
    """Headers do not arrive."""

    def copy(self, topic: str, envelope: Envelope) -> Envelope:
        copy = super().copy(topic, envelope)
        copy.headers = {"topic": topic}
        return copy


class QueueOfItsOwn(ReferenceBus):
    """A configured queue is not given to subscriptions."""

    def subscribe(self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = "") -> Any:
        return super().subscribe(pattern, group=group, qos=qos or Qos(), edge=edge)


class ForgetsClosedBooks(ReferenceBus):
    """The books of a closed subscription vanish."""

    @asynccontextmanager
    async def subscribed(
        self, pattern: str, group: str | None, qos: Qos | None, edge: str
    ) -> AsyncGenerator[ReferenceSubscription]:
        async with super().subscribed(pattern, group, qos, edge) as one:
            yield one
        del self.all[one.where]


class KeepsClosedSubscriptions(ReferenceBus):
    """A closed subscription stays a member of its group."""

    def targets(self, topic: str, envelope: Envelope, *, everyone: bool = False) -> list[ReferenceSubscription]:
        self.check_open()
        closed = self.__dict__.setdefault("closed_ones", [])
        closed += [one for one in self.open if one not in closed]
        open_, self.open = self.open, list(closed)
        try:
            return super().targets(topic, envelope, everyone=everyone)
        finally:
            self.open = open_


class DeliversLater(ReferenceBus):
    """`publish` returns at once and a task delivers, so that order is nobody's."""

    async def deliver(self, topic: str, envelope: Envelope, targets: Sequence[ReferenceSubscription]) -> int:
        async def later() -> None:
            if envelope.seq % 2:
                await asyncio.sleep(0)
            await super(DeliversLater, self).deliver(topic, envelope, targets)

        self.tasks = (*getattr(self, "tasks", ()), asyncio.create_task(later()))
        return len(targets)


class TakesEqualForSame(ReferenceBus):
    """The same payload is not given to a subscription twice."""

    async def give(self, one: ReferenceSubscription, envelope: Envelope) -> bool:
        if any(held.payload is envelope.payload for held in one.queued):
            return True
        return await super().give(one, envelope)


class CountsCancelledPublish(ReferenceBus):
    """A publish that is cancelled while it waits is counted."""

    async def give(self, one: ReferenceSubscription, envelope: Envelope) -> bool:
        try:
            return await super().give(one, envelope)
        except asyncio.CancelledError:
            one.books.sent += 1
            raise


class DrainedKeepsItsTurn(ReferenceBus):
    """A drained subscription refuses what it is given, but stays a member of its group."""

    def drain(self, one: ReferenceSubscription) -> None:
        self.draining.append(one)
        self.finish(one)


class DrainedNeverEnds(ReferenceBus):
    """A drained subscription gets nothing more, and does not end."""

    def finish(self, one: ReferenceSubscription) -> None:
        pass


class DrainsInSilence(ReferenceBus):
    """Nobody is told that a drained subscription has ended."""

    def finish(self, one: ReferenceSubscription) -> None:
        one.finished = True


class DrainDrops(ReferenceBus):
    """What waits in a subscription that drains is dropped."""

    def drain(self, one: ReferenceSubscription) -> None:
        for envelope in tuple(one.queued):
            one.drop(envelope)
        super().drain(one)


class KeepsWhatDrained(ReferenceBus):
    """Closing the bus forgets the subscriptions that drain."""

    async def aclose(self) -> None:
        self.draining.clear()
        await super().aclose()


class DrainRefusesRequests(ReferenceBus):
    """A responder that drains refuses the requests that it has not taken."""

    def drain(self, one: ReferenceSubscription) -> None:
        for envelope in tuple(one.queued):
            self.left(envelope)
        super().drain(one)
