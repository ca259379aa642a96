"""Certificates: reading them, and judging that of a peer.

A node has one certificate for both of its roles, with both extended key usages (RFC 5280, section 4.2.1.12), signed by
the authority of its fabric. Who it is stands in its subject alternative name; the common name is never looked at.
"""

from __future__ import annotations

import datetime as dt
import hmac
import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import QUIC_CHAIN_CERTIFICATES_MAX
from flowbridge.transports.quic.engine import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence

Source: TypeAlias = "str | Path | bytes"
"""PEM: the name of a file, or its content as bytes."""

PrivateKey: TypeAlias = "ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey"
Role: TypeAlias = Literal["client", "server"]

BAD_CERTIFICATE: Final = 42
UNSUPPORTED_CERTIFICATE: Final = 43
CERTIFICATE_EXPIRED: Final = 45
UNKNOWN_CA: Final = 48
CERTIFICATE_REQUIRED: Final = 116
NO_APPLICATION_PROTOCOL: Final = 120

_SHOWN_CHARACTERS: Final = 80
_USAGES: Final = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
_USAGE_NAMES: Final = {"client": "clientAuth", "server": "serverAuth"}
_NODE: Final = re.compile(r"fb://([A-Za-z0-9._-]{1,128})/node/([A-Za-z0-9._-]{1,128})")


class Refusal(NamedTuple):
    """Why a certificate is not taken: the TLS alert (RFC 8446, section 6.2) and a sentence for people."""

    alert: int
    reason: str


def read_certificates(source: Source, what: str) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM file, in its order; `what` says in messages what they are for.

    Raises:
        LocalProtocolError: the file cannot be read, or there is no certificate in it.
    """
    pem = _pem(source, what)
    try:
        return _parsed(pem)
    except ValueError as error:
        raise LocalProtocolError(f"{what} {_where(source)}: no PEM certificate: {error}") from error


@lru_cache(maxsize=16)
def _parsed(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read once, and shared: a process with many connections has the same few certificates for all of them."""
    return tuple(x509.load_pem_x509_certificates(pem))


def reset_key_of(source: Source) -> bytes:
    """32 bytes for the tokens of stateless resets, always the same for a private key (RFC 9000, section 10.3.2).

    Whoever starts again with its key is known at once to have forgotten its connections.
    Raises: LocalProtocolError, as `read_key`.
    """
    der = read_key(source).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return hmac.digest(der, b"flowbridge stateless reset", "sha256")


def read_key(source: Source, what: str = "key") -> PrivateKey:
    """The private key in a PEM file, without a password: of P-256 or another curve of NIST, Ed25519 or RSA.

    Raises:
        LocalProtocolError: the file cannot be read, or holds no such key.
    """
    pem = _pem(source, what)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LocalProtocolError(f"{what} {_where(source)}: no private key in PEM form, without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise LocalProtocolError(f"{what} {_where(source)}: a key of ECDSA, Ed25519 or RSA, not {type(key).__name__}")
    return key


def check_pair(certificate: x509.Certificate, key: PrivateKey) -> None:
    """Refuse a key that is not that of the certificate.

    Raises:
        LocalProtocolError: names the certificate.
    """
    if certificate.public_key() != key.public_key():
        raise LocalProtocolError(f"the key is not that of the certificate of {describe(certificate)}")


def judge(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    role: Role,
    server_name: str = "",
    at: dt.datetime | None = None,
) -> Identity | Refusal:
    """Who a peer is, or why its certificate is not taken.

    Checked are its dates, the extended key usage for the peer's `role`, the name when it is a server (RFC 9525), and
    the path to one of `roots` (RFC 5280, section 6). Keys are of ECDSA or RSA: the verifier knows no others.
    `at` is the time to judge by, now when None.
    """
    now = at or dt.datetime.now(dt.UTC)
    try:
        refusal = (
            _check_dates(certificate, now)
            or _check_usage(certificate, role)
            or (_check_name(certificate, server_name) if role == "server" else None)
            or _check_path(certificate, chain, roots, now)
        )
        return refusal or identify(certificate)
    except (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        return Refusal(BAD_CERTIFICATE, f"the certificate cannot be read: {error}")


def identify(certificate: x509.Certificate) -> Identity:
    """The names in a certificate, which has to be checked before.

    Raises:
        ValueError: it names two nodes, or its extensions cannot be parsed.
    """
    names = _alternatives(certificate)
    nodes = [match for uri in names.uris if (match := _NODE.fullmatch(uri))]
    if len(nodes) > 1:
        raise ValueError(f"it names {len(nodes)} nodes")
    fabric, node = nodes[0].groups() if nodes else ("", "")
    return Identity(
        fabric=fabric,
        node=node,
        names=(*names.hosts, *map(str, names.addresses)),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def describe(certificate: x509.Certificate) -> str:
    """A short name for messages: its node, else a host, else its subject."""
    try:
        names = _alternatives(certificate)
        return _short((*names.uris, *names.hosts, *map(str, names.addresses), certificate.subject.rfc4514_string())[0])
    except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension):
        return "(unreadable)"


class _Names(NamedTuple):
    uris: tuple[str, ...]
    hosts: tuple[str, ...]
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]


def _alternatives(certificate: x509.Certificate) -> _Names:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return _Names((), (), ())
    addresses = names.get_values_for_type(x509.IPAddress)
    return _Names(
        tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(a for a in addresses if isinstance(a, ipaddress.IPv4Address | ipaddress.IPv6Address)),
    )


def _check_dates(certificate: x509.Certificate, now: dt.datetime) -> Refusal | None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        text = f"the certificate of {describe(certificate)} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC"
        return Refusal(CERTIFICATE_EXPIRED, text)
    if now > end:
        text = f"the certificate of {describe(certificate)} expired at {end:%Y-%m-%d %H:%M:%S} UTC"
        return Refusal(CERTIFICATE_EXPIRED, text)
    return None


def _check_usage(certificate: x509.Certificate, role: Role) -> Refusal | None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([])
    if _USAGES[role] in usages:
        return None
    text = f"the certificate of {describe(certificate)} is not one of a {role}: no {_USAGE_NAMES[role]} in its usages"
    return Refusal(UNSUPPORTED_CERTIFICATE, text)


def _check_name(certificate: x509.Certificate, server_name: str) -> Refusal | None:
    names = _alternatives(certificate)
    try:
        address = ipaddress.ip_address(server_name)
    except ValueError:
        if server_name and any(_host_matches(pattern, server_name) for pattern in names.hosts):
            return None
    else:
        if address in names.addresses:
            return None
    listed = _short(", ".join((*names.hosts, *map(str, names.addresses))) or "no host")
    return Refusal(BAD_CERTIFICATE, f"the server's certificate is for {listed}, not for {server_name!r}")


def _host_matches(pattern: str, host: str) -> bool:
    """RFC 9525, section 6.3: a wildcard is the whole leftmost label, and stands for one label."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if not pattern.startswith("*."):
        return pattern == host
    _, dot, rest = host.partition(".")
    return bool(dot) and rest == pattern[2:] and "." in rest


def _check_path(
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: dt.datetime,
) -> Refusal | None:
    if len(chain) >= QUIC_CHAIN_CERTIFICATES_MAX:
        text = f"certificates of a chain are at most {QUIC_CHAIN_CERTIFICATES_MAX}, not {len(chain) + 1}"
        return Refusal(BAD_CERTIFICATE, text)
    agnostic = verification.Criticality.AGNOSTIC
    authority = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, agnostic, None)
        .may_be_present(x509.KeyUsage, agnostic, _may_sign)
    )
    leaf = verification.ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, agnostic, None)
    builder = verification.PolicyBuilder().store(verification.Store(list(roots))).time(now)
    builder = builder.extension_policies(ca_policy=authority, ee_policy=leaf)
    try:
        builder.build_client_verifier().verify(certificate, list(chain))
    except verification.VerificationError as error:
        # The verifier quotes certificates at length; what it found stands before it.
        found = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
        found = found.removeprefix("candidates exhausted: ")
        why = "" if found.startswith("all candidates exhausted") else f": {found}"
        return Refusal(UNKNOWN_CA, f"the certificate of {describe(certificate)} is not of our authority{why}")
    return None


def _may_sign(_policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority whose key may not sign certificates")


def _short(text: str) -> str:
    """What a peer wrote, fit for a message."""
    return ascii(text)[1:-1] if len(text) <= _SHOWN_CHARACTERS else ascii(text[:_SHOWN_CHARACTERS])[1:-1] + "..."


def _pem(source: Source, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise LocalProtocolError(f"{what} {source}: {error.strerror or error}") from error


def _where(source: Source) -> str:
    return "(given as bytes)" if isinstance(source, bytes) else str(source)
