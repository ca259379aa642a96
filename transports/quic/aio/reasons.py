"""Why a handshake failed, in words, where aioquic or the peer say little."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from flowbridge.transports.quic.identity import CERTIFICATE_REQUIRED, NO_APPLICATION_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Sequence


def explain(code: int, reason: str, protocols: Sequence[str]) -> str:
    """The reason of a close by QUIC or TLS: what was said, else what the code means (RFC 9000, section 20.1)."""
    alert = code - QuicErrorCode.CRYPTO_ERROR
    if alert == NO_APPLICATION_PROTOCOL:
        return f"the peers have no application protocol (ALPN) in common; ours is {', '.join(protocols)}"
    if alert == CERTIFICATE_REQUIRED and not reason:
        return "a client certificate is required"
    if reason:
        return reason
    try:
        return AlertDescription(alert).name if 0 <= alert <= 255 else QuicErrorCode(code).name
    except ValueError:
        return f"code {code:#x}"
