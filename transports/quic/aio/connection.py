"""aioquic's connection with bounds: windows by consumption, streams in order, certificates judged, tokens from a key.

Every name of aioquic that is touched here and is not public has a test of its own in
tests/unit/test_quic_engine_contract.py: an upgrade that changes one fails there.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from aioquic.buffer import Buffer, size_uint_var  # type: ignore[attr-defined]
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionAdapter,
    QuicConnectionState,
)
from aioquic.quic.packet import QuicFrameType
from aioquic.tls import Epoch

from flowbridge.limits import QUIC_DATAGRAMS_WAITING_MAX
from flowbridge.transports.quic.aio.inflow import Inflow
from flowbridge.transports.quic.aio.order import Schedule, StreamOrder
from flowbridge.transports.quic.aio.received import ReceivedNumbers
from flowbridge.transports.quic.aio.tls import CheckedContext, PeerCheck
from flowbridge.transports.quic.probing import Probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
    from aioquic.quic.recovery import QuicPacketSpace
    from aioquic.quic.stream import QuicStream

    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.aio.reset import ResetTokens
    from flowbridge.transports.quic.engine import Address, Identity
    from flowbridge.transports.quic.settings import QuicSettings

TAG_BYTES: Final = 16
PACKET_NUMBER_BYTES: Final = 2
CONNECTION_ID_BYTES: Final = 8
_TLS_BYTES: Final = 16_384
_EPOCHS: Final[dict[frozenset[Epoch], frozenset[Epoch]]] = {}
"""In which epochs a kind of frame may come, shared by all connections."""


_log: Final = logging.getLogger("flowbridge.transports.quic")


class _DemotedLogger(QuicConnectionAdapter):
    """What goes wrong is told as `Closed`, and by whoever handles that; aioquic's own line is for those who debug."""

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Say it to those who debug."""
        self.debug(msg, *args, **kwargs)

    info = warning


class _StreamTable(dict[int, "QuicStream"]):
    """aioquic's streams by number, telling when one is forgotten."""

    def __init__(self, forgotten: Callable[[int], None]) -> None:
        super().__init__()
        self._forgotten: Final = forgotten

    def pop(self, key: int, *default: Any) -> Any:
        """Remove a stream, and say so."""
        stream = super().pop(key, *default)
        self._forgotten(key)
        return stream


class _LateBuffers(dict[Epoch, Buffer]):
    """Where TLS writes what it says, made when it says something: after the handshake it seldom does."""

    def __missing__(self, epoch: Epoch) -> Buffer:
        made = self[epoch] = Buffer(capacity=_TLS_BYTES)
        return made


class BoundedConnection(QuicConnection):
    """A connection of aioquic whose memory is bounded by what its user consumes."""

    tls: CheckedContext

    def __init__(
        self,
        configuration: QuicConfiguration,
        settings: QuicSettings,
        check: PeerCheck,
        *,
        tokens: ResetTokens | None = None,
        original_connection_id: bytes | None = None,
        retry_connection_id: bytes | None = None,
    ) -> None:
        """Make one side; the other arguments are for servers, as `QuicConnection` has them."""
        self._schedule: Final = Schedule()
        self._order: Final = StreamOrder(self._schedule)  # before aioquic sets its list of streams
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_connection_id,
            retry_source_connection_id=retry_connection_id,
        )
        self._share_epochs()
        self._logger = _DemotedLogger(_log, self._logger.extra)
        self._check: Final = check
        self._tokens: Final = tokens
        self._streams = self.streams = _StreamTable(self._stream_forgotten)
        self._stopped: Final[set[int]] = set()
        for limit, value in (
            (self._local_max_streams_bidi, settings.bidirectional_streams),
            (self._local_max_streams_uni, settings.unidirectional_streams),
        ):
            limit.value = limit.sent = value
        self.inflow: Final = Inflow(
            self._local_max_data, settings.stream_window_bytes, settings.connection_window_bytes, self._release
        )
        self.packets_lost = 0
        self._has_written = False
        self._written_at = 0.0
        self._probing: Final = Probing()
        self.told: Final = self._events
        self.awaited: Final = {True: False, False: False}
        self.has_streams_left = False
        self._count_losses()
        self._sign_connection_ids()

    # --- state, for the engine ------------------------------------------------------------------------------------

    @property
    def is_begun(self) -> bool:
        """Whether a packet of the peer was understood; always of a client."""
        return self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_drained_by_peer(self) -> bool:
        """Whether the peer closed the connection."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def is_confirmed(self) -> bool:
        """Whether keys may be changed (RFC 9001, section 4.1.2)."""
        return self._handshake_confirmed

    @property
    def peer_identity(self) -> Identity | None:
        """Who the peer is, once its certificate was judged."""
        return self.tls.peer_identity

    @property
    def must_identify(self) -> bool:
        """Whether a peer without a certificate gets no further."""
        return self._check.is_required

    @property
    def idle_at(self) -> float | None:
        """When the connection is over if nothing comes."""
        return self._close_at

    @property
    def ending(self) -> Any:
        """aioquic's event of the end, as soon as it is decided; None before."""
        return self._close_event

    @property
    def packets_sent(self) -> int:
        """How many packet numbers were used."""
        return self._packet_number

    def knows(self, connection_id: bytes) -> bool:
        """Whether the peer may use a connection id of ours."""
        return any(entry.cid == connection_id for entry in self._host_cids)

    def reset_tokens(self, address: Address) -> list[bytes | None]:
        """What a stateless reset from `address` may end in: the tokens of connection ids that we send to there."""
        return [
            (
                path.peer_cid or self._peer_cid if path is not self._network_paths[0] else self._peer_cid
            ).stateless_reset_token
            for path in self._network_paths
            if path.addr == address
        ]

    def recovery(self) -> tuple[float, float, int, int, int]:
        """Smoothed and shortest round trip, 0 before the first; window; bytes in flight; probes in a row."""
        loss = self._loss
        rtts = (loss._rtt_smoothed, loss._rtt_min) if loss._rtt_initialized else (0.0, 0.0)
        return (*rtts, loss.congestion_window, loss.bytes_in_flight, loss._pto_count)

    # --- streams --------------------------------------------------------------------------------------------------

    @property
    def _streams_queue(self) -> StreamOrder:
        return self._order

    @_streams_queue.setter
    def _streams_queue(self, streams: list[QuicStream]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._order[:] = streams

    def open_stream(self, is_unidirectional: bool, urgency: int) -> int | None:
        """A new stream, or None when the peer allows no more."""
        stream_id = self.get_next_available_stream_id(is_unidirectional)
        allowed = self._remote_max_streams_uni if is_unidirectional else self._remote_max_streams_bidi
        if not self._handshake_complete or stream_id // 4 >= allowed:
            self.awaited[is_unidirectional] = True
            return None
        self._schedule.prioritize(stream_id, urgency, None)
        self._get_or_create_stream_for_send(stream_id)
        return stream_id

    def prioritize(self, stream_id: int, urgency: int, deadline: float | None) -> None:
        """Move a stream in the order."""
        if stream_id in self._streams:
            self._schedule.prioritize(stream_id, urgency, deadline)
            self._order.rearrange()

    def is_opened(self, stream_id: int) -> bool:
        """Whether a stream was ever opened by either side."""
        return stream_id in self._streams or self._stream_is_discarded(stream_id)

    def writable(self, stream_id: int) -> bool:
        """Whether what is written would be sent: not of a stream that is reset, stopped or forgotten."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None and not stream.sender.is_finished

    def has_ended(self, stream_id: int) -> bool:
        """Whether the last byte was written."""
        return self._streams[stream_id].sender._buffer_fin is not None

    def write(self, stream_id: int, data: BytesLike, is_last: bool) -> int:
        """Queue bytes on a writable stream; returns its backlog."""
        self._has_written = True
        sender = self._streams[stream_id].sender
        sender.write(data, end_stream=is_last)  # type: ignore[arg-type]  # anything that a bytearray takes
        return sender._buffer_stop - sender.highest_offset

    def backlog(self, stream_id: int) -> int:
        """The bytes of a stream that were never sent."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender.highest_offset

    def backlogs(self) -> int:
        """... of all streams."""
        return sum(self.backlog(stream_id) for stream_id in self._streams)

    def tell_sent(self, told: Callable[[int], None]) -> None:
        """Tell of each stream that has something new in a packet."""
        self._order.on_sent = told

    def can_send(self, stream_id: int) -> bool:
        """Whether a stream's number lets this side send."""
        return self._stream_can_send(stream_id)

    def stop_receiving(self, stream_id: int, code: int) -> None:
        """Want no more of a stream, and count as consumed what came."""
        stream = self._streams.get(stream_id)
        if not self._stream_can_receive(stream_id):
            return
        if stream is not None and not stream.receiver.is_finished:
            self.inflow.stop(stream_id)
            stream.receiver.stop(code)
        elif stream is not None or self._stream_is_discarded(stream_id):
            self.inflow.discard(stream_id)

    def received_reset(self, stream_id: int) -> bool:
        """The peer reset a stream; False when nobody wants to know."""
        return self.inflow.reset(stream_id, self._streams[stream_id].receiver.highest_offset)

    def first_stop(self, stream_id: int) -> bool:
        """Whether the peer stopped a stream for the first time: its frame may come again."""
        if stream_id in self._stopped or stream_id not in self._streams:
            return False
        self._stopped.add(stream_id)
        return True

    # --- datagrams and pings --------------------------------------------------------------------------------------

    def queue_datagram(self, data: bytes) -> bool:
        """Queue an unreliable datagram that fits into one packet and that the peer takes.

        A larger one would stay in front of aioquic's queue for ever.
        """
        frame_bytes = 1 + size_uint_var(len(data)) + len(data)
        around = 1 + len(self._peer_cid.cid) + PACKET_NUMBER_BYTES + TAG_BYTES
        fits = around + frame_bytes <= self._max_datagram_size and frame_bytes <= (
            self._remote_max_datagram_frame_size or 0
        )
        if not fits or len(self._datagrams_pending) >= QUIC_DATAGRAMS_WAITING_MAX:
            return False
        self.send_datagram_frame(data)
        return True

    def queue_ping(self) -> None:
        """Queue a PING, unless one waits."""
        if not self._ping_pending:
            self.send_ping(0)

    # --- what aioquic does otherwise ------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        for space in self._spaces.values():
            space.received_packets = ReceivedNumbers()  # type: ignore[assignment]  # asked and told the same
        CheckedContext.take_over(self.tls, self._check)

    def _confirm_handshake(self) -> None:
        """Let go what only the handshake needed: half of what a quiet connection would hold."""
        super()._confirm_handshake()
        self._crypto_buffers = _LateBuffers()
        context = self.tls
        context.forget_certificates()
        if self._is_client:  # it has a configuration of its own
            configuration = self._configuration
            configuration.cadata = configuration.certificate = configuration.private_key = None
            configuration.certificate_chain = []

    def _share_epochs(self) -> None:
        handlers: dict[int, tuple[Any, frozenset[Epoch]]] = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for kind, (handler, epochs) in handlers.items():
            handlers[kind] = handler, _EPOCHS.setdefault(epochs, epochs)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._sign_connection_ids()

    def _sign_connection_ids(self) -> None:
        if self._tokens is not None:
            for entry in self._host_cids:
                entry.stateless_reset_token = self._tokens.token(entry.cid)

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        super()._unblock_streams(is_unidirectional)
        if self.awaited[is_unidirectional]:
            allowed = self._remote_max_streams_uni if is_unidirectional else self._remote_max_streams_bidi
            if self.get_next_available_stream_id(is_unidirectional) // 4 < allowed:
                self.awaited[is_unidirectional] = False
                self.has_streams_left = True

    def get_timer(self) -> float | None:
        """When something is due, a probe of ours included."""
        return self._probing.timer(super().get_timer(), self._probe_timeout_s())

    def handle_timer(self, now: float) -> None:
        """Do what is due, a probe of ours included."""
        before = self._loss._pto_count
        super().handle_timer(now)
        if self._probing.asks(now, self._probe_timeout_s(), has_probed=self._loss._pto_count > before):
            self._send_probe()

    def _probe_timeout_s(self) -> float | None:
        if not self._handshake_confirmed or self._close_event is not None or not self._loss._pto_count:
            return None
        return self._loss.get_probe_timeout()

    @staticmethod
    def was_authentic(error: Exception) -> bool:
        """Whether an exception of `receive_datagram` came from the content of a packet that had been decrypted."""
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is QuicConnection._payload_received.__code__:
                return True
            trace = trace.tb_next
        return False

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As aioquic's; an acknowledgement goes with what is written seldom, and gets no packet of its own.

        aioquic lets acknowledgements wait for `_ack_delay`. While something is written more often than that, the one
        that is due goes with it, and one in every packet would be waste. With a longer round trip none would ever go
        with a reply: each would follow it in another packet.
        """
        if self._has_written:
            self._has_written = False
            if now - self._written_at > self._ack_delay:
                space = self._spaces.get(Epoch.ONE_RTT)
                if space is not None and space.ack_at is not None and space.ack_at > now:
                    space.ack_at = now
            self._written_at = now
        return super().datagrams_to_send(now)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        """Say a limit that `consume` raised, or that was lost."""
        limit = stream.max_stream_data_local
        if stream.max_stream_data_local_sent == limit or stream.receiver.is_finished:
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        assert stream.stream_id is not None
        buffer.push_uint_var(stream.stream_id)
        buffer.push_uint_var(limit)
        stream.max_stream_data_local_sent = limit

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Say limits that were raised or lost; those of streams when the peer has fewer left than it would get."""
        data = self._local_max_data
        for limit in (data, self._local_max_streams_bidi, self._local_max_streams_uni):
            if limit.sent == limit.value:
                continue
            if limit is not data and limit.sent - limit.used >= limit.value - limit.sent:
                continue
            buffer = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buffer.push_uint_var(limit.value)
            limit.sent = limit.value

    def _stream_forgotten(self, stream_id: int) -> None:
        self._schedule.forget(stream_id)
        self._stopped.discard(stream_id)
        is_of_peer = bool(stream_id & 1) is self._is_client
        if self.inflow.hold(stream_id) and is_of_peer:
            self._stream_limit(stream_id).value -= 1  # aioquic adds one now, and `_release` when it is consumed

    def _release(self, stream_id: int) -> None:
        if bool(stream_id & 1) is self._is_client:
            self._stream_limit(stream_id).value += 1

    def _count_losses(self) -> None:
        control = self._loss._cc
        inform = control.on_packets_lost

        def count(*, now: float, packets: Iterable[QuicSentPacket]) -> None:
            lost = list(packets)
            self.packets_lost += len(lost)
            inform(now=now, packets=lost)

        control.on_packets_lost = count  # type: ignore[method-assign]
