"""Why a connection, a stream or a call between machines ended: numbers, classes, and what a caller may conclude.

    code = class << 8 | detail

A code closes connections and streams (RFC 9000, sections 10.2 and 19.4) and stands in ERROR and GOAWAY frames. One
of an unknown detail is handled as its class. What closed a connection below us, QUIC or TLS, becomes one of these codes
too: see `from_transport`.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from flowbridge.errors import (
    AuthError,
    BrokenError,
    BusyError,
    ClosedError,
    CodecError,
    DeadlineExceeded,
    DecodeError,
    Effect,
    EncodeError,
    EndOfStream,
    FlowbridgeError,
    FlowErrors,
    LocalProtocolError,
    MissingExtraError,
    NativeUnavailableError,
    NoResponderError,
    OperatorError,
    OverloadError,
    PlanError,
    RemoteProtocolError,
    ResourceError,
    Retry,
    ShmFullError,
    WouldBlock,
)
from flowbridge.limits import REASON_BYTES_MAX

CODE_MAX: Final = 2**62 - 1
"""The largest that fits into a frame of QUIC."""


class Fault(enum.IntEnum):
    """The class of a code."""

    NONE = 0x0  # nothing failed
    REFUSED = 0x1  # before anything was done
    UNKNOWN = 0x2  # the link or the peer was lost meanwhile
    OVERLOAD = 0x3  # the peer is there and has no room
    EXPIRED = 0x4  # a deadline
    AUTH = 0x5  # an identity or a right
    PROTOCOL = 0x6  # somebody broke the rules; the connection is closed
    APP = 0x7  # what handled it says so
    SESSION = 0x8  # a session or its connection is over
    DATA = 0x9  # something is damaged or lost
    BUG = 0xF


class Code(enum.IntEnum):
    """Every code."""

    OK = 0x000
    CANCELLED = 0x001
    REFUSED = 0x101
    GOING_AWAY = 0x102
    NOT_READY = 0x103
    STREAM_LIMIT = 0x104
    PEER_GONE = 0x201
    NO_REPLY = 0x202
    RESET_MIDWAY = 0x203
    BUSY = 0x301
    QUOTA = 0x302
    TOO_MANY_CONNECTIONS = 0x303
    MEMORY = 0x304
    DEADLINE_EXCEEDED = 0x401
    EXPIRED_IN_FLIGHT = 0x402
    CANNOT_MEET_DEADLINE = 0x403
    UNAUTHENTICATED = 0x501
    FORBIDDEN = 0x502
    TOKEN_EXPIRED = 0x503
    CERTIFICATE_REQUIRED = 0x504
    REVOKED = 0x505
    FRAME = 0x601
    CBOR = 0x602
    LIMIT = 0x603
    CREDIT = 0x604
    GAP = 0x605
    UNEXPECTED = 0x606
    VERSION = 0x607
    FAILED = 0x701
    TRANSIENT = 0x702
    INVALID = 0x703
    NOT_FOUND = 0x704
    NO_RESPONDERS = 0x705
    CONFLICT = 0x706
    UNIMPLEMENTED = 0x707
    PRECONDITION = 0x708
    SUPERSEDED = 0x801
    RESUME_REJECTED = 0x802
    STATE_LOST = 0x803
    SESSION_EXPIRED = 0x804
    DRAINED = 0x805
    DATA_LOSS = 0x901
    CHECKSUM = 0x902
    INTERNAL = 0xF01

    @property
    def fault(self) -> Fault:
        """Its class."""
        return Fault(self >> 8)


class Rule(NamedTuple):
    """What a code means to a caller: whether the thing was done, whether to ask again, and the error it becomes."""

    effect: Effect
    retry: Retry
    error: type[FlowbridgeError]
    meaning: str


_NONE, _MAYBE, _DONE = Effect.NONE, Effect.MAYBE, Effect.DONE
_NEVER, _LATER, _NOW = Retry.NEVER, Retry.LATER, Retry.NOW

FAULTS: Final[dict[Fault, Rule]] = {
    Fault.NONE: Rule(_NONE, _NEVER, FlowbridgeError, "nothing failed"),
    Fault.REFUSED: Rule(_NONE, _LATER, BrokenError, "the peer refused before it did anything"),
    Fault.UNKNOWN: Rule(_MAYBE, _LATER, BrokenError, "the peer or the link was lost"),
    Fault.OVERLOAD: Rule(_NONE, _LATER, OverloadError, "the peer has no room"),
    Fault.EXPIRED: Rule(_NONE, _NEVER, DeadlineExceeded, "the deadline passed"),
    Fault.AUTH: Rule(_NONE, _NEVER, AuthError, "an identity or a right was refused"),
    Fault.PROTOCOL: Rule(_MAYBE, _NEVER, RemoteProtocolError, "the rules of the link were broken"),
    Fault.APP: Rule(_DONE, _NEVER, FlowbridgeError, "what handled it failed"),
    Fault.SESSION: Rule(_MAYBE, _LATER, BrokenError, "the session or its connection is over"),
    Fault.DATA: Rule(_DONE, _NEVER, DecodeError, "data is damaged or lost"),
    Fault.BUG: Rule(_MAYBE, _NEVER, FlowbridgeError, "the peer has a bug"),
}
"""What holds for a code that is not in `CODES`."""

CODES: Final[dict[Code, Rule]] = {
    Code.OK: FAULTS[Fault.NONE],
    Code.CANCELLED: Rule(_MAYBE, _NEVER, ClosedError, "cancelled"),
    Code.REFUSED: Rule(_NONE, _LATER, BrokenError, "the peer refuses"),
    Code.GOING_AWAY: Rule(_NONE, _NOW, BrokenError, "the peer is leaving and takes nothing new"),
    Code.NOT_READY: Rule(_NONE, _LATER, BrokenError, "the peer is not ready yet"),
    Code.STREAM_LIMIT: Rule(_NONE, _LATER, OverloadError, "the peer takes no more streams"),
    Code.PEER_GONE: Rule(_MAYBE, _LATER, BrokenError, "the peer does not answer"),
    Code.NO_REPLY: Rule(_MAYBE, _LATER, BrokenError, "no reply came in time"),
    Code.RESET_MIDWAY: Rule(_MAYBE, _LATER, BrokenError, "a stream was cut off"),
    Code.BUSY: FAULTS[Fault.OVERLOAD],
    Code.QUOTA: Rule(_NONE, _LATER, OverloadError, "a quota is used up"),
    Code.TOO_MANY_CONNECTIONS: Rule(_NONE, _LATER, OverloadError, "the peer takes no more connections"),
    Code.MEMORY: Rule(_NONE, _LATER, OverloadError, "the peer has no memory left"),
    Code.DEADLINE_EXCEEDED: Rule(_MAYBE, _NEVER, DeadlineExceeded, "the deadline passed while it was handled"),
    Code.EXPIRED_IN_FLIGHT: Rule(_NONE, _NEVER, DeadlineExceeded, "the deadline passed on the way"),
    Code.CANNOT_MEET_DEADLINE: Rule(_NONE, _NEVER, DeadlineExceeded, "the deadline could not have been met"),
    Code.UNAUTHENTICATED: Rule(_NONE, _NEVER, AuthError, "the peer does not believe who this is"),
    Code.FORBIDDEN: Rule(_NONE, _NEVER, AuthError, "the right to do it is missing"),
    Code.TOKEN_EXPIRED: Rule(_NONE, _NOW, AuthError, "the token has expired: once more with a new one"),
    Code.CERTIFICATE_REQUIRED: Rule(_NONE, _NEVER, AuthError, "the peer wants a certificate"),
    Code.REVOKED: Rule(_NONE, _NEVER, AuthError, "the identity was revoked"),
    Code.FRAME: Rule(_MAYBE, _NEVER, RemoteProtocolError, "a frame is malformed"),
    Code.CBOR: Rule(_MAYBE, _NEVER, RemoteProtocolError, "the header of a frame is malformed"),
    Code.LIMIT: Rule(_MAYBE, _NEVER, RemoteProtocolError, "a limit was exceeded"),
    Code.CREDIT: Rule(_MAYBE, _NEVER, RemoteProtocolError, "more was sent than there was credit for"),
    Code.GAP: Rule(_MAYBE, _NEVER, RemoteProtocolError, "something is missing in a sequence"),
    Code.UNEXPECTED: Rule(_MAYBE, _NEVER, RemoteProtocolError, "a frame came where none of its type may come"),
    Code.VERSION: Rule(_NONE, _NEVER, RemoteProtocolError, "the peers speak different versions"),
    Code.FAILED: FAULTS[Fault.APP],
    Code.TRANSIENT: Rule(_DONE, _LATER, FlowbridgeError, "what handled it failed for now"),
    Code.INVALID: Rule(_NONE, _NEVER, LocalProtocolError, "what was asked for is not valid"),
    Code.NOT_FOUND: Rule(_NONE, _NEVER, FlowbridgeError, "there is no such thing"),
    Code.NO_RESPONDERS: Rule(_NONE, _LATER, NoResponderError, "nobody serves the topic"),
    Code.CONFLICT: Rule(_MAYBE, _LATER, FlowbridgeError, "another one does the same at this moment"),
    Code.UNIMPLEMENTED: Rule(_NONE, _NEVER, FlowbridgeError, "the peer cannot do it"),
    Code.PRECONDITION: Rule(_NONE, _NEVER, FlowbridgeError, "what must hold first does not"),
    Code.SUPERSEDED: Rule(_MAYBE, _NEVER, BrokenError, "a newer connection took this one's place"),
    Code.RESUME_REJECTED: Rule(_MAYBE, _LATER, BrokenError, "the session cannot be resumed"),
    Code.STATE_LOST: Rule(_MAYBE, _LATER, BrokenError, "the peer started anew and has lost the session"),
    Code.SESSION_EXPIRED: Rule(_MAYBE, _LATER, BrokenError, "the session was away for longer than its lease"),
    Code.DRAINED: Rule(_MAYBE, _LATER, BrokenError, "the peer has ended in order"),
    Code.DATA_LOSS: Rule(_DONE, _NEVER, DecodeError, "data was lost"),
    Code.CHECKSUM: Rule(_DONE, _NEVER, DecodeError, "data is damaged"),
    Code.INTERNAL: FAULTS[Fault.BUG],
}
"""What each code means. What was done before a rule was broken, nobody knows."""

_UNKNOWN: Final = Rule(_MAYBE, _NEVER, FlowbridgeError, "a code of an unknown class")


def rule_of(code: int) -> Rule:
    """What a code means, also one of a version that is not known here."""
    try:
        return CODES[Code(code)]
    except ValueError:
        pass
    try:
        return FAULTS[Fault(code >> 8)]
    except ValueError:
        return _UNKNOWN


def name_of(code: int) -> str:
    """``PEER_GONE (0x201)``, for messages."""
    try:
        return f"{Code(code).name} ({code:#05x})"
    except ValueError:
        return f"{code:#05x}"


def cut(reason: str) -> str:
    """A text that fits where a frame says why: well-formed, at most `REASON_BYTES_MAX` bytes."""
    data = reason.encode(errors="replace")
    return data[:REASON_BYTES_MAX].decode(errors="ignore")


def shown(reason: str) -> str:
    """What a peer says, so that it cannot disturb a log or a terminal: escaped, and cut at `REASON_BYTES_MAX` bytes."""
    pieces: list[str] = []
    left = REASON_BYTES_MAX
    for letter in reason[:REASON_BYTES_MAX]:
        piece = letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        left -= len(piece.encode())
        if left < 0:
            break
        pieces.append(piece)
    return "".join(pieces)


def error_of(code: int, reason: str = "", retry_after_ms: int | None = None) -> FlowbridgeError:
    """The error that a peer's code is, with `code`, `effect` and `retry`; the reason is the peer's."""
    said = shown(reason)
    text = f"{name_of(code)}: {rule_of(code).meaning}" + (f": {said}" if said else "")
    return error_as(code, text, None if retry_after_ms is None else retry_after_ms * 1_000_000, where=said)


def error_as(code: int, text: str, retry_after_ns: int | None = None, *, where: str = "") -> FlowbridgeError:
    """As `error_of`, of which `text` is all that it says."""
    rule = rule_of(code)
    error: FlowbridgeError
    if rule.error is DeadlineExceeded:
        error = DeadlineExceeded.__new__(DeadlineExceeded)  # whose times are not known here
        error.args = (text,)
        vars(error).update(where=where or rule.meaning, deadline_ns=0, now_ns=0)
    else:
        error = rule.error(text)
    error.effect = rule.effect
    error.retry = rule.retry
    error.code = code
    error.retry_after_ns = retry_after_ns
    return error


_CODE_OF: Final[tuple[tuple[type[BaseException], Code], ...]] = (  # the first that fits
    (EndOfStream, Code.OK),
    (ClosedError, Code.CANCELLED),
    (ShmFullError, Code.MEMORY),
    (BusyError, Code.CONFLICT),
    (NativeUnavailableError, Code.UNIMPLEMENTED),
    (MissingExtraError, Code.UNIMPLEMENTED),
    (ResourceError, Code.PEER_GONE),
    (OverloadError, Code.BUSY),
    (WouldBlock, Code.BUSY),
    (NoResponderError, Code.NO_RESPONDERS),
    (AuthError, Code.FORBIDDEN),
    (DecodeError, Code.CBOR),
    (EncodeError, Code.INVALID),
    (CodecError, Code.CBOR),
    (LocalProtocolError, Code.INVALID),
    (PlanError, Code.INVALID),
    (FlowErrors, Code.INVALID),
    (RemoteProtocolError, Code.FRAME),
    (OperatorError, Code.FAILED),
    (FlowbridgeError, Code.FAILED),
)


def code_of(error: BaseException) -> int:
    """The code to tell a peer of an error that was raised here; one that came over the wire keeps its own."""
    if isinstance(error, FlowbridgeError) and error.code is not None:
        return error.code
    if isinstance(error, DeadlineExceeded):
        return Code.EXPIRED_IN_FLIGHT if error.effect is Effect.NONE else Code.DEADLINE_EXCEEDED
    return next((code for kind, code in _CODE_OF if isinstance(error, kind)), Code.INTERNAL)


def coded(error: FlowbridgeError) -> FlowbridgeError:
    """An error as another machine would know it: itself when it came from one."""
    if error.code is not None:
        return error
    retry_after_ns = error.retry_after_ns
    return error_of(code_of(error), str(error), None if retry_after_ns is None else -(-retry_after_ns // 1_000_000))


# --- what closed a connection below us -------------------------------------------------------------------------------


class Closing(NamedTuple):
    """Why a connection ended: its code, what was said, and what a person can do about it (one line, may be empty)."""

    code: int
    reason: str
    advice: str

    def error(self, peer: str, *, is_remote: bool = True) -> FlowbridgeError:
        """As an error that names the peer; `is_remote` when it was the peer who ended it."""
        error = error_of(self.code, self.reason)
        told = str(error)
        if not is_remote and isinstance(error, AuthError):  # the other way round than the code is meant
            told = f"{name_of(self.code)}: its certificate is not believed here: {self.reason}"
        error.args = (f"{peer}: {told}" + (f"; {self.advice}" if self.advice else ""),)
        return error


_TLS: Final = 0x100  # CRYPTO_ERROR: the alert is in the lower byte (RFC 9000, section 20.1; RFC 8446, section 6.2)
_WRONG_HOST: Final = "use the address that the peer's certificate names, or issue one that names this address"
_WRONG_CA: Final = "check that both ends trust the authority (CA) that issued the other's certificate"
_WRONG_USE: Final = "issue a certificate for this use: a node needs both clientAuth and serverAuth"
_EXPIRED: Final = "issue a new certificate, or set the clock: it is outside its time of validity"
_BAD: Final = "check the certificate and that its key belongs to it"
_NEEDED: Final = "give a certificate and its key: the peer wants to know who this is"
_VERSIONS: Final = "bring both ends to the same version of flowbridge"
_UNREACHABLE: Final = "check that a node listens there, and that UDP passes (firewall, address, port)"
_BROKEN_RULES: Final = "check what listens there; if it is flowbridge, one of both ends has a bug"

_ALERTS: Final[dict[int, tuple[Code, str]]] = {
    40: (Code.UNAUTHENTICATED, "the ends agree on no cipher, or a certificate is missing or of an unknown kind"),
    42: (Code.UNAUTHENTICATED, _BAD),
    43: (Code.UNAUTHENTICATED, _WRONG_USE),
    44: (Code.REVOKED, "issue a new certificate: this one was revoked"),
    45: (Code.UNAUTHENTICATED, _EXPIRED),
    46: (Code.UNAUTHENTICATED, _BAD),
    48: (Code.UNAUTHENTICATED, _WRONG_CA),
    49: (Code.FORBIDDEN, "let the peer's policy allow this identity"),
    51: (Code.UNAUTHENTICATED, _BAD),
    70: (Code.VERSION, "the peer does not speak TLS 1.3"),
    112: (Code.UNAUTHENTICATED, _WRONG_HOST),
    116: (Code.CERTIFICATE_REQUIRED, _NEEDED),
    120: (Code.VERSION, "the peer speaks no version of this protocol (ALPN): " + _VERSIONS),
}
_SAID: Final = (  # in what an engine says of a certificate that it refuses: most only say that it is bad
    (("hostname", "doesn't match", "does not match", "ip address", ", not for "), Code.UNAUTHENTICATED, _WRONG_HOST),
    (("purpose", "key usage", "clientauth", "serverauth"), Code.UNAUTHENTICATED, _WRONG_USE),
    (("expired", "not valid yet", "no longer valid", "not yet valid"), Code.UNAUTHENTICATED, _EXPIRED),
    (("revoked",), Code.REVOKED, _ALERTS[44][1]),
    (("issuer", "self-signed", "self signed", "unknown ca", "unable to get"), Code.UNAUTHENTICATED, _WRONG_CA),
    (("certificate required", "no certificate", "certificate is missing"), Code.CERTIFICATE_REQUIRED, _NEEDED),
)
_CERTIFICATE_ALERTS: Final = frozenset({42, 43, 46, 80})
_TRANSPORT: Final[dict[int, tuple[Code, str]]] = {  # RFC 9000, section 20.1; RFC 9368, section 10.2
    0x00: (Code.DRAINED, ""),
    0x01: (Code.INTERNAL, "look into the peer's log"),
    0x02: (Code.TOO_MANY_CONNECTIONS, "wait, or let the peer take more connections"),
    0x0B: (Code.REFUSED, "try again: a token of the address validation was not accepted"),
    0x0C: (Code.PEER_GONE, "look into the peer's log"),
    0x0F: (Code.PEER_GONE, ""),
    0x10: (Code.PEER_GONE, _UNREACHABLE),
    0x11: (Code.VERSION, "the ends have no version of QUIC in common: " + _VERSIONS),
}


def from_transport(
    code: int, by_application: bool, is_timeout: bool = False, is_reset: bool = False, reason: str = ""
) -> Closing:
    """Why a connection ended, from what QUIC or TLS says of its end (RFC 9000, section 20; RFC 8446, section 6.2).

    `is_timeout`: nothing was heard for too long, or nobody answered at all. `is_reset`: the peer does not know the
    connection, so it has started anew.
    """
    reason = shown(reason)
    if is_timeout:
        return Closing(Code.PEER_GONE, reason, _UNREACHABLE)
    if is_reset:
        return Closing(Code.PEER_GONE, reason, "the peer has started anew: connect again")
    if by_application:
        return Closing(Code.DRAINED if code == 0 else code, reason, _VERSIONS if code == Code.VERSION else "")
    if _TLS <= code < 2 * _TLS:
        return _from_alert(code - _TLS, reason)
    mapped, advice = _TRANSPORT.get(code, (Code.FRAME, _BROKEN_RULES))
    return Closing(mapped, reason, advice)


def _from_alert(alert: int, reason: str) -> Closing:
    if alert in _CERTIFICATE_ALERTS:
        told = reason.lower()
        for words, code, advice in _SAID:
            if any(word in told for word in words):
                return Closing(code, reason, advice)
    if alert == 40 and "alpn" in reason.lower():
        alert = 120
    code, advice = _ALERTS.get(alert, (Code.FRAME, _BROKEN_RULES))
    return Closing(code, reason or f"TLS alert {alert}", advice)
