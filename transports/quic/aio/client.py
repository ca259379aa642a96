"""Dialling with aioquic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.transports.quic.aio.configuration import configure_client
from flowbridge.transports.quic.aio.connection import BoundedConnection
from flowbridge.transports.quic.aio.engine import AioquicEngine
from flowbridge.transports.quic.aio.tls import read_credentials

if TYPE_CHECKING:
    from flowbridge.transports.quic.engine import Address
    from flowbridge.transports.quic.settings import QuicSettings


def dial(settings: QuicSettings, address: Address, now: float) -> AioquicEngine:
    """A client's connection whose first packet is ready.

    Raises:
        LocalProtocolError: a certificate cannot be used, or there is no `ca`.
    """
    configuration, check = configure_client(settings, read_credentials(settings), address[0])
    connection = BoundedConnection(configuration, settings, check)
    connection.connect(address, now)
    return AioquicEngine(connection, address, now)
