"""Who may do what between hosts: rules, and one decision. Nothing is allowed that no rule allows.

Rules.
1. A rule speaks of a principal, an action, and a name: of a topic, a route or an operator. It allows or it denies.
2. A principal is ``fb://FABRIC/node/NAME``, what a certificate says. In a rule ``*`` stands for any characters but
   ``/``, and ``*`` alone for whoever has proved who it is.
3. For `pub`, `sub`, `req` and `serve` the name is a topic pattern. What is asked for, which may be a pattern itself,
   must be covered by one rule that allows it: wildcards of who asks widen nothing.
4. For the others the name is matched as text, where ``*`` in a rule stands for any characters.
5. A rule that denies wins over all that allow; it holds as soon as one topic is in both patterns.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from flowbridge.errors import AuthError, LocalProtocolError
from flowbridge.machines.topics import ONE, REST, check_pattern, covers
from flowbridge.plan import Plane

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowbridge.plan import Placement, Plan

EVERYONE: Final = "*"
_ANY_TEXT: Final = ".*"
_ANY_SEGMENT: Final = "[^/]*"


class Action(enum.Enum):
    """What a peer may be allowed to do."""

    PUB = "pub"  # publish to a topic
    SUB = "sub"  # subscribe to a topic pattern
    REQ = "req"  # request from a topic
    SERVE = "serve"  # subscribe to requests and answer them
    PORT_READ = "port.read"  # take what a route of this id carries
    PORT_WRITE = "port.write"  # put something on a route of this id
    INVOKE = "invoke"  # run an operator of this reference


TOPIC_ACTIONS: Final = frozenset((Action.PUB, Action.SUB, Action.REQ, Action.SERVE))


@dataclass(frozen=True, slots=True)
class AclRule:
    """One rule. LocalProtocolError when its topic pattern is none."""

    principal: str
    action: Action
    name: str
    allows: bool = True

    def __post_init__(self) -> None:
        if self.action in TOPIC_ACTIONS:
            check_pattern(self.name)


def is_principal(pattern: str, principal: str) -> bool:
    """Whether a principal is one of those that a rule names; nobody is nameless."""
    return bool(principal) and (pattern == EVERYONE or _glob(pattern, _ANY_SEGMENT).fullmatch(principal) is not None)


class NodeAcl:
    """A list of rules; an empty one allows nothing."""

    def __init__(self, rules: Iterable[AclRule] = ()) -> None:
        self.rules: Final = tuple(rules)

    def may(self, principal: str, action: Action, name: str) -> bool:
        """Whether the principal may do that to a topic, topic pattern, route or operator. Pure and total.

        A malformed topic pattern is nothing that anybody may.
        """
        if action in TOPIC_ACTIONS and not _is_pattern(name):
            return False
        if self.denies(principal, action, name):
            return False
        return any(rule.allows and _holds(action, rule.name, name) for rule in self._about(principal, action))

    def denies(self, principal: str, action: Action, name: str) -> bool:
        """Whether a rule says no; False is not a yes."""
        return any(not rule.allows and _meets(action, rule.name, name) for rule in self._about(principal, action))

    def _about(self, principal: str, action: Action) -> Iterator[AclRule]:
        return (rule for rule in self.rules if rule.action is action and is_principal(rule.principal, principal))

    def check(self, principal: str, action: Action, name: str) -> None:
        """Raises: AuthError that says which right is missing."""
        if not self.may(principal, action, name):
            raise AuthError(f"{principal or 'a peer without a name'} has no right {action.value} on {name!r:.160}")

    def __repr__(self) -> str:
        return f"<NodeAcl {len(self.rules)} rules>"


def overlap(one: str, other: str) -> bool:
    """Whether some topic is matched by both patterns, which are well formed."""
    first, second = one.split("."), other.split(".")
    for at in range(max(len(first), len(second))):
        a = first[at] if at < len(first) else None
        b = second[at] if at < len(second) else None
        if REST in (a, b):
            return a is not None and b is not None
        if a is None or b is None or (a != b and ONE not in (a, b)):
            return False
    return True


def plan_acl(plan: Plan, place: Placement) -> NodeAcl:
    """What a place needs of the bus of the host that runs the plan: its own routes, and nothing else.

    The principal is the place's name.
    """
    here = {manifest.node for manifest in plan.manifests if manifest.place == place}
    name = place.name or ""
    rules: list[AclRule] = []
    for route in plan.routes:
        if route.plane is not Plane.BUS or route.topic is None:
            continue
        if route.source_node in here:
            rules += [AclRule(name, action, route.topic) for action in (Action.PUB, Action.REQ)]
        if route.target_node in here:
            rules += [AclRule(name, action, route.topic) for action in (Action.SUB, Action.SERVE)]
    return NodeAcl(rules)


def _meets(action: Action, rule: str, name: str) -> bool:
    return overlap(rule, name) if action in TOPIC_ACTIONS else _matches(rule, name)


def _holds(action: Action, rule: str, name: str) -> bool:
    return covers(rule, name) if action in TOPIC_ACTIONS else _matches(rule, name)


def _matches(rule: str, name: str) -> bool:
    return _glob(rule, _ANY_TEXT).fullmatch(name) is not None


@cache
def _glob(pattern: str, star: str) -> re.Pattern[str]:
    return re.compile(star.join(map(re.escape, re.split(r"\*+", pattern))), re.DOTALL)


def _is_pattern(name: str) -> bool:
    try:
        check_pattern(name)
    except LocalProtocolError:
        return False
    return True
