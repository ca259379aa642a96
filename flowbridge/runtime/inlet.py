"""The receiving side of a node: from many routes to one order of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.limits import SLICE_ITEMS_MAX, SLICE_NS_MAX
from flowbridge.machines.lane import lanes_in
from flowbridge.plan import Plane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbridge.contracts import DataSource
    from flowbridge.envelope import Envelope, Gap
    from flowbridge.plan import Route
    from flowbridge.runtime.path import PathBook
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.time.manager import Run, TimeManager


class Inlet:
    """One route that ends here."""

    __slots__ = ("_gaps", "books", "drain", "ends_itself", "port", "route", "source")

    def __init__(self, route: Route, source: DataSource, drain: Callable[[], None] | None = None) -> None:
        """`drain` lets an input end that does not end by itself: nothing new comes, and what is there comes first."""
        self.route = route
        self.source = source
        self.drain = drain
        self.port = route.target_port
        self.books: EdgeBooks = source.books
        self.ends_itself = route.plane is Plane.DATA and not route.feedback
        self._gaps: list[tuple[str, Gap]] = []

    def gap_came(self, gap: Gap) -> None:
        """Messages are missing before those that come next."""
        self._gaps.append((self.port, gap))

    def share_gaps(self, gaps: list[tuple[str, Gap]]) -> None:
        """Put them, and those that came, into this list from now on, each with its port."""
        gaps.extend(self._gaps)
        self._gaps = gaps


class Intake:
    """Moves messages from the routes of a node into its TimeManager, no more than it is about to handle.

    What is taken early can neither be overtaken nor dropped by policy any more, so `limit` follows the speed of the
    operator: as many messages as it handles in `SLICE_NS_MAX`, at least one, at most `SLICE_ITEMS_MAX`.
    """

    def __init__(
        self, inlets: Sequence[Inlet], manager: TimeManager[Envelope], paths: PathBook, notify: Callable[[], None]
    ) -> None:
        self.inlets = tuple(inlets)
        self.limit = 1
        self._lasting = [inlet for inlet in self.inlets if inlet.ends_itself]
        self._drained = [inlet for inlet in self.inlets if inlet.drain is not None]
        self._draining = False
        self._manager = manager
        self._paths = paths
        self._notify = notify
        self._ready: set[int] = set()
        self.gaps: list[tuple[str, Gap]] = []
        """What is missing before what comes next, by port; whoever tells the operator empties it."""
        for inlet in self.inlets:
            inlet.share_gaps(self.gaps)

    def listen(self) -> None:
        """Hear of news from every route."""
        for index, inlet in enumerate(self.inlets):
            inlet.source.on_news(self._teller(index))

    # --- the end ----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Nothing new is wanted: a node without inputs that end by themselves gets no more from the bus."""
        self._draining = True
        self._look()

    @property
    def has_ended(self) -> bool:
        """Nothing waits, and every input has ended that can.

        A feedback edge does not keep its own loop alive. Timers and bus inputs never end by themselves: a bus input
        is drained once the others have ended, or when there are none and the node is drained.
        """
        if any(inlet.source.waiting for inlet in self.inlets) or not self._is_over:
            return False
        self._look()
        return all(inlet.source.ended for inlet in self._drained)

    @property
    def _is_over(self) -> bool:
        return all(inlet.source.ended for inlet in self._lasting) if self._lasting else self._draining

    def _look(self) -> None:
        """Drain the bus inputs if it is time: while they bring something all the time, nothing else ends them."""
        if self._drained and self._is_over:
            for inlet in self._drained:
                if inlet.drain is not None:
                    inlet.drain()

    # --- what comes -------------------------------------------------------------------------------------------------

    async def tell_gaps(self, call: Callable[..., Awaitable[Any]], hook: Callable[[str, Gap], Any] | None) -> None:
        """Tell the operator what is missing before what comes next. Raises: OperatorError."""
        while self.gaps:
            port, gap = self.gaps.pop(0)
            if hook is not None:
                await call(hook, port, gap)

    def _teller(self, index: int) -> Callable[[], None]:
        def tell() -> None:
            self._ready.add(index)
            self._notify()

        return tell

    def lane(self) -> int | None:
        """The most urgent lane that something waits in, None when nothing does."""
        mask = 0
        for index in self._ready:
            mask |= self.inlets[index].source.waiting
        return lanes_in(mask)[0] if mask else None

    def gather(self, now_ns: int) -> None:
        """Admit what is ready, as far as there is room; late messages are settled as expired at once."""
        for index in tuple(self._ready):
            source = self.inlets[index].source
            mask = source.waiting
            if not mask:
                self._ready.discard(index)
                source.take(0)  # takes nothing, but raises BrokenError when nothing more can come
                self._look()
                continue
            for lane in lanes_in(mask):
                self._gather_lane(index, source, lane, now_ns)

    def _gather_lane(self, index: int, source: DataSource, lane: int, now_ns: int) -> None:
        room = self._manager.room(index, lane) - SLICE_ITEMS_MAX + self.limit
        while room > 0:
            taken = source.take(room, lane)
            admission = self._manager.admit(taken, stream=index, now_ns=now_ns)
            if not admission.late:
                return
            self.expire(index, admission.late)
            room -= admission.admitted  # late messages take no room: look at those behind them

    def expire(self, index: int, late: Sequence[Envelope]) -> None:
        """Settle messages of one lane that were too late to be handled."""
        self.inlets[index].source.settle(late, expired=len(late))
        for envelope in late:
            self._paths.lost(envelope)

    def expire_held(self, now_ns: int) -> None:
        """Settle what became late while it waited in the manager."""
        for event in self._manager.expire(now_ns=now_ns):
            self.expire(event.stream, (event.item,))

    def return_held(self) -> None:
        """Give back what was taken and not handled, so that it stands in its queue again."""
        for run in self._manager.clear():
            self._give_back(run)

    def give_back(self, run: Run[Envelope]) -> None:
        """Give back the last messages of one run; what was taken after them goes back first, to stand behind them."""
        if len(self._manager):
            self.return_held()
        self._give_back(run)

    def _give_back(self, run: Run[Envelope]) -> None:
        self.inlets[run.stream].source.give_back(run.items)
        self._ready.add(run.stream)  # its source may have been found empty: it tells of new messages only

    def learn(self, handled: int, busy_ns: int) -> None:
        """Adapt `limit` to how long the last messages took."""
        if busy_ns > SLICE_NS_MAX:
            self.limit = max(1, handled * SLICE_NS_MAX // busy_ns)
        elif handled >= self.limit and 2 * busy_ns < SLICE_NS_MAX:
            self.limit = min(SLICE_ITEMS_MAX, self.limit * 2)
