"""Certificates of a fabric: a development authority, those of its nodes, and what a file says.

A node is who its subject alternative name ``fb://FABRIC/node/NAME`` says (RFC 5280, section 4.2.1.6), never its common
name or address. Host names and addresses stand beside it, so that whoever dials can check what it reached. Nodes are
clients and servers at once, and their certificates say so (RFC 5280, section 4.2.1.12). Keys are P-256 (FIPS 186-5).

The authority made here is for development: its key lies beside the certificates that it signs.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flowbridge.addresses import check_node_name
from flowbridge.errors import LocalProtocolError, ResourceError
from flowbridge.limits import CERTIFICATE_FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbridge.addresses import TlsFiles

AUTHORITY: Final = "ca"
"""The name of the authority's files, which no node may have."""

_EARLIER: Final = dt.timedelta(minutes=5)  # clocks of two machines differ
_AUTHORITY_DAYS: Final = 365
_URI: Final = re.compile(r"fb://([^/]+)(?:/node/([^/]+))?")
_USAGES: Final = {
    ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string: "clientAuth",
    ExtendedKeyUsageOID.SERVER_AUTH.dotted_string: "serverAuth",
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says. `node` is empty for an authority and for one of no fabric; times are in UTC."""

    fabric: str
    node: str
    hosts: tuple[str, ...]
    usages: tuple[str, ...]
    is_authority: bool
    not_before: dt.datetime
    not_after: dt.datetime
    serial: str
    fingerprint: str
    subject: str
    issuer: str


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


# --- making ---------------------------------------------------------------------------------------------------------


def make_certificates(
    folder: Path,
    nodes: Sequence[str],
    *,
    hosts: Sequence[str],
    fabric: str | None,
    days: int,
    force: bool,
    now: dt.datetime,
) -> list[Path]:
    """Write certificates and keys of nodes, and those of an authority unless the folder has one; returns the files.

    `fabric` None is that of the authority, ``dev`` for a new one. With `force` files of nodes are replaced; the
    authority never is. Raises: LocalProtocolError for a name that cannot be; ResourceError, and nothing was written.
    """
    for node in nodes:
        check_node_name(node)
        if node == AUTHORITY:
            raise LocalProtocolError(f"host name {AUTHORITY!r} is that of the authority's files")
    names = [_general_name(host) for host in hosts]
    there = [path for node in nodes for path in _files(folder, node) if path.exists()]
    if there and not force:
        raise ResourceError(f"{there[0]}: is there already; --force replaces the files of the nodes that are named")
    is_new = not any(path.exists() for path in _files(folder, AUTHORITY))
    authority = _new_authority(fabric or "dev", now) if is_new else _authority(folder, fabric, now)
    made = {node: _new_node(authority, node, names, days, now) for node in dict.fromkeys(nodes)}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = _write(folder, AUTHORITY, authority) if is_new else []
        for node, pair in made.items():
            written += _write(folder, node, pair)
    except OSError as error:
        raise ResourceError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return written


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.pem", folder / f"{name}.key"


def _new_authority(fabric: str, now: dt.datetime) -> _Pair:
    check_node_name(fabric)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(fabric, "development authority")
    ends = now + dt.timedelta(days=_AUTHORITY_DAYS)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key, now, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"fb://{fabric}")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _new_node(authority: _Pair, node: str, names: Sequence[x509.GeneralName], days: int, now: dt.datetime) -> _Pair:
    issuer = authority.certificate
    fabric = certificate_facts(issuer).fabric
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + dt.timedelta(days=days), issuer.not_valid_after_utc)
    who = x509.UniformResourceIdentifier(f"fb://{fabric}/node/{node}")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    public: Any = issuer.public_key()
    certificate = (
        _builder(_subject(fabric, node), issuer.subject, key, now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([who, *names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, ends: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(fabric: str, name: str) -> x509.Name:
    # RFC 5280 allows 64 characters; the name that counts is the alternative one.
    pairs = ((NameOID.ORGANIZATION_NAME, fabric), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(kind, text[:64]) for kind, text in pairs])


def _key_usage(**wanted: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,251}[0-9A-Za-z])?", host):
        raise LocalProtocolError(f"--host {host!r:.80}: is neither a host name nor an address")
    return x509.DNSName(host)


def _write(folder: Path, name: str, pair: _Pair) -> list[Path]:
    """Write key and certificate, the key for its owner alone from the first byte on; whole, or not at all."""
    key = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public, private = _files(folder, name)
    for path, data, mode in ((private, key, 0o600), (public, pair.certificate.public_bytes(_PEM), 0o644)):
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return [public, private]


_PEM: Final = serialization.Encoding.PEM


# --- reading --------------------------------------------------------------------------------------------------------


def _authority(folder: Path, fabric: str | None, now: dt.datetime) -> _Pair:
    """The authority of a folder. Raises: ResourceError when it cannot sign what is asked for."""
    public, private = _files(folder, AUTHORITY)
    certificate, key = read_certificates(public)[0], _read_key(private)
    facts = certificate_facts(certificate)
    if not facts.is_authority or not isinstance(key, ec.EllipticCurvePrivateKey) or not _belong(certificate, key):
        raise ResourceError(f"{public}: is not an authority whose key is {private.name}")
    if facts.not_after <= now:
        raise ResourceError(f"{public}: the authority expired on {facts.not_after:%Y-%m-%d}; use another folder")
    if fabric is not None and fabric != facts.fabric:
        raise ResourceError(f"{public}: is the authority of fabric {facts.fabric!r}, not of {fabric!r:.40}")
    return _Pair(certificate, key)


def read_certificates(path: str | Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. Raises: ResourceError naming the file."""
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ResourceError(f"{path}: holds no certificate in PEM form") from error


def _read_key(path: str | Path) -> Any:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise ResourceError(f"{path}: the key is encrypted; decrypt it, or use another") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ResourceError(f"{path}: holds no private key in PEM form") from error


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(CERTIFICATE_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ResourceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > CERTIFICATE_FILE_BYTES_MAX:
        raise ResourceError(f"{path}: exceeds {CERTIFICATE_FILE_BYTES_MAX} bytes")
    return data


def certificate_facts(certificate: x509.Certificate) -> CertificateFacts:
    """What a certificate says. Raises: ResourceError for extensions that cannot be read."""
    try:
        found = {extension.oid: extension.value for extension in certificate.extensions}
    except ValueError as error:
        raise ResourceError(f"a certificate has an extension that cannot be read: {error}") from error
    names: Any = found.get(x509.SubjectAlternativeName.oid, ())
    usages: Any = found.get(x509.ExtendedKeyUsage.oid, ())
    constraints: Any = found.get(x509.BasicConstraints.oid)
    matches = [_URI.fullmatch(name.value) for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    identities = [(match[1], match[2] or "") for match in matches if match is not None]
    fabric, node = identities[0] if len(identities) == 1 else ("", "")  # two names are nobody's
    hosts = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    return CertificateFacts(
        fabric=fabric,
        node=node,
        hosts=tuple(hosts),
        usages=tuple(_USAGES.get(usage.dotted_string, usage.dotted_string) for usage in usages),
        is_authority=constraints is not None and bool(constraints.ca),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:x}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
    )


def check_files(tls: TlsFiles, now: dt.datetime) -> CertificateFacts:
    """Whether the files can be those of a node; returns what its certificate says.

    Looked at are the name, both usages, the time, the key, and that there is an authority; whether the authority is the
    one that signed is for the handshake. Raises: ResourceError, one line that names the file.
    """
    certificate = read_certificates(tls.certificate)[0]
    facts = certificate_facts(certificate)
    if not facts.node:
        raise ResourceError(f"{tls.certificate}: names no node; fb://FABRIC/node/NAME must be among its names")
    missing = [usage for usage in _USAGES.values() if usage not in facts.usages]
    if missing:
        raise ResourceError(f"{tls.certificate}: is not for {' and '.join(missing)}; a node needs both usages")
    if facts.not_after <= now:
        raise ResourceError(f"{tls.certificate}: expired on {facts.not_after:%Y-%m-%d %H:%M} UTC; make a new one")
    if facts.not_before > now:
        raise ResourceError(f"{tls.certificate}: is valid from {facts.not_before:%Y-%m-%d %H:%M} UTC on, not yet")
    if not _belong(certificate, _read_key(tls.key)):
        raise ResourceError(f"{tls.key}: is not the key of {tls.certificate}")
    if not any(certificate_facts(found).is_authority for found in read_certificates(tls.ca)):
        raise ResourceError(f"{tls.ca}: holds no authority")
    return facts


def _belong(certificate: x509.Certificate, key: Any) -> bool:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bool(certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form))
