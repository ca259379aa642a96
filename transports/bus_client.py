"""The client's end of a bus link: the event bus of another process, over frames on a byte stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from flowbridge.codec import bus_frames as frames
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import (
    BlockReason,
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    Effect,
    EncodeError,
    FlowbridgeError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceError,
    WouldBlock,
)
from flowbridge.limits import (
    BUS_LINK_BODY_BYTES_MAX,
    BUS_LINK_BYTES_MAX,
    BUS_LINK_CALLS_MAX,
    BUS_LINK_SUBSCRIPTIONS_MAX,
    BUS_LINK_TOPICS_MAX,
    STREAM_BYTES_HIGH,
)
from flowbridge.machines.bus_mirror import BusMirror
from flowbridge.machines.topics import check_pattern
from flowbridge.time.far import SHARED
from flowbridge.time.ledger import EdgeBooks
from flowbridge.transports.bus_books import SubscriptionBooks
from flowbridge.transports.bus_envelopes import LinkEnvelopes
from flowbridge.transports.bus_repeats import Repeats
from flowbridge.transports.bus_subscription import ClientSubscription, Opening
from flowbridge.transports.framed import FramedLink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.plan import Qos
    from flowbridge.time.far import Times
    from flowbridge.transports.framed import ByteStream

_T = TypeVar("_T")
REPLIES = "(replies)"


class BusClient:
    """Keeps `contracts.EventBus` for one process; the bus itself is at the host, and so is everything that decides.

    - *publish_nowait* decides by the table that the host tells: who is subscribed, and what credit there is. Others
      use the same credit, so a message may find none left after all; then it waits at the host, as with `publish`.
      It returns how many the message goes to; one of them may yet refuse it.
    - *books* are those of the subscriptions of this link, and of the replies that it gave. What waits at the host
      for the link is in the host's books only.
    - *aclose* closes this end, not the host's bus. Loans that are not settled by then count as aborted at the host.
    - When the host is gone every call is BrokenError, and its effect MAYBE.

    Does not promise: that the host accepted what `configure` was given; the trail of an envelope.
    """

    def __init__(self, connect: Callable[..., ByteStream], clock: Clock, times: Times = SHARED) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, tuple[asyncio.Future[Any] | None, int]] = {}  # unanswered: who waits, if any, and bytes
        self._bytes = 0
        self._next_call = 0
        self._next_sub = 0
        self._subs: dict[int, ClientSubscription] = {}
        self._openings: dict[int, Opening] = {}
        self._leaving: dict[int, ClientSubscription] = {}  # by the call that tells the host
        self._dirty: dict[ClientSubscription, None] = {}
        self._flushing: asyncio.Handle | None = None
        self._mirror = BusMirror()
        self._tells = False
        self._topics: set[str] = set()
        self._books = SubscriptionBooks()
        self._replies = EdgeBooks()
        self._repeats = Repeats(clock, self._request)
        self._is_closed = False
        self._broken: BrokenError | None = None
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._takes: dict[int, Callable[[list[Any], bytes], None]] = {
            frames.DELIVER: self._deliver,
            frames.ACK: self._ack,
            frames.RESP: self._resp,
            frames.ERROR: self._error,
            frames.BOOKS: self._counted,
            frames.SUB_ACK: self._subscribed,
            frames.OFFER: self._offer,
            frames.RETRACT: self._retract,
            frames.LIMIT: self._limit,
            frames.HELLO_ACK: self._hello,
        }
        self._link = FramedLink(
            connect, on_frame=self._frame, on_lost=self._lost, body_bytes_max=BUS_LINK_BODY_BYTES_MAX
        )
        self._envelopes = LinkEnvelopes(self._link.peer, times)

    async def greet(self) -> None:
        """Meet the host; before that no other call may be made. Raises: BrokenError."""
        self._link.send(frames.HELLO, frames.numbers(frames.VERSION))
        await self._greeted

    # --- publishing -------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, envelope: Envelope) -> int:
        """Give the message to every matching subscription and to one member of every matching queue group."""
        return await self._publish(topic, envelope, frames.PUBLISH)

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        """As `publish`, but every member of every queue group gets it."""
        return await self._publish(topic, envelope, frames.BROADCAST)

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        """As `publish`; WouldBlock, and nobody got it, when as far as is known here somebody would make it wait."""
        self._check(topic)
        if not self._tells:
            raise WouldBlock(BlockReason.CREDIT_ITEMS, f"{topic}: the host does not tell who has credit")
        if self._link.stream.unsent_bytes > STREAM_BYTES_HIGH:
            raise WouldBlock(BlockReason.ABOVE_WATERMARK, f"{self._link.peer}: the link")
        lane = envelope.priority
        lacking = self._mirror.lacking(topic, lane)
        if lacking is not None:
            raise WouldBlock(BlockReason.CREDIT_ITEMS, f"{topic}: a subscription to {lacking.pattern}")
        fields, body = self._envelopes.write(envelope)
        call = self._begin(len(body), None)
        self._submit(call, frames.PUB, frames.pub(call, frames.NOWAIT, topic, fields), body)
        self._check(None)
        self._mirror.spend(topic, lane)
        return 0 if envelope.deadline_ns <= self._clock.now_ns() else len(self._mirror.reach(topic))

    async def _publish(self, topic: str, envelope: Envelope, mode: int) -> int:
        self._check(topic)
        fields, body = self._envelopes.write(envelope)
        future: asyncio.Future[int] = self._loop.create_future()
        call = self._begin(len(body), future)
        self._submit(call, frames.PUB, frames.pub(call, mode, topic, fields), body)
        return await self._answer(call, future)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        """Publish, and wait for the first reply."""
        until_ns = self._clock.now_ns() + timeout_ns
        envelope = self._repeats.begin(envelope, idempotent)
        try:
            return await self._request(topic, envelope, timeout_ns)
        except FlowbridgeError as error:
            failure = error
        return await self._repeats.again(topic, envelope, until_ns, failure, idempotent)

    async def _request(self, topic: str, envelope: Envelope, timeout_ns: int) -> Envelope:
        """One attempt."""
        self._check(topic)
        clock = self._clock
        deadline_ns = min(envelope.deadline_ns, clock.now_ns() + timeout_ns, NO_DEADLINE)
        fields, body = self._envelopes.write(envelope, deadline_ns)
        future: asyncio.Future[Envelope] = self._loop.create_future()
        if self._calls:  # others ask too, and may in this turn
            self._link.cork_turn()
        call = self._begin(len(body), future)

        def expired() -> None:
            if not future.done():
                self._withdraw(call)
                now_ns = clock.now_ns()
                future.set_exception(DeadlineExceeded(f"request on {topic}", deadline_ns, now_ns, Effect.MAYBE))

        self._submit(call, frames.REQ, frames.req(call, topic, fields), body)
        alarm = None if deadline_ns == NO_DEADLINE else clock.call_at(deadline_ns, expired)
        try:
            return await self._answer(call, future)
        finally:
            if alarm is not None:
                alarm.cancel()

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        """Answer a request; a reply that nobody waits for any more is counted as expired."""
        self._check(None)
        fields, body = self._envelopes.write(envelope)
        asked = self._envelopes.leaving_request(request)
        await self._tell(frames.REPLY, lambda call: frames.reply(call, asked, fields), body)

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        """Answer a request with an error; one that nobody waits for any more is counted as expired."""
        self._check(None)
        await self._tell(frames.REFUSE, lambda call: self._envelopes.refusal(call, request, error))

    async def _tell(self, kind: int, header: Callable[[int], bytes], body: bytes = b"") -> None:
        """Send an answer, and count what became of it."""
        future: asyncio.Future[int] = self._loop.create_future()
        call = self._begin(len(body), future)
        try:
            self._submit(call, kind, header(call), body)
        except EncodeError:
            self._end(call)
            raise
        late = await self._answer(call, future)
        books = self._replies
        books.sent += 1
        if late:
            books.expired += 1
            books.missed.late += late > 1
        else:
            books.delivered += 1

    # --- calls ------------------------------------------------------------------------------------------------------

    def _check(self, topic: str | None) -> None:
        if self._is_closed:
            raise ClosedError("the bus is closed")
        if self._broken is not None:
            raise BrokenError(str(self._broken)) from self._broken.__cause__
        if topic is not None:
            self._mirror.reach(topic)  # which looks at it, once

    def _begin(self, size: int, future: asyncio.Future[Any] | None) -> int:
        """A number for a call. Raises: WouldBlock when too many are not answered."""
        if len(self._calls) >= BUS_LINK_CALLS_MAX:
            raise WouldBlock(BlockReason.CREDIT_ITEMS, f"{self._link.peer}: {BUS_LINK_CALLS_MAX} calls unanswered")
        if self._bytes and self._bytes + size > BUS_LINK_BYTES_MAX:
            raise WouldBlock(BlockReason.CREDIT_BYTES, f"{self._link.peer}: {self._bytes} bytes unanswered")
        if self._dirty:
            self._flush()
        call = self._next_call
        self._next_call = call + 1
        self._calls[call] = future, size
        self._bytes += size
        return call

    def _end(self, call: int) -> asyncio.Future[Any] | None:
        """The call is over. Raises: RemoteProtocolError when it was never made."""
        if call >= self._next_call:
            raise RemoteProtocolError(f"{self._link.peer}: an answer to call {call}, which was not made")
        future, size = self._calls.pop(call, (None, 0))  # not there any more: withdrawn
        self._bytes -= size
        return None if future is None or future.done() else future

    def _send(self, kind: int, header: bytes, body: bytes = b"") -> None:
        try:
            self._link.send(kind, header, body)
        except ResourceError as error:
            self._break(error.__cause__ or error)

    def _submit(self, call: int, kind: int, header: bytes, body: bytes = b"") -> None:
        """Send what a call asks. Raises: EncodeError when it is too large, and then the call was never made."""
        try:
            self._send(kind, header, body)
        except EncodeError:
            self._end(call)
            self._openings.pop(call, None)
            raise

    async def _answer(self, call: int, future: asyncio.Future[_T]) -> _T:
        try:
            return await future
        except asyncio.CancelledError:
            self._withdraw(call)
            raise

    def _withdraw(self, call: int) -> None:
        begun = self._calls.pop(call, None)
        if begun is not None:
            self._bytes -= begun[1]
            if self._broken is None and not self._is_closed:
                self._send(frames.CANCEL, frames.numbers(call))

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def subscribe(self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = "") -> Opening:
        """Open a subscription for the length of an ``async with``. Raises: LocalProtocolError for a bad pattern."""
        check_pattern(pattern)
        return Opening(self, pattern, group, qos, edge)

    async def open(self, opening: Opening) -> ClientSubscription:
        """Open a subscription until it is closed; `subscribe` is the safer way."""
        self._check(None)
        if len(self._subs) + len(self._openings) >= BUS_LINK_SUBSCRIPTIONS_MAX:
            raise LocalProtocolError(
                f"pattern {opening.pattern!r} is one more than {BUS_LINK_SUBSCRIPTIONS_MAX} subscriptions of a link"
            )
        future: asyncio.Future[ClientSubscription] = self._loop.create_future()
        header = (opening.pattern, opening.group, opening.edge, frames.qos_out(opening.qos))
        call = self._begin(0, future)
        opening.sub = self._next_sub
        self._next_sub += 1
        self._openings[call] = opening
        self._submit(call, frames.SUB, frames.mixed(call, opening.sub, *header))
        return await future  # when cancelled, `_subscribed` closes it

    def _subscribed(self, values: list[Any], _: bytes) -> None:
        call, edge, positions = values
        opening = self._openings.pop(call, None)
        qos = frames.qos_in(positions)
        if opening is None or qos is None:
            raise RemoteProtocolError(f"{self._link.peer}: call {call} did not subscribe")
        name, books = self._books.open(edge)
        subscription = ClientSubscription(
            self, opening.sub, opening.pattern, opening.group, edge=name, qos=qos, clock=self._clock, books=books
        )
        self._subs[opening.sub] = subscription
        future = self._end(call)
        if future is not None:
            future.set_result(subscription)
        elif subscription.abandon():
            subscription.leave()

    def unsubscribe(self, subscription: ClientSubscription) -> None:
        """Tell the host that nothing more is wanted there; `ClientSubscription.left` is called once it knows."""
        if self._is_closed or self._broken is not None:
            self._over(subscription)
            subscription.left()
            return
        self._flush()
        call = self._next_call
        self._next_call = call + 1
        self._calls[call] = None, 0
        self._leaving[call] = subscription
        self._send(frames.UNSUB, frames.numbers(call, subscription.sub))

    def _left(self, call: int) -> None:
        """The host knows, if that is what this call told it; what it sent before is here."""
        subscription = self._leaving.pop(call, None)
        if subscription is not None:
            self._over(subscription)
            self._forget(subscription)
            subscription.left()

    def _over(self, subscription: ClientSubscription) -> None:
        if not subscription.is_over:
            subscription.is_over = True
            self._books.close(subscription.edge)

    def _forget(self, subscription: ClientSubscription) -> None:
        """No more comes for a closed subscription; what is on loan is still to be told."""
        if not subscription.outcomes.owed:
            self._subs.pop(subscription.sub, None)

    def note_outcome(self, subscription: ClientSubscription) -> None:
        """Something became of messages: tell soon."""
        self._dirty[subscription] = None
        if self._flushing is None and self._broken is None and not self._is_closed:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        dirty, self._dirty = self._dirty, {}
        for subscription in dirty:
            for header in subscription.outcomes.headers(subscription.sub):
                self._send(frames.SETTLE, header)
            if subscription.is_over and not subscription.outcomes.owed:
                self._subs.pop(subscription.sub, None)

    # --- from the host ----------------------------------------------------------------------------------------------

    def _frame(self, kind: int, header: bytes, body: bytes) -> None:
        values = frames.decode(kind, header, body, frames.TO_CLIENT)
        self._takes[kind](values, body)

    def _hello(self, values: list[Any], _: bytes) -> None:
        if values[0] != frames.VERSION or self._greeted.done():
            raise RemoteProtocolError(f"{self._link.peer}: HELLO_ACK with version {values[0]}, or a second one")
        self._tells = values[1]
        self._greeted.set_result(None)

    def _deliver(self, values: list[Any], body: bytes) -> None:
        subscription = self._subs.get(values[0])
        if subscription is None:
            raise RemoteProtocolError(f"{self._link.peer}: a message for subscription {values[0]}, which is not open")
        subscription.arrived(self._envelopes.read(values, 1, body), self._clock.now_ns())

    def _ack(self, values: list[Any], _: bytes) -> None:
        future = self._end(values[0])
        if future is not None:
            future.set_result(values[1])
        elif self._leaving:
            self._left(values[0])

    def _resp(self, values: list[Any], body: bytes) -> None:
        envelope = self._envelopes.read(values, 1, body)
        future = self._end(values[0])
        if future is not None:
            future.set_result(envelope)

    def _error(self, values: list[Any], _: bytes) -> None:
        error = self._envelopes.read_error(values)
        self._openings.pop(values[0], None)
        future = self._end(values[0])
        if future is not None:
            future.set_exception(error)
        elif self._leaving:
            self._left(values[0])

    def _counted(self, values: list[Any], _: bytes) -> None:
        subscription = self._subs.get(values[0])
        if subscription is not None:  # else it is closed, and this came too late
            subscription.counted((values[1], values[2], values[3], values[4], values[5]))

    def _offer(self, values: list[Any], _: bytes) -> None:
        number, pattern, group, waits = values
        try:
            self._mirror.add(number, pattern, group, waits)
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"{self._link.peer}: {error}") from error

    def _retract(self, values: list[Any], _: bytes) -> None:
        self._mirror.remove(values[0])

    def _limit(self, values: list[Any], _: bytes) -> None:
        self._mirror.limit(values[0], values[1:])

    # --- settings, books and the end --------------------------------------------------------------------------------

    def configure(self, pattern: str, qos: Qos) -> None:
        """Set the QoS of topics at the host. Raises: LocalProtocolError for a bad pattern or too many of them."""
        check_pattern(pattern)
        self._check(None)
        if len(self._topics) >= BUS_LINK_TOPICS_MAX and pattern not in self._topics:
            raise LocalProtocolError(f"pattern {pattern!r} is one more than {BUS_LINK_TOPICS_MAX} settings of topics")
        self._topics.add(pattern)
        self._send(frames.CONFIGURE, frames.mixed(pattern, frames.qos_out(qos)))

    def books(self) -> Mapping[str, EdgeBooks]:
        """The counts of this link's subscriptions by edge name, and of its replies under ``(replies)``."""
        books = self._books.all()
        if self._replies.sent:
            books[REPLIES] = self._replies
        return books

    def _lost(self, error: Exception | None) -> None:
        self._break(error or RemoteProtocolError(f"{self._link.peer}: the host ended the link"))

    def _break(self, cause: BaseException) -> None:
        if self._is_closed or self._broken is not None:
            return
        self._broken = BrokenError(f"{self._link.peer}: the host of the bus is gone: {cause}")
        self._broken.__cause__ = cause
        self._link.close()
        for subscription in tuple(self._subs.values()):
            subscription.break_off(self._broken)
        self._stop(self._broken)

    def _stop(self, error: FlowbridgeError) -> None:
        """Every call that waits fails."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._greeted.done():
            self._greeted.set_exception(error)
        calls, self._calls, leaving, self._leaving = self._calls, {}, self._leaving, {}
        self._openings.clear()
        self._bytes = 0
        self._repeats.hurry()
        for future, _ in calls.values():
            if future is not None and not future.done():
                future.set_exception(type(error)(str(error)))
        for subscription in leaving.values():
            subscription.left()

    async def aclose(self) -> None:
        """Close this end: its subscriptions close, its calls fail with ClosedError. Idempotent."""
        if self._is_closed:
            return
        for subscription in tuple(self._subs.values()):
            subscription.abandon()
            self._over(subscription)
        if self._broken is None:
            self._flush()
        self._is_closed = True
        self._stop(ClosedError("the bus is closed"))
        if self._broken is None:
            try:
                self._link.uncork()
                self._link.stream.end()
                if self._link.stream.unsent_bytes:
                    await asyncio.wait_for(self._link.stream.flushed(), 1.0)
            except (ResourceError, TimeoutError):
                pass  # the host does not read; it will see the end of the link all the same
            finally:
                self._link.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "broken" if self._broken is not None else "open"
        return f"<BusClient of {self._link.peer} {state}, {len(self._subs)} subscriptions, {len(self._calls)} calls>"
