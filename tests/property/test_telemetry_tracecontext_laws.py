"""W3C Trace Context: what is written is read back, and no text whatever is an error."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.telemetry.tracecontext import (
    TraceParent,
    format_traceparent,
    format_tracestate,
    parse_traceparent,
    parse_tracestate,
)

PARENTS = st.builds(TraceParent, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 3))
_TAIL = string.ascii_lowercase + string.digits + "_-*/"
KEYS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_*/-]{0,20}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9_*/-]{0,20}@[a-z][a-z0-9_*/-]{0,13}", fullmatch=True),
)
STATE_VALUES = st.from_regex(r"[!-+\--<>-~]{1,40}", fullmatch=True)
NOISE = st.one_of(st.text(), st.text("0123456789abcdefABCDEF-", max_size=60), st.text(_TAIL + "=,@ \t", max_size=60))


@given(PARENTS)
def test_a_traceparent_survives_the_round_trip(parent: TraceParent) -> None:
    assert parse_traceparent(format_traceparent(parent)) == parent


@given(PARENTS, st.integers(1, 254), st.text(max_size=10))
def test_a_later_version_is_read_by_its_first_four_fields(parent: TraceParent, version: int, rest: str) -> None:
    text = f"{version:02x}{format_traceparent(parent)[2:]}"
    assert parse_traceparent(text) == parent
    assert parse_traceparent(f"{text}-{rest}") == parent


@given(NOISE)
def test_no_text_is_an_error_and_what_is_read_can_be_written(text: str) -> None:
    parent = parse_traceparent(text)
    assert parent is None or parse_traceparent(format_traceparent(parent)) == parent
    members = parse_tracestate(text)
    assert members is None or parse_tracestate(format_tracestate(members)) == members


@given(PARENTS, st.integers(0, 54), st.characters(codec="utf-8"))
def test_one_changed_character_gives_another_valid_header_or_none(parent: TraceParent, at: int, letter: str) -> None:
    text = format_traceparent(parent)
    changed = text[:at] + letter + text[at + 1 :]
    found = parse_traceparent(changed)
    if letter not in "0123456789abcdef-":
        assert found is None


@given(st.dictionaries(KEYS, STATE_VALUES, max_size=32))
def test_a_tracestate_survives_the_round_trip(members: dict[str, str]) -> None:
    pairs = tuple(members.items())
    assert parse_tracestate(format_tracestate(pairs)) == pairs
    assert parse_tracestate(" \t,".join(f"{key}={value}" for key, value in pairs)) == pairs
