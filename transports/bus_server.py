"""The host's end of bus links: serves any event bus to clients in other processes.

One `BusPeer` per link does what its client asks. Whoever publishes is told who accepted when that is known; whoever
subscribed is sent what its queue at the host has taken, and the host keeps each message on loan until the client tells
what became of it. So credit, watermarks and the books of the host are those of the client's queue too.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol, cast

from flowbridge.errors import ClosedError
from flowbridge.machines.topics import TopicTable
from flowbridge.time.far import SHARED
from flowbridge.transports.bus_peer import BusPeer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import Clock, DataPort, EventBus
    from flowbridge.envelope import Envelope
    from flowbridge.time.far import Times
    from flowbridge.transports.bus_peer_subscription import PeerSubscription
    from flowbridge.transports.bus_replies import Answer, PendingReply
    from flowbridge.transports.framed import ByteStream


class WatchedBus(Protocol):
    """A bus that tells who is subscribed. Without it clients cannot publish without waiting."""

    def watch(self, callback: Callable[[DataPort, bool], None]) -> Callable[[], None]:
        """Call back with True for each open subscription, now or later, and with False once it closed."""
        ...


class AskedBus(Protocol):
    """A bus that can be asked without a task for each request, which costs more than the rest of it."""

    def ask(self, topic: str, envelope: Envelope, timeout_ns: int, answer: Answer, who: str = "") -> PendingReply:
        """As `LocalEventBus.ask`."""
        ...


class BusServer:
    """Serves `bus` over links. It does not own the bus: `aclose` leaves it open.

    `bus` must not ask which task it runs in before it first waits (see `transports.eager`).
    """

    def __init__(self, bus: EventBus, clock: Clock) -> None:
        self.bus = bus
        self.clock = clock
        self.subscribers: TopicTable[PeerSubscription] = TopicTable()
        self.ports: dict[int, DataPort] = {}  # by the number under which clients know it
        self.opened: DataPort | None = None  # the last one
        self._number_of: dict[int, int] = {}  # by identity of the port
        self._numbers = itertools.count()
        self._peers: set[BusPeer] = set()
        self._is_closed = False
        ask: Any = getattr(bus, "ask", None)
        self.asked: AskedBus | None = None if ask is None else cast(AskedBus, bus)
        watch: Any = getattr(bus, "watch", None)
        self.tells = watch is not None
        self._unwatch: Callable[[], None] | None = None
        if self.tells:
            self._unwatch = cast(WatchedBus, bus).watch(self._changed)

    def attach(self, connect: Callable[..., ByteStream], times: Times = SHARED, who: str = "") -> BusPeer:
        """Serve one more client, over a stream that `connect` makes (see `FramedLink`). Raises: ClosedError.

        `times` is for a client whose clock is another one. `who` it is says whose the ids of its requests are: clients
        without a name share theirs with this process.
        """
        if self._is_closed:
            raise ClosedError("the bus server is closed")
        peer = BusPeer(self, connect, times, who)
        self._peers.add(peer)
        return peer

    def gone(self, peer: BusPeer) -> None:
        """A client has left."""
        self._peers.discard(peer)

    @property
    def peers(self) -> int:
        """How many clients there are."""
        return len(self._peers)

    def published(self, topic: str) -> None:
        """Something was published: tell subscribers what was counted at this end alone."""
        for subscription in self.subscribers.match(topic):
            subscription.tell_books()

    def refresh(self) -> None:
        """Credit may have come back: tell those who publish without waiting."""
        for peer in self._peers:
            peer.refresh()

    def _changed(self, port: DataPort, is_open: bool) -> None:
        if is_open:
            self.opened = port
            number = self._number_of[id(port)] = next(self._numbers)
            self.ports[number] = port
            for peer in self._peers:
                peer.offer(number, port)
        else:
            number = self._number_of.pop(id(port), -1)
            if number >= 0:
                del self.ports[number]
                for peer in self._peers:
                    peer.retract(number)

    async def aclose(self) -> None:
        """Let every client go; to them the host is gone. Idempotent."""
        self._is_closed = True
        if self._unwatch is not None:
            self._unwatch()
        for peer in tuple(self._peers):
            await peer.aclose()

    def __repr__(self) -> str:
        return f"<BusServer {len(self._peers)} clients of {self.bus!r}>"
