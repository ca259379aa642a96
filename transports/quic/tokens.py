"""Tokens: who a client is, where no certificate can say it. A JSON Web Token (RFC 7519) in the greeting of a session.

    iss   fb://FABRIC, of which the server is a node
    sub   the name of the client's node
    aud   the name of the server's node: a token is for one server
    exp   at most 15 minutes after iat (and nbf is iat)
    jti   a token is for one session: a second one with it is refused
    cnf   {"x5t#S256": ...}, where the client also has a certificate, its SHA-256 (RFC 8705, section 3.1)

It is signed with Ed25519 or ES256 (RFC 7518, section 3.4; RFC 8037), and with nothing else.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from flowbridge.codec.codes import Code
from flowbridge.errors import AuthError, LocalProtocolError, MissingExtraError, OverloadError, Retry
from flowbridge.limits import TOKEN_BYTES_MAX, TOKEN_KEYS_MAX, TOKEN_LEEWAY_S, TOKEN_S_MAX, TOKENS_MAX
from flowbridge.transports.quic.identity import read_key

try:
    from joserfc import jwt
    from joserfc.errors import JoseError, UnsupportedAlgorithmError
    from joserfc.jwk import ECKey, OKPKey
    from joserfc.jws import JWSRegistry
except ImportError:
    raise MissingExtraError("token", "A token") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbridge.transports.quic.identity import Source

PublicKey: TypeAlias = "ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey"

ALGORITHMS: Final = ("EdDSA", "Ed25519", "ES256")
"""Those that are taken; the second is the newer name of the first one over this curve (RFC 9864)."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ISSUER: Final = "fb://"
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_JTI_CHARACTERS_MAX: Final = 128
_DIGEST_BYTES: Final = 32
_ADVICE: Final = "`flowbridge certs token` makes one"


class _Registry(JWSRegistry):
    """The algorithms that are taken, without a word about their names."""

    def get_alg(self, name: str) -> Any:
        """The algorithm of a name."""
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"algorithm {name!r:.20} is not one of {', '.join(ALGORITHMS)}")
        return self.algorithms[name]


_REGISTRY: Final = _Registry(algorithms=list(ALGORITHMS))


class Proof(NamedTuple):
    """What a token proves: the client's fabric and node, until `expires_at`, in seconds since 1970."""

    fabric: str
    node: str
    expires_at: float


def make_token(
    key: Source,
    *,
    fabric: str,
    node: str,
    audience: str,
    now: float,
    lifetime_s: int = TOKEN_S_MAX,
    fingerprint: str = "",
) -> str:
    """A token that says to node `audience` who node `node` is, signed with a private key (PEM) of Ed25519 or P-256.

    `now` is in seconds since 1970; `fingerprint` is the SHA-256 of the certificate of the node in hexadecimal, if any.

    Raises:
        LocalProtocolError: the key cannot sign tokens, a name cannot be one, or the time is too long.
    """
    for what, name in (("fabric", fabric), ("node", node), ("audience", audience)):
        if not _NAME.fullmatch(name):
            raise LocalProtocolError(f"{what} {name!r:.80}: a name is 1 to 128 of A-Z a-z 0-9 . _ -")
    if not 1 <= lifetime_s <= TOKEN_S_MAX:
        raise LocalProtocolError(f"a token is good for 1 to {TOKEN_S_MAX} s, not {lifetime_s}")
    algorithm, signer = _signer(key)
    issued = int(now)
    claims: dict[str, Any] = {
        "iss": _ISSUER + fabric,
        "sub": node,
        "aud": audience,
        "iat": issued,
        "nbf": issued,
        "exp": issued + lifetime_s,
        "jti": secrets.token_urlsafe(16),
    }
    if fingerprint:
        claims["cnf"] = {"x5t#S256": _digest(fingerprint)}
    return jwt.encode({"alg": algorithm}, claims, signer, registry=_REGISTRY)


def read_token_keys(source: Source) -> tuple[PublicKey, ...]:
    """The public keys of those who may sign tokens: a JWK Set (RFC 7517), or PEM of public keys or certificates.

    Raises:
        LocalProtocolError: the file cannot be read, or holds no such key, another one, a private one, or too many.
    """
    where = "(given as bytes)" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise LocalProtocolError(f"token keys {where}: {error.strerror or error}") from error
    try:
        keys = _from_jwks(content) if content.lstrip()[:1] == b"{" else _from_pem(content)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm) as error:
        raise LocalProtocolError(f"token keys {where}: cannot be read: {error!s:.120}") from error
    if not 0 < len(keys) <= TOKEN_KEYS_MAX:
        raise LocalProtocolError(f"token keys {where}: 1 to {TOKEN_KEYS_MAX} keys, not {len(keys)}")
    return keys


def claims_of(token: str) -> Mapping[str, Any]:
    """What a token of our own says, unverified.

    Raises:
        LocalProtocolError: it is no token.
    """
    try:
        part = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError) as error:
        raise LocalProtocolError("it is no JSON Web Token") from error
    if not isinstance(claims, dict):
        raise LocalProtocolError("it is no JSON Web Token")
    return claims


class TokenVerifier:
    """Judges tokens for one server, and remembers those that are in use."""

    def __init__(self, keys: Sequence[PublicKey], fabric: str, audience: str, now: Callable[[], float]) -> None:
        """Believe the holders of `keys` about nodes of `fabric`; `now` gives the seconds since 1970."""
        self._keys: Final = [_verifier(key) for key in keys]
        self._issuer: Final = _ISSUER + fabric
        self._fabric: Final = fabric
        self._audience: Final = audience
        self._now: Final = now
        self._used: Final[dict[str, tuple[bytes, float]]] = {}

    def check(self, token: str, *, node: str, session: bytes, fingerprint: str = "") -> Proof:
        """Who sent a token, as node `node`, for a session; its certificate's SHA-256 in hexadecimal, if it has one.

        Raises:
            AuthError: what is wrong with it, with code 0x503 when it has expired, else 0x501.
            OverloadError: too many are in use.
        """
        claims = self._decode(token)
        now = self._now()
        expires_at = self._check_times(claims, now)
        if claims.get("iss") != self._issuer:
            raise _refused(f"it is of {claims.get('iss')!r:.80}, not of {self._issuer}", "ask for one of this fabric")
        if claims.get("aud") not in (self._audience, [self._audience]):
            text = f"it is for {claims.get('aud')!r:.80}, not for node {self._audience}"
            raise _refused(text, f"{_ADVICE} for this node (--for {self._audience})")
        if claims.get("sub") != node or not _NAME.fullmatch(node):
            text = f"it is of node {claims.get('sub')!r:.80}, and the greeting of node {node!r:.80}"
            raise _refused(text, "give the token of this node")
        self._check_binding(claims.get("cnf"), fingerprint)
        self._remember(claims.get("jti"), session, expires_at, now)
        return Proof(self._fabric, node, expires_at)

    @property
    def in_use(self) -> int:
        """How many tokens are remembered."""
        return len(self._used)

    def _decode(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_BYTES_MAX:
            raise _refused(f"a token is at most {TOKEN_BYTES_MAX} bytes, not {len(token)}", _ADVICE)
        why = "it is signed by nobody who may"
        for key in self._keys:
            try:
                return jwt.decode(token, key, registry=_REGISTRY).claims
            except UnsupportedAlgorithmError as error:
                why = str(error.description or error)
            except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
        raise _refused(why, "sign it with a key whose public half the node was given (--token-keys)")

    def _check_times(self, claims: Mapping[str, Any], now: float) -> float:
        issued, begins, expires = (_seconds(claims, name) for name in ("iat", "nbf", "exp"))
        if expires <= now:
            raise _refused(f"it expired {now - expires:.0f} s ago", f"{_ADVICE} anew", Code.TOKEN_EXPIRED)
        if begins > now + TOKEN_LEEWAY_S or issued > now + TOKEN_LEEWAY_S:
            raise _refused(f"it is not valid for {max(begins, issued) - now:.0f} s more", "compare the clocks")
        if expires - issued > TOKEN_S_MAX:
            raise _refused(f"it is good for {expires - issued:.0f} s, and at most {TOKEN_S_MAX} are taken", _ADVICE)
        return expires

    def _check_binding(self, confirmation: object, fingerprint: str) -> None:
        if confirmation is None:
            return
        bound = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
        if (
            not isinstance(bound, str)
            or not fingerprint
            or not secrets.compare_digest(bound.encode(), _digest(fingerprint).encode())
        ):
            raise _refused("it is bound to a certificate that the client did not show", "give that one (--cert, --key)")

    def _remember(self, identifier: object, session: bytes, expires_at: float, now: float) -> None:
        if not isinstance(identifier, str) or not 0 < len(identifier) <= _JTI_CHARACTERS_MAX:
            raise _refused(f"its jti is 1 to {_JTI_CHARACTERS_MAX} characters", _ADVICE)
        used = self._used.get(identifier)
        if used is not None:
            if used[0] != session:
                raise _refused("it was used before, for another session", f"{_ADVICE} anew")
            return
        if len(self._used) >= TOKENS_MAX:
            for old in [name for name, (_, ends) in self._used.items() if ends <= now]:
                del self._used[old]
            if len(self._used) >= TOKENS_MAX:
                raise OverloadError(f"at most {TOKENS_MAX} tokens are in use at once")
        self._used[identifier] = session, expires_at


def _refused(why: str, advice: str, code: Code = Code.UNAUTHENTICATED) -> AuthError:
    error = AuthError(f"the token is refused: {why}; {advice}")
    error.code = int(code)
    if code is Code.TOKEN_EXPIRED:
        error.retry = Retry.NOW
    return error


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise _refused(f"its {name} is no time in seconds", _ADVICE)
    return float(value)


def _digest(fingerprint: str) -> str:
    """A SHA-256 in hexadecimal as tokens write it."""
    try:
        raw = bytes.fromhex(fingerprint)
    except ValueError:
        raw = b""
    if len(raw) != _DIGEST_BYTES:
        raise LocalProtocolError(f"a fingerprint is {_DIGEST_BYTES} bytes in hexadecimal, not {fingerprint!r:.80}")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _signer(source: Source) -> tuple[str, Any]:
    key = read_key(source)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", OKPKey.import_key(pem)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", ECKey.import_key(pem)
    raise LocalProtocolError("a key that signs tokens is of Ed25519 or P-256")


def _verifier(key: PublicKey) -> Any:
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return OKPKey.import_key(pem) if isinstance(key, ed25519.Ed25519PublicKey) else ECKey.import_key(pem)


def _public(key: object) -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(f"a key that signs tokens is of Ed25519 or P-256, not {type(key).__name__}")


def _from_pem(content: bytes) -> tuple[PublicKey, ...]:
    keys: list[PublicKey] = []
    for match in _BLOCK.finditer(content):
        if match[1] == b"PUBLIC KEY":
            keys.append(_public(serialization.load_pem_public_key(match[0])))
        elif match[1] == b"CERTIFICATE":
            keys.append(_public(x509.load_pem_x509_certificate(match[0]).public_key()))
        else:
            raise ValueError(f"a {match[1].decode().lower()} does not belong here: public keys are enough")
    return tuple(keys)


def _from_jwks(content: bytes) -> tuple[PublicKey, ...]:
    keys: list[PublicKey] = []
    for entry in json.loads(content)["keys"]:
        if "d" in entry or "k" in entry:
            raise ValueError("a private or secret key does not belong here: public keys are enough")
        kind = entry.get("kty")
        if kind not in ("OKP", "EC"):
            raise ValueError(f"a key that signs tokens is of Ed25519 or P-256, not {kind!r:.20}")
        key = OKPKey.import_key(entry) if kind == "OKP" else ECKey.import_key(entry)
        keys.append(_public(key.public_key))
    return tuple(keys)
