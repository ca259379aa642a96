"""The contracts of a tier that runs parts of a flow in other processes; they stand beside `flowbridge.contracts`.

The host's process starts, or finds, a process for each place that a flow names, tells it over a `PartLink` what to run
(`flowbridge.codec.part_frames`), and gives both ends of every route between two processes to those concerned.

Each place is started by the tier that reaches it, and each route is joined by the tier that joins its two places. An
end of a route travels to its process over that process's `PartLink`, whichever tier that is of: so an end is either a
thing that links of its own tier pass (a socket, say), or a `Ticket`, which every link passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.contracts import DataSink, DataSource, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbridge.addresses import NodeAddress, PeerIdentity, TlsFiles
    from flowbridge.contracts import EventBus
    from flowbridge.plan import Placement, Route


@dataclass(frozen=True, slots=True)
class Ticket:
    """An end of a connection in words: what the tier of this name needs to open or to accept it elsewhere.

    At most `limits.TICKET_BYTES_MAX` bytes; it must be of use to its receiver alone, and once.
    """

    data: bytes

    def close(self) -> None:
        """Nothing is open yet. A tier that awaits its bearer lets it expire."""


class PartLink(Protocol):
    """The control connection between a host and the process that runs a part of its flow: frames, in order."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        ...

    @property
    def is_same_user(self) -> bool:
        """Whether the peer is a process of this user on this machine.

        Only such a one is sent, and believed, what runs code when it is read: pickles, paths and search paths.
        """
        ...

    def listen(
        self,
        on_frame: Callable[[int, bytes, Sequence[Any]], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        """Call back for every frame, with the ends of routes that came with it, and once when the peer is gone.

        Nothing is read before. A RemoteProtocolError that `on_frame` raises ends the link, and `on_lost` gets it.
        """
        ...

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        """Send a frame, and with it an end of a route, which is the peer's from now on; never waits.

        Raises: BrokenError, ClosedError.
        """
        ...

    def close(self) -> None:
        """Close at once; `on_lost` is not called any more. Idempotent."""
        ...


class Worker(Protocol):
    """A process that was started, or found, to run a part of a flow."""

    @property
    def link(self) -> PartLink: ...
    @property
    def name(self) -> str:
        """What to call it in messages, such as ``process decode (pid 4711)``."""
        ...

    async def wait(self) -> str:
        """Return once the process is gone: how it ended, such as ``was killed by SIGSEGV``.

        On another host: once our part of it is, such as ``was lost: nothing came for 30 s``; a node that serves several
        hosts lives on. Soon after `link.close()` it returns in any case.
        """
        ...

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); on another host, ask for the end of our part."""
        ...

    def kill(self) -> None:
        """End it without asking (SIGKILL); on another host, cut the connection, which ends our part there."""
        ...


class CrossingSink(DataSink, Protocol):
    """The producer's end of a route whose consumer is in another process."""

    on_lost: Any
    """A callable that takes the error: what to do when the other end is gone. (A checker would bind a Callable.)"""

    async def flushed(self) -> None:
        """Return once the end of the stream went over, or the route is broken."""
        ...

    def break_off(self, why: Exception) -> None:
        """The consumer will not come back: senders get BrokenError."""
        ...

    def close(self) -> None:
        """Leave; what the other end has not reported is counted as dropped by `lost`. Idempotent."""
        ...


class CrossingSource(DataSource, Protocol):
    """The consumer's end of a route whose producer is in another process."""

    on_gap: Any
    """A callable that takes the Gap, or None: who hears that messages are missing, before those that follow come."""
    on_lost: Any
    """A callable that takes the error: what to do when the other end is gone. (A checker would bind a Callable.)"""

    def break_off(self, why: Exception) -> None:
        """The producer will not come back: BrokenError once everything that arrived was taken."""
        ...

    def close(self) -> None:
        """Leave, after a last report. Idempotent."""
        ...


class SettlingSource(DataSource, Protocol):
    """The consumer's end of a route of `effectively_once`: what is settled uses credit until a snapshot is safe."""

    @property
    def is_ahead(self) -> bool:
        """Whether something was settled that the last snapshot does not know."""
        ...

    def resume(self, known: Sequence[int]) -> None:
        """Begin, with the state of a snapshot that knew this, as `mark` returned it; empty without one.

        Nothing arrives before. Once; after that `rewind` is what goes back.
        """
        ...

    def mark(self, number: int) -> list[int]:
        """A snapshot of this number is taken: it knows what was settled. Returns that, for `resume`."""
        ...

    def is_safe(self, number: int) -> None:
        """That snapshot, or a later one, is there after a death: the producer need not keep what it knows."""
        ...

    def rewind(self) -> None:
        """The state is that of the last snapshot again: what was settled since can be taken once more."""
        ...


class PlacingTransport(Transport, Protocol):
    """A tier that also runs parts of a flow in other processes. The end of a route is whatever it says."""

    async def start_worker(self, place: Placement) -> Worker:
        """Start, or find, the process of a place. Raises: ResourceError."""
        ...

    async def meet_host(self, address: str) -> PartLink:
        """In a worker: the connection to the host that started it. Raises: ResourceError."""
        ...

    async def join(self, route: Route, near: Placement, far: Placement) -> tuple[Any, Any]:
        """The two ends of a new connection for a route: the producer's, at `near`, and the consumer's, at `far`.

        Both places are running; `Placement()` is this process. An end at a place that another tier started is a
        `Ticket`. Called again for a route whose connection was lost. Raises: ResourceError.
        """
        ...

    async def open_sink(self, route: Route, end: Any, /) -> CrossingSink:
        """Turn an end, this process's own or one that came over a `PartLink`, into a sink."""
        ...

    async def open_source(self, route: Route, end: Any, /) -> CrossingSource:
        """As `open_sink`, at the consumer's end."""
        ...

    def serve_bus(self, bus: EventBus, place: Placement) -> Any:
        """Let one more process, which this tier started, use a bus: the end of a connection to give it.

        Raises: ResourceError.
        """
        ...

    async def open_far_bus(self, end: Any) -> EventBus:
        """The bus at the other end of a connection. Raises: BrokenError."""
        ...

    def rejoin_sink(self, sink: Any, route: Route, end: Any, /) -> None:
        """Let a sink of this tier whose consumer was lost go on with that one's successor."""
        ...

    def rejoin_source(self, source: Any, route: Route, end: Any, /) -> None:
        """Let a source of this tier whose producer was lost go on with that one's successor."""
        ...


class NodeListener(Protocol):
    """A node that hosts can reach."""

    @property
    def address(self) -> NodeAddress:
        """Where it listens; the port is the one that was taken."""
        ...

    def go_away(self, grace_ns: int) -> None:
        """Accept no further host, and no further part or route of those that are connected.

        They are told so (`fb/1`: GOAWAY), and that the node ends within `grace_ns`. What runs goes on.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection and the socket. Idempotent."""
        ...


def node_options(
    tls: TlsFiles | None, engine: str = "auto", nodes: Mapping[str, NodeAddress] | None = None
) -> dict[str, Any]:
    """What a `NodeTransport` is made with: ``nodes`` by name of host, ``tls``, and ``engine`` where one was chosen."""
    chosen = {} if engine == "auto" else {"engine": engine}
    return {"nodes": dict(nodes or {}), "tls": tls, **chosen}


class NodeTransport(PlacingTransport, Protocol):
    """A tier on which a node can serve hosts on other machines.

    It is made with the keyword arguments of `node_options`.
    """

    async def serve_node(
        self, listen: NodeAddress, name: str, on_host: Callable[[PartLink, PeerIdentity], None]
    ) -> NodeListener:
        """Listen as the node of this name, which our certificate must have too.

        Calls `on_host` for each control connection of a host that has proved who it is, before anything of it is read;
        a FlowbridgeError raised there refuses the host, which gets the first line (0x502 FORBIDDEN).
        Raises: ResourceError for a port that is taken and files that cannot be used, each naming which.
        """
        ...
