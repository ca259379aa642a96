"""What a host may make a part keep, and how often it may ask: beyond that it has one clear error."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge import registry
from flowbridge.codec.part_frames import PartFrame, write_part
from flowbridge.codec.plan import plan_to_cbor
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import PART_ENDS_MAX, ROUTE_CHARACTERS_MAX, TICKET_BYTES_MAX
from flowbridge.machines.node_policy import default_policy
from flowbridge.placing import Ticket
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.gate import HostGate
from flowbridge.runtime.part import Part
from flowbridge.runtime.tier_set import TierSet
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

TEXT = """\
flowbridge: 1
name: f
nodes:
  - {id: a, operator: sequence, with: {count: 3}, outputs: {out: {type: json}}, place: {host: edge}}
  - {id: k, operator: "null", inputs: {in: {from: a/out}}, place: {host: edge}}
"""


class _Source:
    name, text, base_dir = "flow.yaml", TEXT, "."


class Wire:
    """A link without anybody at the other end; it keeps what was sent."""

    peer = "host home"
    is_same_user = False

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.news = asyncio.Event()
        self.on_frame: Callable[[int, bytes, Sequence[Any]], None]

    def listen(self, on_frame: Any, on_lost: Any) -> None:
        self.on_frame = on_frame

    def say(self, frame: PartFrame, ends: Sequence[Any] = (), **content: Any) -> None:
        self.on_frame(frame, write_part(content), ends)

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        self.sent.append(kind)
        self.news.set()

    def close(self) -> None:
        """Nobody is there."""

    async def until(self, frame: PartFrame, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.sent.count(frame) < count:
                self.news.clear()
                await self.news.wait()


class Tier:
    """A tier whose only bus is here."""

    tier = "quic"

    def __init__(self, clock: SystemClock) -> None:
        self.bus = LocalEventBus(clock)

    async def open_far_bus(self, end: Any) -> LocalEventBus:
        return self.bus

    async def aclose(self) -> None:
        await self.bus.aclose()


class End:
    """An end of a route that knows whether it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def served() -> AsyncGenerator[tuple[Part, Any]]:
    """A part and the host's side of its link."""
    wire: Any = Wire()
    clock = SystemClock()
    tiers = TierSet(clock)
    tier: Any = Tier(clock)
    tiers._open.update({"quic": tier, "uds": tier})
    gate = HostGate(
        default_policy("dev"), "fb://dev/node/host", registry.catalog(), lambda _: None, lambda _flow, _nodes: None
    )
    part = Part(wire, tiers, clock, gate)
    running = asyncio.create_task(part.run(0))
    await asyncio.sleep(0)
    try:
        yield part, wire
    finally:
        running.cancel()
        await asyncio.wait({running})
        await tiers.aclose()


async def prepared(wire: Any) -> None:
    plan = registry.adapter().compile(_Source())
    told: dict[str, Any] = {
        "plan": plan_to_cbor(plan), "process": "host edge", "nodes": ["a", "k"], "ended": [], "serial": 1,
        "is_terminal": False, "encoding": "utf-8", "state": {}, "marks": {},
    }  # fmt: skip
    wire.say(PartFrame.PART, **told)
    wire.say(PartFrame.BUS, ticket=b"bus")
    wire.say(PartFrame.PREPARE)
    await wire.until(PartFrame.READY)


def give(wire: Any, route: str, ticket: bytes = b"end") -> None:
    wire.say(PartFrame.END, route=route, role="sink", ticket=ticket)


def test_a_host_that_floods_ends_of_routes_has_one_error_and_what_is_kept_stays_as_it_was() -> None:
    async def run() -> None:
        async with served() as (part, wire):
            for number in range(PART_ENDS_MAX):
                give(wire, f"r{number}")
            for number in range(3):
                with pytest.raises(RemoteProtocolError, match=f"more ends of routes than {PART_ENDS_MAX}"):
                    give(wire, f"more {number}")
            assert len(part._given) == PART_ENDS_MAX

    asyncio.run(run())


def test_one_route_that_is_given_again_and_again_is_kept_once() -> None:
    async def run() -> None:
        async with served() as (part, wire):
            ends = [End() for _ in range(1_000)]
            for end in ends:
                wire.say(PartFrame.END, [end], route="r", role="sink")
            assert [end.is_closed for end in ends] == [True] * 999 + [False]
            assert len(part._given) == 1
        assert ends[-1].is_closed, "what was never opened is closed with the part"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("route", "ticket"), [("r" * (ROUTE_CHARACTERS_MAX + 1), b"end"), ("r", bytes(TICKET_BYTES_MAX + 1))]
)
def test_an_end_that_is_too_long_is_not_kept(route: str, ticket: bytes) -> None:
    async def run() -> None:
        async with served() as (part, wire):
            with pytest.raises(RemoteProtocolError, match="END is damaged"):
                give(wire, route, ticket)
            assert not part._given

    asyncio.run(run())


def test_an_end_that_came_with_a_bad_frame_is_closed() -> None:
    async def run() -> None:
        async with served() as (_, wire):
            end, again = End(), End()
            with pytest.raises(RemoteProtocolError):
                wire.say(PartFrame.END, [end], route="r", role="neither")
            wire.say(PartFrame.BUS, [Ticket(b"bus")])
            with pytest.raises(RemoteProtocolError, match="BUS came again"):
                wire.say(PartFrame.BUS, [again])
            assert end.is_closed
            assert again.is_closed

    asyncio.run(run())


def test_a_host_that_floods_snapshots_has_one_error_and_one_task() -> None:
    """A host asks for the next snapshot of a node when it has the last."""

    async def run() -> None:
        async with served() as (part, wire):
            await prepared(wire)
            wire.say(PartFrame.GO)
            before = len(part._deeds)
            wire.say(PartFrame.SNAPSHOT, node="a")
            for _ in range(100):
                with pytest.raises(RemoteProtocolError, match="snapshot of a that is being taken already"):
                    wire.say(PartFrame.SNAPSHOT, node="a")
            assert len(part._deeds) == before + 1
            await wire.until(PartFrame.SNAPSHOTS)
            wire.say(PartFrame.SNAPSHOT, node="a")
            await wire.until(PartFrame.SNAPSHOTS, 2)
            with pytest.raises(RemoteProtocolError, match="SNAPSHOT is damaged"):
                wire.say(PartFrame.SNAPSHOT, node="nobody")

    asyncio.run(run())


@pytest.mark.parametrize("frame", [PartFrame.CLOSE, PartFrame.LEAVE])
def test_what_ends_a_part_comes_once(frame: PartFrame) -> None:
    async def run() -> None:
        async with served() as (part, wire):
            await prepared(wire)
            wire.say(PartFrame.GO)
            before = len(part._deeds)
            wire.say(frame)
            for _ in range(100):
                with pytest.raises(RemoteProtocolError, match=f"{frame.name} came again"):
                    wire.say(frame)
            assert len(part._deeds) == before + 1

    asyncio.run(run())
