"""The server's side of sessions: takes greetings, and gives a session that is known its new connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code, code_of, cut, error_as
from flowbridge.codec.session_words import VERSION, Error, Hello, HelloAck, Resumed, Scope
from flowbridge.errors import AuthError, FlowbridgeError, OverloadError, RemoteProtocolError
from flowbridge.limits import GREETING_S, SESSIONS_MAX, SESSIONS_PER_PEER_MAX
from flowbridge.transports.quic.connection import Connection
from flowbridge.transports.quic.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.codec.session_words import ControlFrame, Open
    from flowbridge.transports.quic.engine import Closed, Identity
    from flowbridge.transports.quic.greeting import Own
    from flowbridge.transports.quic.proving import Proving
    from flowbridge.transports.quic.stream import SessionStream
    from flowbridge.transports.quic.wire import Wire


class _Greeting:
    """A connection that has not greeted yet; see `connection.ConnectionUser`."""

    def __init__(self, server: SessionServer) -> None:
        self._server = server
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Connection) -> None:
        """Allow it some time."""
        self._timer = asyncio.get_running_loop().call_later(
            GREETING_S, connection.close, Code.FRAME, f"no greeting within {GREETING_S:g} s"
        )

    def connected(self, connection: Connection, identity: Identity | None) -> None:
        """The greeting comes."""

    def control(self, connection: Connection, frame: ControlFrame) -> None:
        """The greeting."""
        if type(frame) is not Hello:
            raise RemoteProtocolError(f"{type(frame).__name__.upper()} before HELLO")
        self._end()
        self._server.greeted(connection, frame)

    def offered(self, connection: Connection, opened: Open) -> SessionStream | None:
        """Nothing is opened before the greeting is answered."""
        raise RemoteProtocolError(f"stream {opened.number} before HELLO")

    def single(self, number: int, data: bytes) -> None:
        """As `offered`."""
        raise RemoteProtocolError(f"a message of {len(data)} bytes beside stream {number} before HELLO")

    def streams_left(self, connection: Connection) -> None:
        """Nothing waits for a stream."""

    def over(self, connection: Connection, closed: Closed) -> None:
        """It left."""
        self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class SessionServer:
    """Gives every wire that greets its session.

    `on_session` is called for each new one, and returns who takes its streams. It may refuse the peer by raising
    AuthError or OverloadError; `on_over` is told once of each that ends, and why. With `proving` clients without a
    certificate are those that their tokens say.
    """

    def __init__(
        self,
        own: Own,
        on_session: Callable[[Session, Identity | None, Hello], Callable[[SessionStream], None]],
        on_over: Callable[[Session, Exception], None] | None = None,
        proving: Proving | None = None,
    ) -> None:
        self._own: Final = own
        self._on_session = on_session
        self._on_over = on_over
        self._proving = proving
        self._sessions: dict[tuple[str, bytes], Session] = {}
        self._leaves_until: float | None = None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those that are not over."""
        return tuple(self._sessions.values())

    def go_away(self, grace_ms: int) -> None:
        """Take no new session, and no new stream of those that are here; these are told, and get `grace_ms`.

        Those that are known may still get a new connection.
        """
        self._leaves_until = asyncio.get_running_loop().time() + grace_ms / 1000
        for session in self.sessions:
            session.go_away(grace_ms)

    def take(self, wire: Wire) -> None:
        """A connection whose handshake is complete: its greeting is awaited."""
        greeting = _Greeting(self)
        connection = Connection(wire, greeting)
        greeting.begin(connection)

    def greeted(self, connection: Connection, hello: Hello) -> None:
        """Answer a greeting, or close the connection with why not."""
        try:
            self._greeted(connection, hello)
        except RemoteProtocolError:
            raise
        except FlowbridgeError as error:
            again_ns = error.retry_after_ns
            again_ms = None if again_ns is None else again_ns // 1_000_000
            told = Error(code_of(error), Scope.CONNECTION, 0, cut(str(error)), again_ms)
            connection.send(told)
            connection.close(told.code, told.reason)

    def _greeted(self, connection: Connection, hello: Hello) -> None:
        t2_ns = self._own.clock.now_ns()
        identity, holds_s = connection.identity, None
        if self._proving is not None:
            identity, holds_s = self._proving.identify(identity, hello.node, hello.session, hello.auth)
        if identity is not None and identity.node and identity.node != hello.node:
            raise AuthError(f"the certificate is of node {identity.node}, and the greeting of node {hello.node}")
        name = (hello.node, hello.session)
        session = self._sessions.get(name)
        resumed = Resumed.RESUMED if session is not None else Resumed.NEW
        if session is not None:
            known = session.identity
            if (identity and (identity.fabric, identity.node)) != (known and (known.fabric, known.node)):
                raise AuthError(f"the session is not one of {identity.node if identity else 'nobody'}")
            if hello.incarnation != session.incarnation:
                connection.close(Code.STATE_LOST, "the session is of another start of the node")
                return
            if hello.epoch <= session.epoch:
                connection.close(Code.SUPERSEDED, f"epoch {hello.epoch} of the session is over")
                return
        if session is not None:
            try:
                session.check(hello.streams)
            except RemoteProtocolError as error:
                session.end(error)  # one end has lost count: it cannot go on
                raise
        else:
            if hello.epoch != 1:
                connection.close(Code.STATE_LOST, "the session is not known here")
                return
            session = self._begin(connection, identity, hello)
        answer = HelloAck(
            VERSION,
            self._own.node,
            self._own.incarnation,
            hello.session,
            hello.epoch,
            (),
            session.limits,
            resumed,
            session.received(),
            hello.now_ns,
            t2_ns,
            self._own.clock.now_ns(),
        )
        connection.send(answer)
        session.adopt(connection, hello.epoch, dict(hello.streams))
        if self._proving is not None:
            self._proving.hold(session, hello.node, holds_s)

    def _begin(self, connection: Connection, identity: Identity | None, hello: Hello) -> Session:
        if self._leaves_until is not None:
            left_s = max(0.0, self._leaves_until - asyncio.get_running_loop().time())
            raise error_as(Code.GOING_AWAY, f"node {self._own.node} is draining", int(left_s * 1e9))
        if len(self._sessions) >= SESSIONS_MAX:
            raise OverloadError(f"at most {SESSIONS_MAX} sessions", None)
        if sum(node == hello.node for node, _ in self._sessions) >= SESSIONS_PER_PEER_MAX:
            raise OverloadError(f"at most {SESSIONS_PER_PEER_MAX} sessions with {hello.node}", None)
        peer = f"{hello.node} at {connection.wire.engine.peer_address[0]}"
        session = Session(
            hello.session,
            self,
            self._own.clock,
            peer=peer,
            is_client=False,
            limits=hello.limits.agreed(self._own.limits),
        )
        session.incarnation, session.peer_node = hello.incarnation, hello.node
        session.offset.assume(hello.now_ns, self._own.clock.now_ns())
        session.identity = identity
        session.on_stream = self._on_session(session, identity, hello)
        self._sessions[hello.node, hello.session] = session
        self._look_for_successors(hello.node)
        return session

    # --- sessions ---------------------------------------------------------------------------------------------------

    def apart(self, session: Session, why: Exception) -> None:
        """The client comes back, or the lease ends."""
        self._look_for_successors(session.peer_node)

    def suspicious(self, session: Session) -> None:
        """The client dials."""
        self._look_for_successors(session.peer_node)

    def _look_for_successors(self, node: str) -> None:
        """A process that was started anew greets under the same name; two that live may do so as well.

        So one that is not heard is given little more time when a later one is here, and one that is heard is let be.
        """
        of_node = [session for session in self._sessions.values() if session.peer_node == node]
        for index, session in enumerate(of_node):
            if any(later.incarnation != session.incarnation for later in of_node[index + 1 :]):
                session.hasten()

    def ended(self, session: Session, why: Exception) -> None:
        """A session is over."""
        if self._proving is not None:
            self._proving.forget(session)
        self._sessions = {name: one for name, one in self._sessions.items() if one is not session}
        if self._on_over is not None:
            self._on_over(session, why)

    async def aclose(self, settle_s: float) -> None:
        """Let what was written to closed streams arrive, for a time, and close every session. Idempotent."""
        sessions = self.sessions
        await asyncio.gather(*(session.settle(settle_s) for session in sessions))
        for session in sessions:
            session.close()
