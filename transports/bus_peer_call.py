"""A request of a client that the host's bus has taken: no task waits for it, its outcome is sent as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowbridge.envelope import Envelope
    from flowbridge.errors import FlowbridgeError
    from flowbridge.transports.bus_peer import BusPeer
    from flowbridge.transports.bus_replies import PendingReply


class AskedCall:
    """Keeps `bus_replies.Answer` for one call of a client."""

    __slots__ = ("_is_over", "_peer", "_pending", "call", "size")

    def __init__(self, peer: BusPeer, call: int, size: int) -> None:
        self.call: Final = call
        self.size: Final = size
        self._peer = peer
        self._pending: PendingReply | None = None
        self._is_over = False

    def done(self) -> bool:
        """Whether the client was answered, or does not want it any more."""
        return self._is_over

    def begin(self, pending: PendingReply) -> bool:
        """The bus has taken it; False when the outcome is there already."""
        if self._is_over:
            pending.close()
            return False
        self._pending = pending
        return True

    def set_result(self, result: Envelope | FlowbridgeError, /) -> None:
        """Send the outcome."""
        self.cancel()
        self._peer.answer(self.call, result)

    def cancel(self) -> None:
        """Want no outcome any more. Idempotent."""
        self._is_over = True
        pending, self._pending = self._pending, None
        if pending is not None:
            self._peer.over(self.call, self.size)
            pending.close()

    def __repr__(self) -> str:
        return f"<AskedCall {self.call} {'over' if self._is_over else 'waits'}>"
