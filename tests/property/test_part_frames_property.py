"""What a host and a part of another machine tell each other, damaged in every way: one error, and never more."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowbridge import registry
from flowbridge.codec.part_frames import PartFrame, read_error, read_part, write_part
from flowbridge.codec.plan import plan_from_cbor, plan_to_cbor
from flowbridge.errors import FlowbridgeError, OperatorError, PlanError, RemoteProtocolError
from flowbridge.limits import PART_DEPTH_MAX
from flowbridge.machines.node_policy import default_policy
from flowbridge.placing import Ticket
from flowbridge.report import NodeReport, PathReport
from flowbridge.runtime.books import FlowBooks, Role, node_to_plain, path_to_plain
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.gate import HostGate
from flowbridge.runtime.kept import PackedState, packed, packed_from_plain, unpacked
from flowbridge.runtime.part import Part
from flowbridge.runtime.path import PathBook
from flowbridge.runtime.remote import RemoteParts
from flowbridge.runtime.tier_set import TierSet
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.plan import Plan

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)

TEXT = """\
flowbridge: 1
name: f
nodes:
  - {id: a, operator: sequence, with: {count: 3}, outputs: {out: {type: json}}, place: {host: edge}}
  - {id: k, operator: "null", inputs: {in: a/out}}
"""


class _Source:
    name, text, base_dir = "flow.yaml", TEXT, "."


def plan() -> Plan:
    return registry.adapter().compile(_Source())


PLAN = plan()
ROUTE = PLAN.routes[0].id


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """A value with some part of it left out, put twice, or replaced by anything."""
    if draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    if isinstance(whole, dict) and whole:
        key = draw(st.sampled_from(sorted(whole)))
        rest = {name: value for name, value in whole.items() if name != key}
        return rest if draw(st.integers(0, 3)) == 0 else {**rest, key: draw(damaged(whole[key]))}
    if isinstance(whole, list) and whole:
        index = draw(st.integers(0, len(whole) - 1))
        some = [draw(damaged(whole[index])) for _ in range(draw(st.integers(0, 2)))]
        return [*whole[:index], *some, *whole[index + 1 :]]
    return draw(VALUES)


# --- frames ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 0x90), st.binary(max_size=64))
@example(0x68, b"\xa1\x61a" + b"\x81" * 40 + b"\x00")
@example(0x68, b"\xa0\x00")
@example(0x68, b"\xbf\xff")
@example(0x68, b"\xa1\x01\x00")
@example(0x68, b"\xa1\x61a\xd8\x23\x61(")
def test_any_bytes_are_a_frame_or_one_error(kind: int, body: bytes) -> None:
    try:
        frame, content = read_part("peer", kind, body)
    except RemoteProtocolError:
        return
    assert isinstance(content, dict)
    assert read_part("peer", frame, write_part(content))[0] is frame


@given(st.dictionaries(st.text(), VALUES), st.binary(min_size=1, max_size=3))
def test_a_frame_comes_back_and_nothing_may_follow_it(content: dict[str, Any], more: bytes) -> None:
    body = write_part(content)
    frame, again = read_part("peer", PartFrame.REPORT, body)
    assert frame is PartFrame.REPORT
    assert repr(again) == repr(content)
    for changed in (body + more, body[:-1]):
        try:
            read_part("peer", PartFrame.REPORT, changed)
        except RemoteProtocolError:
            continue
        raise AssertionError("the bytes do not fit")


def test_a_frame_is_not_deeper_than_its_limit() -> None:
    def deep(levels: int) -> dict[str, Any]:
        value: Any = 0
        for _ in range(levels):
            value = [value]
        return {"x": value}

    read_part("peer", PartFrame.REPORT, write_part(deep(PART_DEPTH_MAX - 4)))
    try:
        read_part("peer", PartFrame.REPORT, write_part(deep(PART_DEPTH_MAX)))
    except RemoteProtocolError:
        return
    raise AssertionError("too deep")


@given(
    damaged({"class": "OperatorError", "text": "boom", "with": {"node": "a", "port": "", "seq": 3}, "causes": ["x"]})
)
@example({"class": "FlowErrors", "text": "x", "with": {}, "causes": []})
@example({"class": "BrokenError", "text": "x", "with": {"effect": "x", "__cause__": 1, "args": None}, "causes": []})
def test_an_error_of_another_host_is_an_error_or_damage(content: Any) -> None:
    try:
        error = read_error(content)
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    assert isinstance(error, FlowbridgeError)
    assert isinstance(str(error), str)
    assert error.effect.value
    assert error.retry.value
    assert not isinstance(error, OperatorError) or str(error) == str(content["text"])


@given(st.data())
def test_a_damaged_plan_is_one_error(data: st.DataObject) -> None:
    body = bytearray(plan_to_cbor(PLAN))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PlanError):
        plan_from_cbor(bytes(body))


@given(st.one_of(VALUES, damaged(["plain", b"\x01\x00\xa0"]), st.binary(max_size=40).map(lambda data: ["plain", data])))
@example(["pickle", b"\x80\x05N."])
def test_a_state_of_another_host_is_plain_data_or_one_error(plain: Any) -> None:
    try:
        state = packed_from_plain(plain, same_user=False)
    except (TypeError, ValueError, RemoteProtocolError):
        return
    with contextlib.suppress(FlowbridgeError):
        unpacked(state)


@given(VALUES)
def test_plain_states_come_back(value: Any) -> None:
    state = packed(value, PLAIN_FORM)
    assert repr(unpacked(packed_from_plain(state.to_plain(), same_user=False))) == repr(value)


PLAIN_FORM = packed_from_plain(["plain", b""], same_user=False).form


# --- both ends ------------------------------------------------------------------------------------------------------


class Wire:
    """A link without anybody at the other end."""

    def __init__(self) -> None:
        self.peer = "peer"
        self.is_same_user = False
        self.sent: list[int] = []
        self.on_frame: Callable[[int, bytes, Sequence[Any]], None]
        self.on_close: Callable[[], None] = lambda: None

    def listen(self, on_frame: Any, on_lost: Any) -> None:
        self.on_frame = on_frame

    def send(self, kind: int, body: bytes, end: Any = None) -> None:
        self.sent.append(kind)

    def close(self) -> None:
        self.on_close()


def reported() -> dict[str, Any]:
    node = NodeReport("a", Histogram())
    node.latency.record(5)
    books = EdgeBooks(sent=3, delivered=2, in_flight=1)
    books.latency.record(7)
    path = PathReport(("a", "k"), None, Histogram())
    return {
        "nodes": {"a": node_to_plain(node)},
        "edges": {ROUTE: [Role.SINK.value, books.to_plain()]},
        "paths": [path_to_plain(path)],
        "kept": {"a": packed({"n": 1}, PLAIN_FORM).to_plain()},
        "unkept": {},
    }


ENDED = {"node": "a", "report": reported()["nodes"]["a"], "error": None}
FROM_WORKER: dict[PartFrame, dict[str, Any]] = {
    PartFrame.HELLO: {"import_ns": 3},
    PartFrame.READY: {"problems": [["a", "operator", "text"]]},
    PartFrame.LOADING: {"node": "a"},
    PartFrame.ENDED: ENDED,
    PartFrame.REPORT: reported(),
    PartFrame.SNAPSHOTS: {"node": "a", "state": ["plain", b"\x01\x00\xa0"], "error": None},
    PartFrame.TERMINATED: {},
    PartFrame.LOST: {"route": ROUTE},
    PartFrame.CLOSED: {},
    PartFrame.TEXT: {"text": "x"},
    PartFrame.LEFT: {},
    PartFrame.GO: {},
}
FROM_HOST: dict[PartFrame, dict[str, Any]] = {
    PartFrame.PART: {
        "plan": plan_to_cbor(PLAN), "process": "host edge", "nodes": ["a"], "ended": [], "serial": 1,
        "is_terminal": False, "encoding": "utf-8", "state": {"a": ["plain", b"\x01\x00\xa0"]},
    },
    PartFrame.BUS: {"ticket": b"bus"},
    PartFrame.END: {"route": ROUTE, "role": Role.SINK.value, "ticket": b"end"},
    PartFrame.PREPARE: {},
    PartFrame.GO: {},
    PartFrame.DRAIN: {"node": "a"},
    PartFrame.ABORT: {"node": "a"},
    PartFrame.SNAPSHOT: {"node": "a"},
    PartFrame.BREAK: {"route": ROUTE, "why": "x"},
    PartFrame.CLOSE: {},
    PartFrame.LEAVE: {},
    PartFrame.LEFT: {},
}  # fmt: skip


@st.composite
def frames(draw: st.DrawFn, valid: dict[PartFrame, dict[str, Any]]) -> list[tuple[int, bytes]]:
    """A few frames, most of them damaged."""
    found: list[tuple[int, bytes]] = []
    for kind in draw(st.lists(st.sampled_from(sorted(valid)), min_size=1, max_size=6)):
        content = valid[kind] if draw(st.booleans()) else draw(damaged(valid[kind]))
        found.append((kind, write_part(content)))
    return found


class EdgeTier:
    """A tier on which nothing ever arrives."""

    tier = "quic"

    def __init__(self) -> None:
        self.wire = Wire()

    async def start_worker(self, place: Any) -> Any:
        return EdgeWorker(self.wire)

    def serve_bus(self, bus: Any, place: Any) -> Ticket:
        return Ticket(b"bus")

    async def join(self, route: Any, near: Any, far: Any) -> tuple[Ticket, Ticket]:
        return Ticket(b"near"), Ticket(b"far")


class EdgeWorker:
    name = "host edge"

    def __init__(self, wire: Wire) -> None:
        self.link = wire
        wire.on_close = self.kill
        self._gone = asyncio.get_running_loop().create_future()

    async def wait(self) -> str:
        return str(await self._gone)

    def terminate(self) -> None:
        self.kill()

    def kill(self) -> None:
        if not self._gone.done():
            self._gone.set_result("was lost")


async def told_to_a_host(sent: list[tuple[int, bytes]]) -> None:
    tier: Any = EdgeTier()
    bus = LocalEventBus(SystemClock())
    parts = RemoteParts(PLAN, {"quic": tier}, SystemClock(), {}, io.StringIO(), bus=bus, serial=1, options={})
    edges: dict[str, Any] = {}
    try:
        assert not await parts.start()
        parts.account(edges)
        books = FlowBooks(edges, PathBook({}, {}))
        parts.report_to(books)
        parts.attach(lambda _: None, lambda: None)
        for kind, body in sent:
            with contextlib.suppress(RemoteProtocolError):
                tier.wire.on_frame(kind, body, ())
        for edge in books.edges().values():
            edge.to_json()
        for path in books.paths():
            path.to_json()
        for node in parts.nodes.values():
            node.report.to_json()
            if isinstance(node.kept, PackedState):
                with contextlib.suppress(FlowbridgeError):
                    unpacked(node.kept)
    finally:
        await parts.aclose()
        await bus.aclose()


@settings(max_examples=150, deadline=None)
@given(frames(FROM_WORKER))
def test_a_host_takes_what_any_node_says_or_has_one_error(sent: list[tuple[int, bytes]]) -> None:
    logging.disable()
    try:
        asyncio.run(told_to_a_host(sent))
    finally:
        logging.disable(logging.NOTSET)


async def told_to_a_node(sent: list[tuple[int, bytes]]) -> None:
    wire: Any = Wire()
    clock = SystemClock()
    tiers = TierSet(clock)
    gate = HostGate(
        default_policy("dev"), "fb://dev/node/host", registry.catalog(), lambda _: None, lambda _flow, _nodes: None
    )
    part = Part(wire, tiers, clock, gate)
    running = asyncio.create_task(part.run(0))
    await asyncio.sleep(0)
    for kind, body in sent:
        with contextlib.suppress(RemoteProtocolError):
            wire.on_frame(kind, body, ())
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled() or running.exception() is None
    await tiers.aclose()


@settings(max_examples=150, deadline=None)
@given(frames(FROM_HOST))
@example([(PartFrame.GO, b"\xa0")])
@example([(PartFrame.LEAVE, b"\xa0"), (PartFrame.CLOSE, b"\xa0")])
@example(
    [(PartFrame.PART, write_part(FROM_HOST[PartFrame.PART])), (PartFrame.PREPARE, b"\xa0"), (PartFrame.GO, b"\xa0")]
)
def test_a_node_takes_what_any_host_says_or_has_one_error(sent: list[tuple[int, bytes]]) -> None:
    logging.disable()
    try:
        asyncio.run(told_to_a_node(sent))
    finally:
        logging.disable(logging.NOTSET)
