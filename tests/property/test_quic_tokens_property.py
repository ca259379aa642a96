"""Whatever somebody sends as a token: it is believed only when a key holder wrote just that."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_keys import CLAIMS, NOW, public_half, signing_key, token_of

from flowbridge.errors import AuthError

pytest.importorskip("joserfc", reason="joserfc is not installed")

from flowbridge.transports.quic.tokens import TokenVerifier, read_token_keys

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
SESSION = b"s" * 16


def _verifier() -> TokenVerifier:
    return TokenVerifier(read_token_keys(public_half(signing_key())), "dev", "edge-1", lambda: NOW)


@given(text=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,60}){0,4}", fullmatch=True))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(AuthError):
        _verifier().check(text, node="host", session=SESSION)


@settings(deadline=None)
@given(claims=st.dictionaries(st.sampled_from([*CLAIMS, "cnf", "x"]), JSON, max_size=9), header=st.none() | JSON)
def test_whatever_a_key_holder_signs_ends_in_a_judgement(claims: dict[str, object], header: object) -> None:
    head = {"alg": "ES256", **(header if isinstance(header, dict) else {})}
    token = token_of({**CLAIMS, **claims}, signing_key(), head)
    try:
        proof = _verifier().check(token, node="host", session=SESSION)
    except AuthError:
        return
    said = {**CLAIMS, **claims}
    assert (said["iss"], said["sub"]) == ("fb://dev", "host")
    assert said["aud"] in ("edge-1", ["edge-1"])
    assert NOW < proof.expires_at <= NOW + 930
    assert said.get("cnf") is None


@settings(deadline=None)
@given(data=st.data())
def test_a_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    token = token_of(CLAIMS, signing_key())
    at = data.draw(st.integers(0, len(token) - 2))  # of the last one not all bits count
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = token[:at] + other + token[at + 1 :]
    if changed == token:
        return
    with pytest.raises(AuthError):
        _verifier().check(changed, node="host", session=SESSION)
