"""Who is believed because of a token, and who is not."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from quic_certs import make_ca
from token_keys import CLAIMS, NOW, public_half, signing_key, token_of

from flowbridge.codec.codes import Code
from flowbridge.errors import AuthError, LocalProtocolError, OverloadError, Retry
from flowbridge.limits import TOKEN_KEYS_MAX, TOKEN_LEEWAY_S, TOKEN_S_MAX, TOKENS_MAX

pytest.importorskip("joserfc", reason="joserfc is not installed")

from flowbridge.transports.quic.tokens import Proof, TokenVerifier, claims_of, make_token, read_token_keys

if TYPE_CHECKING:
    from pathlib import Path

SESSION = b"s" * 16
OTHER = b"o" * 16
PRINT = "ab" * 32


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def _verifier(*kinds: str, now: Now | None = None) -> TokenVerifier:
    pem = b"".join(public_half(signing_key(kind)) for kind in kinds or ("ES256",))
    return TokenVerifier(read_token_keys(pem), "dev", "edge-1", now or Now())


def _made(kind: str = "ES256", **changes: Any) -> str:
    given: dict[str, Any] = {"fabric": "dev", "node": "host", "audience": "edge-1", "now": NOW, **changes}
    return make_token(signing_key(kind), **given)


@pytest.mark.parametrize("kind", ["ES256", "EdDSA"])
def test_a_token_that_was_made_for_a_node_is_believed_there(kind: str) -> None:
    verifier = _verifier("EdDSA", "ES256")
    assert verifier.check(_made(kind), node="host", session=SESSION) == Proof("dev", "host", NOW + TOKEN_S_MAX)
    assert verifier.in_use == 1


def test_every_token_has_a_name_of_its_own() -> None:
    assert len({claims_of(_made())["jti"] for _ in range(50)}) == 50


def test_the_newer_name_of_an_algorithm_is_taken_too() -> None:
    token = token_of(CLAIMS, signing_key("EdDSA"), {"alg": "Ed25519"})
    assert _verifier("EdDSA").check(token, node="host", session=SESSION).node == "host"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "for another node": ({"aud": "edge-2"}, "for 'edge-2', not for node edge-1"),
    "for two nodes": ({"aud": ["edge-1", "edge-2"]}, "not for node edge-1"),
    "for nobody": ({"aud": None}, "for None"),
    "of another node": ({"sub": "thief"}, "of node 'thief', and the greeting of node 'host'"),
    "of another fabric": ({"iss": "fb://prod"}, "of 'fb://prod', not of fb://dev"),
    "of no fabric": ({"iss": None}, "not of fb://dev"),
    "not valid yet": ({"nbf": NOW + TOKEN_LEEWAY_S + 1}, "not valid for 31 s more"),
    "issued in the future": ({"iat": NOW + 100, "exp": NOW + 900}, "not valid for 100 s more"),
    "good for too long": ({"exp": NOW + TOKEN_S_MAX + 1}, "good for 901 s, and at most 900"),
    "without an end": ({"exp": None}, "its exp is no time"),
    "without a beginning": ({"iat": None}, "its iat is no time"),
    "with a time that is none": ({"exp": True}, "its exp is no time"),
    "with an endless time": ({"exp": 1e300}, "its exp is no time"),
    "without a name": ({"jti": None}, "its jti is 1 to 128"),
    "with an empty name": ({"jti": ""}, "its jti is 1 to 128"),
    "with a name without end": ({"jti": "x" * 129}, "its jti is 1 to 128"),
    "bound to a certificate": ({"cnf": {"x5t#S256": "x"}}, "bound to a certificate"),
    "bound to something else": ({"cnf": {"jkt": "x"}}, "bound to a certificate"),
    "bound to nonsense": ({"cnf": 5}, "bound to a certificate"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_token_is_refused_that_is(what: str) -> None:
    changes, why = REFUSED[what]
    verifier = _verifier()
    token = token_of({**CLAIMS, **changes}, signing_key())
    with pytest.raises(AuthError, match=why) as caught:
        verifier.check(token, node="host", session=SESSION)
    assert caught.value.code == Code.UNAUTHENTICATED
    assert verifier.in_use == 0


def test_an_expired_token_has_its_own_code_and_may_be_replaced_at_once() -> None:
    now = Now()
    verifier = _verifier(now=now)
    token = _made()
    now.now = NOW + TOKEN_S_MAX - 1
    verifier.check(token, node="host", session=SESSION)
    now.now = NOW + TOKEN_S_MAX + 3
    with pytest.raises(AuthError, match=r"expired 3 s ago; .*certs token") as caught:
        verifier.check(token, node="host", session=SESSION)
    assert (caught.value.code, caught.value.retry) == (Code.TOKEN_EXPIRED, Retry.NOW)


def test_clocks_may_differ_a_little() -> None:
    now = Now()
    now.now = NOW - TOKEN_LEEWAY_S
    assert _verifier(now=now).check(_made(), node="host", session=SESSION).node == "host"


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "no algorithm": ({"alg": "none"}, "algorithm 'none' is not one of"),
    "no algorithm in capitals": ({"alg": "NONE"}, "'NONE' is not one of"),
    "the public key as a secret": ({"alg": "HS256"}, "algorithm 'HS256' is not one of"),
    "a longer secret": ({"alg": "HS512"}, "'HS512' is not one of"),
    "another curve's": ({"alg": "ES384"}, "'ES384' is not one of"),
    "one of the other kind of key": ({"alg": "EdDSA"}, "signed by nobody who may"),
    "nothing about it": ({}, "signed by nobody who may"),
    "an unencoded payload": ({"alg": "ES256", "b64": False, "crit": ["b64"]}, "signed by nobody"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_token_is_refused_whose_header_says(what: str) -> None:
    header, why = HEADERS[what]
    with pytest.raises(AuthError, match=why) as caught:
        _verifier().check(token_of(CLAIMS, signing_key(), header), node="host", session=SESSION)
    assert caught.value.code == Code.UNAUTHENTICATED


def test_a_token_of_a_stranger_is_refused() -> None:
    with pytest.raises(AuthError, match="signed by nobody who may"):
        _verifier().check(token_of(CLAIMS, signing_key("ES256", 2)), node="host", session=SESSION)


def test_a_token_that_brings_its_own_key_is_refused() -> None:
    from joserfc.jwk import ECKey

    thief = signing_key("ES256", 2)
    header = {"alg": "ES256", "jwk": dict(ECKey.import_key(public_half(thief)).as_dict())}
    with pytest.raises(AuthError, match="signed by nobody who may"):
        _verifier().check(token_of(CLAIMS, thief, header), node="host", session=SESSION)


def test_a_token_whose_claims_were_changed_is_refused() -> None:
    mine, other = (token_of({**CLAIMS, "sub": sub}, signing_key()).split(".") for sub in ("host", "admin"))
    with pytest.raises(AuthError, match="signed by nobody who may"):
        _verifier().check(".".join((mine[0], other[1], mine[2])), node="admin", session=SESSION)


@pytest.mark.parametrize("claims", [[], "x", 5, None, b"\xff\xfe", b"{", b"[" * 3_000])
def test_claims_that_are_no_object_are_refused(claims: object) -> None:
    with pytest.raises(AuthError):
        _verifier().check(token_of(claims, signing_key()), node="host", session=SESSION)


def test_a_second_session_with_a_token_is_refused_and_the_first_one_goes_on() -> None:
    verifier = _verifier()
    token = _made()
    verifier.check(token, node="host", session=SESSION)
    with pytest.raises(AuthError, match="used before, for another session"):
        verifier.check(token, node="host", session=OTHER)
    assert verifier.check(token, node="host", session=SESSION).node == "host"
    assert verifier.check(_made(), node="host", session=OTHER).node == "host"


def test_a_name_is_used_up_by_nobody_but_who_may_sign() -> None:
    verifier = _verifier()
    with pytest.raises(AuthError):
        verifier.check(token_of(CLAIMS, signing_key("ES256", 2)), node="host", session=OTHER)
    assert verifier.check(token_of(CLAIMS, signing_key()), node="host", session=SESSION).node == "host"


def test_expired_tokens_make_room_for_new_ones() -> None:
    now = Now()
    verifier = _verifier(now=now)
    for number in range(TOKENS_MAX):
        verifier._used[f"n{number}"] = SESSION, NOW + 10 + number % 2
    with pytest.raises(OverloadError, match=f"at most {TOKENS_MAX} tokens"):
        verifier.check(_made(), node="host", session=SESSION)
    now.now = NOW + 10
    verifier.check(_made(), node="host", session=SESSION)
    assert verifier.in_use == TOKENS_MAX // 2 + 1


def test_a_bound_token_needs_its_certificate() -> None:
    verifier = _verifier()
    token = _made(fingerprint=PRINT)
    for shown in ("", "cd" * 32):
        with pytest.raises(AuthError, match="bound to a certificate"):
            verifier.check(token, node="host", session=SESSION, fingerprint=shown)
    assert verifier.check(token, node="host", session=SESSION, fingerprint=PRINT).node == "host"
    bound = base64.urlsafe_b64decode(claims_of(token)["cnf"]["x5t#S256"] + "=")
    assert bound == bytes.fromhex(PRINT)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lifetime_s": TOKEN_S_MAX + 1}, "1 to 900 s, not 901"),
        ({"lifetime_s": 0}, "1 to 900 s, not 0"),
        ({"node": "a node"}, "node 'a node'"),
        ({"audience": ""}, "audience ''"),
        ({"fabric": "x" * 129}, "fabric 'x"),
        ({"fingerprint": "abc"}, "a fingerprint is 32 bytes"),
    ],
)
def test_a_token_that_nobody_would_take_is_not_made(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        _made(**changes)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_read_from_pem_certificates_and_sets(tmp_path: Path) -> None:
    from joserfc.jwk import ECKey, OKPKey

    assert len(read_token_keys(public_half(signing_key()) + public_half(signing_key("EdDSA")))) == 2
    assert len(read_token_keys(make_ca().certificate)) == 1
    keys = [
        ECKey.import_key(public_half(signing_key())).as_dict(),
        OKPKey.import_key(public_half(signing_key("EdDSA"))).as_dict(),
    ]
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": keys}))
    found = read_token_keys(file)
    verifier = TokenVerifier(found, "dev", "edge-1", Now())
    for kind in ("ES256", "EdDSA"):
        assert verifier.check(_made(kind), node="host", session=SESSION).node == "host"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "1 to 32 keys, not 0"),
        (b"hello", "1 to 32 keys, not 0"),
        (signing_key(), "a private key does not belong here"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "private or secret key"),
        (b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "Ed25519 or P-256, not 'RSA'"),
        (b'{"keys": [{"kty": "EC"}]}', "cannot be read"),
        (b'{"keys": 5}', "cannot be read"),
        (b"{", "cannot be read"),
        (public_half(signing_key()) * (TOKEN_KEYS_MAX + 1), "1 to 32 keys, not 33"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
    ],
)
def test_what_holds_no_public_keys_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        read_token_keys(content)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match=r"nowhere\.pem: No such file"):
        read_token_keys(tmp_path / "nowhere.pem")


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a.IjEi.c", "é.é.é"])
def test_what_is_no_token_is_called_so(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="no JSON Web Token"):
        claims_of(text)
