"""Our settings as qh3 takes them, and what it cannot do refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import QuicProtocolVersion

from flowbridge.errors import LocalProtocolError

if TYPE_CHECKING:
    from flowbridge.transports.quic.aio.tls import Credentials
    from flowbridge.transports.quic.settings import QuicSettings

CONNECTION_ID_BYTES: Final = 8
PACKET_BYTES_MAX: Final = 65_000
DATAGRAM_FRAME_BYTES_MAX: Final = 65_535
CONGESTION: Final = ("cubic",)


def configure_client(settings: QuicSettings, credentials: Credentials, host: str) -> QuicConfiguration:
    """For a connection to `host`, whose name or the one in the settings the server's certificate has to have.

    Raises:
        LocalProtocolError: there is nothing to check the server's certificate by, or the engine cannot do it.
    """
    if not credentials.roots:
        raise LocalProtocolError("a client needs a ca to check the server's certificate by")
    configuration = _configure(settings, credentials)
    configuration.is_client = True
    configuration.server_name = settings.server_name or host
    configuration.cadata = credentials.roots_pem
    return configuration


def configure_server(settings: QuicSettings, credentials: Credentials) -> QuicConfiguration:
    """For all connections of an acceptor.

    Raises:
        LocalProtocolError: there is no certificate, those of clients are wanted, or the engine cannot do it.
    """
    if not credentials.chain:
        raise LocalProtocolError("an acceptor needs a certificate and its key")
    if settings.client_certificates != "none":
        raise LocalProtocolError(
            f"the engine qh3 cannot ask clients for certificates, and client_certificates is "
            f"{settings.client_certificates!r}: use engine 'aioquic', or 'none' and tokens"
        )
    configuration = _configure(settings, credentials)
    configuration.is_client = False
    return configuration


def _configure(settings: QuicSettings, credentials: Credentials) -> QuicConfiguration:
    if settings.congestion not in CONGESTION:
        raise LocalProtocolError(f"the engine qh3 has congestion {', '.join(CONGESTION)}, not {settings.congestion}")
    configuration = QuicConfiguration(
        alpn_protocols=[settings.alpn],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=settings.idle_ns / 1e9,
        max_data=settings.connection_window_bytes,
        max_stream_data=settings.stream_window_bytes,
        max_datagram_size=min(settings.datagram_bytes, PACKET_BYTES_MAX),
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES_MAX,
        probe_datagram_size=False,
        supported_versions=[QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2],
    )
    if credentials.key is not None:
        chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in credentials.chain)
        key = credentials.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        configuration.load_cert_chain(chain, key)
    return configuration
