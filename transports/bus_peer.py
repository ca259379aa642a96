"""One client of a bus server: does what the frames of its link ask.

Whatever it sends, the memory it can take here is bounded: by `BUS_LINK_CALLS_MAX` calls that wait and
`BUS_LINK_BYTES_MAX` of their payloads, by its subscriptions and their queues, and by the link, which is not read while
more than `STREAM_BYTES_HIGH` towards the client are unsent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbridge.codec import bus_frames as frames
from flowbridge.codec.codes import Code, error_of
from flowbridge.errors import FlowbridgeError, LocalProtocolError, RemoteProtocolError, ResourceError
from flowbridge.errors import WouldBlock as WouldBlockError
from flowbridge.limits import (
    BUS_LINK_BODY_BYTES_MAX,
    BUS_LINK_BYTES_MAX,
    BUS_LINK_CALLS_MAX,
    BUS_LINK_LIMIT_NS,
    BUS_LINK_SUBSCRIPTIONS_MAX,
    BUS_LINK_TOPICS_MAX,
    BUS_LINK_UNSENT_BYTES_MAX,
    LANES,
    STREAM_BYTES_HIGH,
)
from flowbridge.machines.bus_mirror import BusMirror
from flowbridge.plan import Policy, Qos
from flowbridge.transports.bus_envelopes import LinkEnvelopes
from flowbridge.transports.bus_peer_call import AskedCall
from flowbridge.transports.bus_peer_subscription import PeerSubscription
from flowbridge.transports.eager import run_eagerly
from flowbridge.transports.framed import FramedLink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from flowbridge.contracts import Alarm, BytesLike, DataPort
    from flowbridge.envelope import Envelope
    from flowbridge.machines.bus_mirror import Offer
    from flowbridge.machines.topics import TopicEntry
    from flowbridge.time.far import Times
    from flowbridge.time.ledger import EdgeBooks
    from flowbridge.transports.bus_server import BusServer
    from flowbridge.transports.framed import ByteStream

_REPLIES = "(replies)"


class BusPeer:
    """Made by `BusServer.attach`; lives until the client leaves or breaks the rules."""

    def __init__(self, server: BusServer, connect: Callable[..., ByteStream], times: Times, who: str) -> None:
        self._server = server
        self._bus = server.bus
        self._who = who
        self._loop = asyncio.get_running_loop()
        self._subs: dict[int, PeerSubscription] = {}
        self._entries: dict[int, TopicEntry[PeerSubscription]] = {}
        self._calls: dict[int, asyncio.Task[None] | AskedCall] = {}  # those that wait
        self._bytes = 0  # ... and the size of their payloads
        self._last_call = -1
        self._topics: set[str] = set()
        self._is_greeted = False
        self._is_gone = False
        self.is_congested = False
        self._draining: asyncio.Task[None] | None = None
        self._told: BusMirror | None = None  # what the client knows of credit, once it publishes without waiting
        self._touched: dict[int, Offer] = {}  # what it has spent credit on
        self._refreshing: asyncio.Handle | None = None
        self._is_refreshing = False
        self._later: Alarm | None = None
        self._reply_books: EdgeBooks | None = None
        self._takes: dict[int, Callable[[list[Any], bytes], None]] = {
            frames.PUB: self._pub,
            frames.REQ: self._req,
            frames.REPLY: self._reply,
            frames.REFUSE: self._refuse,
            frames.SETTLE: self._settle,
            frames.SUB: self._sub,
            frames.UNSUB: self._unsub,
            frames.CANCEL: self._cancel,
            frames.CONFIGURE: self._configure,
            frames.HELLO: self._hello,
        }
        self._link = FramedLink(
            connect,
            on_frame=self._frame,
            on_lost=self._lost,
            body_bytes_max=BUS_LINK_BODY_BYTES_MAX,
            corks=True,
        )
        self._stream = self._link.stream
        self.envelopes = LinkEnvelopes(self._link.peer, times)

    @property
    def name(self) -> str:
        """Who the client is, for messages."""
        return self._link.peer

    # --- the link ---------------------------------------------------------------------------------------------------

    def send(self, kind: int, header: bytes, body: BytesLike = b"") -> None:
        """Send a frame to the client, if it is still there. Raises: EncodeError."""
        try:
            self._link.send(kind, header, body)
        except ResourceError:
            return  # `_lost` is told, or was
        unsent_bytes = self._stream.unsent_bytes
        if unsent_bytes <= STREAM_BYTES_HIGH:
            return
        if unsent_bytes > BUS_LINK_UNSENT_BYTES_MAX:
            what = f"{self.name}: unsent bytes exceed {BUS_LINK_UNSENT_BYTES_MAX}: the client does not read"
            self._link.stream.fail(RemoteProtocolError(what))
        elif not self.is_congested:
            self.is_congested = True
            self._link.stream.pause()
            self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._link.stream.drained()
        except ResourceError:
            return
        self.is_congested = False
        self._link.stream.resume()
        for subscription in tuple(self._subs.values()):
            subscription.pump()

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        values = frames.decode(kind, header, body, frames.TO_SERVER)
        if not self._is_greeted and kind != frames.HELLO:
            raise RemoteProtocolError(f"{self.name}: frame {kind:#x} came before HELLO")
        self._takes[kind](values, body)

    def _lost(self, _: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        self._server.gone(self)
        self._link.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._later is not None:
            self._later.cancel()
        if self._draining is not None:
            self._draining.cancel()
        for call in tuple(self._calls.values()):
            call.cancel()
        for sub in tuple(self._subs):
            run_eagerly(self._close_sub(self._subs[sub], abandon=True))

    async def aclose(self) -> None:
        """Let the client go; to it the host is gone. What waits for it here is withdrawn."""
        waiting = [call for call in self._calls.values() if isinstance(call, asyncio.Task)]
        self._leave()
        if waiting:
            await asyncio.wait(waiting)

    def _hello(self, values: list[Any], _: bytes) -> None:
        if self._is_greeted or values[0] != frames.VERSION:
            raise RemoteProtocolError(f"{self.name}: HELLO with version {values[0]}, or a second one")
        self._is_greeted = True
        for number, port in self._server.ports.items():
            self.offer(number, port)
        self.send(frames.HELLO_ACK, frames.mixed(frames.VERSION, self._server.tells))

    # --- calls ------------------------------------------------------------------------------------------------------

    def _run(self, call: int, size: int, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a call, in a task when it waits. Raises: RemoteProtocolError when too much waits."""
        try:
            self._count(call)
        except RemoteProtocolError:
            work.close()
            raise
        task = run_eagerly(self._answering(call, work))
        if task is not None:
            self._wait_for(call, size, task)
            task.add_done_callback(lambda _: self.over(call, size))

    def _count(self, call: int) -> None:
        if call <= self._last_call:
            raise RemoteProtocolError(f"{self.name}: call {call} after call {self._last_call}")
        self._last_call = call

    def _wait_for(self, call: int, size: int, work: asyncio.Task[None] | AskedCall) -> None:
        if len(self._calls) >= BUS_LINK_CALLS_MAX or (self._bytes and self._bytes + size > BUS_LINK_BYTES_MAX):
            work.cancel()
            raise RemoteProtocolError(
                f"{self.name}: calls that wait exceed {BUS_LINK_CALLS_MAX}, or {BUS_LINK_BYTES_MAX} bytes"
            )
        self._calls[call] = work
        self._bytes += size

    def over(self, call: int, size: int) -> None:
        """A call waits no more; nothing happens for one that did not wait."""
        if self._calls.pop(call, None) is not None:
            self._bytes -= size

    async def _answering(self, call: int, work: Coroutine[Any, Any, None]) -> None:
        """The errors of a call go to its caller. Whatever a bus raises is one of the house's errors there."""
        try:
            await work
        except Exception as error:
            self.send(frames.ERROR, self.envelopes.write_error(call, error))

    def _pub(self, values: list[Any], body: bytes) -> None:
        call, mode, topic = values[:3]
        self._run(call, len(body), self._publish(call, mode, topic, self.envelopes.read(values, 3, body)))

    async def _publish(self, call: int, mode: int, topic: str, envelope: Envelope) -> None:
        bus = self._bus
        try:
            if mode == frames.NOWAIT and self._server.tells:
                self._spend(topic, envelope.priority)
            if mode == frames.BROADCAST:
                count = await bus.broadcast(topic, envelope)
            else:
                try:
                    count = bus.publish_nowait(topic, envelope)
                except WouldBlockError:  # then it waits here, for its client
                    count = await bus.publish(topic, envelope)
        finally:
            if not self._is_gone:
                self._server.published(topic)
        self.send(frames.ACK, frames.ack(call, count))

    def _req(self, values: list[Any], body: bytes) -> None:
        call, topic = values[:2]
        envelope = self.envelopes.read(values, 2, body)
        asked = self._server.asked
        if asked is None:
            self._run(call, len(body), self._request(call, topic, envelope))
            return
        self._count(call)
        answer = AskedCall(self, call, len(body))
        try:
            timeout_ns = envelope.deadline_ns - self._server.clock.now_ns()
            pending = asked.ask(topic, envelope, timeout_ns, answer, self._who)
        except Exception as error:
            self.send(frames.ERROR, self.envelopes.write_error(call, error))
            return
        if answer.begin(pending):
            self._wait_for(call, len(body), answer)

    async def _request(self, call: int, topic: str, envelope: Envelope) -> None:
        timeout_ns = envelope.deadline_ns - self._server.clock.now_ns()
        answer = await self._bus.request(topic, envelope, timeout_ns=timeout_ns)
        self._respond(call, answer)

    def answer(self, call: int, result: Envelope | FlowbridgeError) -> None:
        """Send the outcome of a request; a reply that cannot leave the process is an error of the request."""
        if self._calls:  # more is likely to come in this turn
            self._link.cork_turn()
        try:
            if isinstance(result, FlowbridgeError):
                raise result
            self._respond(call, result)
        except Exception as error:
            self.send(frames.ERROR, self.envelopes.write_error(call, error))

    def _respond(self, call: int, answer: Envelope) -> None:
        fields, body = self.envelopes.write(answer)
        self.send(frames.RESP, frames.resp(call, fields), body)

    def _reply(self, values: list[Any], body: bytes) -> None:
        request = self.envelopes.read_request(values)
        self._run(
            values[0],
            len(body),
            self._answer(values[0], request, self.envelopes.read(values, frames.REQUEST_POSITIONS, body)),
        )

    def _refuse(self, values: list[Any], _: bytes) -> None:
        self._run(values[0], 0, self._answer(values[0], *self.envelopes.read_refusal(values)))

    def left_unanswered(self, requests: Sequence[Envelope], code: Code) -> None:
        """These, some of which may be requests, were dropped by the client or never sent to it, or nobody knows."""
        unanswered: Any = getattr(self._bus, "unanswered", None)
        if unanswered is not None:
            for request in requests:
                unanswered(request, error_of(code, f"{self.name} has left without an answer"))

    async def _answer(self, call: int, request: Envelope, answer: Envelope | FlowbridgeError) -> None:
        """ACK says what became of the answer: 0 delivered, 1 expired, 2 expired because the request was late."""
        before = self._reply_counts()
        if isinstance(answer, FlowbridgeError):
            await self._bus.refuse(request, answer)
        else:
            await self._bus.reply(request, answer)
        expired, late = self._reply_counts()
        self.send(frames.ACK, frames.ack(call, (expired > before[0]) + (late > before[1])))

    def _reply_counts(self) -> tuple[int, int]:
        books = self._reply_books
        if books is None:
            books = self._bus.books().get(_REPLIES)
            if books is self._bus.books().get(_REPLIES):
                self._reply_books = books  # always the same, so it need not be looked up
        return (0, 0) if books is None else (books.expired, books.missed.late)

    def _cancel(self, values: list[Any], _: bytes) -> None:
        task = self._calls.get(values[0])
        if task is not None:
            task.cancel()

    def _configure(self, values: list[Any], _: bytes) -> None:
        pattern = values[0]
        qos = frames.qos_in(values[1])
        assert qos is not None
        self._topics.add(pattern)
        if len(self._topics) > BUS_LINK_TOPICS_MAX:
            raise RemoteProtocolError(f"{self.name}: settings of topics exceed {BUS_LINK_TOPICS_MAX}")
        try:
            self._bus.configure(pattern, qos)
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"{self.name}: {error}") from error
        except FlowbridgeError:
            return  # the bus is closed: the next call that has an answer says so

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def _sub(self, values: list[Any], _: bytes) -> None:
        call, sub, pattern, group, edge, qos = values
        if sub in self._subs or len(self._subs) >= BUS_LINK_SUBSCRIPTIONS_MAX:
            raise RemoteProtocolError(
                f"{self.name}: subscription {sub} is there already, or exceeds {BUS_LINK_SUBSCRIPTIONS_MAX}"
            )
        self._run(call, 0, self._subscribe(call, sub, pattern, group, edge, frames.qos_in(qos)))

    async def _subscribe(
        self, call: int, sub: int, pattern: str, group: str | None, edge: str, qos: Qos | None
    ) -> None:
        server = self._server
        if not server.tells and qos is None:
            qos = Qos()  # the client has to know its queue
        server.opened = None
        opening = self._bus.subscribe(pattern, group=group, qos=qos, edge=edge)
        source = await opening.__aenter__()
        port = server.opened
        if port is not None and port.sink.books is source.books:
            edge, qos = port.route.id, port.route.qos
        if qos is None or self._is_gone:
            await opening.__aexit__(None, None, None)
            raise FlowbridgeError(f"the queue of a subscription to {pattern!r} cannot be told")
        subscription = PeerSubscription(self, sub, source, opening, qos)
        self._subs[sub] = subscription
        self._entries[sub] = server.subscribers.add(pattern, subscription)
        self.send(frames.SUB_ACK, frames.mixed(call, edge or pattern, frames.qos_out(qos)))
        subscription.start()

    def _unsub(self, values: list[Any], _: bytes) -> None:
        call, sub = values
        subscription = self._subs.get(sub)
        if subscription is None or subscription.is_closed:
            raise RemoteProtocolError(f"{self.name}: there is no subscription {sub} to close")
        self._run(call, 0, self._unsubscribe(call, subscription))

    async def _unsubscribe(self, call: int, subscription: PeerSubscription) -> None:
        await self._close_sub(subscription, abandon=False)
        subscription.tell_books()
        self.send(frames.ACK, frames.ack(call))

    async def _close_sub(self, subscription: PeerSubscription, *, abandon: bool) -> None:
        sub = subscription.sub
        entry = self._entries.pop(sub, None)
        if entry is not None:
            self._server.subscribers.remove(entry)
        await (subscription.abandon() if abandon else subscription.aclose())
        if not subscription.owed:
            self._subs.pop(sub, None)

    def _settle(self, values: list[Any], _: bytes) -> None:
        sub, outcome, expired = values[:3]
        subscription = self._subs.get(sub)
        if subscription is None:
            raise RemoteProtocolError(f"{self.name}: there is no subscription {sub} to settle")
        subscription.settle(outcome, expired, frames.pairs_in(values))
        if subscription.is_closed and not subscription.owed:
            self._subs.pop(sub, None)
        self._server.refresh()

    # --- what the client knows of credit ----------------------------------------------------------------------------

    def offer(self, number: int, port: DataPort) -> None:
        """Tell of a subscription that opened."""
        if not self._is_greeted:
            return
        route = port.route
        waits = route.qos.policy is Policy.BLOCK
        self.send(frames.OFFER, frames.mixed(number, route.topic, route.group, waits))
        limits = _credit(port) if waits else [0] * LANES
        if waits:
            self.send(frames.LIMIT, frames.numbers(number, *limits))
        if self._told is not None:
            self._told.add(number, route.topic or "", route.group, waits)
            self._told.limit(number, limits)

    def retract(self, number: int) -> None:
        """Tell of a subscription that closed."""
        if not self._is_greeted:
            return
        self.send(frames.RETRACT, frames.numbers(number))
        if self._told is not None:
            self._told.remove(number)
            self._touched.pop(number, None)

    def _spend(self, topic: str, lane: int) -> None:
        """The client published without waiting: charge what it has charged."""
        if self._told is None:
            self._told = BusMirror()
            for number, port in self._server.ports.items():
                route = port.route
                self._told.add(number, route.topic or "", route.group, route.qos.policy is Policy.BLOCK)
        for offer in self._told.spend(topic, lane):
            self._touched[offer.number] = offer
        self.refresh()

    def refresh(self) -> None:
        """Tell, at the next turn of the loop, the credit of what the client has spent on."""
        if self._touched and not self._is_refreshing:
            self._is_refreshing = True
            self._refreshing = self._loop.call_soon(self._refresh)

    def _refresh(self) -> None:
        self._refreshing = None
        self._is_refreshing = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        is_dry = False
        for number, offer in self._touched.items():
            credit = _credit(self._server.ports[number])
            is_dry = is_dry or 0 in credit
            # Where the client is about right, it need not be told again: it has half of it, and no more than there is.
            if any(not c // 2 < offer.credit(lane) <= c for lane, c in enumerate(credit) if c or offer.credit(lane)):
                limits = [spent + c for spent, c in zip(offer.spent, credit, strict=True)]
                offer.limits[:] = limits
                self.send(frames.LIMIT, frames.numbers(number, *limits))
        if is_dry and not self._is_gone:  # credit that comes back at the host itself is told by nobody
            clock = self._server.clock
            self._later = clock.call_at(clock.now_ns() + BUS_LINK_LIMIT_NS, self.refresh)

    def __repr__(self) -> str:
        return f"<BusPeer {self.name}, {len(self._subs)} subscriptions, {len(self._calls)} calls wait>"


def _credit(port: DataPort) -> list[int]:
    """By the lane that a publisher gives a message."""
    fixed = port.route.qos.priority
    return [port.sink.credit_items(lane if fixed is None else fixed) for lane in range(LANES)]
