"""Keys that sign tokens, and tokens that say whatever a test wants."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {
    "iss": "fb://dev",
    "sub": "host",
    "aud": "edge-1",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
    "jti": "a token",
}


def signing_key(kind: str = "ES256", number: int = 1) -> bytes:
    """A private key in PEM form, the same whenever it is asked for; another `number` has another one."""
    return _key(kind, number)


@functools.cache
def _key(kind: str, _number: int) -> bytes:
    key = ed25519.Ed25519PrivateKey.generate() if kind == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    return key.private_bytes(*form, serialization.NoEncryption())


def public_half(pem: bytes) -> bytes:
    """The public key of a private one, in PEM form."""
    key = serialization.load_pem_private_key(pem, None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def written(part: object) -> str:
    """A part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(claims: object, pem: bytes, header: dict[str, Any] | None = None) -> str:
    """A token with these claims and this header; the signature is that of the key, or HMAC for an HS algorithm."""
    head = header if header is not None else {"alg": "ES256", "typ": "JWT"}
    text = f"{written(head)}.{written(claims)}"
    algorithm = str(head.get("alg"))
    if algorithm.startswith("HS"):
        return f"{text}.{written(hmac.new(public_half(pem), text.encode(), hashlib.sha256).digest())}"
    if algorithm == "none":
        return f"{text}."
    key = serialization.load_pem_private_key(pem, None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return f"{text}.{written(key.sign(text.encode()))}"
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{written(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
