"""Data ports with one bug each in what they hold. The docstring says which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference_port import ReferencePort

from flowbridge.errors import BlockReason
from flowbridge.plan import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

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
