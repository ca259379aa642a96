"""The rules of W3C Trace Context, one by one: https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import pytest

from flowbridge.telemetry.tracecontext import TraceParent, format_traceparent, parse_traceparent, parse_tracestate

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_the_example_of_the_specification_is_read() -> None:
    found = parse_traceparent(GOOD)
    assert found is not None
    assert found == TraceParent(int(TRACE, 16), int(PARENT, 16), 1)
    assert found.sampled
    assert format_traceparent(found) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:-1],
        GOOD + "-",
        GOOD + "-extra",
        GOOD + "0",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        "ff" + GOOD[2:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0x",
        f"00_{TRACE}_{PARENT}_01",
        f"0-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01.what-the-future",
        f"00-{TRACE}-{PARENT[:-1]}\u0661-01",
    ],
)
def test_a_traceparent_that_breaks_a_rule_is_ignored(text: str) -> None:
    assert parse_traceparent(text) is None


def test_unknown_flags_are_not_carried_on() -> None:
    found = parse_traceparent(f"00-{TRACE}-{PARENT}-ff")
    assert found is not None
    assert format_traceparent(found).endswith("-03")


@pytest.mark.parametrize(
    "parent", [TraceParent(0, 1), TraceParent(1, 0), TraceParent(1 << 128, 1), TraceParent(1, 1 << 64)]
)
def test_an_id_that_cannot_be_written_is_refused(parent: TraceParent) -> None:
    with pytest.raises(ValueError, match="must be 1"):
        format_traceparent(parent)


def test_members_of_a_tracestate_keep_their_order() -> None:
    assert parse_tracestate("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,,") == (
        ("rojo", "00f067aa0ba902b7"),
        ("congo", "t61rcWkgMzE"),
    )
    assert parse_tracestate("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=1",
        "a=",
        "A=1",
        "1a=1",
        "a=1,a=2",
        "a=b=c",
        "a=\u00e9",
        "a@b@c=1",
        "a =1",
        f"{'a' * 257}=1",
        f"a={'1' * 257}",
        ",".join(f"k{number}=1" for number in range(33)),
    ],
)
def test_a_tracestate_that_breaks_a_rule_is_discarded_whole(text: str) -> None:
    assert parse_tracestate(f"good=1,{text}") is None
