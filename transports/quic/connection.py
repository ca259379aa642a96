"""One QUIC connection of a session: its control stream, and the QUIC stream of each session stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from flowbridge.codec.codes import Code
from flowbridge.codec.session_frames import control_reader, first_frame, read_control, read_first, whole
from flowbridge.codec.session_words import Accept, Open, StreamKind
from flowbridge.errors import RemoteProtocolError
from flowbridge.transports.quic.engine import (
    Closed,
    Connected,
    StreamData,
    StreamReset,
    StreamRoom,
    StreamsLeft,
    StreamStopped,
)

if TYPE_CHECKING:
    from flowbridge.codec.framing import FirstFrame
    from flowbridge.codec.session_words import ControlFrame
    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.engine import EngineEvent, Identity
    from flowbridge.transports.quic.stream import SessionStream
    from flowbridge.transports.quic.wire import Wire

CONTROL: Final = 0
"""The client's first bidirectional stream (RFC 9000, section 2.1)."""


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

    def streams_left(self, connection: Connection) -> None:
        """`carry` returned False, and may not do so now."""
        ...

    def over(self, connection: Connection, closed: Closed) -> None:
        """The connection is gone; nothing more is told."""
        ...


class Connection:
    """Speaks over a wire; its user may change from one that greets to the session."""

    def __init__(self, wire: Wire, user: ConnectionUser) -> None:
        self.user = user
        self.wire: Final = wire
        self.identity: Identity | None = None
        self.is_over = False
        self._engine = wire.engine
        self._reader = control_reader()
        self._fronts: dict[int, FirstFrame] = {}  # QUIC streams whose first frame is not all here
        self._awaited: dict[int, SessionStream] = {}  # QUIC streams of ours that the peer has not accepted
        self._streams: dict[int, SessionStream] = {}
        self._quic: dict[int, int] = {}  # the QUIC stream of each session stream
        self._has_control = False
        wire.on_event = self._event

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, *frames: ControlFrame) -> None:
        """Send frames on the control stream; never waits."""
        if self.is_over:
            return
        if not self._has_control:
            self._has_control = True
            if self._engine.is_client:
                number = self._engine.open(urgency=0)
                assert number == CONTROL, f"the control stream is {number}"
            else:
                self._engine.prioritize(CONTROL, 0)
        self._engine.write(CONTROL, b"".join([whole(frame) for frame in frames]))
        self.wire.touched()

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
        self.wire.touched()
        return self._engine.write(number, data, fin)

    def backlog(self, number: int) -> int:
        """What is unsent there."""
        return self._engine.backlog(number)

    def prioritize(self, number: int, urgency: int, deadline: float | None) -> None:
        """Change the place of a QUIC stream in the order of streams."""
        self._engine.prioritize(number, urgency, deadline)

    def path(self) -> tuple[int, int, int]:
        """As the last three of `stream.Before`; 0 if unknown."""
        stats = self._engine.stats()
        return stats.window_bytes, round(stats.rtt * 1e9), round((stats.rtt - stats.rtt_min / 2) * 1e9)

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
            self._engine.reset(quic, code)
            self._engine.stop(quic, code)
            self.wire.touched()

    def forget(self, stream: SessionStream) -> None:
        """The stream has ended both ways."""
        quic = self._quic.pop(stream.number, None)
        if quic is not None:
            self._streams.pop(quic, None)
            self._awaited.pop(quic, None)

    def close(self, code: int, reason: str = "") -> None:
        """Close it; `over` is told when the engine says so."""
        if not self.is_over:
            self._engine.close(code, reason)
            self.wire.touched()

    def retire(self, code: int, reason: str = "") -> None:
        """Close it and tell nothing any more: another one has taken its place."""
        if not self.is_over:
            self.is_over = True
            self.wire.on_event = _nothing
            self._engine.close(code, reason)
            self.wire.touched()

    # --- in ---------------------------------------------------------------------------------------------------------

    def _event(self, event: EngineEvent) -> None:
        if self.is_over:
            return
        try:
            self._dispatch(event)
        except RemoteProtocolError as error:
            self.close(getattr(error, "code", None) or Code.UNEXPECTED, str(error))

    def _dispatch(self, event: EngineEvent) -> None:
        if type(event) is StreamData:
            number = event.stream
            stream = self._streams.get(number)
            if stream is not None:
                stream.arrived(event.data, event.fin)
            elif number == CONTROL:
                self._control(event)
            else:
                self._first(number, event)
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
            self.user.over(self, event)
        elif type(event) in (StreamReset, StreamStopped) and event.stream == CONTROL:  # type: ignore[union-attr]
            raise RemoteProtocolError("the peer gave up the control stream")
        # An ERROR on the control stream says why a session stream was given up, also if this connection breaks first.

    def _control(self, event: StreamData) -> None:
        self._engine.consume(CONTROL, len(event.data))
        for kind, header, body in self._reader.feed(event.data):
            frame = read_control(kind, header, body)
            if frame is not None:
                self.user.control(self, frame)
            if self.is_over:
                return
        if (failure := self._reader.failure) is not None:
            raise failure
        if event.fin:
            raise RemoteProtocolError("the peer ended the control stream")

    def _first(self, number: int, event: StreamData) -> None:
        """The beginning of a session stream's direction: OPEN of the peer's, ACCEPT on one of ours."""
        front = self._fronts.get(number)
        if front is None:
            if number & 2:
                raise RemoteProtocolError(f"stream {number} is unidirectional, and this protocol has none")
            if number not in self._awaited and (number & 1 == (not self._engine.is_client)):
                self._engine.consume(number, len(event.data))  # of a stream that was given up
                return
            front = self._fronts[number] = first_frame()
        found = front.feed(event.data)
        self._engine.consume(number, len(event.data) - (len(found[3]) if found is not None else 0))
        if found is None:
            if event.fin:
                raise RemoteProtocolError(f"stream {number} ended within its first frame")
            return
        del self._fronts[number]
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
        stream.come.restart(first.from_bytes)
        del self._awaited[number]
        self._streams[number] = stream
        return stream

    def _opened(self, number: int, first: Any) -> SessionStream | None:
        if type(first) is not Open:
            raise RemoteProtocolError(f"stream {number} of the peer begins with {first!r:.80}")
        stream = self.user.offered(self, first)
        if stream is None:
            self._engine.stop(number, Code.CANCELLED)
            self._engine.reset(number, Code.CANCELLED)
            self.wire.touched()
            return None
        stream.come.restart(first.from_bytes)
        self._engine.write(number, whole(Accept(stream.number, stream.out.sent)))
        self._streams[number] = stream
        self._attach(stream, number)
        return stream

    def __repr__(self) -> str:
        return f"<Connection to {self._engine.peer_address}, {len(self._streams)} streams>"


def _nothing(_: object) -> None:
    """Nobody is told."""
