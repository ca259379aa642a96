"""The contracts of a tier that runs parts of a flow in other processes; they stand beside `flowbridge.contracts`.

The host's process starts, or finds, a process for each place that a flow names, tells it over a `PartLink` what to run
(`flowbridge.codec.part_frames`), and gives both ends of every route between two processes to those concerned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from flowbridge.contracts import DataSink, DataSource, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import EventBus
    from flowbridge.plan import Placement, Route


class PartLink(Protocol):
    """The control connection between a host and the process that runs a part of its flow: frames, in order."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        ...

    def listen(
        self,
        on_frame: Callable[[int, bytes, Sequence[Any]], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        """Call back for every frame, with the ends of routes that came with it, and once when the peer is gone."""
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
        """Return once the process is gone: how it ended, such as ``was killed by SIGSEGV``."""
        ...

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End it without asking (SIGKILL)."""
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

    on_lost: Any
    """A callable that takes the error: what to do when the other end is gone. (A checker would bind a Callable.)"""

    def break_off(self, why: Exception) -> None:
        """The producer will not come back: BrokenError once everything that arrived was taken."""
        ...

    def close(self) -> None:
        """Leave, after a last report. Idempotent."""
        ...


class PlacingTransport(Transport, Protocol):
    """A tier that also runs parts of a flow in other processes. The end of a route is whatever it says."""

    async def start_worker(self, place: Placement) -> Worker:
        """Start, or find, the process of a place. Raises: ResourceError."""
        ...

    async def meet_host(self, address: str) -> PartLink:
        """In a worker: the connection to the host that started it. Raises: ResourceError."""
        ...

    def join(self, route: Route) -> tuple[Any, Any]:
        """The two ends of a new connection for a route: the producer's and the consumer's. Raises: ResourceError."""
        ...

    async def open_sink(self, route: Route, end: Any, /) -> CrossingSink:
        """Turn an end, this process's own or one that came over a `PartLink`, into a sink."""
        ...

    async def open_source(self, route: Route, end: Any, /) -> CrossingSource:
        """As `open_sink`, at the consumer's end."""
        ...

    def serve_bus(self, bus: EventBus) -> Any:
        """Let one more process use a bus: the end of a connection to give it. Raises: ResourceError."""
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
