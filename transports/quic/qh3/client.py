"""Dialling with qh3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.transports.quic.aio.tls import read_credentials
from flowbridge.transports.quic.qh3.configuration import configure_client
from flowbridge.transports.quic.qh3.connection import JudgingConnection
from flowbridge.transports.quic.qh3.engine import Qh3Engine

if TYPE_CHECKING:
    from flowbridge.transports.quic.engine import Address
    from flowbridge.transports.quic.settings import QuicSettings


def dial(settings: QuicSettings, address: Address, now: float) -> Qh3Engine:
    """A client's connection whose first packet is ready.

    Raises:
        LocalProtocolError: a certificate cannot be used, there is no `ca`, or something is asked that qh3 cannot do.
    """
    credentials = read_credentials(settings)
    connection = JudgingConnection(configure_client(settings, credentials, address[0]), credentials.roots)
    connection.connect(address, now)
    return Qh3Engine(connection, address, now)
