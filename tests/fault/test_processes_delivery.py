"""Workers that are killed under a route that loses nothing: each message at least once, or in a state just once."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from process_scene import Sink, refusal, run_placed

if TYPE_CHECKING:
    from pathlib import Path

JSON = "outputs: {out: {type: json}}"
AGAIN = "restart: {when: on-failure, delay: 1ms, max: 5}"
KEEP = "id: k, operator: host:keep, inputs: {in: b/out}"
COUNT = 300


def source(*more: str) -> str:
    numbers = f'id: a, operator: "python:./ops.py:Numbers", with: {{count: {COUNT}, pause_ms: 1}}'
    return ", ".join([numbers, JSON, *more])


def gathers(folder: Path, delivery: str, *more: str, operator: str = "Gathers") -> str:
    given = f"with: {{folder: '{folder}', deaths: [70, 180]}}"
    joined = f"inputs: {{in: {{from: a/out, delivery: {delivery}, queue: {{size: 16}}}}}}"
    return ", ".join([f'id: b, operator: "python:./ops.py:{operator}"', given, joined, JSON, AGAIN, *more])


@pytest.mark.parametrize("place", [(), ("place: {process: one}",)], ids=["host", "worker"])
@pytest.mark.parametrize("delivery", ["at_least_once", "effectively_once"])
def test_a_consumer_that_is_killed_again_and_again_misses_nothing(
    tmp_path: Path, delivery: str, place: tuple[str, ...]
) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        source(*place),
        gathers(tmp_path, delivery, "place: {process: two}", "snapshot: 20ms"),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.errors, report.nodes["b"].restarts) == ("done", [], 2)
    books = report.edges["a/out->b/in"].books
    assert (books.sent, books.delivered, books.dropped, books.gaps) == (COUNT, COUNT, {}, 0)
    assert books.redelivered >= 2, "it died with a message in its hands"
    (gathered,) = sink.values
    handled = [int(line) for line in (tmp_path / "handled").read_text().split()]
    print(f"{books.redelivered} sent again, {books.repeated} of them known, {len(handled)} handled")
    assert set(handled) == set(range(COUNT))
    if delivery == "effectively_once":
        assert gathered == list(range(COUNT))


def test_a_consumer_within_its_process_has_each_message_once_although_its_operator_fails(tmp_path: Path) -> None:
    sink = Sink()
    report = run_placed(
        tmp_path,
        source(),
        gathers(tmp_path, "effectively_once", "snapshot: 20ms", operator="GathersAndFails"),
        KEEP,
        operators={"keep": sink},
    )
    assert (report.status, report.nodes["b"].restarts) == ("done", 2)
    assert sink.values == [list(range(COUNT))]
    books = report.edges["a/out->b/in"].books
    assert (books.delivered, books.dropped) == (COUNT, {})


@pytest.mark.parametrize("place", [(), ("place: {process: two}",)], ids=["host", "worker"])
def test_an_operator_without_both_hooks_cannot_have_an_effect_once(tmp_path: Path, place: tuple[str, ...]) -> None:
    (found,) = refusal(
        tmp_path,
        source(),
        ", ".join(
            [
                'id: b, operator: "python:./ops.py:double"',
                "inputs: {in: {from: a/out, delivery: effectively_once}}, snapshot: 1s",
                *place,
            ]
        ),
    )
    wanted = "node b: a/out->b/in: delivery effectively_once, but its operator has no snapshot and no restore"
    assert found.endswith(wanted)
