"""The handshake's judgement of certificates, for both sides.

aioquic checks those of servers and leaves those of clients to nobody. Here both are judged by
`flowbridge.transports.quic.identity` as soon as they arrive; what aioquic does with a server's it does all the same.
"""

# aioquic keeps private what is needed here; tests/unit/test_quic_engine_contract.py holds each name to its meaning.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aioquic import tls
from cryptography.hazmat.primitives.serialization import Encoding

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import QUIC_REASON_CHARACTERS_MAX
from flowbridge.transports.quic.identity import (
    CERTIFICATE_REQUIRED,
    Refusal,
    check_pair,
    judge,
    read_certificates,
    read_key,
)

if TYPE_CHECKING:
    from aioquic.buffer import Buffer  # type: ignore[attr-defined]
    from cryptography import x509

    from flowbridge.transports.quic.engine import Identity
    from flowbridge.transports.quic.identity import PrivateKey, Role
    from flowbridge.transports.quic.settings import QuicSettings


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was read from the settings: our own certificate, and whom we believe."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey | None
    roots: tuple[x509.Certificate, ...]

    @property
    def roots_pem(self) -> bytes:
        """The authorities again, as aioquic takes them."""
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)


def read_credentials(settings: QuicSettings) -> Credentials:
    """Read the certificates of `settings`.

    Raises:
        LocalProtocolError: a file cannot be read, is not what it should be, or the key is another's.
    """
    chain: tuple[x509.Certificate, ...] = ()
    key: PrivateKey | None = None
    if settings.certificate is not None and settings.key is not None:
        chain = read_certificates(settings.certificate, "certificate")
        key = read_key(settings.key)
        if not chain:
            raise LocalProtocolError("certificate: none in it")
        check_pair(chain[0], key)
    roots = read_certificates(settings.ca, "ca") if settings.ca is not None else ()
    return Credentials(chain, key, roots)


@dataclass(frozen=True, slots=True)
class PeerCheck:
    """How to judge a peer: its role, our authorities, its name when it is a server, whether it may have nothing."""

    role: Role
    roots: tuple[x509.Certificate, ...]
    server_name: str
    is_asked: bool
    is_required: bool


class _RefusedAlert(tls.Alert):
    """A TLS alert with a description chosen when it is raised."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason[:QUIC_REASON_CHARACTERS_MAX])
        self.description = tls.AlertDescription(refusal.alert)


class CheckedContext(tls.Context):
    """A TLS context that judges the certificate of its peer as soon as it has read it."""

    peer_check: PeerCheck
    peer_identity: Identity | None

    @staticmethod
    def take_over(context: tls.Context, check: PeerCheck) -> CheckedContext:
        """Turn a new context, before its first message, into one that judges."""
        context.__class__ = CheckedContext
        assert isinstance(context, CheckedContext)
        context.peer_check = check
        context.peer_identity = None
        context._request_client_certificate = check.role == "client" and check.is_asked
        return context

    def forget_certificates(self) -> None:
        """The handshake is over: only who the peer is, is asked for from here on."""
        self._peer_certificate = None
        self._peer_certificate_chain = []
        self.received_extensions = None
        if self._is_client:
            self.certificate = self.certificate_private_key = self._cadata = None
            self.certificate_chain = []
            self.peer_check = replace(self.peer_check, roots=())

    def _set_peer_certificate(self, certificate: Any) -> None:
        super()._set_peer_certificate(certificate)
        assert self._peer_certificate is not None
        check = self.peer_check
        verdict = judge(
            self._peer_certificate,
            self._peer_certificate_chain,
            check.roots,
            role=check.role,
            server_name=check.server_name,
        )
        if isinstance(verdict, Refusal):
            raise _RefusedAlert(verdict)
        self.peer_identity = verdict

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None and self.peer_check.is_required:
            text = "the client has no certificate, or none that this server can use, and one is required"
            raise _RefusedAlert(Refusal(CERTIFICATE_REQUIRED, text))
