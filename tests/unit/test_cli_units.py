"""Durations, sizes and rates on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.cli.units import count_text, duration_text, parse_duration_ns, parse_size_bytes, rate_text, size_text
from flowbridge.limits import DURATION_NS_MAX


@pytest.mark.parametrize(
    ("text", "value_ns"),
    [
        ("10ns", 10),
        ("5us", 5_000),
        ("20ms", 20_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120 * 10**9),
        ("1h", 3600 * 10**9),
    ],
)
def test_every_unit_of_the_flow_language_is_a_duration(text: str, value_ns: int) -> None:
    assert parse_duration_ns(text) == value_ns


@pytest.mark.parametrize("text", ["", "10", "s", "10 parsecs", "-1s", "1e3s", "\u0661s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_ns(text)


def test_a_duration_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        parse_duration_ns("9000h")


@pytest.mark.parametrize(
    ("text", "value"), [("64", 64), ("64B", 64), ("1KiB", 1024), ("10kB", 10_000), ("2MiB", 2**21)]
)
def test_a_size_may_go_without_a_unit(text: str, value: int) -> None:
    assert parse_size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "KiB", "1XB", "-5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size_bytes(text)


@given(st.integers(0, DURATION_NS_MAX))
def test_a_duration_is_shown_in_few_characters_and_within_one_percent(value_ns: int) -> None:
    number, unit = duration_text(value_ns).split()
    shown_ns = float(number) * {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}[unit]
    assert abs(shown_ns - value_ns) <= 0.01 * value_ns
    assert len(number) <= 5


@pytest.mark.parametrize(("value", "text"), [(999, "999 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**30, "1 GiB")])
def test_sizes_are_shown_in_binary_units(value: int, text: str) -> None:
    assert size_text(value) == text


def test_counts_and_rates_read_well() -> None:
    assert [count_text(n, "finding") for n in (0, 1, 2000)] == ["0 findings", "1 finding", "2,000 findings"]
    assert [rate_text(r) for r in (0.0, 0.54, 12_345.6)] == ["0/s", "0.5/s", "12,346/s"]
    assert duration_text(None) == "-"
