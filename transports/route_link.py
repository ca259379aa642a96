"""The seam below the ports of the byte tiers: how messages of one route leave a process, and what comes back.

A *near* link is the producer's half, a *far* link the consumer's. Both are driven by the event loop and never wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.envelope import Envelope


class NearLink(Protocol):
    """Takes messages, keeps their order, and brings back how they ended.

    `on_news` is called from the loop when something may have changed that `ask` asked for; `on_lost` once, when the
    other end is gone.
    """

    on_news: Callable[[], None]
    on_lost: Callable[[Exception], None]

    def prepare(self, envelope: Envelope) -> Envelope:
        """The message with its payload ready to be written; the original stays as it is. Raises: EncodeError."""
        ...

    def push(self, envelopes: Sequence[Envelope]) -> int:
        """Take prepared messages in order, as many as there is room for; returns how many."""
        ...

    def push_end(self) -> bool:
        """Say that nothing more will come; False when there is no room for that now."""
        ...

    def counts(self) -> Sequence[int]:
        """The newest report of what ended; see `machines.outcome`."""
        ...

    def ask(self) -> bool:
        """Let `on_news` be called when counts or room change; True when they did just now, and nothing was asked."""
        ...

    def close(self) -> None:
        """Close this half. Idempotent; `on_lost` is not called any more."""
        ...


class FarLink(Protocol):
    """Brings messages and takes reports."""

    on_messages: Callable[[Sequence[Envelope]], None]
    on_end: Callable[[], None]
    on_lost: Callable[[Exception], None]

    def start(self) -> None:
        """Begin to bring messages."""
        ...

    def report(self, counts: Sequence[int]) -> None:
        """Tell the other end what ended; see `machines.outcome`."""
        ...

    def close(self) -> None:
        """Close this half. Idempotent; `on_lost` is not called any more."""
        ...
