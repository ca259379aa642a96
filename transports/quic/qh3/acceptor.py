"""The server's side of a socket over qh3. Retry, refusals and version negotiation are those of the default engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.transports.quic.aio.acceptor import BoundedAcceptor
from flowbridge.transports.quic.aio.tls import read_credentials
from flowbridge.transports.quic.qh3.configuration import configure_server
from flowbridge.transports.quic.qh3.connection import JudgingConnection
from flowbridge.transports.quic.qh3.engine import Qh3Engine

if TYPE_CHECKING:
    from flowbridge.transports.quic.aio.acceptor import AcceptedEngine
    from flowbridge.transports.quic.engine import Address
    from flowbridge.transports.quic.settings import QuicSettings


class Qh3Acceptor(BoundedAcceptor):
    """Connections by their ids, over qh3; see `flowbridge.transports.quic.engine.Acceptor`."""

    def __init__(self, settings: QuicSettings) -> None:
        """Read the certificates.

        Raises:
            LocalProtocolError: there is none, it cannot be used, or something is asked that qh3 cannot do.
        """
        super().__init__(settings)
        self._configuration: Final = configure_server(settings, read_credentials(settings))

    def _make(
        self, destination: bytes, original: bytes, is_retry: bool, address: Address, now: float
    ) -> AcceptedEngine:
        connection = JudgingConnection(
            self._configuration,
            tokens=self._tokens,
            original_connection_id=original,
            retry_connection_id=destination if is_retry else None,
        )
        return Qh3Engine(connection, address, now, handshake_seconds=self._settings.handshake_ns / 1e9)
