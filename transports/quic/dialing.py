"""The client's side of sessions: dials, greets, and dials again when the peer falls silent.

A connection on which nothing is heard is never closed for that: another one is dialled beside it, and the first that
works is used. So a short cut of the link costs no handshake, and a peer that was away is met as soon as it listens.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code, error_of
from flowbridge.codec.session_words import VERSION, Error, Hello, HelloAck, Resumed
from flowbridge.errors import AuthError, BrokenError, FlowbridgeError, RemoteProtocolError
from flowbridge.limits import DIAL_S, REDIAL_PAUSE_S, REDIAL_ROUND_TRIPS, REDIAL_S
from flowbridge.transports.quic.connection import Connection, why_closed
from flowbridge.transports.quic.endpoint import dial
from flowbridge.transports.quic.greeting import new_session_id
from flowbridge.transports.quic.session import Session
from flowbridge.transports.quic.session_state import SessionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.codec.session_words import ControlFrame, Open, SessionLimits
    from flowbridge.transports.quic.engine import Address, Closed, Engine, Identity
    from flowbridge.transports.quic.greeting import Own
    from flowbridge.transports.quic.stream import SessionStream
    from flowbridge.transports.quic.wire import Wire


_LOOK_S: Final = 0.25  # between two looks whether the network says that nobody is there


class _NobodyThere(BrokenError):
    """The network says that nobody listens."""


class _Attempt:
    """One dialled connection, up to the peer's answer; see `connection.ConnectionUser`."""

    def __init__(self, dialer: Dialer, limits: SessionLimits) -> None:
        self.greeted: asyncio.Future[HelloAck] = asyncio.get_running_loop().create_future()
        self.has_greeted = False
        self.peer = dialer.peer
        self._dialer = dialer
        self._limits = limits

    def connected(self, connection: Connection, identity: Identity | None) -> None:
        """Greet."""
        self.has_greeted = True
        try:
            connection.send(self._dialer.hello(self._limits, identity))
        except AuthError as error:
            if not self.greeted.done():
                self.greeted.set_exception(error)

    def control(self, connection: Connection, frame: ControlFrame) -> None:
        """The answer, or a refusal."""
        if self.greeted.done():
            return
        if type(frame) is HelloAck:
            connection.hold()  # what follows is for the session, which takes the connection over in another turn
            self.greeted.set_result(frame)
        elif type(frame) is Error:
            error = error_of(frame.code, frame.reason, frame.retry_after_ms)
            error.args = (f"{self.peer}: {error}",)
            self.greeted.set_exception(error)
        else:
            raise RemoteProtocolError(f"{self.peer}: {type(frame).__name__.upper()} before HELLO_ACK")

    def offered(self, connection: Connection, opened: Open) -> SessionStream | None:
        """None: an early connection keeps streams that overtake the answer, until the session has taken it over."""
        raise RemoteProtocolError(f"{self.peer}: stream {opened.number} before HELLO_ACK")

    def single(self, number: int, data: bytes) -> None:
        """As `offered`."""
        raise RemoteProtocolError(f"{self.peer}: {len(data)} bytes beside stream {number} before HELLO_ACK")

    def streams_left(self, connection: Connection) -> None:
        """The session asks for all it needs."""

    def over(self, connection: Connection, closed: Closed) -> None:
        """It failed."""
        del connection
        if not self.greeted.done():
            self.greeted.set_exception(why_closed(closed, self.peer))


def _no_token(_: Identity | None) -> None:
    """A certificate says who we are."""


class Dialer:
    """Keeps one session with one address; see `session.SessionOwner`.

    `on_over` is called once when the session is over, with why; the dialer does not begin another one. `token`
    is asked for each greeting's token, and may refuse one to who is there by raising AuthError.
    """

    def __init__(
        self,
        address: Address,
        make_engine: Callable[[Address, float], Engine],
        own: Own,
        *,
        peer: str,
        chance: random.Random | None = None,
        on_over: Callable[[Session, Exception], None] | None = None,
        token: Callable[[Identity | None], str | None] = _no_token,
    ) -> None:
        self.address: Final = address
        self.peer: Final = peer
        self.dials = 0
        """How often it was dialled."""
        self._make_engine = make_engine
        self._own = own
        self._chance = chance or random.Random()  # noqa: S311  (spreads out, protects nothing)
        self._identifier = new_session_id()
        self._epoch = 0
        self._session: Session | None = None
        self._redialling: asyncio.Task[None] | None = None
        self._on_over = on_over
        self._token = token

    def hello(self, limits: SessionLimits, identity: Identity | None = None) -> Hello:
        """A greeting for another connection of the session, with who says to be there. Raises: AuthError."""
        self._epoch += 1
        own, session = self._own, self._session
        return Hello(
            VERSION,
            own.node,
            own.incarnation,
            self._identifier,
            self._epoch,
            (),
            limits,
            self._token(identity),
            session.received() if session is not None else (),
            own.clock.now_ns(),
        )

    async def connect(self, on_stream: Callable[[SessionStream], None]) -> Session:
        """Meet the peer. Raises: AuthError, BrokenError, RemoteProtocolError, OverloadError, each saying what to do."""
        connection, answer = await self._dial(self._own.limits)
        session = Session(
            self._identifier,
            self,
            self._own.clock,
            peer=self.peer,
            is_client=True,
            limits=answer.limits.agreed(self._own.limits),
        )
        session.on_stream = on_stream
        session.incarnation = answer.incarnation
        session.identity = connection.identity
        self._session = session
        self._adopt(session, connection, answer)
        return session

    async def _dial(self, limits: SessionLimits, within_s: float = DIAL_S) -> tuple[Connection, HelloAck]:
        """One connection that was greeted and answered."""
        self.dials += 1
        attempt = _Attempt(self, limits)
        try:
            wire = await dial(self.address, self._make_engine, on_event=_early)
        except BrokenError as error:
            error.args = (f"{self.peer}: {error}",)  # a name or a route that is not there
            raise
        connection = Connection(wire, attempt, is_early=True)
        try:
            answer = await _answer(attempt.greeted, wire, within_s)
        except TimeoutError:
            connection.retire(Code.CANCELLED, "too late")
            if wire.is_refused:
                told = "nobody listens there (connection refused); start the node, or give its address"
                raise _NobodyThere(f"{self.peer}: {told}") from None
            told = f"no answer within {within_s:g} s; check that a node listens there, and that UDP passes (firewall)"
            raise BrokenError(f"{self.peer}: {told}") from None
        except BaseException:
            connection.retire(Code.CANCELLED)
            raise
        if answer.session != self._identifier or answer.epoch != self._epoch:
            connection.retire(Code.UNEXPECTED, "the answer is for another greeting")
            raise RemoteProtocolError(f"{self.peer}: answers to another greeting")
        return connection, answer

    def _adopt(self, session: Session, connection: Connection, answer: HelloAck) -> None:
        now_ns = self._own.clock.now_ns()
        session.offset.add(answer.t1_ns, answer.t2_ns, answer.t3_ns, now_ns)
        try:
            session.adopt(connection, answer.epoch, dict(answer.streams))
        except RemoteProtocolError as error:
            connection.retire(Code.UNEXPECTED, str(error))
            session.end(error)

    # --- again ------------------------------------------------------------------------------------------------------

    def apart(self, session: Session, why: Exception) -> None:
        """The connection is gone: dial at once, unless another one took its place, which may be dialled as we are."""
        is_superseded = isinstance(why, FlowbridgeError) and why.code == Code.SUPERSEDED
        self._redial(session, self._pause_s() if is_superseded else 0.0)

    def suspicious(self, session: Session) -> None:
        """Nothing is heard: dial beside the connection."""
        self._redial(session)

    def ended(self, session: Session, why: Exception) -> None:
        """No more."""
        if self._redialling is not None:
            self._redialling.cancel()
        if self._on_over is not None:
            self._on_over(session, why)

    def _redial(self, session: Session, after_s: float = 0.0) -> None:
        if self._redialling is None:
            again = self._again(session, after_s)
            self._redialling = asyncio.get_running_loop().create_task(again, name=f"dial {self.peer}")

    def _pause_s(self) -> float:
        return self._chance.uniform(*REDIAL_PAUSE_S)

    async def _again(self, session: Session, after_s: float) -> None:
        # One try a second: its packets are repeated within it, so that a peer that is back is met within half a second.
        within_s = min(max(REDIAL_S, REDIAL_ROUND_TRIPS * session.offset.srtt_ns / 1e9), DIAL_S)
        try:
            if after_s:
                await asyncio.sleep(after_s)
            while session.state in (SessionState.APART, SessionState.SUSPECT):
                try:
                    connection, answer = await self._dial(session.limits, within_s)
                except (AuthError, RemoteProtocolError) as error:
                    session.end(error)  # another try would end the same way
                    return
                except FlowbridgeError as error:
                    if error.code == Code.STATE_LOST or (session.leaving and isinstance(error, _NobodyThere)):
                        session.end(error)  # who drained is gone, and will not know the session when it is back
                        return
                    await asyncio.sleep(self._pause_s())
                    continue
                if session.is_over:
                    connection.retire(Code.DRAINED)
                    return
                if _who(connection.identity) != _who(session.identity):
                    connection.retire(Code.FORBIDDEN, "the session is with another node")
                    session.end(AuthError(f"{self.peer}: another node answers there now: {_who(connection.identity)}"))
                    return
                if answer.resumed is not Resumed.RESUMED or answer.incarnation != session.incarnation:
                    connection.retire(Code.STATE_LOST)
                    session.end(error_of(Code.STATE_LOST, f"{self.peer} has lost the session"))
                    return
                self._adopt(session, connection, answer)
        finally:
            self._redialling = None

    async def aclose(self, settle_s: float) -> None:
        """Let what was written to closed streams arrive, for a time, and close the session. Idempotent."""
        session = self._session
        if session is not None and not session.is_over:
            await session.settle(settle_s)
            session.close()
        task = self._redialling
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def __repr__(self) -> str:
        return f"<Dialer of {self.peer}, dialled {self.dials} times>"


def _who(identity: Identity | None) -> str:
    return f"node {identity.node} of fabric {identity.fabric}" if identity is not None else "nobody that is known"


async def _answer(greeted: asyncio.Future[HelloAck], wire: Wire, within_s: float) -> HelloAck:
    """The answer to a greeting. Raises: TimeoutError, sooner when the network says that nobody is there."""
    until_s = asyncio.get_running_loop().time() + within_s
    while not greeted.done():
        left_s = until_s - asyncio.get_running_loop().time()
        if left_s <= 0 or wire.is_refused:
            raise TimeoutError
        await asyncio.wait((greeted,), timeout=min(left_s, _LOOK_S))
    return greeted.result()


def _early(_: object) -> None:
    """Before anybody listens nothing has been said that could be answered."""
