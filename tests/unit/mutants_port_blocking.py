"""Ports that can be waited for without the loop, with one bug each. The docstring says which."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_port import BlockingReferencePort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.envelope import Envelope


class SaysThatSomethingCame(BlockingReferencePort):
    """Every wait brings something."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        super().wait_blocking(0)
        return True


class DoesNotWaitBlocking(BlockingReferencePort):
    """A wait looks once and does not wait."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        return super().wait_blocking(0)


class TellsNobodyWhatItBrought(BlockingReferencePort):
    """What a wait brings is not told."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        news, self.news = self.news, None
        try:
            return super().wait_blocking(timeout_ns)
        finally:
            self.news = news


class KeepsTheLoopOut(BlockingReferencePort):
    """After the first wait the loop tells nobody any more."""

    def leave_to_loop(self) -> None:
        pass


class ForgetsWhatCameBefore(BlockingReferencePort):
    """What came before it was left to the loop is not told."""

    def leave_to_loop(self) -> None:
        self.is_kept = self.has_come = False


class ReturnsCreditOnTheLoop(BlockingReferencePort):
    """Credit returns in a turn of the loop only."""

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        settle = super().settle
        asyncio.get_running_loop().call_soon(lambda: settle(taken, expired=expired))


class ReturnsCreditWithTheNextWait(BlockingReferencePort):
    """A wait returns the credit of what is still lent."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        self.lent.clear()
        return super().wait_blocking(timeout_ns)


class EndsUntold(BlockingReferencePort):
    """The end does not wake who waits."""

    async def finish(self) -> None:
        self.finished = True
        self.changed()

    def wait_blocking(self, timeout_ns: int) -> bool:
        return super().wait_blocking(0 if self.finished else timeout_ns)  # nobody has to wait for this bug


class ShuffledByWaits(BlockingReferencePort):
    """A wait puts what it brings before what is there."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        came = super().wait_blocking(timeout_ns)
        if came:
            self.queued.insert(0, self.queued.pop()) if self.queued else None
        return came


class DropsWhatIsLate(BlockingReferencePort):
    """A wait drops what has become late, uncounted, instead of leaving it to whoever takes it."""

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        self.queued = [envelope for envelope in self.queued if not self.late(envelope)]
        return super().take(limit, lane)


class NeverNeedsTheLoop(BlockingReferencePort):
    """A sender that waits is not seen."""

    @property
    def needs_loop(self) -> bool:
        return False


class WaitsOnAClosedSource(BlockingReferencePort):
    """A source that is closed still says that something came."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        return super().wait_blocking(timeout_ns) or self.abandoned
