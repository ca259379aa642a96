"""The engine over aioquic: one connection behind the seam, for both sides."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from aioquic.quic import events as aio
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import QUIC_KEY_NS_MAX, QUIC_KEY_PACKETS_MAX, QUIC_REASON_CHARACTERS_MAX
from flowbridge.transports.quic.aio.configuration import CONGESTION
from flowbridge.transports.quic.aio.connection import CONNECTION_ID_BYTES, PACKET_NUMBER_BYTES, TAG_BYTES
from flowbridge.transports.quic.aio.reasons import explain
from flowbridge.transports.quic.aio.reset import is_reset
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.aio.connection import BoundedConnection
    from flowbridge.transports.quic.engine import Address, EngineEvent

CLOCK_STEP: Final = 1e-6
"""A timer is served this much late, in seconds: aioquic compares `sent + delay <= now` where it sets one and
`sent <= now - delay` where it is due, which differ in the last bit, for ever when the clock stands still."""

_DATAGRAM_OVERHEAD_BYTES: Final = 1 + CONNECTION_ID_BYTES + PACKET_NUMBER_BYTES + TAG_BYTES + 1 + 2
_SERVER_KEY_AGE: Final = 1.1
"""The server changes keys by age a tenth later than the client, so that they do not do it at the same time: packets
that are on their way then are lost."""

_log: Final = logging.getLogger("flowbridge.quic")


class AioquicEngine:
    """One connection over aioquic; see `flowbridge.transports.quic.engine.Engine`.

    What fails inside aioquic becomes a `Closed` with INTERNAL_ERROR and is counted in `faults`, or, when it was before
    a packet was found to be authentic, in `dropped`, and costs that packet only.
    """

    def __init__(
        self, connection: BoundedConnection, address: Address, now: float, *, handshake_seconds: float | None = None
    ) -> None:
        """Drive `connection`, which is with `address`; give up when the handshake takes longer, None for never."""
        self._connection: Final = connection
        self._told: Final = connection.told
        self._inflow: Final = connection.inflow
        self._streams: Final = connection.streams
        self._is_client: Final = connection.configuration.is_client
        self._address: Address = address
        self._handshake_seconds: Final = handshake_seconds
        self._handshake_ends_at = None if handshake_seconds is None else now + handshake_seconds
        self._events: list[EngineEvent] = []
        self._closed: Closed | None = None
        self._is_connected = False
        self._full: Final[set[int]] = set()
        self._key_at = now
        self._key_packets = 0
        self._bytes_sent = 0
        self._bytes_received = 0
        self._caps: Final = EngineCaps(
            name="aioquic",
            receive_backpressure=True,
            priorities=True,
            client_certificates=True,
            datagram_bytes_max=connection.configuration.max_datagram_size - _DATAGRAM_OVERHEAD_BYTES,
            congestion=CONGESTION,
        )
        self._heard_at = -math.inf
        self.faults = 0
        self.dropped = 0
        self.on_connection_id: Callable[[bytes, bool], None] | None = None
        self.on_left: Callable[[int], None] | None = None
        connection.tell_sent(self._left)

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
    def connection(self) -> BoundedConnection:
        """What is under the seam; for tests and the acceptor."""
        return self._connection

    # --- the seam -------------------------------------------------------------------------------------------------

    @property
    def caps(self) -> EngineCaps:
        """What this engine can do; `datagram_bytes_max` is for a peer with connection ids like ours."""
        return self._caps

    @property
    def is_client(self) -> bool:
        """Whether this side dialled."""
        return self._is_client

    @property
    def peer_address(self) -> Address:
        """Where it sends to now."""
        return self._connection.get_peer_address() or self._address

    @property
    def heard_at(self) -> float:
        """When the last datagram came of which a packet was authentic."""
        return self._heard_at

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram; one that is not authentic changes nothing."""
        if self._closed is not None:
            return
        connection = self._connection
        self._bytes_received += len(data)
        if (
            self._is_client
            and data[1 : 1 + CONNECTION_ID_BYTES] != connection.host_cid
            and self._is_reset(data, address)
        ):
            self._end(Closed(0, "the peer forgot this connection", False, True, is_reset=True))
            return
        idle_at = connection.idle_at
        try:
            connection.receive_datagram(data, address, now)
        except Exception as error:
            if not connection.was_authentic(error):
                self.dropped += 1
            else:
                self._fail("receive", error)
            return
        if connection.idle_at != idle_at:  # an authentic packet moves it, and nothing else that comes
            self._heard_at = now
        if self._told or connection.has_streams_left:
            self._drain()
        if connection.ending is not None and connection.is_drained_by_peer:
            self._end_from(connection.ending, is_remote=True)

    def transmit(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """Build what is to be sent now; ask for `events` after it, too."""
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
        if self._told:
            self._drain()
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
        try:
            due: float | None = self._connection.get_timer()
        except Exception as error:
            self._fail("timer", error)
            return None
        if self._handshake_ends_at is not None and (due is None or self._handshake_ends_at < due):
            return self._handshake_ends_at
        return due

    def on_timer(self, now: float) -> None:
        """Look for losses, probe, or end a connection that was silent or half open for too long."""
        if self._closed is not None:
            return
        if self._handshake_ends_at is not None and now >= self._handshake_ends_at:
            text = f"the handshake took longer than {self._handshake_seconds:g} s"
            self._end(Closed(0, text, False, False, is_timeout=True))
            return
        connection, now = self._connection, now + CLOCK_STEP
        idle_at = connection.idle_at
        if idle_at is None:
            return
        if now >= idle_at and connection.ending is None:
            text = f"nothing was heard of the peer for {connection.configuration.idle_timeout:g} s"
            self._end(Closed(0, text, False, False, is_timeout=True))
            return
        try:
            connection.handle_timer(now)
        except Exception as error:
            self._fail("on_timer", error)
            return
        self._drain()

    def events(self) -> Sequence[EngineEvent]:
        """What happened since the last call, in order."""
        found = self._events
        if found:
            self._events = []
        return found

    def open(self, *, unidirectional: bool = False, urgency: int = 2) -> int | None:
        """A new stream, or None."""
        if self._closed is not None:
            return None
        return self._connection.open_stream(unidirectional, _checked(urgency))

    def prioritize(self, stream: int, urgency: int, deadline: float | None = None) -> None:
        """Move a stream in the order."""
        if self._closed is None:
            self._connection.prioritize(stream, _checked(urgency), deadline)

    def write(self, stream: int, data: BytesLike, fin: bool = False) -> int:
        """Queue bytes; returns how many of the stream were never sent.

        Raises:
            LocalProtocolError: after `fin`, or on a stream that this side never could write to.
        """
        connection = self._connection
        if self._closed is not None:
            return 0
        if not connection.writable(stream):
            if not connection.can_send(stream) or not connection.is_opened(stream):
                raise LocalProtocolError(f"stream {stream} is not one that this side can write to")
            return 0
        if connection.has_ended(stream):
            raise LocalProtocolError(f"stream {stream} was written to after its end")
        if isinstance(data, memoryview) and data.nbytes != len(data):
            data = data.cast("B")
        unsent = connection.write(stream, data, fin)
        if unsent > WRITE_BYTES_HIGH and not fin:
            self._full.add(stream)
        return unsent

    def backlog(self, stream: int) -> int:
        """How many bytes of a stream were never sent."""
        return 0 if self._closed is not None else self._connection.backlog(stream)

    def reset(self, stream: int, code: int) -> None:
        """Give up sending a stream."""
        if self._closed is None and self._connection.writable(stream):
            self._connection.reset_stream(stream, code)
            self._dropped(stream)

    def stop(self, stream: int, code: int) -> None:
        """Want no more of a stream."""
        if self._closed is None:
            self._connection.stop_receiving(stream, code)

    def consume(self, stream: int, size_bytes: int) -> None:
        """Bytes of a stream were used; its limits rise by quarters of their windows."""
        if self._closed is None:
            self._inflow.consume(stream, size_bytes, self._streams.get(stream))

    def send_datagram(self, data: bytes) -> bool:
        """Queue an unreliable datagram; False when it cannot be sent whole, or too many wait."""
        return self._closed is None and self._connection.queue_datagram(data)

    def ping(self) -> None:
        """Send a PING, unless one waits already."""
        if self._closed is None:
            self._connection.queue_ping()

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close with a code of the application; the next `transmit` has the packet, and `Closed` follows it."""
        if self._closed is None:
            self._connection.close(error_code=code, reason_phrase=reason[:QUIC_REASON_CHARACTERS_MAX])

    def stats(self) -> EngineStats:
        """The state of the path; packets are counted as numbers that were used."""
        rtt, rtt_min, window, in_flight, probes = self._connection.recovery()
        return EngineStats(
            rtt=rtt,
            rtt_min=rtt_min,
            window_bytes=window,
            in_flight_bytes=in_flight,
            backlog_bytes=self._connection.backlogs(),
            probes=probes,
            packets_lost=self._connection.packets_lost,
            packets_sent=self._connection.packets_sent,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    # --- inside ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take over what aioquic has to tell."""
        told, events, inflow = self._told, self._events, self._inflow
        connection = self._connection
        while told:
            event = told.popleft()
            if isinstance(event, aio.StreamDataReceived):
                stream, data, is_last = event.stream_id, event.data, event.end_stream
                if inflow.received(stream, len(data), is_last):
                    events.append(StreamData(stream, data, is_last))
            elif isinstance(event, aio.DatagramFrameReceived):
                events.append(DatagramReceived(event.data))
            else:
                self._translate(event)
        if connection.has_streams_left and self._is_connected:
            connection.has_streams_left = False
            events.append(StreamsLeft())

    def _translate(self, event: aio.QuicEvent) -> None:
        connection, events = self._connection, self._events
        if isinstance(event, aio.StreamReset):
            if connection.received_reset(event.stream_id):
                events.append(StreamReset(event.stream_id, event.error_code))
        elif isinstance(event, aio.StopSendingReceived):
            if connection.first_stop(event.stream_id):
                self._dropped(event.stream_id)
                events.append(StreamStopped(event.stream_id, event.error_code))
        elif isinstance(event, aio.HandshakeCompleted):
            self._complete()
        elif isinstance(event, aio.ConnectionIdIssued | aio.ConnectionIdRetired):
            if self.on_connection_id is not None:
                self.on_connection_id(event.connection_id, isinstance(event, aio.ConnectionIdIssued))
        elif isinstance(event, aio.ConnectionTerminated):
            self._end_from(event, is_remote=False)

    def _complete(self) -> None:
        """The handshake is over: nobody gets further unjudged, whatever aioquic made of our checks."""
        identity = self._connection.peer_identity
        if identity is None and self._connection.must_identify:
            self._fail("handshake", RuntimeError("a peer that has to show a certificate got through without"))
            return
        self._is_connected = True
        self._handshake_ends_at = None
        self._events.append(Connected(identity))

    def _is_reset(self, data: bytes, address: Address) -> bool:
        """Whether a packet for nobody is a stateless reset (RFC 9000, section 10.3.1)."""
        connection = self._connection
        if not data or data[0] & 0x80 or connection.knows(data[1 : 1 + CONNECTION_ID_BYTES]):
            return False
        return is_reset(data, connection.reset_tokens(address))

    def _dropped(self, stream: int) -> None:
        """What was unsent of a stream is not sent."""
        self._full.discard(stream)
        self._left(stream)

    def _left(self, stream: int) -> None:
        """Less of a stream is unsent."""
        if self.on_left is not None:
            self.on_left(stream)

    def _find_room(self) -> None:
        for stream in sorted(self._full):
            if self._connection.backlog(stream) < WRITE_BYTES_LOW:
                self._full.discard(stream)
                if self._connection.writable(stream):
                    self._events.append(StreamRoom(stream))

    def _renew_key(self, now: float) -> None:
        """Change the key before it protected too much (RFC 9001, section 6.6) or is too old."""
        sent = self._connection.packets_sent
        age = QUIC_KEY_NS_MAX / 1e9 * (1.0 if self._is_client else _SERVER_KEY_AGE)
        if sent - self._key_packets < QUIC_KEY_PACKETS_MAX and now - self._key_at < age:
            return
        if self._connection.is_confirmed:
            self._key_packets, self._key_at = sent, now
            self._connection.request_key_update()

    def _fail(self, where: str, error: Exception) -> None:
        """aioquic broke: the next `transmit` tells the peer, if it can, and ends the connection."""
        self.faults += 1
        _log.error("aioquic failed in %s: %r", where, error, exc_info=error)
        code, text = int(QuicErrorCode.INTERNAL_ERROR), f"{type(error).__name__} in {where}"
        if where in {"transmit", "timer"} or not self._connection.is_begun:
            self._end(Closed(code, text, False, False))
        else:
            self._connection.close(error_code=code, frame_type=int(QuicFrameType.PADDING), reason_phrase=text)

    def _end_from(self, event: aio.ConnectionTerminated, *, is_remote: bool) -> None:
        by_application = event.frame_type is None
        reason = "".join(c if c.isprintable() else "?" for c in event.reason_phrase[:QUIC_REASON_CHARACTERS_MAX])
        if not by_application:
            reason = explain(event.error_code, reason, self._connection.configuration.alpn_protocols or ())
        self._end(Closed(int(event.error_code), reason, by_application, is_remote))

    def _end(self, closed: Closed) -> None:
        if self._closed is None:
            self._closed = closed
            self._events.append(closed)


def _checked(urgency: int) -> int:
    if not 0 <= urgency < URGENCIES:
        raise LocalProtocolError(f"urgency is 0 to {URGENCIES - 1}, not {urgency}")
    return urgency
