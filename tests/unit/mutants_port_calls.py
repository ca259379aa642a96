"""Data ports with one bug each in how their calls wait, fail and end. The docstring says which."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from reference_port import ReferenceLease, ReferencePort

from flowbridge.errors import BlockReason, BrokenError, ClosedError, EndOfStream, WouldBlock
from flowbridge.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.envelope import Envelope


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


class DoesNotWait(ReferencePort):
    """`receive` says that the stream ended when there is nothing yet."""

    async def change(self) -> None:
        if self.receiving:
            raise EndOfStream("nothing there")
        await super().change()


class StampsMany(ReferencePort):
    """Sending many overwrites `sent_ns`."""

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        count = super().send_many_nowait(envelopes)
        for envelope in envelopes:
            envelope.sent_ns = self.clock.now_ns()
        return count


class ManyAllOrNothing(ReferencePort):
    """Of many that do not all fit, none is sent."""

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        if envelopes and len(envelopes) > self.credit_items(envelopes[0].priority):
            return 0
        return super().send_many_nowait(envelopes)


class ManyStopAtARefusal(ReferencePort):
    """Under error the first that is refused ends it."""

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        for count, envelope in enumerate(envelopes):
            if super().send_many_nowait([envelope]) == 0 or self.lacking(envelope) is not None:
                return count
        return len(envelopes)


class ManyWithoutNews(ReferencePort):
    """Many messages are not told to an idle source."""

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        news, self.news = self.news, None
        try:
            return super().send_many_nowait(envelopes)
        finally:
            self.news = news


class ManyAfterTheEnd(ReferencePort):
    """Many are accepted after the end."""

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        finished, self.finished = self.finished, False
        try:
            return super().send_many_nowait(envelopes)
        finally:
            self.finished = finished
