"""The compiled flow: what to run, how it is joined, and every default already decided.

A `Plan` is data only. It is what `FlowAdapter.compile` gives, what a `Host` runs and what `flowbridge compile` writes.
Two plans with equal content have equal digests; positions and the base folder do not count, so neither comments nor
the place of the file change a digest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping  # noqa: TC003 - pydantic reads these annotations when a plan is loaded
from dataclasses import dataclass, field
from typing import Any, Final

from flowbridge.envelope import Priority
from flowbridge.finding import Position
from flowbridge.limits import QUEUE_BYTES_DEFAULT, QUEUE_ITEMS_DEFAULT

PLAN_FORMAT: Final = (1, 1)
"""Major and minor of the plan document.

A reader of 1.x reads every 1.y: unknown members are ignored, missing ones take their defaults. Another major is
refused with `PlanError`. A minor is raised when a member is added, the major when one changes or goes.
"""


class ArtifactKind(enum.Enum):
    """What an operator is made of."""

    PYTHON_OPERATOR = "PythonOperator"
    WASM_COMPONENT = "WasmComponent"
    DYLIB = "Dylib"
    PROCESS = "Process"


class Origin(enum.Enum):
    """Whether flowbridge ships the operator (`internal`) or its user does (`external`)."""

    INTERNAL = "internal"
    EXTERNAL = "external"


class Category(enum.Enum):
    """What a node is for. Outputs of a Resource are JSON or CBOR with a schema."""

    BUSINESS = "Business"
    SYSTEM = "System"
    RESOURCE = "Resource"


class ContentType(enum.Enum):
    """How a payload is to be understood. OBJECT is any Python value; it may leave its process if it is plain data."""

    ARROW = "application/vnd.apache.arrow.stream"
    JSON = "application/json"
    CBOR = "application/cbor"
    BYTES = "application/octet-stream"
    OBJECT = "application/x-python-object"


class Policy(enum.Enum):
    """What a full queue does with one more message."""

    BLOCK = "block"  # the sender waits for credit
    DROP_OLDEST = "drop_oldest"  # the oldest of the lane goes, and is counted
    DROP_NEWEST = "drop_newest"  # the new one goes, and is counted
    LATEST = "latest"  # one place: the new one replaces the old, which is counted
    ERROR = "error"  # the sender gets WouldBlock, counted as refused


class Delivery(enum.Enum):
    """What becomes of messages that were sent to a process that dies, when it is started again."""

    AT_MOST_ONCE = "at_most_once"  # those that it had not reported as handled are lost, and counted
    AT_LEAST_ONCE = "at_least_once"  # they are sent again; some may be handled twice
    EFFECTIVELY_ONCE = "effectively_once"  # those that its last snapshot does not know are: its state has each once


class Tier(enum.Enum):
    """How two nodes are joined. CHOOSE lets the host decide by their places."""

    INPROC = "inproc"
    IPC = "ipc"
    QUIC = "quic"
    CHOOSE = "choose"


class Plane(enum.Enum):
    """What carries a route: a data port, the event bus, or a timer of the runner."""

    DATA = "data"
    BUS = "bus"
    TIMER = "timer"


class Scatter(enum.Enum):
    """How an output with several routes gives a message to them."""

    COPY = "copy"  # every route gets it
    ROUND_ROBIN = "round_robin"  # one route each, in turn
    LEAST_FULL = "least_full"  # one route each, the one with the most credit


class RestartWhen(enum.Enum):
    """When a node that stopped is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class OnError(enum.Enum):
    """What happens to a message whose operator failed after every retry."""

    FAIL = "fail"  # the node fails; its restart policy decides
    SKIP = "skip"  # the message is counted as an error and left out


class Per(enum.Enum):
    """What one call of an operator gets."""

    MESSAGE = "message"  # the payload as it travels
    RECORD = "record"  # each row of an Arrow batch as a dict; results are gathered into a batch again


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What implements a node: ``python:module:attr``, ``host:name`` or the name of a built-in operator."""

    kind: ArtifactKind
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A named end of a node; `schema_ref` is a key of `Plan.schemas` or None when any shape goes."""

    name: str
    content_type: ContentType = ContentType.OBJECT
    schema_ref: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a node runs: this process (both None), a named process, or a named host."""

    process: str | None = None
    host: str | None = None

    @property
    def name(self) -> str | None:
        """The name of the process or host, None for this process."""
        return self.host if self.host is not None else self.process

    def __str__(self) -> str:
        if self.host is not None:
            return f"host {self.host}"
        return "this process" if self.process is None else f"process {self.process}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Start again `when`, at most `max` times within `window_ns`, after a delay that doubles up to `delay_max_ns`."""

    when: RestartWhen = RestartWhen.NEVER
    max: int = 3
    window_ns: int = 10 * 10**9
    delay_ns: int = 100 * 10**6
    delay_max_ns: int = 5 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Repeat a failed call up to `max` times when the error's class (or a base of it) is named in `on`.

    Empty `on` means every error. The delay doubles each time. A retry keeps the message's deadline.
    """

    max: int = 0
    delay_ns: int = 10 * 10**6
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """How one route treats messages. Capacities hold for each lane of its own.

    `priority` None inherits the message's. `deadline_ns` is the time a message may take from being sent on this route;
    it can only tighten the deadline the message already has. A sender stopped at `high_items` goes on at `low_items`.
    """

    policy: Policy = Policy.BLOCK
    capacity_items: int = QUEUE_ITEMS_DEFAULT
    capacity_bytes: int = QUEUE_BYTES_DEFAULT
    high_items: int = QUEUE_ITEMS_DEFAULT
    low_items: int = QUEUE_ITEMS_DEFAULT // 2
    priority: Priority | None = None
    deadline_ns: int | None = None
    delivery: Delivery = Delivery.AT_MOST_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginManifest:
    """One node, ready to be started."""

    node: str
    artifact: Artifact
    origin: Origin
    category: Category = Category.BUSINESS
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    place: Placement = Placement()
    restart: RestartPolicy = RestartPolicy()
    retry: RetryPolicy = RetryPolicy()
    on_error: OnError = OnError.FAIL
    per: Per = Per.MESSAGE
    thread: bool = False  # run a synchronous operator in a worker thread, because it blocks
    scatter: Mapping[str, Scatter] = field(default_factory=dict[str, Scatter])  # by output port
    priority: Priority | None = None  # of messages that start here
    deadline_ns: int | None = None  # of messages that start here, from their start
    budget_ns: int | None = None  # declared time of one call
    snapshot_ns: int | None = None  # how often the state is kept for a restart


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One edge. Its id is ``a/out->b/in``; a bus end reads ``bus/TOPIC`` and a timer ``timer/PERIOD``."""

    id: str
    plane: Plane
    source_node: str
    source_port: str
    target_node: str
    target_port: str
    qos: Qos
    tier: Tier = Tier.CHOOSE
    content_type: ContentType = ContentType.OBJECT
    schema_ref: str | None = None
    feedback: bool = False
    topic: str | None = None  # BUS: the topic published to, or the pattern subscribed to
    group: str | None = None  # BUS: queue group, one member gets each message
    reply: bool = False  # BUS: what the operator returns answers the request
    period_ns: int | None = None  # TIMER


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaField:
    """One column; `type` is a name of `flowbridge.schema`, such as ``int64`` or ``timestamp[us]``."""

    name: str
    type: str
    nullable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaSpec:
    """The shape of a payload. `ref` is ``name@version``; equal shapes are kept once."""

    ref: str
    name: str
    version: int
    content_type: ContentType
    fields: tuple[SchemaField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a node or route has when it says nothing itself."""

    deadline_ns: int | None = None
    priority: Priority = Priority.NORMAL
    qos: Qos = Qos()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A compiled flow.

    `positions` leads from ``node``, ``node.operator``, ``node.inputs.port`` or a route id back to the text; it and
    `base_dir` (the folder that relative paths in `config` start from) are left out of the digest.
    """

    name: str
    digest: str
    manifests: tuple[PluginManifest, ...]
    routes: tuple[Route, ...]
    schemas: Mapping[str, SchemaSpec] = field(default_factory=dict[str, SchemaSpec])
    topics: Mapping[str, Qos] = field(default_factory=dict[str, Qos])  # by topic pattern, first match wins
    defaults: Defaults = Defaults()
    description: str = ""
    format: tuple[int, int] = PLAN_FORMAT
    base_dir: str = "."
    positions: Mapping[str, Position] = field(default_factory=dict[str, Position])

    def manifest(self, node: str) -> PluginManifest:
        """The manifest of a node; KeyError when there is none."""
        for manifest in self.manifests:
            if manifest.node == node:
                return manifest
        raise KeyError(node)

    def where(self, *keys: str) -> str:
        """``file:line:col`` of the first key that has a position, or the flow's name."""
        for key in keys:
            position = self.positions.get(key)
            if position is not None:
                return str(position)
        return self.name
