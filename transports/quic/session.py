"""Session: what two processes have in common, over however many connections it takes.

It outlives a connection: the streams of one wait, and go on over the next where the peer says that they stand. It ends
when either side closes it, when the peer has lost its state, or when nothing was heard for the lease.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code, Fault, code_of, cut, error_of
from flowbridge.codec.session_words import Ack, Auth, Error, Goaway, Open, Ping, Pong, Scope, StreamKind
from flowbridge.errors import BrokenError, ClosedError, RemoteProtocolError, ResourceError
from flowbridge.limits import ACK_BYTES, ACK_DELAY_S, HEARTBEAT_MS_MIN, RESTS_PER_LEASE, SESSION_ACKS_MAX
from flowbridge.machines.liveness import Liveness
from flowbridge.time.offset import ClockOffset
from flowbridge.transports.quic.connection import why_closed
from flowbridge.transports.quic.leaving import Leaving
from flowbridge.transports.quic.refusing import check_room
from flowbridge.transports.quic.session_state import (
    GOES_ON,
    GRAVES,
    Absence,
    Grave,
    SessionState,
    grease,
    unproved,
    unwanted,
)
from flowbridge.transports.quic.stream import Before, SessionStream
from flowbridge.transports.quic.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flowbridge.codec.session_words import ControlFrame, Received, SessionLimits
    from flowbridge.contracts import Clock
    from flowbridge.machines.admission import Rank
    from flowbridge.transports.quic.connection import Connection
    from flowbridge.transports.quic.engine import Closed, Identity
    from flowbridge.transports.quic.session_state import SessionOwner

_log: Final = logging.getLogger("flowbridge.session")


class Session:
    """Opens streams, and gives those of the peer to `on_stream`. All calls are made on the loop.

    `peer` says who is at the other end, for messages. Time is that of the loop, but `clock` is what peers compare.
    """

    def __init__(
        self,
        identifier: bytes,
        owner: SessionOwner,
        clock: Clock,
        *,
        peer: str,
        is_client: bool,
        limits: SessionLimits,
    ) -> None:
        self.identifier: Final = identifier
        self.peer = peer
        self.limits = limits
        self.epoch = 0
        self.incarnation = 0  # of the peer, once it was met
        self.peer_node = ""  # the name that the peer greeted with, where it is known
        self.identity: Identity | None = None
        self.offset: Final = ClockOffset()
        self.state = SessionState.APART
        self.on_stream: Callable[[SessionStream], None] = unwanted
        """Who takes the streams that the peer opens."""
        self.on_auth: Callable[[Connection, Auth], None] = unproved  # who judges a new token of the peer
        self.leaving: Leaving | None = None
        """What the peer said when it began to drain: it takes no new stream, and finishes what runs."""
        self._going: Leaving | None = None  # ... and what we said
        self.replays = 0
        """How many times streams went on over another connection."""
        self._owner = owner
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._is_client = is_client
        self._streams: dict[int, SessionStream] = {}
        self._graves: dict[int, Grave] = {}
        self._next = 0 if is_client else 1
        self._waiting: list[SessionStream] = []  # for a QUIC stream
        self._bytes = Waiting()
        self._counts: set[int] = set()  # streams whose count the peer is to be told
        self._counts_bytes = 0
        self._counts_timer: asyncio.TimerHandle | None = None
        self._pings = 0
        self._ping_at_graves = GRAVES
        beat_ms, rest_ms = max(limits.hb_ms, HEARTBEAT_MS_MIN), limits.lease_ms / RESTS_PER_LEASE
        self._liveness = Liveness(beat_ms / 1000, rest_ms / 1000)
        self._beat: asyncio.TimerHandle | None = None
        self._apart_since = self._loop.time()
        self._absence = Absence(limits.lease_ms)
        self._connection: Connection | None = None
        self._settled: asyncio.Event = asyncio.Event()

    # --- streams ----------------------------------------------------------------------------------------------------

    def open(self, kind: StreamKind, label: str, key: bytes = b"") -> SessionStream:
        """A new stream; it can be written to at once. Raises: ClosedError, BrokenError, ResourceError."""
        if self.state is SessionState.OVER:
            raise BrokenError(f"{self.peer}: the session is over")
        if self.leaving is not None:
            raise self.leaving.error(self.peer, self._loop.time())
        if len(self._streams) >= self.limits.streams_max:
            raise ResourceError(f"{self.peer}: a session has at most {self.limits.streams_max} streams")
        stream = SessionStream(self, self._next, kind, label, key, peer=self.peer)
        self._next += 2
        self._streams[stream.number] = stream
        if self._connection is not None and not self._connection.carry(stream):
            self._waiting.append(stream)
        self._wake()
        return stream

    def offered(self, connection: Connection, opened: Open) -> SessionStream | None:
        """The peer opens a stream, or goes on with one."""
        stream = self._streams.get(opened.number)
        if stream is not None:
            if (opened.kind, opened.label, opened.key) != (stream.kind, stream.label, stream.key):
                raise RemoteProtocolError(f"{self.peer}: stream {opened.number} was another one before")
            return stream
        if opened.number in self._graves:
            return None
        if opened.number % 2 != self._is_client:
            raise RemoteProtocolError(f"{self.peer}: stream {opened.number} is not the peer's to open")
        check_room(self.peer, len(self._streams), len(self._graves), self.limits.streams_max)
        self._wake()
        if self._going is not None:
            refusal = self._going.refusal(opened.number, self._loop.time())
            self._graves[opened.number] = Grave(0, refusal, self._pings)
            connection.send(refusal)
            return None
        stream = SessionStream(self, opened.number, opened.kind, opened.label, opened.key, peer=self.peer)
        self._streams[opened.number] = stream
        self.on_stream(stream)
        return self._streams.get(stream.number)  # it may have been refused

    def single(self, number: int, data: bytes) -> None:
        """A message came beside a stream, which may be over by now."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.single(data)

    def streams_left(self, connection: Connection) -> None:
        """There may be room for QUIC streams."""
        while self._waiting and connection.carry(self._waiting[0]):
            self._waiting.pop(0)

    def before(self, stream: SessionStream, rank: Rank) -> Before | None:
        """What lies before bytes of this rank now: what waits on their stream, and on those that go first."""
        if self._connection is None:
            return None
        return Before(self._bytes.before(stream, rank), *self._connection.path())

    def moved(self, stream: SessionStream) -> None:
        """What waits on a stream, or its rank, may have changed."""
        if stream.number in self._streams:
            self._bytes.changed(stream)

    def owes_count(self, stream: SessionStream, size_bytes: int) -> None:
        """The peer is to be told how far a stream has come: with other bytes, or alone after a while or a lot."""
        self._counts.add(stream.number)
        self._counts_bytes += size_bytes
        if self._counts_bytes >= ACK_BYTES:
            self._tell_counts()
        elif self._counts_timer is None:
            self._counts_timer = self._loop.call_later(ACK_DELAY_S, self._let_counts_go)

    def failed(self, stream: SessionStream, error: Exception) -> None:
        """A stream is over because somebody broke the rules on it."""
        told = Error(code_of(error), Scope.STREAM, stream.number, cut(str(error)), None)
        self._bury(stream, told)
        if self._connection is not None:
            self._connection.drop(stream, told.code)
            self._connection.send(told)

    def settled(self, stream: SessionStream) -> None:
        """A stream has ended both ways."""
        if self._streams.get(stream.number) is stream:
            if self._connection is not None:
                self._connection.forget(stream)
            self._bury(stream, None)

    def _bury(self, stream: SessionStream, error: Error | None) -> None:
        self._streams.pop(stream.number, None)
        self._bytes.forget(stream)
        if stream in self._waiting:
            self._waiting.remove(stream)
        self._graves[stream.number] = Grave(stream.come.count, error, self._pings)
        if not self._streams:
            self._settled.set()
        if len(self._graves) >= self._ping_at_graves:
            self._ping_at_graves += GRAVES
            self.ping()

    # --- counts -----------------------------------------------------------------------------------------------------

    def received(self) -> Received:
        """How far every stream has come, for a greeting."""
        counts = {number: stream.come.count for number, stream in self._streams.items()}
        counts.update({number: grave.count for number, grave in self._graves.items()})
        return tuple(sorted(counts.items()))

    def _let_counts_go(self) -> None:
        """A packet that goes anyway may take them along; if there is none, they get one of their own."""
        if self._connection is not None:
            self._connection.on_written = self._tell_counts
        self._counts_timer = self._loop.call_later(ACK_DELAY_S, self._tell_counts)

    def _tell_counts(self) -> None:
        if self._counts_timer is not None:
            self._counts_timer.cancel()
            self._counts_timer = None
        self._counts_bytes = 0
        if self._connection is None:
            return  # a greeting tells all of them
        if self._connection.is_clogged:
            self._counts_timer = self._loop.call_later(ACK_DELAY_S, self._tell_counts)
            return
        self._connection.on_written = None
        counts, self._counts = sorted(self._counts), set()
        while counts:
            some, counts = counts[:SESSION_ACKS_MAX], counts[SESSION_ACKS_MAX:]
            for number in some:
                if number in self._graves:
                    self._graves[number].ping = self._pings
            self._connection.send(Ack(tuple((number, self._count(number)) for number in some)))

    def _count(self, number: int) -> int:
        stream = self._streams.get(number)
        if stream is not None:
            return stream.come.count
        grave = self._graves.get(number)
        return 0 if grave is None else grave.count

    def check(self, counts: Iterable[tuple[int, int]]) -> None:
        """Whether the peer can have so much of each stream. Raises: RemoteProtocolError."""
        for number, count in counts:
            stream = self._streams.get(number)
            if stream is not None:
                stream.out.check(count)
            elif number % 2 != self._is_client and number >= self._next:
                raise RemoteProtocolError(f"{self.peer}: has {count} bytes of stream {number}, which was never opened")

    def _acknowledged(self, counts: Received) -> None:
        self.check(counts)
        for number, count in counts:
            stream = self._streams.get(number)
            if stream is not None:
                stream.acknowledge(count)

    def is_level_with(self, other: Session) -> bool:
        """Whether each has all that the other has written, for one process that has both."""
        pairs = ((stream, other._streams.get(number)) for number, stream in self._streams.items())
        return all(
            there is None or (here.out.end == there.come.count and there.out.end == here.come.count)
            for here, there in pairs
        )

    # --- connections ------------------------------------------------------------------------------------------------

    def adopt(self, connection: Connection, epoch: int, counts: Mapping[int, int]) -> None:
        """Go on over a new connection, whose peer has so much of each stream. The one before is closed.

        Raises: RemoteProtocolError, nothing having been done, when the counts cannot be.
        """
        self.check(counts.items())
        for number, stream in self._streams.items():
            stream.detach()
            stream.out.rewind(counts.get(number, 0))
        if self._connection is not None:
            self._connection.retire(Code.SUPERSEDED, "another connection has taken over")
        if self.epoch:
            self.replays += 1
        else:
            self._liveness.hurry(self._loop.time())
            self._set_beat()
        self.epoch = epoch
        self._connection = connection
        self.state = SessionState.CONNECTED
        self._absence.end(self.peer, self._loop.time())
        connection.user = self
        self._waiting = []
        for stream in [stream for stream in self._streams.values() if stream.is_over]:
            self.settled(stream)  # and not opened again: the peer may have forgotten it by then
        mine = [stream for stream in self._streams.values() if stream.number % 2 != self._is_client]
        for stream in mine:
            if self._waiting or not connection.carry(stream):
                self._waiting.append(stream)
        connection.send(*(grave.error for grave in self._graves.values() if grave.error is not None))
        if self._going is not None:
            connection.send(self._going.frame(self._loop.time()))
        # What came over the old connection since our greeting was written, the peer does not know.
        self._counts.update(self._streams, self._graves)
        self._tell_counts()
        self.ping()
        connection.release()

    def connected(self, connection: Connection, identity: Identity | None) -> None:
        """Nothing: a session adopts connections that are connected."""

    def control(self, connection: Connection, frame: ControlFrame) -> None:
        """A frame of the peer."""
        if type(frame) is Ack:
            self._acknowledged(frame.acks)
        elif type(frame) is Ping:
            self._acknowledged(frame.acks)
            if not connection.is_clogged:  # an answer that does not leave would be wrong when it does
                now_ns = self._clock.now_ns()
                connection.send(Pong(frame.number, frame.t1_ns, now_ns, now_ns, ()))
        elif type(frame) is Pong:
            if frame.number > self._pings:
                raise RemoteProtocolError(f"{self.peer}: answers ping {frame.number}, and {self._pings} were sent")
            self._acknowledged(frame.acks)
            self.offset.add(frame.t1_ns, frame.t2_ns, frame.t3_ns, self._clock.now_ns())
            known = [number for number, grave in self._graves.items() if grave.ping < frame.number]
            for number in known:
                if number not in self._counts:
                    del self._graves[number]
            self._ping_at_graves = len(self._graves) + GRAVES
        elif type(frame) is Error:
            self._told_of(frame)
        elif type(frame) is Goaway:
            self._peer_leaves(frame)
        elif type(frame) is Auth:
            self.on_auth(connection, frame)
        else:
            raise RemoteProtocolError(f"{self.peer}: a second {type(frame).__name__.upper()}")

    def go_away(self, grace_ms: int) -> None:
        """Take no further stream of the peer, and tell it that this side ends in `grace_ms`; a later call lowers it."""
        now = self._loop.time()
        self._going = Leaving.told(Goaway(Code.GOING_AWAY, grace_ms, grace_ms), now, self._going)
        if self._connection is not None:
            self._connection.send(self._going.frame(now))

    def _peer_leaves(self, frame: Goaway) -> None:
        is_new = self.leaving is None
        self.leaving = Leaving.told(frame, self._loop.time(), self.leaving)
        if is_new:
            _log.warning("%s", self.leaving.line(self.peer, self._loop.time()))

    def _told_of(self, frame: Error) -> None:
        error = error_of(frame.code, frame.reason, frame.retry_after_ms)
        if frame.scope is Scope.CONNECTION:
            self.end(error)
            return
        stream = self._streams.get(frame.ref)
        if stream is not None:
            if self._connection is not None:
                self._connection.drop(stream, Code.CANCELLED)
            stream.come.is_ended = True
            self._bury(stream, None)
            if frame.code >> 8 == Fault.REFUSED:  # before anything was done, so it is not the peer who failed
                error.args = (f"{stream.peer}: {error}",)
                stream.lose(error)
            else:
                stream.lose(RemoteProtocolError(f"{stream.peer}: the peer gave it up: {error}"))

    def over(self, connection: Connection, closed: Closed) -> None:
        """The connection is gone: what is not acknowledged waits for the next one."""
        if connection is not self._connection:
            return
        error = why_closed(closed, self.peer)
        if closed.by_application and closed.code not in GOES_ON:
            self.end(error)
            return
        self._connection = None
        for stream in self._streams.values():
            stream.detach()
        self.state = SessionState.APART
        self._apart_since = connection.wire.heard_at  # the lease begins with the silence
        self._absence.begin(self.peer, connection.wire.heard_at, str(error))
        self._wake()
        self._owner.apart(self, error)

    # --- liveness ---------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the peer is there, and what time it is."""
        if self._connection is not None and not self._connection.is_clogged:
            self._pings += 1
            self._connection.send(Ping(self._pings, self._clock.now_ns(), ()))

    def hasten(self) -> None:
        """Another process of the same name is here: if this one is silent, it is taken to be gone sooner."""
        self._absence.hasten()
        self._wake()

    def _set_beat(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._loop.call_at(self._liveness.due, self._tick)

    def _wake(self) -> None:
        if self._liveness.wake(self._loop.time()):
            self._set_beat()
            self.ping()

    def _tick(self) -> None:
        """Once per heartbeat, seldom at rest: look whether the peer was heard, and let it hear us."""
        now = self._loop.time()
        late_s = self._liveness.look(now)
        if late_s * 1000 > self.limits.lease_ms:  # the peer has given us up, whatever of it still waits to be read here
            self.end(BrokenError(f"{self.peer}: this process stood still for {late_s:.1f} s, longer than the lease"))
        elif late_s > self._liveness.beat_s or self._asks(now):  # late by less: what came meanwhile was not read yet
            self.ping()
        if self.state is not SessionState.OVER:
            self._set_beat()

    def _asks(self, now: float) -> bool:
        """Judge the silence of the peer; whether it is to be asked now."""
        connection = self._connection
        heard_at = self._apart_since if connection is None else connection.wire.heard_at
        silent_ms = (now - heard_at) * 1000
        if silent_ms > self._absence.lease_ms:
            if connection is not None:
                connection.retire(Code.PEER_GONE, "nothing was heard for the lease")
                self._connection = None
            self.end(BrokenError(f"{self.peer}: not heard for {self._absence.lease_ms} ms"))
            return False
        if connection is None:
            if self.leaving is not None and now > self.leaving.until_s:
                self.end(error_of(Code.DRAINED, "it said that it would"))
            return False
        if connection.wire.is_refused or self._liveness.is_silent(now, heard_at):
            self._liveness.hurry(now)
            if self.state is SessionState.CONNECTED:
                self.state = SessionState.SUSPECT
                refusal = "nobody listens there (connection refused)"
                why = refusal if connection.wire.is_refused else f"silent for {silent_ms:.0f} ms"
                self._absence.begin(self.peer, heard_at, why)
                self._owner.suspicious(self)
        else:
            self.state = SessionState.CONNECTED
            self._absence.end(self.peer, now)
            if self._streams or self._graves or connection.is_within_frame:
                self._liveness.wake(now)
            elif self._liveness.rest(now, heard_at):
                return False
        grease(b"%b %d %d" % (self.identifier, self._is_client, self._pings), connection)
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self, why: Exception) -> None:
        """It is over: every stream is lost. Idempotent."""
        if self.state is SessionState.OVER:
            return
        self.state = SessionState.OVER
        for timer in (self._beat, self._counts_timer):
            if timer is not None:
                timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.retire(Code.DRAINED)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.detach()
            stream.lose(why)
        self._settled.set()
        self._owner.ended(self, why)

    async def settle(self, for_s: float) -> None:
        """Wait until every stream has ended, at most so long: what was written to closed ones has arrived then."""
        if not self._streams:
            return
        self._settled.clear()
        self._tell_counts()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), for_s)

    def close(self) -> None:
        """End it and tell the peer. Idempotent."""
        self.end(ClosedError(f"{self.peer}: the session was closed"))

    @property
    def connection(self) -> Connection | None:
        """The one that it runs on now."""
        return self._connection

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state is SessionState.OVER

    @property
    def streams(self) -> Iterable[SessionStream]:
        """Those that are not over."""
        return self._streams.values()

    def __repr__(self) -> str:
        return f"<Session with {self.peer} {self.state.value}, epoch {self.epoch}, {len(self._streams)} streams>"
