"""Who this process is to others, the sessions that it has with them, and the node that it may be."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from flowbridge.addresses import NodeAddress, PeerIdentity
from flowbridge.codec.session_words import StreamKind
from flowbridge.errors import AuthError, BrokenError, LocalProtocolError, OverloadError
from flowbridge.limits import DIALERS_MAX
from flowbridge.transports.quic.dialing import Dialer
from flowbridge.transports.quic.endpoint import listen
from flowbridge.transports.quic.engines import make_acceptor, make_client
from flowbridge.transports.quic.greeting import Own
from flowbridge.transports.quic.identity import identify, read_certificates, reset_key_of
from flowbridge.transports.quic.proving import Proving, Renewal, TokenFile
from flowbridge.transports.quic.serving import SessionServer
from flowbridge.transports.quic.settings import QuicSettings
from flowbridge.transports.quic.sockets import datagram_bytes_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.addresses import TlsFiles
    from flowbridge.codec.session_words import Hello
    from flowbridge.contracts import Clock
    from flowbridge.transports.quic.engine import Address, Engine, Identity
    from flowbridge.transports.quic.meeting import Meeting
    from flowbridge.transports.quic.session import Session
    from flowbridge.transports.quic.settings import ClientCertificates, EngineName
    from flowbridge.transports.quic.stream import SessionStream
    from flowbridge.transports.quic.wire import Listener

_SELF: Final = "self"


class Node:
    """A node that listens; see `placing.NodeListener`."""

    def __init__(self, host: str, listener: Listener, server: SessionServer) -> None:
        self._host = host
        self._listener = listener
        self._server = server

    @property
    def address(self) -> NodeAddress:
        """Where it listens."""
        return NodeAddress(self._host, self._listener.address[1])

    @property
    def sessions(self) -> tuple[Session, ...]:
        """With those who have come."""
        return self._server.sessions

    def go_away(self, grace_ns: int) -> None:
        """Accept no further host, and nothing new of those that are connected, which are told so."""
        self._server.go_away(grace_ns // 1_000_000)

    async def aclose(self, settle_s: float = 0.0) -> None:
        """Close every session and the socket. Idempotent."""
        await self._server.aclose(settle_s)
        await self._listener.aclose()

    def __repr__(self) -> str:
        return f"<Node at {self.address}, {len(self._server.sessions)} sessions>"


class Peers:
    """The sessions of a process, one for each node that it reaches. Streams that come go to the meeting."""

    def __init__(
        self,
        clock: Clock,
        meeting: Meeting,
        *,
        tls: TlsFiles | None,
        settings: QuicSettings | None,
        engine: EngineName = "auto",
    ) -> None:
        self._clock = clock
        self._meeting = meeting
        self._tls = tls
        self._given = settings
        self._engine: EngineName = engine
        self._chooses_size = settings is None  # of datagrams, by where they go
        self._settings: QuicSettings | None = None
        self._own: Own | None = None
        self._tokens: TokenFile | None = None
        self._proving: Proving | None = None
        self._dialers: dict[tuple[str, NodeAddress], asyncio.Future[tuple[Dialer, Session]]] = {}
        self._nodes: list[Node] = []
        self._self: NodeAddress | None = None
        self._self_lock = asyncio.Lock()

    # --- who we are -------------------------------------------------------------------------------------------------

    @property
    def own_name(self) -> str:
        """The name of this process: that in its certificate."""
        return self._me().node

    def _me(self) -> Own:
        if self._own is None:
            if self._given is None and self._tls is None:
                raise LocalProtocolError(
                    "no certificate was given: give --cert, --key and --ca (or FLOWBRIDGE_CERT, FLOWBRIDGE_KEY and "
                    "FLOWBRIDGE_CA); `flowbridge certs new DIR` makes them"
                )
            tls = self._tls
            self._settings = self._given or QuicSettings(
                certificate=(tls.certificate or None) if tls else None,
                key=(tls.key or None) if tls else None,
                ca=tls.ca if tls else None,
                client_certificates=_asks(tls, self._engine),
                engine=self._engine,
                reset_key=reset_key_of(tls.key) if tls and tls.key else None,
            )
            if tls and tls.token:
                self._tokens = TokenFile(tls.token, time.time)
            certificate = self._settings.certificate
            if certificate is None:
                assert self._tokens is not None, "who has no certificate has tokens"
                self._own = Own(self._tokens.node, self._clock)
                return self._own
            identity = identify(read_certificates(certificate, "certificate")[0])
            if not identity.node:
                raise AuthError("our certificate has no name of the form fb://FABRIC/node/NAME: see `flowbridge certs`")
            if tls and tls.token_keys:
                self._proving = _proving(tls.token_keys, identity)
            self._own = Own(identity.node, self._clock)
        return self._own

    def _set(self) -> QuicSettings:
        self._me()
        assert self._settings is not None, "who we are comes with settings"
        return self._settings

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def session(self, node: str, address: NodeAddress) -> Session:
        """The session with a node, dialled when there is none.

        Raises: AuthError, also for a node of another name; BrokenError, also while it drains; RemoteProtocolError;
        OverloadError.
        """
        name = (node, address)
        found = self._dialers.get(name)
        if found is not None and found.done():
            session = None if found.exception() else found.result()[1]
            now = asyncio.get_running_loop().time()
            if session is not None and session.leaving is not None and now < session.leaving.again_s:
                raise session.leaving.error(session.peer, now)  # it said when to ask again
            if session is None or session.is_over:
                found = None
        if found is None:
            self._forget_dialers()
            if len(self._dialers) >= DIALERS_MAX:
                raise OverloadError(
                    f"node {node} ({address}): there are sessions with {DIALERS_MAX} nodes already", None
                )
            found = asyncio.ensure_future(self._dial(node, address))
            self._dialers[name] = found
        return (await asyncio.shield(found))[1]

    def _forget_dialers(self) -> None:
        """Those that met nobody, and whose sessions are over: a host may name any address."""
        for name, found in tuple(self._dialers.items()):
            if found.done() and (found.cancelled() or found.exception() or found.result()[1].is_over):
                del self._dialers[name]

    async def _dial(self, node: str, address: NodeAddress) -> tuple[Dialer, Session]:
        own, settings = self._me(), self._set()
        peer = f"node {node} ({address})"
        settings = replace(settings, server_name=settings.server_name or address.host)

        def make(target: Address, now: float) -> Engine:
            if not self._chooses_size:
                return make_client(settings, target, now)
            return make_client(replace(settings, datagram_bytes=datagram_bytes_to(target)), target, now)

        tokens = self._tokens
        shown = tokens.find(node)[0] if tokens is not None else None

        def token(there: Identity | None) -> str | None:
            nonlocal shown
            if tokens is not None:
                if there is None or there.node != node:  # which could show it to the node that it is for
                    raise _another(peer, node, there)
                with contextlib.suppress(LocalProtocolError):  # while it is being written
                    shown = tokens.find(node)[0]
            return shown

        dialer = Dialer((address.host, address.port), make, own, peer=peer, token=token)
        session = await dialer.connect(self._meeting.came)
        identity = session.identity
        if identity is None or identity.node != node:
            session.end(AuthError("it is another node"))
            raise _another(peer, node, identity)
        if tokens is not None:
            Renewal(tokens, node, session)
        return dialer, session

    def met(self, node: str) -> Session:
        """The session with a node that was met. Raises: BrokenError."""
        for (name, _), found in self._dialers.items():
            if name == node and found.done() and not found.exception():
                session = found.result()[1]
                if not session.is_over:
                    return session
        raise BrokenError(f"host {node}: there is no session with it")

    @property
    def sessions(self) -> list[Session]:
        """Those that this process has, of both sides."""
        done = [one for one in self._dialers.values() if one.done() and not one.cancelled()]
        dialled = [one.result()[1] for one in done if not one.exception()]
        return dialled + [session for node in self._nodes for session in node.sessions]

    # --- being a node -----------------------------------------------------------------------------------------------

    async def serve(
        self, address: NodeAddress, name: str, on_part: Callable[[SessionStream, PeerIdentity], None]
    ) -> Node:
        """Listen as a node. Raises: ResourceError; AuthError when the certificate is of another name."""
        own = self._me()
        if own.node != name:
            raise AuthError(f"our certificate is of node {own.node}, not {name}: see `flowbridge certs new`")
        server = SessionServer(
            own,
            lambda session, identity, hello: self._taker(session, identity, hello, on_part),
            proving=self._proving,
        )
        acceptor = make_acceptor(self._set(), datagram_bytes_to if self._chooses_size else None)
        listener = await listen((address.host, address.port), acceptor, on_wire=server.take)
        node = Node(address.host, listener, server)
        self._nodes.append(node)
        return node

    def _taker(
        self,
        session: Session,
        identity: Identity | None,
        hello: Hello,
        on_part: Callable[[SessionStream, PeerIdentity], None],
    ) -> Callable[[SessionStream], None]:
        """Who takes the streams of a new session."""
        del session, hello
        if identity is None or not identity.node:
            raise AuthError("a certificate with a name of the form fb://FABRIC/node/NAME is needed")
        known = PeerIdentity(identity.fabric, identity.node, identity.fingerprint)

        def take(stream: SessionStream) -> None:
            if stream.kind is not StreamKind.PART:
                self._meeting.came(stream)
                return
            try:
                on_part(stream, known)
            except (AuthError, OverloadError, BrokenError) as error:
                stream.fail(error)

        return take

    async def listen_to_self(self) -> NodeAddress:
        """An own node on the loopback interface, for both ends of a route in one process."""
        async with self._self_lock:
            if self._self is None:
                if self._given is None and self._tls is None:
                    self._given = _own_settings(dt.datetime.now(dt.UTC))
                node = await self.serve(NodeAddress("127.0.0.1", 0), self.own_name, _no_part)
                self._self = node.address
        return self._self

    async def aclose(self, settle_s: float) -> None:
        """Close every session, after what was written to closed streams has arrived. Idempotent."""
        dialers, self._dialers = self._dialers, {}
        nodes, self._nodes = self._nodes, []
        self._self = None
        for found in dialers.values():
            if not found.done():
                found.cancel()
        results: list[Any] = await asyncio.gather(*dialers.values(), return_exceptions=True)
        await asyncio.gather(*(one[0].aclose(settle_s) for one in results if isinstance(one, tuple)))
        await asyncio.gather(*(node.aclose(settle_s) for node in nodes))


def _asks(tls: TlsFiles | None, engine: EngineName) -> ClientCertificates:
    """How a node asks for certificates of hosts: where tokens do, the engine qh3 need not, which cannot."""
    if tls is None or not tls.token_keys:
        return "require"
    return "none" if engine == "qh3" else "ask"


def _another(peer: str, node: str, identity: Identity | None) -> AuthError:
    known = identity.node if identity is not None and identity.node else "without a name"
    return AuthError(f"{peer}: the node that answers there is {known}; give the address of {node}")


def _proving(keys: str, identity: Identity) -> Proving:
    """Take tokens for the node of our certificate, about nodes of its fabric."""
    from flowbridge.transports.quic.tokens import TokenVerifier, read_token_keys

    return Proving(TokenVerifier(read_token_keys(keys), identity.fabric, identity.node, time.time), time.time)


def _no_part(stream: SessionStream, identity: PeerIdentity) -> None:
    raise AuthError(f"{identity} may run nothing here")


def _own_settings(now: dt.datetime) -> QuicSettings:
    """A certificate that nobody else has, for this process to speak with itself."""
    from flowbridge.transports.quic.certificates import make_certificates

    with TemporaryDirectory() as folder:
        make_certificates(Path(folder), [_SELF], hosts=["127.0.0.1"], fabric=_SELF, days=1, force=False, now=now)
        certificate, key, ca = (Path(folder, name).read_bytes() for name in ("self.pem", "self.key", "ca.pem"))
    return QuicSettings(certificate=certificate, key=key, ca=ca)
