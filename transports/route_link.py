"""The seam below the ports of the byte tiers: how messages of one route leave a process, and what comes back.

A *near* link is the producer's half, a *far* link the consumer's. Both are driven by the event loop and never wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.envelope import Envelope
    from flowbridge.transports.route_records import RecordWriter


class NearLink(Protocol):
    """Takes messages, keeps their order, and brings back how they ended.

    `on_news` is called from the loop when something may have changed that `ask` asked for; `on_lost` once, when the
    other end is gone. `records` is the sink's, and outlives the link: what was prepared for one goes over the next.
    """

    records: RecordWriter
    refused: list[Envelope]
    """Those that `push` took and did not send, because they cannot be in time: the sink counts and removes them."""
    on_news: Callable[[], None]
    on_lost: Callable[[Exception], None]

    def push(self, envelopes: Sequence[Envelope]) -> int:
        """Take prepared messages in order, as many as there is room for; returns how many, `refused` ones too."""
        ...

    def push_plain(
        self, envelopes: Sequence[Envelope], items: int, size_bytes: int, now_ns: int, sent_ns: int
    ) -> tuple[int, int, bytes | None]:
        """Take messages that need no preparing, in order, up to the first that does or that there is no room for.

        None once the newest counts say that the consumer takes no more.

        All that it takes are of the first one's lane, in time at `now_ns`, and within `items` messages and
        `size_bytes`. They are said to be sent at `sent_ns`, or each at its own time when that is negative. Returns how
        many, the sum of their `size_bytes`, and the payload of the next as a tree in bytes if that was made.
        """
        ...

    def push_end(self) -> bool:
        """Say that nothing more will come; False when there is no room for that now."""
        ...

    def counts(self) -> Sequence[int]:
        """The newest report of what ended; see `machines.outcome`."""
        ...

    def ask(self) -> bool:
        """Let `on_news` be called when counts or room change; True when they may have by now: look once more.

        Asking again does no harm. After a short `push` it must be asked, even if it was before.
        """
        ...

    def fail(self, error: Exception) -> None:
        """The other end broke the rules: tell it, where the link can, and close this half."""
        ...

    @property
    def needs_loop(self) -> bool:
        """Whether anything that was pushed waits for a turn of the loop."""
        ...

    def close(self) -> None:
        """Close this half. Idempotent; `on_lost` is not called any more."""
        ...


class FarLink(Protocol):
    """Brings messages and takes reports."""

    report_delay_s: float
    """How long a report may wait for others if nobody needs it; 0 where reporting costs nothing."""
    on_messages: Callable[[Sequence[Envelope]], None]
    on_end: Callable[[], None]
    on_missed: Callable[[int, int, bool], None]
    """Of a message that was sent and will not be brought: its lane, its `size_bytes`, and whether it was stale."""
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


@runtime_checkable
class BlockingLink(FarLink, Protocol):
    """A far link that can bring messages without the loop; see `contracts.BlockingSource`."""

    def wait(self, timeout_ns: int) -> bool:
        """Bring what is there, waiting for it; False when nothing came, or what comes next needs the loop."""
        ...

    def leave_to_loop(self) -> None:
        """Let the loop bring messages again."""
        ...


def without_refused(link: NearLink, went: Sequence[Envelope]) -> list[Envelope]:
    """Those that are on their way; the link forgets which it refused."""
    refused, link.refused = {id(envelope) for envelope in link.refused}, []
    return [envelope for envelope in went if id(envelope) not in refused]
