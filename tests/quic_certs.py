"""Certificates for tests: an authority and the nodes it signs, made once per process and never written to disk.

ca = make_ca("fabric")
node = make_node(ca, "alpha", hosts=("localhost", "127.0.0.1"))
QuicSettings(certificate=node.certificate, key=node.key, ca=ca.certificate)
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
BOTH: tuple[ObjectIdentifier, ...] = (CLIENT, SERVER)
LOCAL: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")


class Authority(NamedTuple):
    """A certificate that signs others, as PEM."""

    name: str
    certificate: bytes
    key: bytes


class Node(NamedTuple):
    """A node's certificate and key, as PEM."""

    certificate: bytes
    key: bytes


@functools.cache
def make_ca(fabric: str = "test", *, serial: int = 1) -> Authority:
    """An authority for a fabric; another `serial` makes another one of the same name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{fabric} authority")
    builder = _builder(name, name, key, valid_for=dt.timedelta(days=2), begins_in=dt.timedelta(days=-1), serial=serial)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    return Authority(fabric, _pem(certificate), _key_pem(key))


@functools.cache
def make_node(
    ca: Authority,
    name: str,
    hosts: tuple[str, ...] = LOCAL,
    eku: tuple[ObjectIdentifier, ...] = BOTH,
    *,
    valid_for: dt.timedelta = dt.timedelta(hours=24),
    begins_in: dt.timedelta = dt.timedelta(hours=-1),
    uris: tuple[str, ...] | None = None,
) -> Node:
    """A node's certificate for `hosts`, which are names or addresses; without usages when `eku` is empty."""
    authority = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), authority.subject, key, valid_for=valid_for, begins_in=begins_in)
    links = uris if uris is not None else (f"fb://{ca.name}/node/{name}",)
    names = [*(_host(host) for host in hosts), *map(x509.UniformResourceIdentifier, links)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(eku)), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    return Node(_pem(certificate), _key_pem(key))


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    valid_for: dt.timedelta,
    begins_in: dt.timedelta,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    begin = dt.datetime.now(dt.UTC) + begins_in
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + valid_for)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
