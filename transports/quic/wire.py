"""The seam to sockets: what an endpoint promises to those who speak over its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.engine import Address, Engine, EngineEvent


class Wire(Protocol):
    """A connection that is being driven: its engine, and who is told of what happens.

    After calls of the engine that send, say `touched`: everything written within one turn of the loop leaves in one go.
    A connection that has said `Closed` sends what is left and gives up its socket.
    """

    on_event: Callable[[EngineEvent], None]
    """Called from the loop for every event, in order; `Closed` is the last, and nothing comes from within a call.

    What it raises goes to the loop's exception handler and closes this connection with `Code.INTERNAL`; it is then
    told nothing more but `Closed`.
    """

    @property
    def engine(self) -> Engine: ...
    @property
    def heard_at(self) -> float:
        """When the peer was heard last, in seconds of the loop's clock; its start before that."""
        ...

    @property
    def is_refused(self) -> bool:
        """Whether the network said since the last datagram that nobody listens there (ECONNREFUSED)."""
        ...

    @property
    def trouble(self) -> str:
        """Why no answer may have come, for people: what the network said since the last datagram, or that it is silent.

        Empty once something came and nothing was said since.
        """
        ...

    def touched(self) -> None:
        """Something is to be sent: it goes before the loop waits again."""
        ...

    def abandon(self) -> None:
        """Drive it no more and tell nothing any more; nothing is sent. Idempotent."""
        ...


class Listener(Protocol):
    """A bound socket that takes connections."""

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose."""
        ...

    async def aclose(self) -> None:
        """Close every connection with `Code.DRAINED`, then the socket; nobody new is taken meanwhile. Idempotent.

        Waits until every connection has said `Closed`, at most `QUIC_DRAIN_NS`; then those that are left are told so.
        """
        ...
