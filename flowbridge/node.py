"""Node: serves hosts on other machines, each with a part of its flow that runs here, as far as a policy allows."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flowbridge import registry
from flowbridge.codec.codes import Code, error_of
from flowbridge.errors import AuthError, FlowbridgeError, ResourceError
from flowbridge.limits import DRAIN_NS_DEFAULT, NODE_HOSTS_MAX
from flowbridge.placing import node_options
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.gate import HostGate
from flowbridge.runtime.part import Part
from flowbridge.runtime.tier_set import TierSet
from flowbridge.telemetry.far_spans import FarInstrument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbridge.addresses import NodeAddress, PeerIdentity, TlsFiles
    from flowbridge.contracts import Clock
    from flowbridge.machines.node_policy import NodePolicy
    from flowbridge.placing import NodeListener, NodeTransport, PartLink


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something that happened at a node.

    `kind` is ``listening``, ``host_connected``, ``part_started``, ``refused``, ``host_left``, ``draining`` or
    ``drained``; `text` says it in one line, `about` in plain values.
    """

    kind: str
    text: str
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Node:
    """Runs parts of flows for hosts.

        node = Node("edge-1", policy, tls=tls, tell=print)
        await node.serve(parse_address("quic://0.0.0.0:4433"))

    `tell` hears of every event, on the loop. `tiers` are given by who tests; else they are made with `tls`.
    """

    def __init__(
        self,
        name: str,
        policy: NodePolicy,
        *,
        tls: TlsFiles | None = None,
        engine: str = "auto",
        tell: Callable[[NodeEvent], object],
        clock: Clock | None = None,
        tiers: TierSet | None = None,
        drain_ns: int = DRAIN_NS_DEFAULT,
    ) -> None:
        self.name = name
        self._policy = policy
        self._tls = tls
        self._engine = engine
        self._tell = tell
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._tiers = tiers
        self._drain_ns = drain_ns
        self._parts: dict[asyncio.Task[None], Part] = {}
        self._listener: NodeListener | None = None
        self._ending = asyncio.Event()  # drained, or to be ended
        self._is_draining = False
        self.was_cut = False
        """Whether parts were ended that had not finished."""

    async def serve(self, listen: NodeAddress) -> None:
        """Serve until it has drained or was stopped. Raises: FlowbridgeError when it cannot listen."""
        tiers = self._tiers
        if tiers is None:
            tiers = TierSet(self._clock, {listen.scheme: node_options(self._tls, self._engine)})
        try:
            transport = await tiers.get(listen.scheme)
            if not hasattr(transport, "serve_node"):
                raise ResourceError(f"tier {listen.scheme}: serves no nodes")
            serving = cast("NodeTransport", transport)
            self._listener = await serving.serve_node(
                listen, self.name, lambda link, peer: self._host_came(tiers, link, peer)
            )
            address = str(self._listener.address)
            self._say("listening", f"node {self.name} listens on {address}", address=address)
            await self._ending.wait()
        finally:
            await self._close(tiers)
        if self._is_draining:
            how = "some parts were cut off" if self.was_cut else "every part has ended"
            self._say("drained", f"node {self.name} has drained: {how}", cut=self.was_cut)

    def drain(self) -> None:
        """Take no new host, ask those that are here to end their flows, and end when they have. Idempotent."""
        if self._is_draining:
            return
        self._is_draining = True
        count = len(self._parts)
        self._say("draining", f"node {self.name} drains; hosts connected: {count}", hosts=count)
        if self._listener is not None:
            self._listener.go_away(self._drain_ns)
        for part in self._parts.values():
            part.terminated()
        self._clock.call_at(self._clock.now_ns() + self._drain_ns, self.stop)
        self._look()

    def stop(self) -> None:
        """End now; parts that run are cut off, and their hosts see them vanish. Idempotent."""
        if not self._ending.is_set():
            self.was_cut = bool(self._parts)
            self._ending.set()

    def health(self) -> dict[str, Any]:
        """What it does now: whether it drains, and how many hosts are connected."""
        return {"node": self.name, "is_draining": self._is_draining, "hosts": len(self._parts)}

    # --- hosts ------------------------------------------------------------------------------------------------------

    def _host_came(self, tiers: TierSet, link: PartLink, peer: PeerIdentity) -> None:
        """Serve a host. Raises: AuthError, ResourceError: it is not served."""
        who = str(peer)
        why = self._refusal(peer)
        if why is not None:
            self._say("refused", f"host {who} was refused: {why}", host=who, why=str(why))
            raise why
        gate = HostGate(
            self._policy, who, registry.catalog(), lambda text: self._refused(who, text), self._started(who)
        )
        part = Part(link, tiers, self._clock, gate, instrument=FarInstrument)
        self._say("host_connected", f"host {who} connected from {link.peer}", host=who, peer=link.peer)
        task = asyncio.get_running_loop().create_task(part.run(0), name=f"part for {who}")
        self._parts[task] = part
        task.add_done_callback(lambda done: self._host_left(done, who))

    def _refusal(self, peer: PeerIdentity) -> FlowbridgeError | None:
        if not peer.node:
            return AuthError("its certificate names no node (0x501 UNAUTHENTICATED)")
        if self._is_draining:
            return error_of(Code.GOING_AWAY, f"node {self.name} is draining", self._drain_ns // 1_000_000)
        if len(self._parts) >= NODE_HOSTS_MAX:
            return error_of(Code.TOO_MANY_CONNECTIONS, f"node {self.name} serves {NODE_HOSTS_MAX} hosts already")
        if not self._policy.knows(str(peer)):
            return AuthError(f"node {self.name} allows nothing to {peer} (0x502 FORBIDDEN)")
        return None

    def _refused(self, who: str, why: str) -> None:
        self._say("refused", why, host=who, why=why)

    def _started(self, who: str) -> Callable[[str, tuple[str, ...]], None]:
        def started(flow: str, nodes: tuple[str, ...]) -> None:
            text = f"part of flow {flow} started for {who}: {', '.join(nodes)}"
            self._say("part_started", text, host=who, flow=flow, nodes=list(nodes))

        return started

    def _host_left(self, task: asyncio.Task[None], who: str) -> None:
        del self._parts[task]
        error = None if task.cancelled() else task.exception()
        text = f"host {who} left" if error is None else f"the part for {who} ended: {type(error).__name__}: {error}"
        self._say("host_left", text, host=who, error=None if error is None else str(error))
        self._look()

    def _look(self) -> None:
        if self._is_draining and not self._parts:
            self._ending.set()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _close(self, tiers: TierSet) -> None:
        tasks = [*self._parts]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._listener is not None:
            with contextlib.suppress(ResourceError):
                await self._listener.aclose()
        await tiers.aclose()

    def _say(self, kind: str, text: str, **about: Any) -> None:
        self._tell(NodeEvent(kind, text, about))

    def __repr__(self) -> str:
        return f"<Node {self.name}, {len(self._parts)} hosts>"
