"""What a part is told to run, in the form that its host's trust in it, and its in the host, allows; and by whom."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from flowbridge.codec.plan import plan_to_cbor
from flowbridge.machines.node_acl import plan_acl
from flowbridge.runtime.guarded_bus import GuardedBus
from flowbridge.runtime.kept import packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.contracts import EventBus
    from flowbridge.plan import Placement, Plan
    from flowbridge.report import PathReport
    from flowbridge.runtime.books import Role
    from flowbridge.runtime.remote_node import RemoteNode
    from flowbridge.runtime.remote_part import RemotePart
    from flowbridge.time.ledger import EdgeBooks


class Surroundings(Protocol):
    """What all parts of a flow share."""

    @property
    def stdout(self) -> TextIO: ...
    @property
    def bus(self) -> EventBus: ...
    @property
    def serial(self) -> int: ...
    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def trace_ratio(self) -> float | None: ...


class Whole(Surroundings, Protocol):
    """The flow that a part is of."""

    def is_fed(self, node: RemoteNode) -> bool: ...
    def counted(self, route: str, role: Role, books: EdgeBooks) -> None: ...
    def went(self, part: RemotePart, paths: Sequence[PathReport]) -> None: ...
    def died(self, part: RemotePart) -> None: ...
    async def rejoin(self, part: RemotePart) -> None: ...
    def end_lost(self, route: str, peer_of: RemotePart) -> None: ...
    def ended_elsewhere(self, part: RemotePart) -> list[str]: ...
    def trouble(self, text: str) -> None: ...
    def printed(self, text: str) -> None: ...
    def recorded(self, spans: Sequence[Any]) -> None: ...
    def asked_to_end(self) -> None: ...


def part_content(plan: Plan, place: Placement, around: Surroundings, *, same_user: bool) -> dict[str, Any]:
    """The content of a PART frame, but for the nodes and their states; see `codec.part_frames`. Raises: EncodeError."""
    content: dict[str, Any] = {
        "process": str(place),
        "serial": around.serial,
        "is_terminal": same_user and around.stdout.isatty(),  # what others print is shown without its colours
        "trace_ratio": around.trace_ratio,
        "encoding": getattr(around.stdout, "encoding", None) or "utf-8",
    }
    if not same_user:
        return {**content, "plan": plan_to_cbor(plan)}
    return {
        **content,
        "sys_path": list(sys.path),
        "options": packed(dict(around.options)).data,
        "plan": packed(plan).data,  # pickled: pydantic would double the time of its start
    }


def part_bus(plan: Plan, place: Placement, around: Surroundings, *, same_user: bool) -> EventBus:
    """The bus as a part may use it: on another host only the topics of its own routes."""
    return around.bus if same_user else GuardedBus(around.bus, plan_acl(plan, place), str(place.name))
