"""The contracts: what a transport, a codec, a clock, an adapter and an operator promise each other.

A Protocol stands here only where two implementations exist or a stranger may write one. The clauses of
`flowbridge.testing.conformance` say the same in executable form; where prose and clause differ, the clause is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from flowbridge.envelope import Envelope, Gap, TraceContext
    from flowbridge.errors import FlowbridgeError
    from flowbridge.operator_spec import OperatorSpec
    from flowbridge.plan import Plan, PluginManifest, Qos, Route
    from flowbridge.time.ledger import EdgeBooks

BytesLike: TypeAlias = "bytes | bytearray | memoryview"


class Clock(Protocol):
    """Where the time comes from. All deadlines are in its nanoseconds."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds; never goes back; all processes of one machine agree."""
        ...

    def unix_ns(self) -> int:
        """Nanoseconds since 1970 for people and telemetry, never for deadlines: it may jump."""
        ...

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return once `now_ns() >= deadline_ns`, never before; at once when that is already so."""
        ...

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Alarm:
        """Call back on the running loop once `now_ns() >= deadline_ns`; never before, never from within this call."""
        ...


class Alarm(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Let it not come. Idempotent, also after it came."""
        ...


class Codec(Protocol):
    """Envelope headers to bytes and back. Pure: time comes in as an argument."""

    @property
    def name(self) -> str:
        """Compared by the peers when they meet."""
        ...

    def encode(self, envelope: Envelope, *, topic: str, now_ns: int) -> bytes:
        """The header alone; the payload travels beside it. EncodeError when it cannot be written."""
        ...

    def decode(self, header: BytesLike, *, now_ns: int) -> tuple[str, Envelope]:
        """Topic and an envelope without payload, its deadline re-anchored to `now_ns`. DecodeError otherwise."""
        ...


# --- data plane -----------------------------------------------------------------------------------------------------


class DataSink(Protocol):
    """The producer's end of one route.

    Every message offered is counted in `books.sent` and ends delivered, dropped, expired or refused.
    Does not promise: order between lanes.
    """

    @property
    def books(self) -> EdgeBooks:
        """The counts of this route as seen from this end."""
        ...

    def send_nowait(self, envelope: Envelope) -> None:
        """Accept the message or say at once why not.

        Under `drop_oldest`, `drop_newest` and `latest` this always accepts (something may be dropped and counted).

        Raises: WouldBlock when a `block` route has no credit (nothing counted: offer it again or use `send`) or an
        `error` route has none (counted as refused); ClosedError after `finish`; BrokenError when the other end is gone.
        """
        ...

    def send_many_nowait(self, envelopes: Sequence[Envelope]) -> int:
        """Accept messages in order, as many as there is credit for; returns how many were dealt with.

        The rest is untouched: offer it again. Under `error` what does not fit is counted as refused and dealt with.
        `sent_ns` is kept as the sender stamped it. Raises: ClosedError, BrokenError.
        """
        ...

    async def send(self, envelope: Envelope) -> None:
        """As `send_nowait`, but wait for credit where the policy is `block`. First come, first served.

        A message whose deadline passes while it waits is counted as expired (stage `transport`) and is not sent.
        Cancelled while waiting: nothing was sent and nothing is counted, unless the consumer took it just then.
        """
        ...

    async def wait_writable(self) -> None:
        """Return once the route is below its watermark, closed or broken. Does not promise that credit is left."""
        ...

    def credit_items(self, priority: int) -> int:
        """How many more messages this lane accepts now."""
        ...

    async def finish(self) -> None:
        """End of stream, in band: the consumer sees it after everything sent before. Idempotent."""
        ...


class DataSource(Protocol):
    """The consumer's end of one route: messages are borrowed by `take` and given back by `settle`."""

    @property
    def books(self) -> EdgeBooks:
        """The counts of this route as seen from this end."""
        ...

    @property
    def ended(self) -> bool:
        """True once the sender finished and everything was taken."""
        ...

    @property
    def waiting(self) -> int:
        """Which lanes have messages to take: bit n stands for lane n."""
        ...

    def take(self, limit: int, lane: int | None = None) -> Sequence[Envelope]:
        """Borrow up to `limit` messages, all of one lane, in order; empty when there is none now.

        The lane is the most urgent that has any, except that a lane passed over too often gets its turn; or the one
        asked for. Deadlines are not looked at. Raises: BrokenError when the other end vanished without finishing and
        everything was taken.
        """
        ...

    def give_back(self, taken: Sequence[Envelope]) -> None:
        """Undo a `take`: the messages, all of one lane, stand at the head of their lane again."""
        ...

    def settle(self, taken: Sequence[Envelope], *, expired: int = 0) -> None:
        """Give back what `take` lent, and with it the credit; `expired` of them were too late to be used."""
        ...

    def on_news(self, callback: Callable[[], None] | None) -> None:
        """Call this when messages, the end or a break arrive at an idle source; at once if there is news already."""
        ...

    async def receive(self) -> Lease:
        """Wait for one message that is not late. EndOfStream after the last; BusyError for a second receiver.

        A late message is counted as expired and passed over. Cancelled: no message is lost.
        """
        ...

    async def aclose(self) -> None:
        """Take no more. What is queued is counted as dropped by `abort`; the sender gets BrokenError. Idempotent."""
        ...


@runtime_checkable
class BlockingSource(Protocol):
    """What a `DataSource` may offer besides: to bring what has arrived without its event loop, on the loop's thread."""

    def wait_blocking(self, timeout_ns: int) -> bool:
        """Bring what has arrived; wait for it at most `timeout_ns`, in which the loop does nothing.

        True when something was brought, as told by `on_news`: messages, the end or a break. False when nothing came,
        or when it can come through the loop only. From then on the loop may not bring anything until `leave_to_loop`.
        """
        ...

    def leave_to_loop(self) -> None:
        """Let the loop bring what arrives from here on; what has arrived by now is brought within this call or soon."""
        ...


@runtime_checkable
class BlockingSink(Protocol):
    """What a `DataSink` may offer besides: to say whether what it was given leaves without its event loop."""

    @property
    def needs_loop(self) -> bool:
        """Whether something waits here that only the loop can send on."""
        ...


class Lease(Protocol):
    """One borrowed message; also a context manager. Its credit returns on release, and only then."""

    @property
    def envelope(self) -> Envelope:
        """The message. Its payload is valid until release."""
        ...

    def release(self) -> None:
        """Give it back. Idempotent."""
        ...

    def __enter__(self) -> Envelope: ...
    def __exit__(self, *exc: object) -> None: ...


class DataPort(Protocol):
    """One open route: the data plane's half of a tier. A process that holds only one end has only that one."""

    @property
    def route(self) -> Route: ...
    @property
    def sink(self) -> DataSink: ...
    @property
    def source(self) -> DataSource: ...


# --- control plane --------------------------------------------------------------------------------------------------


class Subscription(DataSource, Protocol):
    """A `DataSource` of everything published to topics that match `pattern`."""

    @property
    def pattern(self) -> str: ...
    @property
    def group(self) -> str | None: ...

    def drain(self) -> None:
        """Be published to no more, at once; what has come can still be taken, and then it has `ended`. Idempotent.

        Between processes what was under way comes still, so the end may be news (`on_news`) that comes later. What had
        not been queued here is not accepted, as when the subscription is closed. `aclose` aborts the rest, as always.
        """
        ...


class EventBus(Protocol):
    """The control plane: small messages by topic.

    A topic is words joined by ``.``; in a pattern ``*`` stands for one word and a last ``>`` for one or more.
    A subscription's full queue obeys its own policy; only `block` makes `publish` wait.
    """

    async def publish(self, topic: str, envelope: Envelope) -> int:
        """Give the message to every matching subscription and to one member of every matching queue group.

        Returns how many accepted it. Raises: LocalProtocolError for a bad topic; ClosedError.
        """
        ...

    def publish_nowait(self, topic: str, envelope: Envelope) -> int:
        """As `publish`; WouldBlock, and nobody got it, when some `block` subscription has no credit."""
        ...

    async def broadcast(self, topic: str, envelope: Envelope) -> int:
        """As `publish`, but every member of every queue group gets it."""
        ...

    async def request(self, topic: str, envelope: Envelope, *, timeout_ns: int, idempotent: bool = False) -> Envelope:
        """Publish and wait for the first answer. The reply's deadline and priority are the request's.

        A request that failed with effect NONE is made again where its error's `retry` allows it; with `idempotent` also
        one of which nobody knows whether it was done. That is inside its deadline, after a pause, and not often: see
        `machines.retry`. Among the headers of a repetition are its ``attempt`` and its ``request_id``. The caller may
        give that: what was asked on a topic under an id that was asked before is not done again but gets the outcome
        that it had, or is a conflict (0x706, effect MAYBE) while there is none; see `machines.request_memory`.

        Raises: NoResponderError at once when nobody subscribes; DeadlineExceeded (effect MAYBE) after `timeout_ns` or
        at the envelope's own deadline, whichever is sooner; what a responder refused it with.
        """
        ...

    async def reply(self, request: Envelope, envelope: Envelope) -> None:
        """Answer a request; a reply that nobody waits for any more is counted as expired."""
        ...

    async def refuse(self, request: Envelope, error: FlowbridgeError) -> None:
        """Answer a request with an error: the requester gets one of the same code (`codec.codes`), effect and retry.

        One of effect NONE says that nothing was done; `OverloadError(text, retry_after_ns)` also when to ask again. It
        is counted as a reply is.
        """
        ...

    def subscribe(
        self, pattern: str, *, group: str | None = None, qos: Qos | None = None, edge: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """Open a subscription for the length of an ``async with``; `edge` names it in reports."""
        ...

    def configure(self, pattern: str, qos: Qos) -> None:
        """Set the QoS of topics: their priority and deadline, and the queue of later subscriptions without one."""
        ...

    def books(self) -> Mapping[str, EdgeBooks]:
        """The counts of every subscription, closed ones included, by edge name."""
        ...

    async def aclose(self) -> None:
        """Close every subscription; pending requests fail with ClosedError. Idempotent."""
        ...


class Transport(Protocol):
    """One tier: makes data ports and buses."""

    @property
    def tier(self) -> str:
        """A value of `plan.Tier`, or a third party's own word."""
        ...

    async def open_port(self, route: Route) -> DataPort:
        """Open a route of plane DATA."""
        ...

    async def open_bus(self) -> EventBus:
        """Open the control plane."""
        ...

    async def aclose(self) -> None:
        """Close whatever was opened. Idempotent."""
        ...


# --- compiling ------------------------------------------------------------------------------------------------------


class FlowAdapter(Protocol):
    """A front end: a description of a flow in, a plan or all findings out. Pure but for reading `source`."""

    @property
    def dialect(self) -> str:
        """The word by which the registry knows it, such as ``yaml``."""
        ...

    def compile(self, graph: FlowSource) -> Plan:
        """The plan; FlowErrors with every finding otherwise."""
        ...


class FlowSource(Protocol):
    """A text and the name that findings give it."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def base_dir(self) -> str: ...


class OperatorCatalog(Protocol):
    """Which one-word operators there are."""

    def get(self, name: str) -> OperatorSpec | None: ...
    def names(self) -> Sequence[str]: ...
    def refusal(self, spec: OperatorSpec, config: Mapping[str, Any]) -> str | None:
        """Why the operator does not accept a configuration, None when it does or cannot be asked."""
        ...


# --- operators ------------------------------------------------------------------------------------------------------


class OperatorContext(Protocol):
    """What an operator may ask of the runner."""

    @property
    def node(self) -> str: ...
    @property
    def manifest(self) -> PluginManifest: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def bus(self) -> EventBus: ...
    @property
    def base_dir(self) -> str: ...
    @property
    def envelope(self) -> Envelope | None:
        """The message being handled, None outside `process`."""
        ...

    def remaining_ns(self) -> int:
        """Nanoseconds until the deadline of the message being handled; a very large number without one."""
        ...


class Outputs(Protocol):
    """How an operator sends. Children inherit deadline and priority of the message being handled."""

    def emit(
        self, value: Any, port: str = "out", *, deadline_ns: int | None = None, priority: int | None = None
    ) -> None:
        """Send after this call of the operator returns; the runner waits for credit. Never waits itself.

        `deadline_ns` is absolute and can only tighten what is inherited; `priority` can only lower it.
        """
        ...

    def emit_new(self, value: Any, port: str = "out", *, origin_ns: int | None = None) -> None:
        """Send a message that starts here (a closed window, say): the node's own deadline and priority hold."""
        ...

    async def send(self, value: Any, port: str = "out") -> None:
        """As `emit`, but at once, waiting for credit. Only for asynchronous operators."""
        ...


class Operator(Protocol):
    """The class form of an operator. Only `process` (or `produce` for a source) is required; each may be async."""

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        """Handle one message. A returned value that is not None goes to port ``out``."""
        ...


class OpensOperator(Protocol):
    """Optional hooks of an operator; each may be a plain function or a coroutine function."""

    def open(self, context: OperatorContext) -> Any:
        """Called before the first message, and again after a restart."""
        ...

    def produce(self) -> Iterator[Any] | AsyncIterator[Any]:
        """Sources: yield values (for port ``out``) or `Emit` objects."""
        ...

    def finish(self, out: Outputs) -> Any:
        """Every input has ended; send what is left."""
        ...

    def snapshot(self) -> Any:
        """The state, as a picklable value."""
        ...

    def restore(self, state: Any) -> Any:
        """Continue from what `snapshot` gave; called after `open`."""
        ...

    def on_gap(self, port: str, gap: Gap) -> Any:
        """Messages of this input are missing, because a process died; called before the next one is handled."""
        ...

    def close(self) -> Any:
        """Called once at the end, also after a failure."""
        ...


class Instrument(Protocol):
    """Optional hooks for sampled messages; they must not wait and must not raise."""

    def start(self, node: str) -> TraceContext | None:
        """A message starts at a source: the context of its trace, or None when it is not sampled."""
        ...

    def hop(
        self, node: str, edge: str, envelope: Envelope, started_ns: int, ended_ns: int, error: BaseException | None
    ) -> TraceContext | None:
        """A traced message was handled; returns the context its children carry."""
        ...


class KeepingInstrument(Instrument, Protocol):
    """The instrument of a process that exports nothing itself: its host does that for it."""

    lost: int
    """Spans that were dropped, because too many were kept."""

    def taken(self) -> list[list[Any]]:
        """What was recorded since the last call, as a host's instrument takes it in."""
        ...


@runtime_checkable
class GatheringInstrument(Instrument, Protocol):
    """An instrument that exports also what other processes of the flow recorded; one that is not leaves that out."""

    @property
    def ratio(self) -> float:
        """The share of messages that are traced, wherever they start."""
        ...

    def take_in(self, spans: Sequence[Any]) -> None:
        """Export what `KeepingInstrument.taken` gave elsewhere. Raises: ValueError, TypeError for what is no span."""
        ...
