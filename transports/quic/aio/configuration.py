"""Our settings as aioquic takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

from flowbridge.errors import LocalProtocolError
from flowbridge.transports.quic.aio import congestion
from flowbridge.transports.quic.aio.connection import CONNECTION_ID_BYTES
from flowbridge.transports.quic.aio.tls import Credentials, PeerCheck

if TYPE_CHECKING:
    from flowbridge.transports.quic.settings import QuicSettings

PACKET_BYTES_MAX: Final = 16_300
"""aioquic writes lengths in two bytes, which hold 14 bits: longer packets would not be read."""
DATAGRAM_FRAME_BYTES_MAX: Final = 65_535
VERSIONS: Final = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)
CONGESTION: Final = ("reno", "cubic", congestion.NAME)


def configure_client(
    settings: QuicSettings, credentials: Credentials, host: str
) -> tuple[QuicConfiguration, PeerCheck]:
    """For a connection to `host`, whose name or the one in the settings the server's certificate has to have.

    Raises:
        LocalProtocolError: there is nothing to check the server's certificate by.
    """
    if not credentials.roots:
        raise LocalProtocolError("a client needs a ca to check the server's certificate by")
    name = settings.server_name or host
    configuration = _configure(settings, credentials)
    configuration.is_client = True
    configuration.server_name = name
    configuration.cadata = credentials.roots_pem
    return configuration, PeerCheck("server", credentials.roots, name, is_asked=True, is_required=True)


def configure_server(settings: QuicSettings, credentials: Credentials) -> tuple[QuicConfiguration, PeerCheck]:
    """For all connections of an acceptor.

    Raises:
        LocalProtocolError: there is no certificate, or no ca to check those of clients by.
    """
    if not credentials.chain:
        raise LocalProtocolError("an acceptor needs a certificate and its key")
    is_asked = settings.client_certificates != "none"
    if is_asked and not credentials.roots:
        raise LocalProtocolError(
            "an acceptor needs a ca to check certificates of clients by, or client_certificates 'none'"
        )
    configuration = _configure(settings, credentials)
    configuration.is_client = False
    is_required = settings.client_certificates == "require"
    return configuration, PeerCheck("client", credentials.roots, "", is_asked=is_asked, is_required=is_required)


def _configure(settings: QuicSettings, credentials: Credentials) -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=[settings.alpn],
        congestion_control_algorithm=settings.congestion,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=settings.idle_ns / 1e9,
        max_data=settings.connection_window_bytes,
        max_datagram_size=min(settings.datagram_bytes, PACKET_BYTES_MAX),
        max_stream_data=settings.stream_window_bytes,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES_MAX,
        supported_versions=list(VERSIONS),
    )
    if credentials.chain:
        configuration.certificate = credentials.chain[0]
        configuration.certificate_chain = list(credentials.chain[1:])
        configuration.private_key = credentials.key
    return configuration
