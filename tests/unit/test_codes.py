"""Codes of the wire: what each means, which error it becomes, and what a person is told."""

from __future__ import annotations

import pytest

from flowbridge import errors
from flowbridge.codec.codes import (
    CODE_MAX,
    CODES,
    FAULTS,
    Code,
    Fault,
    code_of,
    cut,
    error_of,
    from_transport,
    name_of,
    rule_of,
    shown,
)
from flowbridge.errors import (
    AuthError,
    BlockReason,
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    Effect,
    FlowbridgeError,
    LocalProtocolError,
    NoResponderError,
    OverloadError,
    RemoteProtocolError,
    Retry,
    ShmFullError,
    WouldBlock,
)
from flowbridge.limits import REASON_BYTES_MAX


def test_every_code_and_every_class_has_a_rule() -> None:
    assert set(CODES) == set(Code)
    assert set(FAULTS) == set(Fault)
    assert {code.fault for code in Code} == set(Fault)


@pytest.mark.parametrize("code", Code)
def test_a_code_becomes_an_error_that_says_what_to_conclude_and_keeps_its_code(code: Code) -> None:
    error = error_of(code, "because", 250)
    rule = CODES[code]
    assert type(error) is rule.error
    assert (error.effect, error.retry, error.code) == (rule.effect, rule.retry, code)
    assert str(error) == f"{code.name} ({int(code):#05x}): {rule.meaning}: because"
    assert code_of(error) == code
    if isinstance(error, OverloadError):
        assert error.retry_after_ns == 250_000_000


def test_what_was_refused_was_not_done_and_what_is_unknown_may_have_been() -> None:
    done = {
        Fault.REFUSED: Effect.NONE,
        Fault.UNKNOWN: Effect.MAYBE,
        Fault.OVERLOAD: Effect.NONE,
        Fault.AUTH: Effect.NONE,
    }
    for code in Code:
        if code.fault in done:
            assert CODES[code].effect is done[code.fault], code
        if code.fault is Fault.EXPIRED:
            assert CODES[code].retry is Retry.NEVER


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x1FF, BrokenError),
        (0x3AA, OverloadError),
        (0x5EE, AuthError),
        (0xA01, FlowbridgeError),
        (CODE_MAX, FlowbridgeError),
    ],
)
def test_a_code_of_another_version_is_handled_as_its_class(code: int, kind: type[FlowbridgeError]) -> None:
    error = error_of(code)
    assert type(error) is kind
    assert error.code == code
    assert name_of(code) == f"{code:#05x}"
    assert rule_of(code).error is kind


def test_a_deadline_that_a_peer_missed_is_a_timeout() -> None:
    error = error_of(Code.DEADLINE_EXCEEDED, "it took long")
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert (error.where, error.deadline_ns, error.now_ns) == ("it took long", 0, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClosedError("x"), Code.CANCELLED),
        (BrokenError("x"), Code.PEER_GONE),
        (ShmFullError("x", 1, None, "y"), Code.MEMORY),
        (WouldBlock(BlockReason.RING), Code.BUSY),
        (OverloadError("x"), Code.BUSY),
        (AuthError("x"), Code.FORBIDDEN),
        (NoResponderError("x"), Code.NO_RESPONDERS),
        (DeadlineExceeded("x", 1, 2), Code.EXPIRED_IN_FLIGHT),
        (DeadlineExceeded("x", 1, 2, Effect.MAYBE), Code.DEADLINE_EXCEEDED),
        (RemoteProtocolError("x"), Code.FRAME),
        (errors.DecodeError("x"), Code.CBOR),
        (LocalProtocolError("x"), Code.INVALID),
        (errors.OperatorError("n", "x"), Code.FAILED),
        (FlowbridgeError("x"), Code.FAILED),
        (ValueError("x"), Code.INTERNAL),
    ],
)
def test_an_error_of_ours_is_told_by_the_code_that_fits(error: Exception, code: Code) -> None:
    assert code_of(error) == code


def test_every_error_of_the_house_has_a_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FlowbridgeError)]
    for kind in kinds:
        assert code_of(kind.__new__(kind)) != Code.INTERNAL


def test_a_reason_of_a_peer_cannot_disturb_a_terminal_and_is_short() -> None:
    assert shown("a\x1b[2J\nb\u202e\x00") == "a\\x1b[2J\\nb\\u202e\\x00"
    assert shown("ä€") == "ä€"
    assert len(shown("\x1b" * 10_000).encode()) <= REASON_BYTES_MAX
    assert len(shown("€" * 10_000).encode()) <= REASON_BYTES_MAX
    assert "\n" not in str(error_of(Code.REFUSED, "a\nb"))


def test_a_reason_of_ours_is_cut_to_what_fits() -> None:
    assert cut("short") == "short"
    assert len(cut("€" * 200).encode()) == 255
    assert cut("\ud800") == "?"


# --- QUIC and TLS ----------------------------------------------------------------------------------------------------

ALERT = 0x100


@pytest.mark.parametrize(
    ("code", "reason", "expected", "advice"),
    [
        (ALERT + 42, "unable to get local issuer certificate", Code.UNAUTHENTICATED, "trust the authority (CA)"),
        (ALERT + 42, "self-signed certificate in certificate chain", Code.UNAUTHENTICATED, "trust the authority (CA)"),
        (ALERT + 42, "hostname 'a' doesn't match 'b'", Code.UNAUTHENTICATED, "certificate names"),
        (ALERT + 42, "unsuitable certificate purpose", Code.UNAUTHENTICATED, "clientAuth and serverAuth"),
        (ALERT + 42, "certificate has expired", Code.UNAUTHENTICATED, "set the clock"),
        (ALERT + 42, "", Code.UNAUTHENTICATED, "check the certificate"),
        (ALERT + 45, "Certificate is no longer valid", Code.UNAUTHENTICATED, "set the clock"),
        (ALERT + 45, "", Code.UNAUTHENTICATED, "set the clock"),
        (ALERT + 44, "", Code.REVOKED, "revoked"),
        (ALERT + 48, "", Code.UNAUTHENTICATED, "trust the authority (CA)"),
        (ALERT + 116, "", Code.CERTIFICATE_REQUIRED, "give a certificate and its key"),
        (ALERT + 120, "", Code.VERSION, "ALPN"),
        (ALERT + 40, "No common ALPN protocols", Code.VERSION, "ALPN"),
        (ALERT + 40, "", Code.UNAUTHENTICATED, "cipher"),
        (ALERT + 50, "", Code.FRAME, "bug"),
        (0x0, "", Code.DRAINED, ""),
        (0x2, "", Code.TOO_MANY_CONNECTIONS, "wait"),
        (0x3, "", Code.FRAME, "bug"),
        (0xA, "", Code.FRAME, "bug"),
        (0xB, "", Code.REFUSED, "again"),
        (0x10, "", Code.PEER_GONE, "firewall"),
        (0x11, "", Code.VERSION, "QUIC"),
        (0x200, "", Code.FRAME, "bug"),
    ],
)
def test_the_end_of_a_connection_says_what_to_do(code: int, reason: str, expected: Code, advice: str) -> None:
    closing = from_transport(code, by_application=False, reason=reason)
    assert closing.code == expected
    assert advice in closing.advice
    assert "\n" not in closing.advice
    error = closing.error("node edge-1")
    assert str(error).startswith(f"node edge-1: {name_of(expected)}")
    assert str(error).endswith(closing.advice)
    assert error.code == expected


def test_a_peer_that_does_not_answer_is_unreachable_and_one_that_forgot_is_gone() -> None:
    unreachable = from_transport(0, by_application=False, is_timeout=True)
    assert (unreachable.code, "UDP" in unreachable.advice) == (Code.PEER_GONE, True)
    forgot = from_transport(0, by_application=False, is_reset=True)
    assert (forgot.code, "started anew" in forgot.advice) == (Code.PEER_GONE, True)


def test_a_code_of_the_application_is_kept() -> None:
    assert from_transport(0, by_application=True).code == Code.DRAINED
    assert from_transport(Code.SUPERSEDED, by_application=True, reason="x\n").reason == "x\\n"
    assert from_transport(0x777, by_application=True).code == 0x777
    assert "same version" in from_transport(Code.VERSION, by_application=True).advice
