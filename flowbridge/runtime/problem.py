"""Why a flow cannot be started: every reason, in the order of its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbridge.codec.codes import Code
from flowbridge.errors import AuthError, EncodeError, FlowbridgeError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowbridge.plan import Plan


@dataclass(frozen=True, slots=True)
class Problem:
    """What it is about, and the line that says so."""

    node: str
    part: str  # place, route, operator or process
    text: str
    cause: BaseException | None = None

    @property
    def is_worth_a_retry(self) -> bool:
        """Whether a start that failed may succeed later: not where it was refused, or its state cannot be written."""
        refused = isinstance(self.cause, AuthError | RemoteProtocolError | EncodeError)
        is_leaving = isinstance(self.cause, FlowbridgeError) and self.cause.code == Code.GOING_AWAY
        return self.part == "process" and not refused and not is_leaving

    def to_plain(self) -> list[Any]:
        """What travels between processes: all but the cause, which the text names."""
        return [self.node, self.part, self.text]


def refused(plan: Plan, problems: Iterable[Problem]) -> FlowbridgeError:
    """One error with a line for every problem."""
    order = {manifest.node: index for index, manifest in enumerate(plan.manifests)}
    found = sorted(problems, key=lambda problem: order.get(problem.node, len(order)))
    error = FlowbridgeError("\n".join(problem.text for problem in found))
    error.__cause__ = next((problem.cause for problem in found if problem.cause is not None), None)
    return error
