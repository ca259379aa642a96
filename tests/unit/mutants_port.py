"""Data ports with one bug each. The docstring says which."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from reference_port import ReferenceLease, ReferencePort

from flowbridge.errors import BlockReason, BrokenError, ClosedError, WouldBlock
from flowbridge.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.envelope import Envelope


class LosesCredit(ReferencePort):
    """Settling returns no credit."""

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        super().settle(taken, expired=expired)
        self.lent += taken


class ReturnsCreditOnTake(ReferencePort):
    """Credit returns when a message is taken."""

    def held(self, lane: int) -> list[Envelope]:
        return self.queue_of(lane)


class ReordersWhenPiledUp(ReferencePort):
    """With four or more queued the first two change places."""

    def queue_of(self, lane: int) -> list[Envelope]:
        queue = super().queue_of(lane)
        if len(queue) >= 4:
            queue[0], queue[1] = queue[1], queue[0]
        return queue


class DropsNewestForOldest(ReferencePort):
    """drop_oldest drops the youngest that is queued."""

    def make_room(self, envelope: Envelope) -> None:
        while self.lacking(envelope) is not None:
            self.drop(self.queue_of(envelope.priority)[-1])


class DropsInAnyLane(ReferencePort):
    """drop_oldest drops the oldest of all lanes."""

    def make_room(self, envelope: Envelope) -> None:
        while self.lacking(envelope) is not None:
            self.drop(self.queued[0])


class ForgetsDrops(ReferencePort):
    """Drops are not counted."""

    def drop(self, envelope: Envelope) -> None:
        self.queued.remove(envelope)
        self.books.in_flight -= 1


class HidesDrops(ReferencePort):
    """Drops are taken out of `sent`, so the books balance all the same."""

    def drop(self, envelope: Envelope) -> None:
        self.queued.remove(envelope)
        self.books.in_flight -= 1
        self.books.sent -= 1


class DeliversExpired(ReferencePort):
    """`receive` does not look at deadlines."""

    def late_when_received(self, envelope: Envelope) -> bool:
        return False


class AcceptsLate(ReferencePort):
    """What is offered late is queued."""

    def late_when_offered(self, envelope: Envelope) -> bool:
        return False


class SendsExpired(ReferencePort):
    """A message that waited too long is sent all the same."""

    def late_while_waiting(self, envelope: Envelope) -> bool:
        return False


class MixesStages(ReferencePort):
    """Every miss is of stage `late`."""

    def expire(self, stage: str) -> None:
        super().expire("late")


class EndOvertakes(ReferencePort):
    """The end is seen before what was sent."""

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        return [] if self.finished else super().take(limit, lane)


class EndsTooSoon(ReferencePort):
    """`ended` is true as soon as the sender finished."""

    @property
    def ended(self) -> bool:
        return self.finished


class SharesCredit(ReferencePort):
    """A full best-effort lane blocks realtime."""

    def held(self, lane: int) -> list[Envelope]:
        return self.queued + self.lent


class Starves(ReferencePort):
    """The most urgent lane always goes first."""

    def choose(self) -> int:
        return min(envelope.priority for envelope in self.queued)


class IgnoresLanes(ReferencePort):
    """The lane of the oldest message goes first."""

    def choose(self) -> int:
        return self.queued[0].priority


class NoHysteresis(ReferencePort):
    """A stopped lane goes on as soon as it is below the high watermark."""

    def stop(self, lane: int) -> None:
        pass


class ResumesTooSoon(ReferencePort):
    """A stopped lane goes on with the first message settled."""

    def unstop(self) -> None:
        self.stopped.clear()


class WrongReason(ReferencePort):
    """Every WouldBlock is for item credit."""

    def lacking(self, envelope: Envelope) -> BlockReason | None:
        return None if super().lacking(envelope) is None else BlockReason.CREDIT_ITEMS


class IgnoresBytes(ReferencePort):
    """Byte credit is not kept."""

    def lacking(self, envelope: Envelope) -> BlockReason | None:
        reason = super().lacking(envelope)
        return None if reason is BlockReason.CREDIT_BYTES else reason


class RefusesOversized(ReferencePort):
    """A message larger than the lane is never accepted."""

    def lacking(self, envelope: Envelope) -> BlockReason | None:
        too_large = envelope.size_bytes > self.qos.capacity_bytes and self.qos.policy is Policy.BLOCK
        return BlockReason.CREDIT_BYTES if too_large else super().lacking(envelope)


class CountsCancelledSend(ReferencePort):
    """A cancelled send is counted."""

    async def wait_for_credit(self, envelope: Envelope) -> None:
        try:
            await super().wait_for_credit(envelope)
        except asyncio.CancelledError:
            self.books.sent += 1
            self.books.refused += 1
            raise


class SendsCancelledSend(ReferencePort):
    """A send that is cancelled when credit is on its way is sent all the same."""

    async def wait_for_credit(self, envelope: Envelope) -> None:
        try:
            await super().wait_for_credit(envelope)
        except asyncio.CancelledError:
            if self.lacking(envelope) is None:
                self.accept(envelope)
            raise


class CancelledSendBlocksOthers(ReferencePort):
    """A cancelled sender keeps its place in the line."""

    async def wait_for_credit(self, envelope: Envelope) -> None:
        try:
            await super().wait_for_credit(envelope)
        except asyncio.CancelledError:
            self.senders.append(envelope)
            raise


class LosesOnCancelledReceive(ReferencePort):
    """`receive` suspends with a message in its hands."""

    async def receive(self) -> ReferenceLease:
        lease = await super().receive()
        await asyncio.sleep(0)
        return lease


class CancelledReceiverStays(ReferencePort):
    """After a cancelled receive nobody may receive any more."""

    async def receive(self) -> ReferenceLease:
        try:
            return await super().receive()
        except asyncio.CancelledError:
            self.receiving = True
            raise


class AcceptsTwoReceivers(ReferencePort):
    """Two tasks may receive at once."""

    def enter(self) -> None:
        pass


class LatestKeepsTwo(ReferencePort):
    """latest keeps the two newest."""

    @property
    def items_max(self) -> int:
        return 2 if self.qos.policy is Policy.LATEST else self.qos.capacity_items


class LastComeFirstServed(ReferencePort):
    """The sender that came last gets credit first."""

    def next_in_line(self, envelope: Envelope) -> bool:
        return [one for one in self.senders if one.priority == envelope.priority][-1] is envelope


class LetsOvertake(ReferencePort):
    """A message that fits passes those that wait."""

    def somebody_waits(self, envelope: Envelope) -> bool:
        return False


class WakesNobodyOnSettle(ReferencePort):
    """Returned credit is not told to who waits for it."""

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        waiting, self._changed = self._changed, []
        super().settle(taken, expired=expired)
        self._changed += waiting


class WakesNobodyOnFinish(ReferencePort):
    """A receiver that waits sleeps through the end."""

    async def finish(self) -> None:
        self.finished = True
        self.tell()


class NoNewsOfTheEnd(ReferencePort):
    """The end is not told to an idle source."""

    async def finish(self) -> None:
        self.finished = True
        self.changed()


class NewsOnce(ReferencePort):
    """News is told once and never again."""

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        idle = self.idle
        taken = super().take(limit, lane)
        self.idle = idle
        return taken


class OldNewsUntold(ReferencePort):
    """`on_news` does not look whether there is some already."""

    def on_news(self, callback: Callable[[], None] | None) -> None:
        self.news = callback
        self.idle = True


class SendsAfterFinish(ReferencePort):
    """A finished stream goes on."""

    def check_open(self) -> None:
        if self.abandoned:
            raise BrokenError("gone")


class SendsToNobody(ReferencePort):
    """A closed source accepts."""

    def check_open(self) -> None:
        if self.finished:
            raise ClosedError("finished")


class ForgetsAborts(ReferencePort):
    """What is queued when the source closes is not counted."""

    async def aclose(self) -> None:
        self.abandoned = True
        self.books.in_flight -= len(self.queued)
        self.queued.clear()
        self.changed()


class LeavesSendersWaiting(ReferencePort):
    """Closing the source wakes nobody."""

    async def aclose(self) -> None:
        waiting, self._changed = self._changed, []
        await super().aclose()
        self._changed = waiting


class ForgetsRefusals(ReferencePort):
    """error does not count what it refuses."""

    def full(self, envelope: Envelope, reason: BlockReason) -> None:
        if self.qos.policy is Policy.ERROR:
            raise WouldBlock(reason)
        super().full(envelope, reason)


class CountsWouldBlock(ReferencePort):
    """block counts what it did not accept as refused."""

    def full(self, envelope: Envelope, reason: BlockReason) -> None:
        if self.qos.policy is Policy.BLOCK:
            self.books.sent += 1
            self.books.refused += 1
        super().full(envelope, reason)


class DropsUnderBlock(ReferencePort):
    """block drops the new message instead of waiting."""

    def full(self, envelope: Envelope, reason: BlockReason) -> None:
        if self.qos.policy is not Policy.BLOCK:
            super().full(envelope, reason)
            return
        self.books.sent += 1
        self.books.drop("block")


class DropsNewestUncounted(ReferencePort):
    """drop_newest does not count what it drops."""

    def full(self, envelope: Envelope, reason: BlockReason) -> None:
        if self.qos.policy is not Policy.DROP_NEWEST:
            super().full(envelope, reason)


class ForgetsExpired(ReferencePort):
    """`settle` counts everything as delivered."""

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        super().settle(taken)


class GivesBackAtTheTail(ReferencePort):
    """What is given back comes last."""

    def give_back(self, taken: Sequence[Envelope]) -> None:
        super().give_back(taken)
        del self.queued[: len(taken)]
        self.queued += taken


class TakesTooMany(ReferencePort):
    """`take` lends one more than it was asked for."""

    def pick(self, limit: int, lane: int) -> list[Envelope]:
        return super().pick(limit + 1, lane)


class MixesLanes(ReferencePort):
    """`take` fills up from other lanes."""

    def pick(self, limit: int, lane: int) -> list[Envelope]:
        first = super().pick(limit, lane)
        return first + [envelope for envelope in self.queued if envelope.priority != lane][: limit - len(first)]


class LosesHeaders(ReferencePort):
    """Headers do not arrive."""

    def accept(self, envelope: Envelope) -> None:
        envelope.headers = None
        super().accept(envelope)


class ForgetsSentTime(ReferencePort):
    """`sent_ns` is not set."""

    def accept(self, envelope: Envelope) -> None:
        super().accept(envelope)
        envelope.sent_ns = 0


class Doubles(ReferencePort):
    """Every hundredth message arrives twice."""

    def accept(self, envelope: Envelope) -> None:
        super().accept(envelope)
        if self.books.sent % 100 == 99:
            super().accept(envelope)


class LeavesTasks(ReferencePort):
    """Every message leaves a task behind."""

    def accept(self, envelope: Envelope) -> None:
        super().accept(envelope)
        if self.books.sent % 100 == 0:
            self.tasks = (*getattr(self, "tasks", ()), asyncio.create_task(asyncio.Event().wait()))


class LeavesTimers(ReferencePort):
    """The deadline of a message that was sent in time is waited for nevertheless."""

    async def wait_for_credit(self, envelope: Envelope) -> None:
        self.clock.call_at(envelope.deadline_ns, self.changed)
        await super().wait_for_credit(envelope)


class NeverWritable(ReferencePort):
    """`wait_writable` waits for a change that has been."""

    async def wait_writable(self) -> None:
        await self.change()


class AlwaysWritable(ReferencePort):
    """`wait_writable` does not wait."""

    async def wait_writable(self) -> None:
        pass


class PromisesCredit(ReferencePort):
    """`credit_items` is what the lane could hold."""

    def credit_items(self, priority: int) -> int:
        return self.items_max


class ReleasesTwice(ReferencePort):
    """Releasing a lease again returns credit again."""

    async def receive(self) -> Any:
        lease = await super().receive()
        port = self

        class Twice(ReferenceLease):
            """Counts every release."""

            def release(self) -> None:
                if not self.held:
                    port.books.delivered += 1
                    port.books.in_flight -= 1
                super().release()

        return Twice(self, lease.envelope)
