"""Holds a tree against the models of the language: the flow as a model, and a finding for all that does not fit.

What does not fit is cut out of the tree and the rest is looked at again, so that one run finds everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from flowbridge.adapters import rule, syntax
from flowbridge.adapters.source import Branch, Entry, Items, Scalar, plain
from flowbridge.limits import FLOW_NODES_MAX

if TYPE_CHECKING:
    from flowbridge.adapters.collect import Findings, Mark
    from flowbridge.adapters.source import Value

_ROUNDS_MAX: Final = 8  # each round cuts at least one level; the language is less deep than this
_NEEDED: Final = {
    "string_type": "a text",
    "bool_type": "true or false",
    "dict_type": "a map",
    "list_type": "a list",
    "model_type": "a map",
    "model_attributes_type": "a map",
}


@dataclass(slots=True)
class Shaped:
    """A flow that fits the models, and what had to be cut from the text for that.

    `tree` has the same nodes in the same order as `flow`. `damaged` holds the `id()` of their branches when something
    was cut in them; `lost` the node ids that were cut whole.
    """

    flow: syntax.Flow
    tree: Branch
    damaged: set[int] = field(default_factory=set[int])
    lost: set[str] = field(default_factory=set[str])
    cut: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])  # `id()` of a map, and the key cut

    def node_trees(self) -> list[Branch]:
        """The branch of each node of the flow."""
        nodes = self.tree.entries["nodes"].value
        assert isinstance(nodes, Items)
        return [node for node in nodes.values if isinstance(node, Branch)]


def shape(tree: Value, findings: Findings) -> Shaped | None:
    """The flow that a tree means; None when too little of it fits to say more."""
    if not isinstance(tree, Branch):
        findings.add(rule.WRONG_TYPE, tree.mark, f"a flow is a map, not {_found(tree)}")
        return None
    nodes = tree.entries.get("nodes")
    if nodes is not None and isinstance(nodes.value, Items):
        count = len(nodes.value.values)
        if count > FLOW_NODES_MAX:
            findings.add(rule.LIMIT, nodes.mark, f"{count} nodes exceed the limit of {FLOW_NODES_MAX}")
            return None
        if count == 0:
            findings.add(rule.BAD_VALUE, nodes.value.mark, "nodes: at least one node is needed")
    shaped = Shaped(syntax.Flow.model_construct(), tree)
    for _ in range(_ROUNDS_MAX):
        try:
            shaped.flow = syntax.Flow.model_validate(plain(tree))
        except ValidationError as error:
            if not _cut(error, shaped, findings):
                return None
        else:
            return shaped
    return None


def _cut(error: ValidationError, shaped: Shaped, findings: Findings) -> bool:
    """Note every error and cut what it is about; False when the flow cannot do without it."""
    errors = error.errors(include_url=False)
    places = [_Place.of(shaped.tree, found["loc"]) for found in errors]
    for found, place in zip(errors, places, strict=True):
        if (id(place.value), place.missing) not in shaped.cut:
            _note(found, place, findings)
    whole = True
    for place in places:
        if not place.steps:
            # `flowbridge`, `name` or `nodes` is missing; the other two can be made up, so that the nodes are looked at
            whole = whole and _make_up(shaped.tree, place)
            continue
        place.remove(shaped)
    return whole


def _make_up(tree: Branch, place: _Place) -> bool:
    substitutes = {"flowbridge": 1, "name": "unnamed"}
    missing = place.missing
    if missing not in substitutes:
        return False
    tree.entries[missing] = Entry(tree.mark, Scalar(substitutes[missing], tree.mark))
    return True


@dataclass(slots=True)
class _Place:
    """A location of pydantic, followed through the tree as far as it goes."""

    steps: list[tuple[Branch | Items, str | int]]  # containers passed, and the step taken in each
    value: Value
    key_mark: Mark | None
    missing: str  # the key that was not there, or empty

    @classmethod
    def of(cls, tree: Value, location: tuple[str | int, ...]) -> _Place:
        place = cls([], tree, None, "")
        for step in location:
            current = place.value
            if isinstance(current, Branch) and isinstance(step, str):
                entry = current.entries.get(step)
                if entry is None:
                    if step in _TAGS:
                        continue
                    place.missing = step
                    break
                place.steps.append((current, step))
                place.value, place.key_mark = entry.value, entry.mark
            elif isinstance(current, Items) and isinstance(step, int):
                place.steps.append((current, step))
                place.value, place.key_mark = current.values[step], None
        return place

    @property
    def key(self) -> str:
        """The last key on the way."""
        return next((str(step) for _, step in reversed(self.steps) if isinstance(step, str)), "")

    def remove(self, shaped: Shaped) -> None:
        """Cut the value out of the tree; an item of a list takes its list along, except a node."""
        steps = self.steps
        in_node = len(steps) >= 2 and steps[0][1] == "nodes" and isinstance(steps[1][0], Items)
        if in_node and len(steps) == 2:
            self._remove_node(steps[1][0], shaped)
            return
        if in_node:
            shaped.damaged.add(id(steps[2][0]))
        while isinstance(steps[-1][0], Items):
            steps = steps[:-1]
        container, key = steps[-1]
        assert isinstance(container, Branch)
        container.entries.pop(str(key), None)
        shaped.cut.add((id(container), str(key)))
        if key == "id" and in_node and isinstance(self.value, Scalar):
            shaped.lost.add(str(self.value.value))

    def _remove_node(self, nodes: Branch | Items, shaped: Shaped) -> None:
        assert isinstance(nodes, Items)
        node = self.value
        if isinstance(node, Branch):
            named = node.entries.get("id")
            if named is not None and isinstance(named.value, Scalar) and isinstance(named.value.value, str):
                shaped.lost.add(named.value.value)
        nodes.values[:] = [other for other in nodes.values if other is not node]


_TAGS: Final = frozenset((syntax.TEXT, syntax.MAP, syntax.LIST, "[key]"))


def _note(found: Any, place: _Place, findings: Findings) -> None:
    kind: str = found["type"]
    context: dict[str, Any] = found.get("ctx", {})
    at_key = place.key_mark is not None and found["loc"][-1] == "[key]"
    mark = place.key_mark if at_key and place.key_mark is not None else place.value.mark
    if findings.is_disputed(mark):
        return  # what the value was meant to be is not known
    if kind == "missing":
        findings.add(rule.MISSING_KEY, mark, f"key `{place.missing}` is missing{_in(place.key)}")
    elif kind == "extra_forbidden":
        known = [] if findings.is_full else _keys(found["loc"][:-1])
        hint = findings.did_you_mean(place.key, known, "keys here are " + ", ".join(known))
        findings.add(rule.UNKNOWN_KEY, place.key_mark or mark, f"unknown key `{_short(place.key)}`", hint)
    elif kind in rule.RULES:
        hint = context.get("hint", "")
        if "words" in context:
            hint = findings.did_you_mean(str(found["input"]), context["words"])
        message = context.get("message") or f"{found['msg']}, not {_found(place.value)}"
        findings.add(rule.RULES[kind], mark, f"{_short(place.key)}: {message}" if place.key else message, hint)
    else:
        needed = _NEEDED.get(kind, found["msg"])
        is_text = kind == "string_type" and isinstance(place.value, Scalar) and place.value.value is not None
        hint = f'write "{plain(place.value)}"' if is_text else ""
        message = f"{_short(place.key)}: {needed} is needed, not {_found(place.value)}"
        findings.add(rule.WRONG_TYPE, mark, message, hint)


def _in(key: str) -> str:
    return f" in {_short(key)}" if key else ""


def _short(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text[:40])


def _found(value: Value) -> str:
    if isinstance(value, Branch):
        return "a map"
    if isinstance(value, Items):
        return "a list"
    if value.value is None:
        return "nothing"
    if isinstance(value.value, bool):
        return str(value.value).lower()
    return "a text" if isinstance(value.value, str) else f"the number {value.value}"


def _keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the model at a location has."""
    kind: Any = syntax.Flow
    for step in location:
        kind = _step(_bare(kind), step)
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [known.alias or name for name, known in kind.model_fields.items()]
    return []


def _bare(kind: Any) -> Any:
    """A type without Annotated and None."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
            continue
        members = [member for member in get_args(kind) if member is not type(None)]
        if get_origin(kind) not in (list, dict) and len(members) == 1 and members != list(get_args(kind)):
            kind = members[0]
            continue
        return kind


def _step(kind: Any, step: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, known in kind.model_fields.items():
            if step == (known.alias or name):
                return known.annotation
        return None
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1]
    for member in get_args(kind):
        if get_origin(member) is Annotated and Tag(str(step)) in get_args(member):
            return member
    return kind
