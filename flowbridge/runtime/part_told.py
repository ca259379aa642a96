"""What a part is told to run, in the form that its host's trust in it, and its in the host, allows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from flowbridge.codec.plan import plan_to_cbor
from flowbridge.machines.node_acl import plan_acl
from flowbridge.runtime.guarded_bus import GuardedBus
from flowbridge.runtime.kept import packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbridge.contracts import EventBus
    from flowbridge.plan import Placement, Plan


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


def part_content(plan: Plan, place: Placement, around: Surroundings, *, same_user: bool) -> dict[str, Any]:
    """The content of a PART frame, but for the nodes and their states; see `codec.part_frames`. Raises: EncodeError."""
    content: dict[str, Any] = {
        "process": str(place),
        "serial": around.serial,
        "is_terminal": same_user and around.stdout.isatty(),  # what others print is shown without its colours
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
