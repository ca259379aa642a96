"""Clients that show a token: at the node that takes it, and at the client that has to renew it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code, code_of, cut, error_of
from flowbridge.codec.session_words import Auth
from flowbridge.errors import AuthError, LocalProtocolError, MissingExtraError, OverloadError
from flowbridge.limits import TOKEN_BYTES_MAX, TOKEN_FILE_TOKENS_MAX, TOKEN_LOOK_S, TOKEN_RENEW_S
from flowbridge.transports.quic.engine import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.connection import Connection
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.tokens import TokenVerifier

_NEEDED: Final = (
    "neither a certificate nor a token was shown: give --token (`flowbridge certs token`), "
    "or --cert and --key where the node asks for them (with --engine qh3 it does not)"
)


class Proving:
    """Who clients are, at a node that takes tokens where there is no certificate."""

    def __init__(self, verifier: TokenVerifier, now: Callable[[], float]) -> None:
        """`now` gives the seconds since 1970."""
        self._verifier: Final = verifier
        self._now: Final = now
        self._ends: Final[dict[Session, asyncio.TimerHandle]] = {}

    def identify(
        self, shown: Identity | None, node: str, session: bytes, token: str | None
    ) -> tuple[Identity, float | None]:
        """Who a client is that greets as `node`, and for how many seconds that holds; None for the whole session.

        `shown` is what its certificate says. A token beside one is judged too, and changes nothing when it is good.

        Raises:
            AuthError: with code 0x501, or 0x503 for a token that has expired.
            OverloadError: too many tokens are in use.
        """
        if token is None:
            if shown is None:
                error = AuthError(_NEEDED)
                error.code = int(Code.UNAUTHENTICATED)
                raise error
            return shown, None
        fingerprint = shown.fingerprint if shown is not None else ""
        proof = self._verifier.check(token, node=node, session=session, fingerprint=fingerprint)
        if shown is not None:
            return shown, None
        identity = Identity(proof.fabric, proof.node, names=(), fingerprint="", not_after=proof.expires_at)
        return identity, proof.expires_at - self._now()

    def hold(self, session: Session, node: str, for_s: float | None) -> None:
        """End a session in so many seconds with code 0x503, unless a new token comes; None for never."""
        self.forget(session)
        if for_s is None:
            return
        self._ends[session] = asyncio.get_running_loop().call_later(for_s, self._expired, session)

        def judge(connection: Connection, frame: Auth) -> None:
            try:
                _, again_s = self.identify(None, node, session.identifier, frame.auth)
            except (AuthError, OverloadError) as error:
                connection.close(code_of(error), cut(str(error)))
            else:
                self.hold(session, node, again_s)

        session.on_auth = judge

    def forget(self, session: Session) -> None:
        """It is over, or holds for good. Idempotent."""
        timer = self._ends.pop(session, None)
        if timer is not None:
            timer.cancel()

    def _expired(self, session: Session) -> None:
        del self._ends[session]
        text = "the token of this session expired, and no new one came; `flowbridge certs token` makes one"
        connection = session.connection
        if connection is not None:
            connection.close(int(Code.TOKEN_EXPIRED), text)
        else:
            session.end(error_of(Code.TOKEN_EXPIRED, text))


class TokenFile:
    """A file with tokens of one client, one in each line; it is read anew whenever one is needed."""

    def __init__(self, path: str, now: Callable[[], float]) -> None:
        """`now` gives the seconds since 1970."""
        self._path: Final = path
        self._now: Final = now

    @property
    def node(self) -> str:
        """Whose tokens they are. Raises: LocalProtocolError when there is none, or they are of two."""
        names = {str(claims.get("sub")) for _, claims in self._read()}
        if len(names) != 1:
            raise LocalProtocolError(f"{self._path}: tokens of one node, not of {', '.join(sorted(names)) or 'none'}")
        return names.pop()

    def find(self, audience: str) -> tuple[str, float]:
        """The token for a node that is good for the longest time, and for how many seconds it still is.

        Raises: LocalProtocolError when there is none.
        """
        found = [
            (expires_at, token)
            for token, claims in self._read()
            if claims.get("aud") in (audience, [audience]) and isinstance(expires_at := claims.get("exp"), int | float)
        ]
        if not found:
            text = f"no token for node {audience}; `flowbridge certs token --for {audience}` makes one"
            raise LocalProtocolError(f"{self._path}: {text}")
        expires_at, token = max(found)
        return token, expires_at - self._now()

    def _read(self) -> list[tuple[str, dict[str, object]]]:
        try:
            from flowbridge.transports.quic.tokens import claims_of
        except MissingExtraError as error:
            raise LocalProtocolError(str(error)) from error
        try:
            with Path(self._path).open(encoding="ascii") as file:
                text = file.read(TOKEN_FILE_TOKENS_MAX * (TOKEN_BYTES_MAX + 1))
        except (OSError, ValueError) as error:
            raise LocalProtocolError(f"{self._path}: cannot be read: {error}") from error
        try:
            return [(line.strip(), dict(claims_of(line.strip()))) for line in text.splitlines() if line.strip()]
        except LocalProtocolError as error:
            raise LocalProtocolError(f"{self._path}: {error}") from error


class Renewal:
    """Shows a session's peer a new token before the old one expires, as soon as the file has one."""

    def __init__(self, file: TokenFile, audience: str, session: Session) -> None:
        """Begin to look; it ends with the session."""
        self._file: Final = file
        self._audience: Final = audience
        self._session: Final = session
        self._shown, left_s = file.find(audience)
        self._plan(left_s)

    def _plan(self, left_s: float) -> None:
        soon_s = min(TOKEN_RENEW_S, left_s / 2)  # a short token is renewed when half of it is over
        asyncio.get_running_loop().call_later(max(left_s - soon_s, TOKEN_LOOK_S), self._look)

    def _look(self) -> None:
        if self._session.is_over:
            return
        try:
            token, left_s = self._file.find(self._audience)
        except LocalProtocolError:  # while it is being written
            token, left_s = self._shown, 0.0
        if token != self._shown:
            self._shown = token
            connection = self._session.connection
            if connection is not None:  # without one the next greeting has it
                connection.send(Auth(token))
        self._plan(left_s)
