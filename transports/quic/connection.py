"""One QUIC connection of a session: its control stream, and the QUIC stream of each session stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from flowbridge.codec.codes import Code, from_transport
from flowbridge.codec.session_frames import control_reader, first_frame, grease, read_control, read_first, whole
from flowbridge.codec.session_words import Accept, Open, StreamKind
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import (
    CONTROL_FRAMES_PER_TURN_MAX,
    CONTROL_UNSENT_BYTES_HIGH,
    CONTROL_UNSENT_BYTES_MAX,
    FRAME_S,
    RESETS_BURST_MAX,
    RESETS_PER_SECOND_MAX,
)
from flowbridge.machines.rate import Rate
from flowbridge.transports.quic.engine import (
    UNIDIRECTIONAL,
    Closed,
    Connected,
    StreamData,
    StreamReset,
    StreamRoom,
    StreamsLeft,
    StreamStopped,
)
from flowbridge.transports.quic.refusing import refused
from flowbridge.transports.quic.single_streams import SingleStreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.codec.framing import FirstFrame
    from flowbridge.codec.session_words import ControlFrame
    from flowbridge.contracts import BytesLike
    from flowbridge.errors import FlowbridgeError
    from flowbridge.transports.quic.engine import EngineEvent, Identity
    from flowbridge.transports.quic.stream import SessionStream
    from flowbridge.transports.quic.wire import Wire

CONTROL: Final = 0
"""The client's first bidirectional stream (RFC 9000, section 2.1)."""
_CONTROL_BYTES: Final = 4096  # that are cut into frames at once: a thousand of the smallest
_LOOK_S: Final = 1.0  # between two looks at frames that are not whole


def why_closed(closed: Closed, peer: str) -> FlowbridgeError:
    """Why a connection ended, as an error that says what to do about it."""
    closing = from_transport(
        closed.code,
        by_application=closed.by_application,
        is_timeout=closed.is_timeout,
        is_reset=closed.is_reset,
        reason=closed.reason,
    )
    return closing.error(peer, is_remote=closed.is_remote)


class ConnectionUser(Protocol):
    """Who is told of what happens on a connection. Each call may raise RemoteProtocolError, which closes it."""

    def connected(self, connection: Connection, identity: Identity | None) -> None:
        """The handshake is complete."""
        ...

    def control(self, connection: Connection, frame: ControlFrame) -> None:
        """A frame came on the control stream."""
        ...

    def offered(self, connection: Connection, opened: Open) -> SessionStream | None:
        """The peer opens a stream, or goes on with one; None when it is not wanted any more."""
        ...

    def single(self, number: int, data: bytes) -> None:
        """A message came beside the session stream of this number."""
        ...

    def streams_left(self, connection: Connection) -> None:
        """`carry` returned False, and may not do so now."""
        ...

    def over(self, connection: Connection, closed: Closed) -> None:
        """The connection is gone; nothing more is told."""
        ...


class Connection:
    """Speaks over a wire; its user may change from one that greets to the session.

    Nothing is told any more once it is being closed, but that it is over. One that `is_early` tells nothing of session
    streams before `release`: they may overtake the answer to a greeting. All calls are made on the loop.
    """

    def __init__(self, wire: Wire, user: ConnectionUser, *, is_early: bool = False) -> None:
        self.user = user
        self.wire: Final = wire
        self.identity: Identity | None = None
        self.is_over = False
        self.on_written: Callable[[], None] | None = None
        """Called once, with the next bytes of a stream: what is sent then goes with them."""
        self.singles: Final = SingleStreams(wire.engine, wire.touched)
        self._engine = wire.engine
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._is_early = is_early
        self._is_held = False
        self._later: list[EngineEvent] = []  # what came meanwhile
        self._reader = control_reader()
        self._pieces: deque[tuple[memoryview, bool]] = deque()  # of the control stream, not yet cut into frames
        self._frames: deque[tuple[int, bytes, bytes]] = deque()  # ... and cut
        self._frames_left = CONTROL_FRAMES_PER_TURN_MAX
        self._goes_on = False  # `_go_on` is due
        self._fronts: dict[int, FirstFrame] = {}  # QUIC streams whose first frame is not all here
        self._unfinished: dict[int, int] = {}  # QUIC streams within a frame, since which look; the oldest first
        self._looks = 0  # at which the peer was heard and we did not let it wait
        self._looked_at = 0.0
        self._look_timer: asyncio.TimerHandle | None = None
        self._awaited: dict[int, SessionStream] = {}  # QUIC streams of ours that the peer has not accepted
        self._streams: dict[int, SessionStream] = {}
        self._quic: dict[int, int] = {}  # the QUIC stream of each session stream
        self._given_up: set[int] = set()  # QUIC streams of which this turn may still bring something
        self._resets = Rate(RESETS_PER_SECOND_MAX, RESETS_BURST_MAX)
        self._has_control = False
        wire.on_event = self._event
        self._engine.on_left = self._left

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, *frames: ControlFrame) -> None:
        """Send frames on the control stream; never waits."""
        self._send(b"".join([whole(frame) for frame in frames]))

    def send_grease(self, number: int, body: bytes) -> None:
        """Send a frame that the peer skips; see `session_frames.grease`."""
        self._send(grease(number, body))

    def _send(self, data: bytes) -> None:
        if self.is_over or self._is_closing:
            return
        if not self._has_control:
            self._has_control = True
            if self._engine.is_client:
                number = self._engine.open(urgency=0)
                assert number == CONTROL, f"the control stream is {number}"
            else:
                self._engine.prioritize(CONTROL, 0)
        unsent = self._engine.write(CONTROL, data)
        self.wire.touched()
        if unsent > CONTROL_UNSENT_BYTES_MAX:
            self.close(Code.LIMIT, f"more than {CONTROL_UNSENT_BYTES_MAX} bytes of control frames were not taken")

    @property
    def is_clogged(self) -> bool:
        """Whether the peer takes too little of the control stream for what can as well be said later."""
        return self._engine.backlog(CONTROL) > CONTROL_UNSENT_BYTES_HIGH

    def carry(self, stream: SessionStream) -> bool:
        """Open a QUIC stream for a session stream that this end has opened; False when there is room for none now."""
        quic = self._engine.open(urgency=stream.rank[0])
        if quic is None:
            return False
        opened = Open(stream.number, StreamKind(stream.kind), stream.label, stream.key, stream.out.sent)
        self._engine.write(quic, whole(opened))
        self._awaited[quic] = stream
        self._attach(stream, quic)
        return True

    def _attach(self, stream: SessionStream, quic: int) -> None:
        self._quic[stream.number] = quic
        stream.attach(self, quic)
        self.wire.touched()

    def write(self, number: int, data: BytesLike, fin: bool) -> int:
        """Send on a QUIC stream; returns what is unsent there."""
        on_written, self.on_written = self.on_written, None
        if on_written is not None:
            on_written()
        self.wire.touched()
        return self._engine.write(number, data, fin)

    def backlog(self, number: int) -> int:
        """What is unsent there."""
        return self._engine.backlog(number)

    def prioritize(self, number: int, urgency: int, deadline: float | None) -> None:
        """Change the place of a QUIC stream in the order of streams."""
        self._engine.prioritize(number, urgency, deadline)

    def _left(self, number: int) -> None:
        """Less of a QUIC stream is unsent."""
        stream = self._streams.get(number) or self._awaited.get(number)
        if stream is not None:
            stream.keeper.moved(stream)

    def path(self) -> tuple[int, int, int, int]:
        """As the last four of `stream.Before`; 0 if unknown."""
        stats = self._engine.stats()
        free_bytes = max(0, stats.window_bytes - stats.in_flight_bytes)
        return stats.window_bytes, free_bytes, round(stats.rtt * 1e9), round((stats.rtt - stats.rtt_min / 2) * 1e9)

    def consume(self, number: int, size_bytes: int) -> None:
        """So much of what arrived there was used."""
        self._engine.consume(number, size_bytes)
        self.wire.touched()

    def drop(self, stream: SessionStream, code: int) -> None:
        """The stream is over before its end: give up both directions."""
        quic = self._quic.pop(stream.number, None)
        if quic is not None and not self.is_over:
            self._streams.pop(quic, None)
            self._awaited.pop(quic, None)
            self._give_up(quic, code)

    def _give_up(self, quic: int, code: int) -> None:
        """Want no more of a QUIC stream. What the engine has told already may still come within this turn."""
        self._drop_front(quic)
        self._engine.reset(quic, code)
        self._engine.stop(quic, code)
        self.wire.touched()
        if not self._given_up:
            self._loop.call_soon(self._given_up.clear)
        self._given_up.add(quic)

    def forget(self, stream: SessionStream) -> None:
        """The stream has ended both ways."""
        quic = self._quic.pop(stream.number, None)
        if quic is not None:
            self._streams.pop(quic, None)
            self._awaited.pop(quic, None)

    def close(self, code: int, reason: str = "") -> None:
        """Close it; `over` is told when the engine says so, and nothing before that. Idempotent."""
        if not self.is_over and not self._is_closing:
            self._is_closing = True
            self._let_go()
            self._engine.close(code, reason)
            self.wire.touched()

    def retire(self, code: int, reason: str = "") -> None:
        """Close it and tell nothing any more: another one has taken its place."""
        if not self.is_over:
            self.is_over = True
            self._let_go()
            self.wire.on_event = _nothing
            self._engine.close(code, reason)
            self.wire.touched()

    def _let_go(self) -> None:
        """Nothing more is read."""
        self._pieces.clear()
        self._frames.clear()
        self._fronts.clear()
        self._unfinished.clear()
        self.singles.clear()
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    # --- in ---------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Tell nothing until `release`, when everything that came meanwhile is told."""
        self._is_held = True

    def release(self) -> None:
        """Go on after `hold`, and tell of session streams."""
        if not self._is_held and not self._is_early:
            return
        self._is_held = self._is_early = False
        if not self._goes_on:
            self._go_on()
        later, self._later = self._later, []
        for event in later:
            self._event(event)

    def _event(self, event: EngineEvent) -> None:
        if self.is_over or (self._is_closing and type(event) is not Closed):
            return
        if self._is_held or (self._is_early and getattr(event, "stream", CONTROL) != CONTROL):
            self._later.append(event)
            return
        try:
            self._dispatch(event)
        except RemoteProtocolError as error:
            self._refuse(error)

    def _refuse(self, error: RemoteProtocolError) -> None:
        self.close(error.code or Code.UNEXPECTED, str(error))

    def _dispatch(self, event: EngineEvent) -> None:
        if type(event) is StreamData:
            stream = self._streams.get(event.stream)
            if stream is not None:
                stream.arrived(event.data, event.fin)
            else:
                self._arrived(event)
        elif type(event) is StreamRoom:
            stream = self._streams.get(event.stream) or self._awaited.get(event.stream)
            if stream is not None:
                stream.room()
        elif type(event) is Connected:
            self.identity = event.identity
            self.user.connected(self, event.identity)
        elif type(event) is StreamsLeft:
            self.user.streams_left(self)
        elif type(event) is Closed:
            self.is_over = True
            self._let_go()
            self.user.over(self, event)
        elif type(event) is StreamReset or type(event) is StreamStopped:
            self._gave_up(event)

    def _arrived(self, event: StreamData) -> None:
        """Bytes of what is no session stream, or not yet."""
        number = event.stream
        if number == CONTROL:
            self._pieces.append((memoryview(event.data), event.fin))
            if not self._goes_on:
                self._read_control()
        elif number & UNIDIRECTIONAL:
            single = self.singles.arrived(number, event.data, event.fin)
            if single is not None:
                self.user.single(*single)
        elif number not in self._given_up:
            self._first(number, event)

    def _gave_up(self, event: StreamReset | StreamStopped) -> None:
        """The peer gave up a QUIC stream; an ERROR says why, also if this connection breaks first."""
        if event.stream == CONTROL:
            raise RemoteProtocolError("the peer gave up the control stream")
        self._drop_front(event.stream)
        self.singles.drop(event.stream)
        if not self._resets.take(self._loop.time()):
            raise refused(Code.LIMIT, f"more than {RESETS_PER_SECOND_MAX} streams were given up within a second")

    # --- the control stream -----------------------------------------------------------------------------------------

    def _read_control(self) -> None:
        """Tell the frames that came: so many of one turn, that others get theirs."""
        frames, reader = self._frames, self._reader
        while True:
            while frames:
                if not self._frames_left:
                    self._goes_on = True
                    self._loop.call_soon(self._go_on)
                    return
                self._frames_left -= 1
                frame = read_control(*frames.popleft())
                if frame is not None:
                    self.user.control(self, frame)
                    if self._is_held or self._is_closing or self.is_over:
                        return
            if (failure := reader.failure) is not None:
                raise refused(failure.code or Code.FRAME, str(failure))
            if not self._pieces:
                return
            self._cut_control()

    def _cut_control(self) -> None:
        """Cut some bytes of the control stream into frames; they are used then, so that few of them wait here."""
        data, fin = self._pieces.popleft()
        if len(data) > _CONTROL_BYTES:
            self._pieces.appendleft((data[_CONTROL_BYTES:], fin))
            data, fin = data[:_CONTROL_BYTES], False
        self._engine.consume(CONTROL, len(data))
        try:
            self._frames.extend(self._reader.feed(bytes(data)))
        except RemoteProtocolError as error:
            raise refused(error.code or Code.FRAME, str(error)) from error
        if self._frames or not self._reader.held_bytes:
            self._unfinished.pop(CONTROL, None)
        if self._reader.held_bytes:
            self._await_rest(CONTROL)
        if fin:
            raise RemoteProtocolError("the peer ended the control stream")

    def _go_on(self) -> None:
        """Another turn."""
        self._goes_on = False
        self._frames_left = CONTROL_FRAMES_PER_TURN_MAX
        if not (self.is_over or self._is_closing or self._is_held):
            try:
                self._read_control()
            except RemoteProtocolError as error:
                self._refuse(error)

    # --- frames that do not end -------------------------------------------------------------------------------------

    @property
    def is_within_frame(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return bool(self._unfinished)

    def _await_rest(self, number: int) -> None:
        """A frame is not whole: only so long, while the peer is heard."""
        if number not in self._unfinished:
            self._unfinished[number] = self._looks
            if self._look_timer is None:
                self._looked_at = self._loop.time()
                self._look_timer = self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._look_timer = None
        since = next(iter(self._unfinished.values()), None)
        if since is None:
            return
        # A peer that is cut off cannot go on, nor one whose window is full of what is not taken here.
        if self.wire.heard_at > self._looked_at and not any(one.is_behind for one in self._streams.values()):
            self._looks += 1
        if self._looks - since >= FRAME_S / _LOOK_S:
            self.close(Code.FRAME, f"a frame was not whole after {FRAME_S} s")
            return
        self._looked_at = self._loop.time()
        self._look_timer = self._loop.call_later(_LOOK_S, self._look)

    def _drop_front(self, number: int) -> None:
        if self._fronts.pop(number, None) is not None:
            self._unfinished.pop(number, None)

    # --- session streams --------------------------------------------------------------------------------------------

    def _first(self, number: int, event: StreamData) -> None:
        """The beginning of a session stream's direction: OPEN of the peer's, ACCEPT on one of ours."""
        front = self._fronts.get(number)
        if front is None:
            if number not in self._awaited and (number & 1 == (not self._engine.is_client)):
                self._engine.consume(number, len(event.data))  # of a stream that was given up
                return
            front = self._fronts[number] = first_frame()
        try:
            found = front.feed(event.data)
        except RemoteProtocolError as error:
            raise refused(error.code or Code.FRAME, f"stream {number}: {error}") from error
        self._engine.consume(number, len(event.data) - (len(found[3]) if found is not None else 0))
        if found is None:
            if event.fin:
                raise refused(Code.FRAME, f"stream {number} ended within its first frame")
            self._await_rest(number)
            return
        self._drop_front(number)
        kind, header, body, rest = found
        first = read_first(kind, header, body)
        stream = self._accepted(number, first) if number in self._awaited else self._opened(number, first)
        if stream is not None:
            if rest or event.fin:
                stream.arrived(rest, event.fin)
        else:
            self._engine.consume(number, len(rest))

    def _accepted(self, number: int, first: Any) -> SessionStream:
        stream = self._awaited[number]
        if type(first) is not Accept or first.number != stream.number:
            raise RemoteProtocolError(f"stream {number} is not accepted but begins with {first!r:.80}")
        _restart(stream, first.from_bytes)
        del self._awaited[number]
        self._streams[number] = stream
        return stream

    def _opened(self, number: int, first: Any) -> SessionStream | None:
        if type(first) is not Open:
            raise RemoteProtocolError(f"stream {number} of the peer begins with {first!r:.80}")
        if first.number in self._quic:
            raise RemoteProtocolError(f"stream {number} opens {first.number}, which another one carries")
        stream = self.user.offered(self, first)
        if self._is_closing or self.is_over:
            return None
        if stream is None:
            self._give_up(number, Code.CANCELLED)
            return None
        _restart(stream, first.from_bytes)
        self._engine.write(number, whole(Accept(stream.number, stream.out.sent)))
        self._streams[number] = stream
        self._attach(stream, number)
        return stream

    def __repr__(self) -> str:
        return f"<Connection to {self._engine.peer_address}, {len(self._streams)} streams>"


def _restart(stream: SessionStream, from_bytes: int) -> None:
    try:
        stream.come.restart(from_bytes)
    except RemoteProtocolError as error:
        raise refused(Code.GAP, str(error)) from error


def _nothing(_: object) -> None:
    """Nobody is told."""
