"""Clogged twins: a port or bus that lets others run at every point where it might wait.

Something that never suspends hides what a cancellation or another task between two steps would break. These wrappers
give way a random number of turns, from a seed, around every asynchronous call. They keep the contract of what they
wrap: a message is not sent, and none is taken away, while they give way.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final

from flowbridge.envelope import Priority
from flowbridge.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from flowbridge.contracts import DataPort, DataSink, DataSource, EventBus, Lease, Subscription
    from flowbridge.envelope import Envelope
    from flowbridge.errors import FlowbridgeError
    from flowbridge.plan import Qos, Route
    from flowbridge.time.ledger import EdgeBooks

TURNS_MAX: Final = 4


class Clog:
    """Gives way to other tasks, as often as a seed says; its length is how many keys have somebody in line."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeatable is the point
        self._queues: dict[object, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    async def give_way(self) -> None:
        """Let others run for a few turns of the loop, at least one."""
        for _ in range(self._random.randint(1, TURNS_MAX)):
            await asyncio.sleep(0)

    async def in_order(self, key: object) -> Callable[[], None]:
        """As `give_way`, but calls with equal keys come out in the order they went in.

        The caller calls the result when the next may come out, also when it was cancelled.
        """
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before, self._queues[key] = self._queues.get(key), mine

        def leave() -> None:
            if not mine.done():
                mine.set_result(None)
            if self._queues.get(key) is mine:
                del self._queues[key]

        try:
            await self.give_way()
        except asyncio.CancelledError:
            # Whoever stands behind must still wait for whoever stands in front.
            if before is None or before.done():
                leave()
            else:
                before.add_done_callback(lambda _: leave())
            raise
        if before is not None and not before.done():
            try:
                await asyncio.shield(before)
            except asyncio.CancelledError:
                before.add_done_callback(lambda _: leave())
                raise
        return leave


class CloggedSink:
    """A sink whose calls give way first."""

    def __init__(self, sink: DataSink, clog: Clog) -> None:
        self._sink = sink
        self._clog = clog

    @property
    def books(self) -> EdgeBooks:
        """The books of the sink itself."""
        return self._sink.books

    def send_nowait(self, envelope: Envelope) -> None:
        """As the sink's."""
        self._sink.send_nowait(envelope)

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        """As the sink's."""
        return self._sink.send_many_nowait(envelopes)

    async def send(self, envelope: Envelope) -> None:
        """As the sink's, in the order of the calls within a lane."""
        leave = await self._clog.in_order(("send", Priority(envelope.priority)))
        # The next sender runs in a later turn, when this one has been sent or stands in the sink's own queue.
        leave()
        await self._sink.send(envelope)

    async def wait_writable(self) -> None:
        """As the sink's."""
        await self._clog.give_way()
        await self._sink.wait_writable()
        await self._clog.give_way()

    def credit_items(self, priority: int) -> int:
        """As the sink's."""
        return self._sink.credit_items(priority)

    async def finish(self) -> None:
        """As the sink's."""
        await self._clog.give_way()
        await self._sink.finish()
        await self._clog.give_way()


class CloggedSource:
    """A source whose `receive` gives way before and after the message was taken; cancelled, it gives it back."""

    def __init__(self, source: DataSource, clog: Clog) -> None:
        self._source = source
        self._clog = clog
        self._receiving = False

    @property
    def books(self) -> EdgeBooks:
        """The books of the source itself."""
        return self._source.books

    @property
    def ended(self) -> bool:
        """As the source's."""
        return self._source.ended

    @property
    def waiting(self) -> int:
        """As the source's."""
        return self._source.waiting

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        """As the source's."""
        return self._source.take(limit, lane)

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """As the source's."""
        self._source.give_back(taken)

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """As the source's."""
        self._source.settle(taken, expired=expired)

    def on_news(self, callback: Callable[[], None] | None) -> None:
        """As the source's."""
        self._source.on_news(callback)

    async def receive(self) -> Lease:
        """As the source's."""
        if self._receiving:
            raise BusyError("another task receives already")
        self._receiving = True
        try:
            await self._clog.give_way()
            lease = await self._source.receive()
            try:
                await self._clog.give_way()
            except asyncio.CancelledError:
                self._source.give_back((lease.envelope,))
                raise
            return lease
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """As the source's."""
        await self._clog.give_way()
        await self._source.aclose()
        await self._clog.give_way()


class CloggedPort:
    """The clogged twin of a data port."""

    def __init__(self, port: DataPort, seed: int) -> None:
        clog = Clog(seed)
        self._port = port
        self.sink: Final = CloggedSink(port.sink, clog)
        self.source: Final = CloggedSource(port.source, clog)

    @property
    def route(self) -> Route:
        """The port's."""
        return self._port.route


class CloggedSubscription(CloggedSource):
    """The clogged twin of a subscription."""

    def __init__(self, subscription: Subscription, clog: Clog) -> None:
        super().__init__(subscription, clog)
        self._subscription = subscription

    @property
    def pattern(self) -> str:
        """The subscription's."""
        return self._subscription.pattern

    @property
    def group(self) -> str | None:
        """The subscription's."""
        return self._subscription.group

    def drain(self) -> None:
        """As the subscription's."""
        self._subscription.drain()


class CloggedBus:
    """The clogged twin of a bus."""

    def __init__(self, bus: EventBus, seed: int) -> None:
        self._bus = bus
        self._clog = Clog(seed)

    async def publish(self, topic: str, envelope: Envelope) -> int:
        """As the bus's, in the order of the calls within a topic and lane."""
        leave = await self._clog.in_order((topic, Priority(envelope.priority)))
        leave()
        return await self._bus.publish(topic, envelope)

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        """As the bus's."""
        return self._bus.publish_nowait(topic, envelope)

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        """As the bus's, in the order of the calls within a topic and lane."""
        leave = await self._clog.in_order((topic, Priority(envelope.priority)))
        leave()
        return await self._bus.broadcast(topic, envelope)

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        """As the bus's."""
        await self._clog.give_way()
        reply = await self._bus.request(topic, envelope, timeout_ns=timeout_ns, idempotent=idempotent)
        await self._clog.give_way()
        return reply

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        """As the bus's."""
        await self._clog.give_way()
        await self._bus.reply(request, envelope)
        await self._clog.give_way()

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        """As the bus's."""
        await self._clog.give_way()
        await self._bus.refuse(request, error)
        await self._clog.give_way()

    def subscribe(
        self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = ""
    ) -> AbstractAsyncContextManager[CloggedSubscription]:
        """As the bus's."""
        return self._subscribed(pattern, group=group, qos=qos, edge=edge)

    @asynccontextmanager
    async def _subscribed(self, pattern: str, **options: Any) -> AsyncGenerator[CloggedSubscription]:
        await self._clog.give_way()
        async with self._bus.subscribe(pattern, **options) as subscription:
            yield CloggedSubscription(subscription, self._clog)
            await self._clog.give_way()

    def configure(self, pattern: str, qos: Qos) -> None:
        """As the bus's."""
        self._bus.configure(pattern, qos)

    def books(self) -> Mapping[str, EdgeBooks]:
        """The bus's."""
        return self._bus.books()

    async def aclose(self) -> None:
        """As the bus's."""
        await self._clog.give_way()
        await self._bus.aclose()
        await self._clog.give_way()
