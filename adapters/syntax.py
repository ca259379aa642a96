"""The flow language as models: which keys there are, what type each has, and what it is for.

The models check one value at a time and mend nothing; what a value means among the others is `resolve`'s business.
An empty value (null) stands for a key that is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError, core_schema

from flowbridge.adapters import rule, unit
from flowbridge.envelope import Priority
from flowbridge.limits import NAME_CHARACTERS_MAX
from flowbridge.plan import Category, ContentType, Delivery, OnError, Per, Policy, RestartWhen, Scatter, Tier

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_PATTERN: Final = rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_CHARACTERS_MAX - 1}}}$"
CONTENT_TYPES: Final = {word.name.lower(): word for word in ContentType}
POLICIES: Final = {**{word.value: word for word in Policy}, "backpressure": Policy.BLOCK}
PRIORITIES: Final = {word.word: word for word in Priority}
CATEGORIES: Final = {word.value.lower(): word for word in Category}
TEXT, MAP, LIST = "<text>", "<map>", "<list>"
"""Tags of the forms a value may have; they stand in the locations of errors."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def refuse(broken: rule.Rule, message: str, hint: str = "") -> PydanticCustomError:
    """The error that `shape` turns into a finding of that rule."""
    return PydanticCustomError(broken.id, "{message}", {"message": message, "hint": hint})  # pyright: ignore[reportArgumentType] - wants a literal


def refuse_word(value: object, words: tuple[str, ...]) -> PydanticCustomError:
    """The error for a value that is none of `words`; `shape` adds the suggestion."""
    message = f"{str(value)[:40]!r} is none of {', '.join(words)}"
    return PydanticCustomError(rule.BAD_VALUE.id, "{message}", {"message": message, "hint": "", "words": words})


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Metadata of a type: a function that checks and converts, and the JSON Schema that says the same."""

    check: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return dict(self.schema)


def _check_name(value: object) -> str:
    if not isinstance(value, str):
        raise refuse(rule.WRONG_TYPE, f"a name is needed, {value!r:.40} is no text", f'write "{value!s:.40}"')
    if len(value) > NAME_CHARACTERS_MAX:
        raise refuse(rule.LIMIT, f"name of {len(value)} characters exceeds the limit of {NAME_CHARACTERS_MAX}")
    if not _NAME.fullmatch(value):
        raise refuse(rule.BAD_NAME, f"{value[:40]!r} is no name", "letters, digits, _ - . after a letter or digit")
    return value


def _quantity(parse: Callable[[object], int], least: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        try:
            number = parse(value)
        except unit.RangeError as error:
            raise refuse(rule.LIMIT, str(error)) from None
        except unit.UnitError as error:
            raise refuse(rule.BAD_UNIT, str(error), error.hint) from None
        if number < least:
            raise refuse(rule.BAD_VALUE, f"{value} is too small: more than zero is needed")
        return number

    return check


def _word(*words: str) -> Checked:
    def check(value: object) -> str:
        if value not in words:
            raise refuse_word(value, words)
        return str(value)

    return Checked(check, {"type": "string", "enum": list(words)})


def _whole(least: int) -> Checked:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(rule.WRONG_TYPE, f"a whole number is needed, not {value!r:.40}")
        if value < least:
            raise refuse(rule.BAD_VALUE, f"{value} is too small: at least {least} is needed")
        return value

    return Checked(check, {"type": "integer", "minimum": least})


def _check_version(value: object) -> int:
    if value != 1 or isinstance(value, (bool, float)):
        raise refuse(rule.BAD_VERSION, f"language version {value!r:.40} is not known", "write flowbridge: 1")
    return 1


_DURATION: Final = {"type": "string", "pattern": unit.DURATION_PATTERN, "examples": ["20ms", "1.5s"]}
_SIZE: Final = {"type": "string", "pattern": unit.SIZE_PATTERN, "examples": ["64KiB"]}

Name = Annotated[str, Checked(_check_name, {"type": "string", "pattern": NAME_PATTERN})]
Duration = Annotated[int, Checked(_quantity(unit.parse_duration, 1), _DURATION)]
Delay = Annotated[int, Checked(_quantity(unit.parse_duration, 0), _DURATION)]
Size = Annotated[int, Checked(_quantity(unit.parse_size, 1), _SIZE)]
Count = Annotated[int, _whole(0)]
Positive = Annotated[int, _whole(1)]
Version = Annotated[int, Checked(_check_version, {"const": 1})]
PriorityWord = Annotated[str, _word(*PRIORITIES)]
TypeWord = Annotated[str, _word(*CONTENT_TYPES)]


def form(value: Any) -> str | None:
    """Which form a value has, None when none."""
    if isinstance(value, (str, BaseModel)):
        return TEXT if isinstance(value, str) else MAP
    return MAP if isinstance(value, dict) else LIST if isinstance(value, list) else None


def _forms(*allowed: str, needed: str) -> Discriminator:
    def choose(value: Any) -> str | None:
        found = form(value)
        return found if found in allowed else None

    return Discriminator(choose, custom_error_type=rule.WRONG_TYPE.id, custom_error_message=f"{needed} is needed")


class _Map(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Queue(_Map):
    """How a route queues messages, for each of its lanes."""

    policy: Annotated[str, _word(*POLICIES)] | None = Field(None, description="What a full queue does.")
    size: Positive | None = Field(None, description="Messages; 1 for the policy latest.")
    bytes: Size | None = Field(None, description="Bytes.")
    high: Positive | None = Field(None, description="Messages at which the sender stops; `size` unless told.")
    low: Count | None = Field(None, description="Messages at which it goes on; half of `size` unless told.")


class Defaults(_Map):
    """What nodes and routes have when they say nothing themselves."""

    deadline: Duration | None = Field(None, description="Of messages that start at a source or timer.")
    priority: PriorityWord | None = Field(None, description="Of messages that start at a node.")
    queue: Queue | None = Field(None, description="Of every route.")


class Schema(_Map):
    """The columns of a payload."""

    version: Positive = Field(1, description="Raise it when the columns change.")
    fields: dict[Name, str] = Field(description="Column names and types; `!` after a type means never null.")


class Topic(_Map):
    """How bus topics that match a pattern are carried."""

    priority: PriorityWord | None = Field(None, description="Of messages published.")
    deadline: Duration | None = Field(None, description="From being published.")
    queue: Queue | None = Field(None, description="Of subscriptions that name none.")


class Input(_Map):
    """One end that an input port is joined to, and how."""

    from_: str = Field(alias="from", description="node/port, timer/100ms, timer/30hz or bus/topic.words.")
    queue: Queue | None = Field(None, description="How the route queues.")
    deadline: Duration | None = Field(None, description="From being sent on this route.")
    priority: PriorityWord | None = Field(None, description="Instead of the message's own.")
    tier: Annotated[str, _word(*(t.value for t in Tier))] | None = Field(None, description="How the nodes are joined.")
    delivery: Annotated[str, _word(*(d.value for d in Delivery))] | None = Field(
        None, description="What becomes of messages whose consumer's process dies; `at_most_once` unless told."
    )
    feedback: bool | None = Field(None, description="This edge closes a cycle.")
    group: Name | None = Field(None, description="bus: one member of the group gets each message.")
    reply: bool | None = Field(None, description="bus: what the operator returns answers the request.")
    type: TypeWord | None = Field(None, description="What this input needs; the sender's unless told.")
    schema_: Name | None = Field(None, alias="schema", description="Columns this input needs.")


_END: Final = "node/port, a map with `from`"
InputItem = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[Input, Tag(MAP)], _forms(TEXT, MAP, needed="node/port or a map with `from`")
]
InputForm = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[Input, Tag(MAP)] | Annotated[list[InputItem], Tag(LIST)],
    _forms(TEXT, MAP, LIST, needed=f"{_END}, or a list of them"),
]


class Output(_Map):
    """What leaves a node through one port."""

    type: TypeWord | None = Field(None, description="How the payload is to be understood.")
    schema_: Name | None = Field(None, alias="schema", description="A key of `schemas`.")
    scatter: Annotated[str, _word(*(s.value for s in Scatter))] | None = Field(
        None, description="How several routes share the messages."
    )
    topic: str | None = Field(None, description="Publish on the bus under this topic.")


OutputsForm = Annotated[
    Annotated[dict[Name, Output | None], Tag(MAP)] | Annotated[list[Name], Tag(LIST)],
    _forms(MAP, LIST, needed="a map of ports, or a list of their names"),
]


class Retry(_Map):
    """Repeat a failed call."""

    max: Count = Field(description="Repetitions.")
    delay: Delay | None = Field(None, description="Before the first; doubles each time.")
    on: list[str] | None = Field(None, description="Names of exception classes; every one unless told.")


class Restart(_Map):
    """Start a stopped node again."""

    when: Annotated[str, _word(*(w.value for w in RestartWhen))] = Field("on-failure", description="When.")
    max: Count | None = Field(None, description="Times within `window`.")
    window: Duration | None = Field(None, description="Over which `max` counts.")
    delay: Delay | None = Field(None, description="Before the first; doubles each time.")
    max_delay: Delay | None = Field(None, description="Longest delay.")


RestartForm = Annotated[
    Annotated[str, _word(*(w.value for w in RestartWhen)), Tag(TEXT)] | Annotated[Restart, Tag(MAP)],
    _forms(TEXT, MAP, needed="never, on-failure, always or a map"),
]


class Place(_Map):
    """Where a node runs: a named process or a named host."""

    process: Name | None = Field(None, description="A process of this host.")
    host: Name | None = Field(None, description="Another host.")


class Node(_Map):
    """One operator at work."""

    id: Name = Field(description="Unique in the flow.")
    operator: str = Field(description="A built-in's name, python:module:attr, python:./file.py:attr or host:name.")
    with_: dict[str, Any] | None = Field(None, alias="with", description="Configuration of the operator.")
    inputs: dict[Name, InputForm] | None = Field(None, description="Input ports, and what each is joined to.")
    outputs: OutputsForm | None = Field(None, description="Output ports.")
    deadline: Duration | None = Field(None, description="Of messages that start here.")
    priority: PriorityWord | None = Field(None, description="Of messages that start here.")
    budget: Duration | None = Field(None, description="Declared time of one call.")
    per: Annotated[str, _word(*(p.value for p in Per))] | None = Field(None, description="What one call gets.")
    thread: bool | None = Field(None, description="The operator blocks: run it in a worker thread.")
    retry: Retry | None = Field(None, description="Repeat a failed call.")
    on_error: Annotated[str, _word(*(e.value for e in OnError))] | None = Field(None, description="After every retry.")
    restart: RestartForm | None = Field(None, description="Start a stopped node again.")
    snapshot: Duration | None = Field(None, description="How often the state is kept.")
    place: Place | None = Field(None, description="Where it runs.")
    category: Annotated[str, _word(*CATEGORIES)] | None = Field(None, description="What the node is for.")


class Flow(_Map):
    """A flow: operators and how they are joined."""

    flowbridge: Version = Field(description="The language version.")
    name: Name = Field(description="What reports call the flow.")
    description: str | None = Field(None, description="For people.")
    defaults: Defaults | None = Field(None, description="For all nodes and routes.")
    schemas: dict[Name, Schema] | None = Field(None, description="Columns of payloads, by name.")
    topics: dict[str, Topic] | None = Field(None, description="How bus topics are carried, by pattern.")
    nodes: list[Node] = Field(description="At least one.", json_schema_extra={"minItems": 1})
