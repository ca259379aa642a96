"""The messages that clauses send, and how they are taken out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.errors import FlowbridgeError
from flowbridge.plan import Policy, Qos
from flowbridge.testing.conformance.expect import holds
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from typing import TypeAlias

    from flowbridge.contracts import Clock, DataPort, DataSink, DataSource, EventBus

    PortMaker: TypeAlias = "Callable[[Qos, Clock], AbstractAsyncContextManager[DataPort]]"
    BusMaker: TypeAlias = "Callable[[Clock], AbstractAsyncContextManager[EventBus]]"

MS: Final = 1_000_000
RT, HIGH, NORMAL, BEST = Priority.REALTIME, Priority.HIGH, Priority.NORMAL, Priority.BEST_EFFORT


def qos(
    items: int = 64, policy: Policy = Policy.BLOCK, *, high: int | None = None, low: int | None = None, bytes_: int = 0
) -> Qos:
    """A QoS without watermarks below the capacity unless they are given."""
    high = items if high is None else high
    low = high - 1 if low is None else low
    return Qos(policy=policy, capacity_items=items, capacity_bytes=bytes_ or 1 << 20, high_items=high, low_items=low)


def message(number: int, lane: Priority = NORMAL, *, deadline_ns: int = NO_DEADLINE, size: int = 8) -> Envelope:
    """A message that `number_of` knows again."""
    return Envelope(str(number).encode(), lane, deadline_ns, size_bytes=size, seq=number)


def number_of(envelope: Envelope) -> int:
    """The number `message` was given."""
    return int(bytes(envelope.payload))


def numbers(envelopes: Iterable[Envelope]) -> list[int]:
    """The numbers of many."""
    return [number_of(envelope) for envelope in envelopes]


async def send_all(sink: DataSink, envelopes: Iterable[Envelope]) -> None:
    """Send one after another."""
    for envelope in envelopes:
        await sink.send(envelope)


async def take_all(source: DataSource, limit: int = 1, *, settle: bool = True) -> list[int]:
    """The numbers of everything that is there, in the order it was taken."""
    found: list[int] = []
    await quiet()
    while taken := source.take(limit):
        holds(len(taken) <= limit, f"take({limit}) lent {len(taken)} messages")
        found += numbers(taken)
        if settle:
            source.settle(taken)
            await quiet()
    return found


async def receive_one(source: DataSource) -> int:
    """The number of the next message, given back at once."""
    with await source.receive() as envelope:
        return number_of(envelope)


async def outcome(call: Awaitable[object]) -> object:
    """The result of a call, or the type of the error that it raises."""
    try:
        return await call
    except FlowbridgeError as error:
        return type(error)


def balanced(port: DataPort, when: str = "at the end") -> None:
    """Raises: ClauseFailed unless the books of both ends balance."""
    for end, books in (("sink", port.sink.books), ("source", port.source.books)):
        holds(books.balances, f"{when} the books of the {end} do not balance: {books}")
        holds(books.in_flight >= 0, f"{when} the {end} counts {books.in_flight} in flight")
