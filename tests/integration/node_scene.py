"""Nodes and hosts over socket pairs: real parts on both sides, and a link that says the peer is another user's.

What stands in for the network is only who connects to whom. `MeetingTransport` is the tier of one machine under the
name of the tier between machines.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flow_scene import balanced, compiled, flow_text
from process_scene import PATIENCE_S, nothing_left, until

from flowbridge import registry
from flowbridge.addresses import NodeAddress, PeerIdentity
from flowbridge.errors import BrokenError, FlowbridgeError, ResourceError
from flowbridge.host import Host
from flowbridge.node import Node, NodeEvent
from flowbridge.placing import Ticket
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.tier_set import TierSet
from flowbridge.transports.uds.transport import UdsTransport
from flowbridge.transports.uds.workers import SocketPartLink, pair

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping

    import pytest

    from flowbridge.contracts import Clock, Transport
    from flowbridge.machines.node_policy import NodePolicy
    from flowbridge.placing import PartLink
    from flowbridge.plan import Placement, Plan, Route
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow

HOST: Final = PeerIdentity("dev", "host")
NODES: Final = {"edge-1": "quic://localhost:4433"}


class ForeignLink(SocketPartLink):
    """A control connection to somebody on another machine."""

    is_same_user = False


@dataclass
class Meeting:
    """Who listens where, and as whom hosts come."""

    host: PeerIdentity = HOST
    tickets: dict[bytes, Any] | None = None  # with the ends that they stand for; None: ends travel themselves
    listeners: dict[tuple[str, int], MeetingListener] = field(default_factory=dict[tuple[str, int], "MeetingListener"])


class MeetingListener:
    """See `placing.NodeListener`."""

    def __init__(
        self, meeting: Meeting, address: NodeAddress, on_host: Callable[[PartLink, PeerIdentity], None]
    ) -> None:
        self.address = address
        self.on_host = on_host
        self._meeting = meeting
        self.is_open = True

    def go_away(self, grace_ns: int) -> None:
        del grace_ns
        self.is_open = False

    async def aclose(self) -> None:
        self._meeting.listeners.pop((self.address.host, self.address.port), None)


class MeetingWorker:
    """See `placing.Worker`."""

    def __init__(self, name: str, link: ForeignLink) -> None:
        self.name = name
        self.link = _Noticed(link, self._gone)
        self._ended = asyncio.get_running_loop().create_future()

    def _gone(self) -> None:
        if not self._ended.done():
            self._ended.set_result("was lost")

    async def wait(self) -> str:
        return str(await asyncio.shield(self._ended))

    def terminate(self) -> None:
        self.kill()

    def kill(self) -> None:
        self.link.close()


class _Noticed:
    """A link whose end is noticed, whoever brought it about."""

    is_same_user = False

    def __init__(self, link: ForeignLink, on_gone: Callable[[], None]) -> None:
        self.peer = link.peer
        self._link = link
        self._on_gone = on_gone
        self.sent: list[tuple[int, bytes]] = []

    def listen(self, on_frame: Any, on_lost: Callable[[Exception | None], None]) -> None:
        def lost(error: Exception | None) -> None:
            on_lost(error)
            self._on_gone()

        self._link.listen(on_frame, lost)

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        self.sent.append((kind, body))
        self._link.send(kind, body, end)

    def close(self) -> None:
        self._link.close()
        self._on_gone()


class MeetingTransport(UdsTransport):
    """See `placing.NodeTransport`."""

    tier = "quic"

    def __init__(
        self, clock: Clock, meeting: Meeting, *, nodes: Mapping[str, NodeAddress] | None = None, tls: Any = None
    ) -> None:
        super().__init__(clock)
        self.meeting = meeting
        self.nodes = dict(nodes or {})
        self.workers: list[MeetingWorker] = []

    async def start_worker(self, place: Placement) -> Any:
        address = self.nodes[str(place.host)]
        listener = self.meeting.listeners.get((address.host, address.port))
        if listener is None or not listener.is_open:
            raise ResourceError(f"host {place.host} at {address} cannot be reached")
        ours, theirs = pair()
        try:
            listener.on_host(ForeignLink(theirs, f"host at {address}"), self.meeting.host)
        except FlowbridgeError as error:
            ours.close()
            theirs.close()
            raise BrokenError(f"host {place.host} at {address} refused: {error}") from error
        self.workers.append(MeetingWorker(f"host {place.host}", ForeignLink(ours, f"node {place.host}")))
        return self.workers[-1]

    async def join(self, route: Route, near: Placement, far: Placement) -> Any:
        """Ends in words where the scene says so: whoever bears a ticket gets the socket that waits for it."""
        ends = await super().join(route, near, far)
        if self.meeting.tickets is None:
            return ends
        made = [Ticket(f"{route.id} {len(self.meeting.tickets)} {side}".encode()) for side in ("near", "far")]
        self.meeting.tickets.update({ticket.data: end for ticket, end in zip(made, ends, strict=True)})
        return tuple(made)

    def _redeemed(self, end: Any) -> Any:
        if not isinstance(end, Ticket):
            return end
        assert self.meeting.tickets is not None, "nobody gave tickets"
        return self.meeting.tickets.pop(end.data)

    async def open_sink(self, route: Route, sock: Any) -> Any:
        return await super().open_sink(route, self._redeemed(sock))

    async def open_source(self, route: Route, sock: Any) -> Any:
        return await super().open_source(route, self._redeemed(sock))

    async def serve_node(
        self, listen: NodeAddress, name: str, on_host: Callable[[PartLink, PeerIdentity], None]
    ) -> MeetingListener:
        listener = MeetingListener(self.meeting, listen, on_host)
        self.meeting.listeners[listen.host, listen.port] = listener
        return listener


class Scene:
    """A node, and a host that knows where it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policy: NodePolicy, host: PeerIdentity = HOST) -> None:
        self.meeting = Meeting(host)
        self.policy = policy
        self.events: list[NodeEvent] = []
        self.node: Node
        self.transports: list[MeetingTransport] = []
        usual, installed = registry.transport, registry.transports()

        def transport(tier: str, clock: Clock, **options: Any) -> Transport:
            if tier != "quic":
                return usual(tier, clock, **options)
            self.transports.append(MeetingTransport(clock, self.meeting, **options))
            return self.transports[-1]

        monkeypatch.setattr(registry, "transport", transport)
        monkeypatch.setattr(registry, "transports", lambda: (*installed, "quic"))

    def kinds(self) -> list[str]:
        """What happened at the node."""
        return [event.kind for event in self.events]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[asyncio.Task[None]]:
        """While the node runs."""
        self.node = Node("edge-1", self.policy, tell=self.events.append, tiers=TierSet(SystemClock()))
        task = asyncio.create_task(self.node.serve(NodeAddress("localhost", 4433)))
        await until(lambda: self.events or task.done(), "it does not listen")
        try:
            yield task
        finally:
            self.node.stop()
            await asyncio.wait_for(task, PATIENCE_S)

    def run(
        self,
        *nodes: str,
        operators: Mapping[str, Any] | None = None,
        drive: Callable[[RunningFlow], Coroutine[Any, Any, object]] | None = None,
        state: Mapping[str, Any] | None = None,
        head: str = "",
        is_balanced: bool = True,
    ) -> RunReport:
        """Run a flow to its end."""

        async def main() -> RunReport:
            async with self.serving(), Host(operators=operators, nodes=NODES, drain_ns=20 * 10**9) as host:
                flow = await host.start(compiled(flow_text(*nodes, head=head)), state=state)
                try:
                    if drive is not None:
                        await drive(flow)
                    return await asyncio.wait_for(flow.wait(), PATIENCE_S)
                finally:
                    await flow.aclose()

        with nothing_left():
            report = asyncio.run(main())
        if is_balanced:
            balanced(report)
        return report

    def refusal(self, *nodes: str, state: Mapping[str, Any] | None = None, places: Any = NODES) -> str:
        """What starting a flow raises."""
        return self.refused(compiled(flow_text(*nodes)), state=state, places=places)

    def refused(self, plan: Plan, *, state: Mapping[str, Any] | None = None, places: Any = NODES) -> str:
        """What starting a plan raises."""

        async def main() -> str:
            async with self.serving(), Host(nodes=places) as host:
                try:
                    await asyncio.wait_for(host.start(plan, state=state), PATIENCE_S)
                except FlowbridgeError as error:
                    return str(error)
            raise AssertionError("the flow was started")

        with nothing_left():
            return asyncio.run(main())
