"""The engine over qh3: one connection behind the seam, for both sides."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from qh3.quic import events as native
from qh3.quic.packet import QuicErrorCode, QuicFrameType

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import (
    QUIC_DATAGRAMS_WAITING_MAX,
    QUIC_KEY_NS_MAX,
    QUIC_KEY_PACKETS_MAX,
    QUIC_REASON_CHARACTERS_MAX,
    QUIC_STREAMS_REMEMBERED,
)
from flowbridge.transports.quic.aio.reasons import explain
from flowbridge.transports.quic.engine import (
    URGENCIES,
    WRITE_BYTES_HIGH,
    WRITE_BYTES_LOW,
    Closed,
    Connected,
    DatagramReceived,
    EngineCaps,
    EngineStats,
    StreamData,
    StreamReset,
    StreamRoom,
    StreamsLeft,
    StreamStopped,
)
from flowbridge.transports.quic.qh3.configuration import CONGESTION, CONNECTION_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.engine import Address, EngineEvent
    from flowbridge.transports.quic.qh3.connection import JudgingConnection

_DATAGRAM_OVERHEAD_BYTES: Final = 1 + 20 + 4 + 16 + 1 + 4
"""Of a packet with one unreliable datagram, for the longest connection id: one byte too many breaks the connection."""
_SERVER_KEY_AGE: Final = 1.1
"""As in the other engine: the two sides do not change keys at the same time."""

_REASON_BYTES_MAX: Final = 512

_log: Final = logging.getLogger("flowbridge.quic")


class _Remembered(dict[int, None]):
    """The last streams about which something is known."""

    def add(self, stream: int) -> None:
        """Remember one, and forget the oldest when there are too many."""
        self[stream] = None
        if len(self) > QUIC_STREAMS_REMEMBERED:
            del self[next(iter(self))]


class Qh3Engine:
    """One connection over qh3; see `flowbridge.transports.quic.engine.Engine`.

    Urgencies are checked and then have no effect, and so has `consume`: qh3 serves streams in turn, and opens its
    windows by what arrived. It lets a peer have 100 bidirectional and 103 unidirectional streams, whatever the settings
    say. What fails inside it becomes a `Closed` with INTERNAL_ERROR and is counted in `faults`.
    """

    def __init__(
        self, connection: JudgingConnection, address: Address, now: float, *, handshake_seconds: float | None = None
    ) -> None:
        """Drive `connection`, which is with `address`; give up when the handshake takes longer, None for never."""
        configuration = connection.configuration
        self._connection: Final = connection
        self._is_client: Final = configuration.is_client
        self._address: Address = address
        self._handshake_seconds: Final = handshake_seconds
        self._handshake_ends_at = None if handshake_seconds is None else now + handshake_seconds
        self._events: list[EngineEvent] = []
        self._closed: Closed | None = None
        self._is_connected = False
        self._is_closing = False
        self._full: Final[set[int]] = set()
        self._ended: Final = _Remembered()  # streams whose last byte was written
        self._stopped: Final = _Remembered()  # those that the peer stopped
        self._unseen: Final[set[int]] = set()  # those that this side stopped and that still come
        self._of_peer = {False: -1, True: -1}  # the highest stream of the peer, by whether it is unidirectional
        self._awaited: Final[set[bool]] = set()  # kinds of streams that `open` had none of
        self._ids: Final = {connection.host_cid}  # those that the peer may send to
        self._datagrams = 0
        self._key_at = now
        self._key_packets = 0
        self._packets_sent = 0
        self._bytes_sent = 0
        self._bytes_received = 0
        self._rtt_min = 0.0
        self._heard_at = -math.inf
        self._caps: Final = EngineCaps(
            name="qh3",
            receive_backpressure=False,
            priorities=False,
            client_certificates=self._is_client,
            datagram_bytes_max=configuration.max_datagram_size - _DATAGRAM_OVERHEAD_BYTES,
            congestion=CONGESTION,
        )
        self.faults = 0
        self.dropped = 0
        self.on_connection_id: Callable[[bytes, bool], None] | None = None
        self.on_left: Callable[[int], None] | None = None
        self._behind: Final[set[int]] = set()  # streams that had a backlog when it was looked at last

    # --- what an acceptor asks ------------------------------------------------------------------------------------

    @property
    def is_half_open(self) -> bool:
        """Whether the handshake is under way."""
        return not self._is_connected and self._closed is None

    @property
    def is_begun(self) -> bool:
        """Whether anything that came made sense."""
        return self._connection.is_begun

    @property
    def connection_id(self) -> bytes:
        """The id that it chose for itself."""
        return self._connection.host_cid

    @property
    def connection(self) -> JudgingConnection:
        """What is under the seam; for tests."""
        return self._connection

    # --- the seam -------------------------------------------------------------------------------------------------

    @property
    def caps(self) -> EngineCaps:
        """What it can do."""
        return self._caps

    @property
    def is_client(self) -> bool:
        """Whether this side dialled."""
        return self._is_client

    @property
    def peer_address(self) -> Address:
        """Where it sends to now: a new address of the peer once it has shown that it is there."""
        if self._closed is not None or not self._connection.is_begun:
            return self._address
        path = self._connection.core.active_path[2]
        return path[0], path[1]

    @property
    def heard_at(self) -> float:
        """When a datagram came last that names this connection: qh3 does not tell whether it was authentic."""
        return self._heard_at

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """A datagram arrived."""
        if self._closed is not None:
            return
        connection = self._connection
        self._bytes_received += len(data)
        if connection.ending is not None:
            return  # it is closing: the next `transmit` says so
        is_for_nobody = self._is_client and self._is_for_nobody(data)
        if is_for_nobody and address != self._address:
            self.dropped += 1  # a stateless reset counts only from where we send to (RFC 9000, section 10.3.1)
            return
        try:
            connection.receive_datagram(data, address, now)
        except Exception as error:
            if connection.is_begun:
                self._fail("receive", error)
            else:
                self.dropped += 1
            return
        if not is_for_nobody:
            self._heard_at = now
        self._drain()
        if connection.ending is not None and connection.is_drained_by_peer:
            self._end_from(connection.ending, is_remote=True)

    def transmit(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """What is to be sent now."""
        connection = self._connection
        if self._closed is not None or not connection.is_begun:
            return ()
        try:
            datagrams: list[tuple[bytes, Address]] = connection.datagrams_to_send(now)
        except Exception as error:
            self._fail("transmit", error)
            return ()
        for data, _ in datagrams:
            self._bytes_sent += len(data)
        self._packets_sent += len(datagrams)
        if self._datagrams and connection.core.bytes_in_flight < connection.core.congestion_window:
            self._datagrams = 0
        if connection.told:
            self._drain()
        if self._behind:
            self._tell_left()
        if self._full:
            self._find_room()
        if connection.ending is not None:
            self._end_from(connection.ending, is_remote=False)
        elif datagrams:
            self._renew_key(now)
        return datagrams

    def timer(self) -> float | None:
        """When `on_timer` is due."""
        if self._closed is not None:
            return None
        due = self._connection.get_timer()
        if self._handshake_ends_at is not None and (due is None or self._handshake_ends_at < due):
            return self._handshake_ends_at
        return due

    def on_timer(self, now: float) -> None:
        """The timer's moment has come."""
        if self._closed is not None:
            return
        if self._handshake_ends_at is not None and now >= self._handshake_ends_at:
            text = f"the handshake took longer than {self._handshake_seconds:g} s"
            self._end(Closed(0, text, False, False, is_timeout=True))
            return
        try:
            self._connection.handle_timer(now)
        except Exception as error:
            self._fail("on_timer", error)
            return
        self._drain()

    def events(self) -> Sequence[EngineEvent]:
        """What happened since the last call."""
        found = self._events
        if found:
            self._events = []
        return found

    def open(self, *, unidirectional: bool = False, urgency: int = 2) -> int | None:
        """A new stream, or None when the peer allows no more."""
        _check(urgency)
        if self._closed is not None:
            return None
        stream = self._connection.open_stream(unidirectional)
        if stream is None:
            self._awaited.add(unidirectional)
        return stream

    def prioritize(self, stream: int, urgency: int, deadline: float | None = None) -> None:
        """Check the urgency, which has no effect."""
        _check(urgency)

    def write(self, stream: int, data: BytesLike, fin: bool = False) -> int:
        """Send bytes; returns how many of this stream are unsent."""
        if self._closed is not None:
            return 0
        if not self._may_send(stream):
            raise LocalProtocolError(f"stream {stream} is not one that this side can write to")
        connection = self._connection
        if not connection.core.can_send_stream(stream):
            if stream in self._ended and stream not in self._stopped:
                raise LocalProtocolError(f"stream {stream} was written to after its end")
            return 0
        if fin:
            self._ended.add(stream)
        unsent = connection.write(stream, data, fin)
        if unsent:
            self._behind.add(stream)
        if unsent > WRITE_BYTES_HIGH and not fin:
            self._full.add(stream)
        return unsent

    def backlog(self, stream: int) -> int:
        """How many bytes of a stream are unsent."""
        return 0 if self._closed is not None else self._connection.get_send_buffer_size(stream)

    def reset(self, stream: int, code: int) -> None:
        """Give up sending."""
        if self._closed is not None or not self._may_send(stream):
            return
        self._full.discard(stream)
        if self._connection.core.can_send_stream(stream) or (stream in self._ended and self.backlog(stream)):
            self._connection.reset_stream(stream, code)
            self._ended.pop(stream, None)

    def stop(self, stream: int, code: int) -> None:
        """Want no more of what the peer sends."""
        if self._closed is not None or stream in self._unseen:
            return
        try:
            self._connection.stop_stream(stream, code)
        except ValueError:  # complete, never opened, or one that only this side sends on
            return
        self._unseen.add(stream)

    def consume(self, stream: int, size_bytes: int) -> None:
        """Nothing: the windows are qh3's."""

    def send_datagram(self, data: bytes) -> bool:
        """Send an unreliable datagram, if it fits and few others wait."""
        if self._closed is not None or len(data) > self._caps.datagram_bytes_max:
            return False
        if len(data) + 5 > self._connection.datagram_frame_bytes_max or self._datagrams >= QUIC_DATAGRAMS_WAITING_MAX:
            return False
        self._datagrams += 1
        self._connection.send_datagram_frame(data)
        return True

    def ping(self) -> None:
        """Send something that has to be acknowledged."""
        if self._closed is None and self._is_connected:
            self._connection.send_ping(0)

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close with a code of the application."""
        if self._closed is None:
            self._is_closing = True
            # One that fills a packet breaks it, before anything is sent.
            text = reason[:QUIC_REASON_CHARACTERS_MAX].encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
            self._connection.close(code, None, text)

    def stats(self) -> EngineStats:
        """The state of the path; packets are counted as datagrams."""
        core = self._connection.core
        return EngineStats(
            rtt=core.smoothed_rtt or 0.0,
            rtt_min=self._rtt_min,
            window_bytes=core.congestion_window,
            in_flight_bytes=core.bytes_in_flight,
            backlog_bytes=self._connection.get_send_buffer_size(),
            probes=core.pto_count,
            packets_lost=core.loss_total,
            packets_sent=self._packets_sent,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    # --- inside ---------------------------------------------------------------------------------------------------

    def _is_for_nobody(self, data: bytes) -> bool:
        """Whether a datagram has a short header and a connection id that we did not give out."""
        return bool(data) and not data[0] & 0x80 and data[1 : 1 + CONNECTION_ID_BYTES] not in self._ids

    def _may_send(self, stream: int) -> bool:
        """Whether a stream was opened and has a direction of ours."""
        is_unidirectional = bool(stream & 2)
        if bool(stream & 1) is not self._is_client:  # a client's are even
            return stream // 4 < self._connection.opened(is_unidirectional)
        return not is_unidirectional and stream <= self._of_peer[False]

    def _drain(self) -> None:
        """Take over what qh3 has to tell."""
        connection, events = self._connection, self._events
        while (event := connection.next_told()) is not None:
            if isinstance(event, native.StreamDataReceived):
                stream, is_last = event.stream_id, event.end_stream
                self._note(stream)
                if stream not in self._unseen:
                    events.append(StreamData(stream, event.data, is_last))
                elif is_last:
                    self._unseen.discard(stream)
            elif isinstance(event, native.DatagramFrameReceived):
                events.append(DatagramReceived(event.data))
            else:
                self._translate(event)
            if self._closed is not None:
                return
        if self._is_connected:
            rtt = connection.core.latest_rtt
            if rtt is not None and (rtt < self._rtt_min or not self._rtt_min):
                self._rtt_min = rtt
            if self._awaited and any(connection.has_room(kind) for kind in self._awaited):
                self._awaited.clear()
                events.append(StreamsLeft())

    def _translate(self, event: native.QuicEvent) -> None:
        events = self._events
        if isinstance(event, native.StreamReset):
            self._note(event.stream_id)
            if event.stream_id in self._unseen:
                self._unseen.discard(event.stream_id)
            else:
                events.append(StreamReset(event.stream_id, event.error_code))
        elif isinstance(event, native.StopSendingReceived):
            self._note(event.stream_id)
            if event.stream_id not in self._stopped:  # its frame may come again
                self._stopped.add(event.stream_id)
                self._full.discard(event.stream_id)
                events.append(StreamStopped(event.stream_id, event.error_code))
        elif isinstance(event, native.HandshakeCompleted):
            self._complete()
        elif isinstance(event, native.ConnectionIdIssued | native.ConnectionIdRetired):
            is_issued = isinstance(event, native.ConnectionIdIssued)
            (self._ids.add if is_issued else self._ids.discard)(event.connection_id)
            if self.on_connection_id is not None:
                self.on_connection_id(event.connection_id, is_issued)
        elif isinstance(event, native.ConnectionTerminated):
            self._terminated(event)

    def _complete(self) -> None:
        """The handshake is over: no server gets further unjudged, whatever qh3 made of our checks."""
        identity = self._connection.peer_identity
        if identity is None and self._is_client:
            self._fail("handshake", RuntimeError("a peer that has to show a certificate got through without"))
            return
        self._is_connected = True
        self._handshake_ends_at = None
        self._events.append(Connected(identity))

    def _terminated(self, event: native.ConnectionTerminated) -> None:
        """qh3 ended the connection by itself; when the peer has forgotten it, it says nothing about why."""
        if event.reason_phrase == _IDLE:
            text = f"nothing was heard of the peer for {self._connection.configuration.idle_timeout:g} s"
            self._end(Closed(0, text, False, False, is_timeout=True))
        elif not (event.error_code or event.frame_type or event.reason_phrase or self._is_closing):
            self._end(Closed(0, "the peer forgot this connection", False, True, is_reset=True))
        else:
            self._end_from(event, is_remote=False)

    def _note(self, stream: int) -> None:
        """A stream exists; of the peer's all before it do too."""
        if bool(stream & 1) is self._is_client:
            kind = bool(stream & 2)
            if stream > self._of_peer[kind]:
                self._of_peer[kind] = stream

    def _tell_left(self) -> None:
        """Tell of every stream that had a backlog: qh3 does not say of which it sent."""
        for stream in tuple(self._behind):
            if not self.backlog(stream):
                self._behind.discard(stream)
            if self.on_left is not None:
                self.on_left(stream)

    def _find_room(self) -> None:
        for stream in sorted(self._full):
            if self.backlog(stream) < WRITE_BYTES_LOW:
                self._full.discard(stream)
                if self._connection.core.can_send_stream(stream):
                    self._events.append(StreamRoom(stream))

    def _renew_key(self, now: float) -> None:
        """Change the key before it protected too much (RFC 9001, section 6.6) or is too old."""
        sent = self._packets_sent
        age = QUIC_KEY_NS_MAX / 1e9 * (1.0 if self._is_client else _SERVER_KEY_AGE)
        if sent - self._key_packets < QUIC_KEY_PACKETS_MAX and now - self._key_at < age:
            return
        if self._connection.is_confirmed:
            self._key_packets, self._key_at = sent, now
            self._connection.request_key_update()

    def _fail(self, where: str, error: Exception) -> None:
        """qh3 broke: the next `transmit` tells the peer, if it can, and ends the connection."""
        self.faults += 1
        _log.error("qh3 failed in %s: %r", where, error, exc_info=error)
        code, text = int(QuicErrorCode.INTERNAL_ERROR), f"{type(error).__name__} in {where}"
        if where == "transmit" or not self._connection.is_begun:
            self._end(Closed(code, text, False, False))
        else:
            self._connection.close(code, int(QuicFrameType.PADDING), text)

    def _end_from(self, event: native.ConnectionTerminated, *, is_remote: bool) -> None:
        by_application = event.frame_type is None
        reason = "".join(c if c.isprintable() else "?" for c in event.reason_phrase[:QUIC_REASON_CHARACTERS_MAX])
        if not by_application:
            reason = explain(event.error_code, reason, self._connection.configuration.alpn_protocols or ())
        self._end(Closed(int(event.error_code), reason, by_application, is_remote))

    def _end(self, closed: Closed) -> None:
        if self._closed is None:
            self._closed = closed
            self._events.append(closed)


_IDLE: Final = "Idle timeout"


def _check(urgency: int) -> None:
    if not 0 <= urgency < URGENCIES:
        raise LocalProtocolError(f"urgency is 0 to {URGENCIES - 1}, not {urgency}")
