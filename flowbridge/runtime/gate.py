"""HostGate: what one host may do in a part that runs here for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from flowbridge.errors import FlowbridgeError
from flowbridge.machines.node_acl import Action
from flowbridge.runtime.books import Role
from flowbridge.runtime.digest import operator_digest
from flowbridge.runtime.guarded_bus import GuardedBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import EventBus, OperatorCatalog
    from flowbridge.machines.node_policy import NodePolicy
    from flowbridge.plan import PluginManifest


class PartGate(Protocol):
    """Asked before anything is done for a host that is not of this user."""

    @property
    def base_dir(self) -> str:
        """The folder in which files that operators name lie, instead of that of the flow."""
        ...

    def operator_refusal(self, manifest: PluginManifest) -> str:
        """Why a node's operator is not loaded; empty when it is."""
        ...

    def route_refusal(self, route: str, role: Role) -> str:
        """Why an end of a route is not opened; empty when it is."""
        ...

    def guard(self, bus: EventBus) -> EventBus:
        """The host's bus, as operators may use it here."""
        ...

    def started(self, flow: str, nodes: tuple[str, ...]) -> None:
        """These nodes of a flow run now."""
        ...


class HostGate:
    """Asks the policy of a node about one host; see `PartGate`."""

    def __init__(
        self,
        policy: NodePolicy,
        principal: str,
        catalog: OperatorCatalog,
        on_refused: Callable[[str], object],
        on_started: Callable[[str, tuple[str, ...]], object],
    ) -> None:
        self._policy = policy
        self._acl = policy.acl
        self._principal = principal
        self._catalog = catalog
        self._on_refused = on_refused
        self._on_started = on_started
        self.base_dir = policy.files if policy.files is not None else "."

    def operator_refusal(self, manifest: PluginManifest) -> str:
        """Why a node's operator is not loaded; empty when it is."""
        ref = manifest.artifact.ref
        spec = None if ":" in ref else self._catalog.get(ref)
        try:
            why = self._policy.refusal(self._principal, manifest, spec, self._digest, self._leads_out)
        except FlowbridgeError as error:
            why = f"operator {ref!r:.120} cannot be held against its digest: {error} (0x502 FORBIDDEN)"
        return self._told(why)

    def _leads_out(self, path: str) -> bool:
        """Whether links lead out of the folder for files. A host makes no links here: what leads in does so later."""
        folder = os.path.realpath(self.base_dir)
        try:
            return os.path.commonpath((folder, os.path.realpath(os.path.join(folder, path)))) != folder
        except (OSError, ValueError):
            return True

    def _digest(self, ref: str) -> str:
        return operator_digest(ref, self._catalog)

    def route_refusal(self, route: str, role: Role) -> str:
        """Why an end of a route is not opened; empty when it is. What a part takes, its host writes."""
        action = Action.PORT_WRITE if role is Role.SOURCE else Action.PORT_READ
        try:
            self._acl.check(self._principal, action, route)
        except FlowbridgeError as error:
            return self._told(f"{error} (0x502 FORBIDDEN)")
        return ""

    def guard(self, bus: EventBus) -> EventBus:
        """The host's bus, as operators may use it here: a topic that crosses is one that the policy names."""
        return GuardedBus(bus, self._acl, self._principal)

    def started(self, flow: str, nodes: tuple[str, ...]) -> None:
        """These nodes of a flow run now."""
        self._on_started(flow, nodes)

    def _told(self, why: str) -> str:
        if why:
            self._on_refused(why)
        return why
