"""The choice of an engine, which is imported only when it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.engine import Acceptor, Address, Engine
    from flowbridge.transports.quic.settings import QuicSettings


def make_client(settings: QuicSettings, address: Address, now: float) -> Engine:
    """A connection to `address` whose first packet is ready to be sent.

    Raises:
        LocalProtocolError: a certificate cannot be used, or there is no `ca` to check the server's.
        MissingExtraError: the engine is not installed.
    """
    if settings.engine == "qh3":
        _require_qh3()
        from flowbridge.transports.quic.qh3.client import dial as dial_qh3

        return dial_qh3(settings, address, now)
    from flowbridge.transports.quic.aio.client import dial

    return dial(settings, address, now)


def make_acceptor(settings: QuicSettings, datagram_bytes_to: Callable[[Address], int] | None = None) -> Acceptor:
    """The server's side of a socket; `datagram_bytes_to` says how large packets to a client may be, else `settings`.

    Raises:
        LocalProtocolError: there is no certificate, it cannot be used, there is no `ca` to check those of clients, or
            the engine cannot do what is asked.
        MissingExtraError: the engine is not installed.
    """
    if settings.engine == "qh3":
        _require_qh3()
        from flowbridge.transports.quic.qh3.acceptor import Qh3Acceptor

        return Qh3Acceptor(settings)
    from flowbridge.transports.quic.aio.acceptor import AioquicAcceptor

    return AioquicAcceptor(settings, datagram_bytes_to)


def _require_qh3() -> None:
    try:
        import qh3 as _qh3
    except ImportError:
        raise MissingExtraError("qh3", "The QUIC engine qh3") from None
    del _qh3
