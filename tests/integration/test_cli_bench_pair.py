"""``flowbridge bench`` between two processes: what was sent arrives, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from shm_names import left_since, names

from flowbridge.cli.app import run_app
from flowbridge.cli.bench_far import histogram_of
from flowbridge.time.histogram import Histogram


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """What a benchmark says in JSON."""
    assert run_app(["bench", *args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


FORMS = [["--tier", "ipc"], ["--tier", "ipc", "--raw"], ["--tier", "ipc", "--processes", "1"], ["--tier", "quic"]]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form))
@pytest.mark.parametrize("what", ["rtt", "data"])
def test_all_messages_arrive_and_leave_nothing_behind(
    what: str, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answer(
        capsys, what, *form, "--size", "64", "--count", "1"
    )  # the loop keeps a pipe for signals from its first run on
    descriptors, segments = os.listdir("/proc/self/fd"), names()
    found = answer(capsys, what, *form, "--size", "64,64KiB", "--count", "300")
    assert found["tier"] == form[1]
    for result, size_bytes in zip(found["results"], (64, 65536), strict=True):
        assert result["size_bytes"] == size_bytes
        assert result["delivered"] == result["count"] == 300
        assert result["deadline_missed"] == 0
        assert result["messages_per_second"] > 0
        assert result["cpu_ns_per_message"] > 0
        latency = result["latency_us"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
    assert not left_since(segments)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form))
@pytest.mark.parametrize("what", ["rtt", "data"])
def test_messages_that_cannot_be_in_time_are_all_counted(
    what: str, form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, what, *form, "--size", "64", "--count", "50", "--deadline", "1ns")
    assert found["results"][0]["deadline_missed"] == 50
    assert found["results"][0]["delivered"] == 0


@pytest.mark.parametrize("args", [["--raw"], ["--processes", "2"], ["--tier", "ipc", "--raw", "--processes", "1"]])
def test_what_no_tier_can_do_is_refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["bench", "data", "--count", "1", *args]) == 2
    assert "process" in capsys.readouterr().err


def test_a_histogram_survives_the_way_between_processes() -> None:
    before = Histogram()
    before.extend([1, 5, 5, 300, 40_000, 1_234_567])
    after = histogram_of({"buckets": list(before.buckets()), "max": before.max})
    assert list(after.buckets()) == list(before.buckets())
    assert after.max == before.max
