"""Drives engines over UDP: `dial` for one connection on a socket of its own, `listen` for many on one socket.

All times are seconds of the running loop. What is written within a turn of the loop leaves in one go at its end, after
those who were woken by what arrived have answered: their answers travel with the acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from flowbridge.codec.codes import Code
from flowbridge.errors import LocalProtocolError, ResourceError
from flowbridge.limits import QUIC_DRAIN_NS
from flowbridge.transports.quic.engine import Closed, Connected
from flowbridge.transports.quic.sockets import open_socket, resolve, said, shown, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.engine import Acceptor, Address, Engine, EngineEvent
    from flowbridge.transports.quic.sockets import DatagramSocket

_log: Final = logging.getLogger("flowbridge.quic")
_COARSE_S: Final = 0.001
"""The grid on which uvloop's timers stand: one may come this early."""
_FAILED: Final = "internal error"


class EngineWire:
    """An engine, its timer and its socket; see `wire.Wire`. Made by `dial` and `listen`."""

    def __init__(self, engine: Engine, on_event: Callable[[EngineEvent], None]) -> None:
        self.on_event: Callable[[EngineEvent], None] = on_event
        self._engine: Final = engine
        self._loop = asyncio.get_running_loop()
        self._socket: DatagramSocket | None = None
        self._heard_at = self._loop.time()
        self._now = self._heard_at  # what the engine was told last
        self._has_heard = False
        self._error: OSError | None = None  # what the network said last, unless a datagram came since
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = 0.0
        self._is_due = False  # `_flush` is
        self._is_over = False
        self._has_failed = False
        self._context = copy_context()  # of whoever made it, not of whoever writes

    @property
    def engine(self) -> Engine:
        """What is driven."""
        return self._engine

    @property
    def heard_at(self) -> float:
        """When the peer was heard last, in seconds of the loop's clock; its start before that."""
        return self._heard_at

    @property
    def is_refused(self) -> bool:
        """Whether the network said since the last datagram that nobody listens there (ECONNREFUSED)."""
        return isinstance(self._error, ConnectionRefusedError)

    @property
    def is_over(self) -> bool:
        """Whether it is driven no more: it has said `Closed` or was abandoned."""
        return self._is_over

    @property
    def trouble(self) -> str:
        """Why no answer may have come, for people; empty when one came and nothing was said since."""
        where = shown(self._engine.peer_address)
        if self._error is not None:
            return f"{where}: {said(self._error)}"
        if self._has_heard:
            return ""
        return f"{where}: no answer: the host is down, the address is wrong or UDP is blocked on the way"

    # --- what the user does -----------------------------------------------------------------------------------------

    def touched(self) -> None:
        """Something is to be sent: it goes before the loop waits again."""
        if not self._is_due and not self._is_over:
            self._is_due = True
            self._loop.call_soon(self._flush_next, context=self._context)

    def _flush_next(self) -> None:
        # One turn later: whoever was woken may have to wake others, whose words shall go with its own. A turn costs
        # microseconds, a packet more than a hundred of them.
        self._loop.call_soon(self._flush, context=self._context)

    def abandon(self) -> None:
        """Drive it no more and tell nothing any more; nothing is sent. Idempotent."""
        if not self._is_over:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()
            self._let_go()

    # --- what the loop does -----------------------------------------------------------------------------------------

    def begin(self, socket: DatagramSocket) -> None:
        """Send the first packet, in the next turn."""
        self._socket = socket
        self.touched()

    def datagram_received(self, data: bytes, address: Address) -> None:
        """A datagram for the engine."""
        if self._is_over:
            return
        now = self._tick()
        try:
            self._engine.receive(data, address, now)
        except Exception as error:
            self._break(error)
        else:
            self.heard(now)

    def heard(self, now: float) -> None:
        """The engine was given a datagram: tell what came of it."""
        if self._is_over:
            return
        if self._engine.heard_at == now:
            self._heard_at = now
            self._has_heard = True
            self._error = None
        try:
            self._tell()
        except Exception as error:
            self._break(error)
        # Behind those who were just woken up, so that what they write goes with it.
        self.touched()

    def error_received(self, error: OSError) -> None:
        """The network said why a datagram did not arrive, or the kernel why it did not go."""
        self._error = error

    def _tick(self) -> float:
        """The time; for one engine it never goes back, not even where a timer came early."""
        now = self._loop.time()
        if now < self._now:
            return self._now
        self._now = now
        return now

    def _flush(self) -> None:
        self._is_due = False
        if self._is_over:
            return
        try:
            self._send()
            self._tell()
            if not self._is_over:
                self._arm()
        except Exception as error:
            self._break(error)

    def _send(self) -> None:
        socket = self._socket
        if socket is not None:
            for data, address in self._engine.transmit(self._tick()):
                socket.send(data, address)

    def _arm(self) -> None:
        at = self._engine.timer()
        if at is None:
            return  # one that is set comes in vain
        if self._timer is not None:
            if self._armed_at <= at:
                return  # it comes, sees that it is early and is set anew: cheaper than moving it with every packet
            self._timer.cancel()
        self._set_timer(at)

    def _set_timer(self, at: float) -> None:
        self._armed_at = at
        self._timer = self._loop.call_at(at, self._timer_came, context=self._context)

    def _timer_came(self) -> None:
        self._timer = None
        if self._is_over:
            return
        try:
            at = self._engine.timer()
            if at is None:
                return
            now = self._tick()
            if at > now + 1e-6:
                # A loop that rounds would call at once, again and again, until the time has come.
                self._set_timer(at if at > self._armed_at else max(at, now + _COARSE_S))
                return
            self._now = now = max(now, at)
            self._engine.on_timer(now)
            self._tell()
        except Exception as error:
            self._break(error)
        else:
            self._flush()

    # --- events -----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        for event in self._engine.events():
            if self._is_over:
                return
            is_last = isinstance(event, Closed)
            if is_last or not self._has_failed:
                self._hand_out(event)
            if is_last:
                self._finish()
                return

    def _hand_out(self, event: EngineEvent) -> None:
        try:
            self.on_event(event)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Our side failed: close, and tell it nothing more but the end."""
        self._has_failed = True
        self._report("what was told of an event failed", error)
        if not self._is_over:
            self._engine.close(Code.INTERNAL, _FAILED)
            self.touched()

    def _break(self, error: Exception) -> None:
        """The engine failed, which nothing that a peer does should bring about: it cannot be driven any more."""
        self._report("the engine failed", error)
        self.end(Code.INTERNAL, _FAILED)

    def _report(self, what: str, error: Exception) -> None:
        message = f"connection to {shown(self._engine.peer_address)}: {what}"
        self._loop.call_exception_handler({"message": message, "exception": error})

    def end(self, code: int, reason: str) -> None:
        """Tell that it is over without asking the engine."""
        if not self._is_over:
            self._hand_out(Closed(code, reason, by_application=True, is_remote=False))
            self.abandon()

    def _finish(self) -> None:
        """The engine is done: send what it has left and let go of it."""
        if not self._is_over:
            try:
                self._send()
            finally:
                self.abandon()

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def __repr__(self) -> str:
        state = "over" if self._is_over else "open"
        return f"<{type(self).__name__} {shown(self._engine.peer_address)} {state}>"


async def dial(
    address: Address,
    make_engine: Callable[[Address, float], Engine],
    *,
    on_event: Callable[[EngineEvent], None],
) -> EngineWire:
    """A wire on a connected socket of its own; its first packet leaves in the next turn of the loop.

    `make_engine(address, now)` is given the numeric address, and is called again where a host has several and nothing
    can be sent to the first. Whether anybody answers is told by events, and by `Wire.trouble` while nobody does.
    Raises: BrokenError, nothing having happened, when the name is unknown or there is no way there; ResourceError when
    no socket can be made; what `make_engine` raises.
    """
    last: OSError | None = None
    for target in await resolve(address):
        wire = EngineWire(make_engine(target, asyncio.get_running_loop().time()), on_event)
        try:
            wire.begin(await open_socket(wire, remote=target))
        except OSError as error:
            last = error
        else:
            return wire
    assert last is not None, "a name that is resolved has an address"
    raise unreachable(address, said(last), last) from last


# --- listening ------------------------------------------------------------------------------------------------------


def _unheard(event: EngineEvent) -> None:
    raise LocalProtocolError(f"{type(event).__name__} of a new connection: `on_wire` has set nobody who is told")


class AcceptedWire(EngineWire):
    """A connection that somebody made to us; nobody hears of it before its handshake is complete."""

    def __init__(self, engine: Engine, listener: EngineListener) -> None:
        super().__init__(engine, _unheard)
        self._listener = listener
        self._is_known = False
        self._early: list[EngineEvent] = []

    def _hand_out(self, event: EngineEvent) -> None:
        if self._is_known:
            super()._hand_out(event)
        elif isinstance(event, Connected):
            self._is_known = True
            try:
                self._listener.on_wire(self)
            except Exception as error:
                self._fail(error)
                return
            early, self._early = self._early, []
            for one in (event, *early):
                if not (self._is_over or self._has_failed):
                    super()._hand_out(one)
        elif not isinstance(event, Closed):
            self._early.append(event)

    def _let_go(self) -> None:
        self._listener.forget(self)


class EngineListener:
    """One bound socket and the connections on it; see `wire.Listener`. Made by `listen`."""

    def __init__(self, acceptor: Acceptor, on_wire: Callable[[EngineWire], None]) -> None:
        self.on_wire: Final = on_wire
        self._acceptor = acceptor
        self._loop = asyncio.get_running_loop()
        self._socket: DatagramSocket | None = None
        self._wires: dict[int, AcceptedWire] = {}  # by id of the engine, which the wire keeps
        self._is_due = False
        self._is_closing = False
        self._is_closed = False
        self._emptied: asyncio.Future[None] | None = None
        self._said: set[int | None] = set()
        self._context = copy_context()

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose."""
        assert self._socket is not None, "it is given out only once it listens"
        return self._socket.address

    @property
    def connections(self) -> int:
        """How many connections there are, those included whose handshake is not complete."""
        return len(self._wires)

    def begin(self, socket: DatagramSocket) -> None:
        """Listen."""
        self._socket = socket

    def datagram_received(self, data: bytes, address: Address) -> None:
        """A datagram for one of the connections, for a new one, or for none."""
        now = self._loop.time()
        try:
            engine = self._acceptor.receive(data, address, now)
        except Exception as error:
            self._report(error)
            return
        if engine is None:
            self._touched()
            return
        wire = self._wires.get(id(engine))
        if wire is None:
            if self._is_closing:
                self._acceptor.forget(engine)
                return
            assert self._socket is not None, "nothing comes before it listens"
            wire = self._wires[id(engine)] = AcceptedWire(engine, self)
            wire.begin(self._socket)
        wire.heard(now)

    def error_received(self, error: OSError) -> None:
        """The kernel said why a datagram did not go: said once of each kind, as it may be so for every one."""
        if error.errno not in self._said:
            self._said.add(error.errno)
            _log.warning("%s: a datagram was not sent: %s (said once)", self, said(error))

    def _touched(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._is_due = False
        if self._is_closed or self._socket is None:
            return
        try:
            for data, address in self._acceptor.transmit(self._loop.time()):
                self._socket.send(data, address)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"{self}: the acceptor failed", "exception": error})

    def forget(self, wire: AcceptedWire) -> None:
        """A connection is over."""
        if self._wires.pop(id(wire.engine), None) is not None:
            self._acceptor.forget(wire.engine)
        if not self._wires and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def aclose(self) -> None:
        """Close every connection with `Code.DRAINED`, then the socket; nobody new is taken meanwhile. Idempotent."""
        if self._is_closed:
            return
        self._is_closing = True
        try:
            for wire in list(self._wires.values()):
                wire.engine.close(Code.DRAINED, "drained")
                wire.touched()
            if self._wires:
                if self._emptied is None:
                    self._emptied = self._loop.create_future()
                await asyncio.wait([self._emptied], timeout=QUIC_DRAIN_NS / 1e9)
        finally:
            for wire in list(self._wires.values()):
                wire.end(Code.DRAINED, "drained")
            self._is_closed = True
            if self._socket is not None:
                self._socket.close()

    def __repr__(self) -> str:
        where = "closed" if self._is_closed or self._socket is None else shown(self._socket.address)
        return f"<EngineListener {where}, {len(self._wires)} connections>"


async def listen(address: Address, acceptor: Acceptor, *, on_wire: Callable[[EngineWire], None]) -> EngineListener:
    """Listen at an address; port 0 lets the system choose one.

    `on_wire` is given each connection once its handshake is complete, and has to set `on_event` before it returns:
    `Connected` is the first event. What it raises closes that connection and goes to the loop's exception handler.
    Raises: ResourceError naming the address when the port is taken or it cannot listen; BrokenError for a name that is
    unknown.
    """
    listener = EngineListener(acceptor, on_wire)
    target = (await resolve(address))[0] if address[0] else ("0.0.0.0", address[1])  # noqa: S104 - as asked
    try:
        listener.begin(await open_socket(listener, local=target))
    except OSError as error:
        raise ResourceError(f"{shown(target)}: cannot listen: {said(error)}") from error
    return listener
