"""A stream of a session: ordered bytes both ways that outlive the connections they travel on."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from flowbridge.codec.codes import shown
from flowbridge.codec.session_words import StreamKind
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import BrokenError, ClosedError, LocalProtocolError, RemoteProtocolError
from flowbridge.limits import REPLAY_BYTES_MAX, STREAM_BYTES_HIGH, STREAM_BYTES_LOW
from flowbridge.machines.admission import Pressing
from flowbridge.machines.replay import Incoming, Outgoing
from flowbridge.transports.quic.engine import WRITE_BYTES_HIGH
from flowbridge.transports.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike
    from flowbridge.machines.admission import Rank
    from flowbridge.time.offset import ClockOffset
    from flowbridge.transports.quic.single_streams import SingleStreams

_URGENCY: Final = {StreamKind.PART: 1, StreamKind.BUS: 1, StreamKind.ROUTE: 2}
_PIECE_BYTES: Final = 64 * 1024  # handed to the engine at once, which copies it
_JOINED_BYTES: Final = (
    4096  # smaller pieces that wait are put together: single bytes must not cost a hundred times that
)


class Carrier(Protocol):
    """The connection that carries a stream now."""

    @property
    def singles(self) -> SingleStreams:
        """Its streams of one message each."""
        ...

    def write(self, number: int, data: BytesLike, fin: bool) -> int:
        """Send on the QUIC stream `number`; returns what is unsent there."""
        ...

    def backlog(self, number: int) -> int:
        """What is unsent there."""
        ...

    def prioritize(self, number: int, urgency: int, deadline: float | None) -> None:
        """Change its place in the order of streams; see `engine.Engine`."""
        ...

    def consume(self, number: int, size_bytes: int) -> None:
        """So much of what arrived there was used."""
        ...


class Aside(Protocol):
    """Messages of a stream that travel beside it, each on a QUIC stream of its own; see `single_streams`."""

    def attached(self, singles: SingleStreams) -> None:
        """A connection is there: what is not known to have come is to be sent on it."""
        ...

    def detached(self) -> None:
        """It is gone, and what was on its way may not have come."""
        ...

    def before(self, rank: Rank) -> int:
        """The bytes that wait to be sent and go before what has this rank."""
        ...

    def arrived(self, data: bytes) -> None:
        """The peer sent this. Raises: RemoteProtocolError."""
        ...


class Before(NamedTuple):
    """What would be sent before bytes that are written now, and what the path carries in a round trip, if known.

    `way_ns` is how long bytes that leave are under way: all that makes a round trip longer than it can be is taken to
    wait in front of them, as what keeps the path full is what this side sends. `free_bytes` of the window are not in
    flight: so much leaves at once.
    """

    queued_bytes: int
    window_bytes: int
    free_bytes: int
    srtt_ns: int
    way_ns: int


class Keeper(Protocol):
    """The session that a stream belongs to."""

    @property
    def offset(self) -> ClockOffset:
        """What is known of the peer's clock."""
        ...

    def before(self, stream: SessionStream, rank: Rank) -> Before | None:
        """What lies before bytes of this rank on a stream now; None without a connection, when nobody knows."""
        ...

    def moved(self, stream: SessionStream) -> None:
        """What waits on it, or its rank, may have changed: `before` asks the stream again."""
        ...

    def owes_count(self, stream: SessionStream, size_bytes: int) -> None:
        """The peer is to be told how far the stream has come; so much came since it was asked last."""
        ...

    def failed(self, stream: SessionStream, error: Exception) -> None:
        """The peer broke the rules on this stream, or we did: it is told that the stream is over."""
        ...

    def settled(self, stream: SessionStream) -> None:
        """Perhaps nothing is owed any more, either way."""
        ...


def _unbound(*_: object) -> None:
    """Nobody has taken the stream yet."""


class SessionStream:
    """One end of a stream; see `framed.ByteStream` and `uds.stream.UdsStream` for what its calls promise.

    `connect` gives it its callbacks; until then what arrives waits. `close` lets what was written arrive first. Without
    a connection everything waits; only the session's end loses something, and says so through `on_lost`.
    """

    descriptors = False

    def __init__(self, keeper: Keeper, number: int, kind: int, label: str, key: bytes, *, peer: str) -> None:
        self.number: Final = number
        self.kind: Final = kind
        self.label: Final = label
        self.key: Final = key
        self.out: Final = Outgoing()
        self.come: Final = Incoming()
        self.peer = f"{peer}, {shown(label)}" if label else peer
        self.keeper: Final = keeper
        self._loop = asyncio.get_running_loop()
        self.rank: Rank = _URGENCY[StreamKind(kind)], NO_DEADLINE
        """Of the most pressing that waits, or that waited last; see `engine.URGENCIES`."""
        self._aside: Aside | None = None  # once its link has messages that need not wait for others
        self._pressing: Pressing | None = None  # what `press` was told
        self._carrier: Carrier | None = None
        self._quic = -1  # the number of the QUIC stream
        self._inbox: deque[bytes | bytearray] = deque()
        self._is_last_here = False  # the end is behind what is in the inbox
        self._on_data: Callable[[bytes, Sequence[int]], None] = _unbound
        self._on_lost: Callable[[Exception | None], None] = _unbound
        self._is_bound = False
        self._is_paused = False
        self._is_full = False  # the engine has enough of this stream
        self._brings_on = False  # `_bring` is due
        self._is_closed = False
        self._failure: Exception | None = None
        self._is_lost_told = False
        self._waiters = Waiters()

    @property
    def aside(self) -> Aside | None:
        """Who takes what comes, and sends what goes, beside the stream."""
        return self._aside

    @aside.setter
    def aside(self, aside: Aside | None) -> None:
        self._aside = aside
        self.keeper.moved(self)

    def connect(
        self,
        *,
        on_data: Callable[[bytes, Sequence[int]], None],
        on_lost: Callable[[Exception | None], None],
        descriptors: bool = False,
    ) -> SessionStream:
        """Take the stream: what has arrived is brought soon. No descriptor ever comes over it."""
        if self._is_bound:
            raise LocalProtocolError(f"{self.peer}: is taken already")
        del descriptors
        self._on_data, self._on_lost = on_data, on_lost
        self._is_bound = True
        self._bring_soon()
        return self

    @property
    def offset(self) -> ClockOffset:
        """What is known of the clock at the other end."""
        return self.keeper.offset

    # --- the connection ---------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether both directions ended and the peer knows what it needs to know."""
        return self.come.is_ended and self.out.is_acknowledged

    def attach(self, carrier: Carrier, quic: int) -> None:
        """It is carried by a connection from here on, on this QUIC stream."""
        self._carrier, self._quic = carrier, quic
        self._is_full = False
        self._prioritize()
        self.pump()
        if self.aside is not None:
            self.aside.attached(carrier.singles)
        if self.out.is_acknowledged:  # the peer knows; but its QUIC stream is to end too, or it stays for ever
            carrier.write(quic, b"", True)

    def detach(self) -> None:
        """The connection is gone. What arrived and was not brought comes again."""
        self._carrier = None
        if self.aside is not None:
            self.aside.detached()
        self._inbox.clear()
        self._is_last_here = False
        self.keeper.moved(self)

    @property
    def is_behind(self) -> bool:
        """Whether bytes wait here to be taken, so that the peer may have to wait too."""
        return bool(self._inbox)

    @property
    def singles(self) -> SingleStreams | None:
        """Where messages can be sent that need not wait for others, while there is a connection."""
        return None if self._carrier is None else self._carrier.singles

    def single(self, data: bytes) -> None:
        """The peer sent a message beside this stream; of a stream that nobody reads any more it is not wanted."""
        if not self._is_closed and self._failure is None:
            self._guard(self.aside.arrived if self.aside is not None else self._no_aside, data)

    def _no_aside(self, data: bytes) -> None:
        raise RemoteProtocolError(f"{self.peer}: {len(data)} bytes came beside a stream that goes in order")

    def room(self) -> None:
        """The engine takes more of this stream."""
        self._is_full = False
        self.pump()

    def acknowledge(self, count: int) -> None:
        """The peer has so much. Raises: RemoteProtocolError."""
        self.out.acknowledge(count)
        self.pump()
        if self._pressing is not None:
            self._look(self._pressing)
        self._wake_if_low()
        if self.is_over:
            self.keeper.settled(self)

    def pump(self) -> None:
        """Hand to the engine what it takes and what may be kept."""
        carrier, out = self._carrier, self.out
        if carrier is None:
            return
        self.keeper.moved(self)
        while not self._is_full and out.kept_bytes < REPLAY_BYTES_MAX:
            data = out.take(_PIECE_BYTES)
            if not data:
                break
            self._is_full = carrier.write(self._quic, data, False) > WRITE_BYTES_HIGH
        if out.owes_end:
            out.take_end()
            carrier.write(self._quic, b"", True)
        self._wake_if_low()

    # --- its place among others -------------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """What was written and has not left this machine."""
        carrier = self._carrier
        return self.out.unsent_bytes + (0 if carrier is None else carrier.backlog(self._quic))

    def before(self, rank: Rank) -> Before | None:
        """What lies before bytes of this rank that are written now: all of this stream, and of others what goes first.

        None without a connection, when nobody knows.
        """
        return self.keeper.before(self, rank)

    def press(self, rank: Rank) -> None:
        """What was written last is so pressing: until it has left, so is the stream, if it was less."""
        if self._pressing is None:
            self._pressing = Pressing()
        self._pressing.wrote(self.out.end, rank)
        self._look(self._pressing)

    def _look(self, pressing: Pressing) -> None:
        """What has left presses no more."""
        pressing.left(self.out.end - self.waiting_bytes)
        rank = pressing.rank
        if rank is not None and rank != self.rank:
            self.rank = rank
            self.keeper.moved(self)
            self._prioritize()

    def _prioritize(self) -> None:
        if self._carrier is not None:
            urgency, deadline_ns = self.rank
            self._carrier.prioritize(self._quic, urgency, None if deadline_ns == NO_DEADLINE else deadline_ns / 1e9)

    # --- out --------------------------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """What no connection has taken yet."""
        return self.out.unsent_bytes

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_closed or self._failure is not None

    def write(self, *parts: BytesLike, descriptors: Sequence[int] = ()) -> None:
        """Write parts one after another. Raises: ClosedError, also after `end`; BrokenError; LocalProtocolError."""
        out = self.out
        if self._failure is not None or out.is_finished:
            self._check()
            raise ClosedError(f"{self.peer}: writing was ended")
        if descriptors:
            raise LocalProtocolError(f"{self.peer}: descriptors do not leave their machine")
        carrier = self._carrier
        self.keeper.moved(self)
        for part in parts:
            data = part if type(part) is bytes else bytes(part)  # it is kept until the peer has it
            is_idle = not out.unsent_bytes and not self._is_full and out.kept_bytes < REPLAY_BYTES_MAX
            if carrier is not None and is_idle and 0 < len(data) <= _PIECE_BYTES:
                out.wrote(data)
                self._is_full = carrier.write(self._quic, data, False) > WRITE_BYTES_HIGH
            else:
                out.write(data)
        if out.unsent_bytes:
            self.pump()

    async def drained(self) -> None:
        """Return once little is unsent. Raises: ClosedError, BrokenError."""
        while self.unsent_bytes > STREAM_BYTES_HIGH or (self._waiters and self.unsent_bytes > STREAM_BYTES_LOW):
            await self._waiters.wait()
        self._check()

    async def flushed(self) -> None:
        """Return once a connection has taken everything. Raises: ClosedError, BrokenError."""
        while self.unsent_bytes:
            await self._waiters.wait()
        self._check()

    def _wake_if_low(self) -> None:
        if self._waiters and self.unsent_bytes <= STREAM_BYTES_LOW:
            self._waiters.wake()

    def _check(self) -> None:
        if self._is_closed:
            raise ClosedError(f"{self.peer}: closed")
        if self._failure is not None:
            raise BrokenError(f"{self.peer}: the connection is gone: {self._failure}") from self._failure

    # --- in ---------------------------------------------------------------------------------------------------------

    def arrived(self, data: bytes, fin: bool) -> None:
        """The connection brings bytes."""
        if self._inbox or self._is_paused or self._brings_on or not (self._is_bound or self._is_closed):
            self._keep(data, fin)
        else:
            self._take(data, fin)

    def _keep(self, data: bytes, fin: bool) -> None:
        inbox = self._inbox
        self._is_last_here = self._is_last_here or fin
        if len(data) >= _JOINED_BYTES:
            inbox.append(data)
        elif inbox and type(inbox[-1]) is bytearray and len(inbox[-1]) < _JOINED_BYTES:
            inbox[-1] += data
        else:  # also when it is empty: the end has to be brought
            inbox.append(bytearray(data))

    def _take(self, data: bytes, fin: bool) -> None:
        come = self.come
        fresh = come.fresh(data)
        if fresh:
            if not self._is_closed and self._failure is None:
                self._hand_on(fresh)
            come.received += len(fresh)
        if self._carrier is not None and data:
            self._carrier.consume(self._quic, len(data))
        if fin and not come.is_ended:
            come.is_ended = True
            self._lose(None)
        self.keeper.owes_count(self, len(fresh) + fin)
        if self.is_over:
            self.keeper.settled(self)

    def _hand_on(self, data: bytes) -> None:
        self._guard(self._on_data, data, ())

    def _guard(self, take: Callable[..., None], *given: object) -> None:
        try:
            take(*given)
        except RemoteProtocolError as error:
            self.fail(error)
        except Exception as error:  # our own mistake: for the loop's exception handler, not for the connection
            self.fail(error)
            self._loop.call_exception_handler(
                {"message": f"{self.peer}: what takes its bytes failed", "exception": error}
            )

    def pause(self) -> None:
        """Bring no more for now: the peer has to wait. Its end is told after that."""
        self._is_paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._is_paused:
            self._is_paused = False
            self._bring_soon()

    def _bring_soon(self) -> None:
        if not self._brings_on and (self._inbox or self._failure is not None):
            self._brings_on = True
            self._loop.call_soon(self._bring)

    def _bring(self) -> None:
        self._brings_on = False
        while self._inbox and not self._is_paused:
            data = self._inbox.popleft()
            self._take(bytes(data), self._is_last_here and not self._inbox)
        if self._failure is not None and not self._is_paused:
            self._lose(self._failure)

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Send no more: the peer sees the end after everything written. Idempotent."""
        if not self.out.is_finished and self._failure is None:
            self.out.finish()
            self.pump()

    def fail(self, error: Exception) -> None:
        """End it because of the peer: every later call raises BrokenError with this cause; `on_lost` is told."""
        if not self._is_closed and self._failure is None:
            self.lose(error)
            self.keeper.failed(self, error)

    def lose(self, error: Exception) -> None:
        """The session or the peer gave it up: nothing more can be sent or will come."""
        if self._failure is None:
            self._failure = error
            self.keeper.moved(self)
            self._inbox.clear()  # nobody takes it, not even once it goes on after a pause
            self.out.finish()
            self.out.give_up()
            self._waiters.wake()
            self._bring_soon()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closed and not self._is_lost_told and self._is_bound:
            self._is_lost_told = True
            self._on_lost(error)

    def close(self) -> None:
        """Take no more and send what was written, then the end; `on_lost` is not called any more. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._is_paused = False
            if self._failure is None:
                self.out.finish()
                self.pump()
            self._waiters.wake()
            self._bring_soon()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "broken" if self._failure is not None else "open"
        return f"<SessionStream {self.number} {self.peer} {state}, {self.out!r}, {self.come!r}>"
