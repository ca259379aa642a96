"""What bus and route links write is in their grammars, and what they read is too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cbor2
import pytest
from frame_grammar import Grammar
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.codec import bus_frames, route_frames
from flowbridge.codec.arrays import write_array
from flowbridge.codec.bus_errors import error_out
from flowbridge.codec.bus_items import envelope_out
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext, Trail
from flowbridge.errors import (
    BlockReason,
    DeadlineExceeded,
    DecodeError,
    NoResponderError,
    RemoteProtocolError,
    WouldBlock,
)
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from collections.abc import Callable

BUS: Final = Grammar("bus.cddl")
ROUTE: Final = Grammar("route.cddl")
UINT = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TRACE = TraceContext("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "k=v")
HEADERS = st.none() | st.dictionaries(TEXT, TEXT | st.integers(-(2**63), 2**63 - 1), max_size=6)
ENVELOPES = st.builds(
    Envelope,
    st.just(b""),
    st.sampled_from(Priority),
    st.just(NO_DEADLINE) | st.just(0) | UINT,
    UINT,
    UINT,
    UINT,
    UINT,
    st.none(),
    st.none() | st.just(TRACE),
    HEADERS,
)


def qos_of(policy: Policy, items: int, lane: Priority | None, ns: int | None) -> Qos:
    return Qos(
        policy=policy, capacity_items=items, high_items=items, low_items=items // 2, priority=lane, deadline_ns=ns
    )


QOS = st.builds(
    qos_of,
    st.sampled_from(Policy),
    st.integers(1, 1000),
    st.none() | st.sampled_from(Priority),
    st.none() | st.integers(1, 10**12),
)
FIELDS = ENVELOPES.map(lambda envelope: envelope_out(envelope, 5))
ERRORS = st.sampled_from(
    [WouldBlock(BlockReason.RING, "x"), DeadlineExceeded("y", 1, 2), NoResponderError("z"), ValueError("w" * 2000)]
)
PAIRS = st.lists(st.tuples(UINT, UINT), max_size=9).map(lambda pairs: [one for pair in pairs for one in pair])
COUNTED = st.dictionaries(TEXT, UINT, max_size=5)
BUS_HEADERS: Final[dict[str, tuple[int, st.SearchStrategy[bytes]]]] = {
    "hello": (bus_frames.HELLO, st.just(bus_frames.numbers(bus_frames.VERSION))),
    "hello-ack": (bus_frames.HELLO_ACK, st.booleans().map(lambda tells: bus_frames.mixed(bus_frames.VERSION, tells))),
    "error": (bus_frames.ERROR, st.builds(error_out, UINT, ERRORS)),
    "sub": (
        bus_frames.SUB,
        st.builds(
            bus_frames.mixed, UINT, UINT, TEXT, st.none() | TEXT, TEXT, (st.none() | QOS).map(bus_frames.qos_out)
        ),
    ),
    "unsub": (bus_frames.UNSUB, st.builds(bus_frames.numbers, UINT, UINT)),
    "sub-ack": (bus_frames.SUB_ACK, st.builds(bus_frames.mixed, UINT, TEXT, QOS.map(bus_frames.qos_out))),
    "cancel": (bus_frames.CANCEL, st.builds(bus_frames.numbers, UINT)),
    "configure": (bus_frames.CONFIGURE, st.builds(bus_frames.mixed, TEXT, QOS.map(bus_frames.qos_out))),
    "offer": (bus_frames.OFFER, st.builds(bus_frames.mixed, UINT, TEXT, st.none() | TEXT, st.booleans())),
    "retract": (bus_frames.RETRACT, st.builds(bus_frames.numbers, UINT)),
    "limit": (bus_frames.LIMIT, st.builds(bus_frames.numbers, UINT, UINT, UINT, UINT, UINT)),
    "pub": (bus_frames.PUB, st.builds(bus_frames.pub, UINT, st.integers(0, 2), TEXT, FIELDS)),
    "refuse": (
        bus_frames.REFUSE,
        st.builds(
            bus_frames.refuse, UINT, ENVELOPES, st.integers(0, 2**62 - 1), TEXT, st.none() | st.integers(0, 2**32 - 1)
        ),
    ),
    "req": (bus_frames.REQ, st.builds(bus_frames.req, UINT, TEXT, FIELDS)),
    "resp": (bus_frames.RESP, st.builds(bus_frames.resp, UINT, FIELDS)),
    "reply": (bus_frames.REPLY, st.builds(bus_frames.reply, UINT, ENVELOPES, FIELDS)),
    "deliver": (bus_frames.DELIVER, st.builds(bus_frames.deliver, UINT, FIELDS)),
    "settle": (bus_frames.SETTLE, st.builds(bus_frames.settle, UINT, st.integers(0, 3), UINT, PAIRS)),
    "ack": (bus_frames.ACK, st.builds(bus_frames.ack, UINT, UINT)),
    "books": (bus_frames.BOOKS, st.builds(bus_frames.mixed, UINT, UINT, UINT, UINT, UINT, COUNTED)),
}
TRAILS = st.lists(TEXT, min_size=1, max_size=5)


def trail_of(names: list[str]) -> Trail:
    trail = Trail(names[0])
    for name in names[1:]:
        trail = trail.step(name)
    return trail


ROUTE_HEADERS: Final[dict[str, tuple[Callable[[bytes], Any], st.SearchStrategy[bytes]]]] = {
    "open": (
        lambda header: route_frames.read_open(header, "a/out->b/in"),
        st.builds(route_frames.RouteOpen, st.integers(0, 4), UINT, UINT).map(
            lambda opened: route_frames.write_open("a/out->b/in", opened)
        ),
    ),
    "item": (
        route_frames.read_item,
        st.builds(route_frames.write_item, ENVELOPES, st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)),
    ),
    "single": (
        route_frames.read_single,
        st.builds(route_frames.write_single, UINT, ENVELOPES, st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)),
    ),
    "gone": (
        route_frames.read_gone,
        st.builds(route_frames.write_gone, st.sampled_from(Priority), UINT, UINT, st.booleans()),
    ),
    "settled": (
        route_frames.read_settled,
        st.lists(st.tuples(st.sampled_from(Priority).map(int), UINT), min_size=1, max_size=256).map(
            route_frames.write_settled
        ),
    ),
    "counts": (route_frames.read_counts, st.lists(UINT, min_size=16, max_size=16).map(route_frames.write_counts)),
    "trail": (
        lambda header: route_frames.TrailReader().read(header),
        TRAILS.map(trail_of).map(route_frames.write_trail),
    ),
}
WEIRD: Final[tuple[Any, ...]] = (
    *(
        -1,
        0,
        1,
        3,
        4,
        5,
        255,
        2**16,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        None,
        True,
        1.5,
        "",
        "x" * 5000,
        b"y",
        [],
        [1],
    ),
    *(
        [0, 1, 1, 1, 1, None, None],
        [9, 1, 1, 1, 1, None, None],
        {},
        {"a": 1},
        {"a": "b", "c": -5},
        {"a": 1.5},
        {"a": None},
    ),
    *([None, "", None], ["a", "b", {"c": 2}], ["a", "b", {"c": b""}], ["a", None, None]),
)


def spoilt(header: bytes, data: st.DataObject) -> bytes:
    """A header with one position of another value, one more or one less."""
    items = cbor2.loads(header)
    at = data.draw(st.integers(0, len(items)))
    items[at : at + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([[], *([one] for one in WEIRD)]))
    return cbor2.dumps(items, canonical=True)


@pytest.mark.parametrize("name", BUS_HEADERS)
def test_a_frame_of_a_bus_link_is_in_its_grammar(name: str) -> None:
    kind, headers = BUS_HEADERS[name]

    @given(headers, st.data())
    def check(header: bytes, data: st.DataObject) -> None:
        assert BUS.fits(name, header)
        assert bus_frames.decode(kind, header, b"", frozenset({kind}))
        other = spoilt(header, data)
        try:
            values = bus_frames.decode(kind, other, b"", frozenset({kind}))
            if kind == bus_frames.SETTLE:
                bus_frames.pairs_in(values)
        except RemoteProtocolError:
            return
        assert BUS.fits(name, other) or kind in (
            bus_frames.HELLO,
            bus_frames.HELLO_ACK,
        )  # the version is looked at later

    check()


@pytest.mark.parametrize("name", ROUTE_HEADERS)
def test_a_frame_of_a_route_is_in_its_grammar(name: str) -> None:
    read, headers = ROUTE_HEADERS[name]

    @given(headers, st.data())
    def check(header: bytes, data: st.DataObject) -> None:
        assert ROUTE.fits(name, header)
        read(header)
        other = spoilt(header, data)
        try:
            read(other)
        except DecodeError:
            return
        assert ROUTE.fits(name, other)

    check()


def test_frames_of_a_route_without_a_reader_of_their_own_are_in_its_grammar() -> None:
    assert ROUTE.fits("control", write_array((2, 1 << 16)))
    assert not ROUTE.fits("control", write_array((2, 2**32)))
    assert ROUTE.fits("end", write_array(()))
    assert ROUTE.fits("body", write_array(()))
    assert not ROUTE.fits("end", write_array((1,)))


def test_every_frame_of_a_bus_link_has_a_rule() -> None:
    assert {kind for kind, _ in BUS_HEADERS.values()} == bus_frames.TO_SERVER | bus_frames.TO_CLIENT
    assert set(BUS.rules["header"].replace("/", " ").split()) == set(BUS_HEADERS)


def test_the_grammar_refuses_what_it_should() -> None:
    fields = (1, None, 0, 0, 2, 10, 0, None, None, None)
    for name, items, fits in (
        ("deliver", (1, *fields), True),
        ("deliver", (1, *fields[1:]), False),
        ("deliver", (1, *fields, None), False),
        ("deliver", (1, *fields[:4], 4, *fields[5:]), False),
        ("settle", (1, 0, 0, 1), False),
        ("settle", (1, 0, 0, 1, 2), True),
        ("settle", (1, 4, 0), False),
        ("limit", (1, 1, 2, 3), False),
        ("limit", (1, 1, 2, 3, 4), True),
        ("sub", (1, 2, "t", None, "e", [9, 1, 1, 1, 1, None, None]), False),
        ("header", (True,), False),
    ):
        assert BUS.fits(name, cbor2.dumps(items)) == fits, (name, items)
