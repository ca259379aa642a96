"""qh3's connection with our judgement of certificates and our tokens of stateless resets.

Every name of qh3 that is touched here and is not public has a test of its own in tests/unit/test_quic_qh3_contract.py:
an upgrade that changes one fails there.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from cryptography import x509
from qh3 import tls
from qh3._hazmat import Buffer
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.packet import pull_quic_transport_parameters, push_quic_transport_parameters

from flowbridge.transports.quic.identity import NO_APPLICATION_PROTOCOL, Refusal, judge
from flowbridge.transports.quic.probing import Probing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qh3._hazmat import QuicConnectionCore
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.events import ConnectionTerminated, QuicEvent
    from qh3.quic.tls_bridge import QuicTlsBridge

    from flowbridge.contracts import BytesLike
    from flowbridge.transports.quic.aio.reset import ResetTokens
    from flowbridge.transports.quic.engine import Address, Identity

_PARAMETERS_BYTES_MAX: Final = 4096
_UDP_BYTES_MAX: Final = 65_527
"""What a packet may have at most (RFC 9000, section 18.2): we read what comes, however large it is."""
_PROBE_ROUND_TRIPS: Final = 3
"""As many as the probe timeout is at first (RFC 9002, section 6.2.1): probes of ours are never closer."""


class _Quiet(logging.Filter):
    """What ends a connection is told as `Closed`, and by whoever handles that; qh3's own lines say it again."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the two lines about it."""
        return not str(record.msg).startswith(("Native peer close", "Native protocol error"))


logging.getLogger("quic").addFilter(_Quiet())


class _RefusedAlert(tls.Alert):
    """A TLS alert with a description chosen when it is raised."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.description = tls.AlertDescription(refusal.alert)


class CheckedContext(tls.Context):
    """A client's TLS context that judges the certificate of its server as soon as it has read it.

    What qh3 does with the certificate it does all the same.
    """

    roots: tuple[x509.Certificate, ...]
    expected_name: str
    peer_identity: Identity | None
    refusal: tls.Alert | None

    @staticmethod
    def take_over(context: tls.Context, roots: tuple[x509.Certificate, ...], server_name: str) -> None:
        """Turn a new context, before its first message, into one that judges."""
        context.__class__ = CheckedContext
        assert isinstance(context, CheckedContext)
        context.roots = roots
        context.expected_name = server_name
        context.peer_identity = None
        context.refusal = None

    def handle_message(self, *given: Any, **named: Any) -> None:
        """Go on with the handshake; once it was refused that stands, though qh3 asks again with what came behind it."""
        if self.refusal is not None:
            raise self.refusal
        try:
            super().handle_message(*given, **named)
        except tls.Alert as error:
            self.refusal = error
            raise

    def _process_certificate(self, certificate: Any) -> None:
        super()._process_certificate(certificate)
        try:
            ders = [one[0] for one in certificate.certificates]
            leaf, *chain = [x509.load_der_x509_certificate(der) for der in ders]
        except ValueError as error:
            text = f"the certificate cannot be read: {error}"
            raise _RefusedAlert(Refusal(tls.AlertDescription.bad_certificate, text)) from error
        verdict = judge(leaf, chain, self.roots, role="server", server_name=self.expected_name)
        if isinstance(verdict, Refusal):
            raise _RefusedAlert(verdict)
        self.peer_identity = verdict


class ServerContext(tls.Context):
    """A server's TLS context that says what it means when it has no protocol in common with a client (RFC 7301)."""

    def _server_handle_hello(self, *buffers: Any) -> None:
        try:
            super()._server_handle_hello(*buffers)
        except tls.AlertHandshakeFailure as error:
            if "ALPN" not in str(error):
                raise
            raise _RefusedAlert(Refusal(NO_APPLICATION_PROTOCOL, str(error))) from error


class JudgingConnection(QuicConnection):
    """A connection of qh3 that knows who its server is."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        roots: Sequence[x509.Certificate] = (),
        *,
        tokens: ResetTokens | None = None,
        original_connection_id: bytes | None = None,
        retry_connection_id: bytes | None = None,
    ) -> None:
        """Make one side; the other arguments are for servers, as `QuicConnection` has them."""
        self._roots: Final = tuple(roots)
        self._tokens: Final = tokens
        self._probing: Final = Probing()
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_connection_id,
            retry_source_connection_id=retry_connection_id,
        )

    # --- state, for the engine ------------------------------------------------------------------------------------

    @property
    def core(self) -> QuicConnectionCore:
        """What does the work; a client's is there from the start, a server's after the first packet."""
        assert self._core is not None
        return self._core

    @property
    def is_begun(self) -> bool:
        """Whether a packet of the peer was understood; always of a client."""
        return self._is_client or (self._core is not None and self._core.received_authenticated_packet)

    @property
    def is_drained_by_peer(self) -> bool:
        """Whether the peer closed the connection."""
        return self._core is not None and self._core.state == "draining"

    @property
    def is_confirmed(self) -> bool:
        """Whether keys may be changed (RFC 9001, section 4.1.2)."""
        return self._handshake_confirmed

    @property
    def is_complete(self) -> bool:
        """Whether the handshake is."""
        return self._handshake_complete

    @property
    def ending(self) -> ConnectionTerminated | None:
        """qh3's event of the end, as soon as it is decided; None before."""
        return self._close_event

    @property
    def told(self) -> Any:
        """The events that nobody has taken yet."""
        return self._events

    @property
    def peer_identity(self) -> Identity | None:
        """Who the server is, once its certificate was judged."""
        context = self.tls
        return context.peer_identity if isinstance(context, CheckedContext) else None

    @property
    def datagram_frame_bytes_max(self) -> int:
        """The largest frame with an unreliable datagram that the peer takes; 0 for none."""
        return self._remote_max_datagram_frame_size or 0

    def next_told(self) -> QuicEvent | None:
        """The next event."""
        return self.next_event()

    # --- streams --------------------------------------------------------------------------------------------------

    def open_stream(self, is_unidirectional: bool) -> int | None:
        """A new stream, or None when the peer allows no more."""
        if not self._handshake_complete:
            return None
        limits = self.core.stream_limits  # allowed of both kinds, then opened of both kinds
        if limits[2 + is_unidirectional] >= limits[is_unidirectional]:
            return None
        return self._open_stream(is_unidirectional)

    def has_room(self, is_unidirectional: bool) -> bool:
        """Whether `open_stream` would give one."""
        limits = self.core.stream_limits
        return self._handshake_complete and limits[2 + is_unidirectional] < limits[is_unidirectional]

    def opened(self, is_unidirectional: bool) -> int:
        """How many streams of a kind this side has opened."""
        return 0 if self._core is None else self._core.stream_limits[2 + is_unidirectional]

    def write(self, stream_id: int, data: BytesLike, is_last: bool) -> int:
        """Queue bytes; returns the stream's backlog."""
        self.send_stream_data(stream_id, cast("bytes", data), is_last)
        return self.core.get_send_buffer_size(stream_id)

    # --- what qh3 does otherwise ----------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """When something is due, a probe of ours included."""
        return self._probing.timer(super().get_timer(), self._probe_timeout_s())

    def handle_timer(self, now: float) -> None:
        """Do what is due, a probe of ours included: a PING, which leaves though the window is full."""
        before = 0 if self._core is None else self._core.pto_count
        super().handle_timer(now)
        if self._core is None:
            return
        if self._probing.asks(now, self._probe_timeout_s(), has_probed=self._core.pto_count > before):
            self.send_ping(0)

    def _probe_timeout_s(self) -> float | None:
        if not self._handshake_confirmed or self._close_event is not None or not self.core.pto_count:
            return None
        return _PROBE_ROUND_TRIPS * (self.core.smoothed_rtt or 0.0)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What is to be sent now.

        Of a client that has not shown its address qh3 counts what is in packets, and not the zeros behind them that
        fill a datagram (RFC 9000, section 8.1, counts both), and breaks off where it may send less than it has. What
        was to be sent until then is good, and the next datagram of the client lets it go on.
        """
        if self._core is None:
            return []
        datagrams: list[tuple[bytes, Address]] = []
        while True:
            try:
                found = self._call_core(self._core.poll_transmit, now)
            except QuicConnectionError:
                if self._handshake_complete or self._is_client:
                    raise
                break
            if found is None:
                break
            datagrams.append((found[0], found[1]))
        return datagrams

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        if self._is_client:
            CheckedContext.take_over(bridge.tls, self._roots, self._configuration.server_name or "")
        else:
            bridge.tls.__class__ = ServerContext
            if self._tokens is not None:
                bridge.stateless_reset_token = self._tokens.token(self.host_cid)
        serialize = bridge.serialize_transport_parameters

        def corrected() -> bytes:
            """Without the limit of 1,472 bytes that a client would set its server, and what only browsers say."""
            parameters = pull_quic_transport_parameters(Buffer(data=serialize()))
            parameters.max_udp_payload_size = _UDP_BYTES_MAX
            parameters.google_connection_options = parameters.initial_rtt = None
            buffer = Buffer(capacity=_PARAMETERS_BYTES_MAX)
            push_quic_transport_parameters(buffer, parameters)
            return buffer.data

        bridge.serialize_transport_parameters = corrected  # type: ignore[method-assign]
        bridge.tls.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, corrected())]
        return bridge
