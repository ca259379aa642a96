"""Stateless reset (RFC 9000, section 10.3): how a peer learns that we forgot its connection."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN_BYTES: Final = 16
RESET_BYTES: Final = 42
RESET_BYTES_MIN: Final = 21


class ResetTokens:
    """The token of each connection id, derived from a key: whoever keeps the key over a restart can still reset."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes | None) -> None:
        """Use `key`, or a new one that ends with the process."""
        self._key: Final = key if key is not None else os.urandom(32)

    def token(self, connection_id: bytes) -> bytes:
        """16 bytes that only a holder of the key can tell."""
        return hmac.new(self._key, connection_id, hashlib.sha256).digest()[:TOKEN_BYTES]


def reset_packet(token: bytes, answered_bytes: int) -> bytes | None:
    """A packet that looks like any other and ends in `token`; None when what it answers is too short.

    It is shorter than what it answers, so that two ends that know nothing cannot reset each other for ever.
    """
    size = min(RESET_BYTES, answered_bytes - 1)
    if size < RESET_BYTES_MIN:
        return None
    noise = os.urandom(size - TOKEN_BYTES)
    return bytes((noise[0] & 0x3F | 0x40,)) + noise[1:] + token


def is_reset(data: bytes, tokens: Iterable[bytes | None]) -> bool:
    """Whether a datagram ends in one of the tokens; takes as long whichever it is, and whether or not it is."""
    if len(data) < RESET_BYTES_MIN or data[0] & 0x80:
        return False
    tail = data[-TOKEN_BYTES:]
    found = False
    for token in tokens:
        if token:
            found |= hmac.compare_digest(tail, token)
    return found
