"""What becomes of the results that operators give in unusual ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import Kept, flow_text, numbers, run, told

from flowbridge.emit import Emit
from flowbridge.errors import DeadlineExceeded, FlowbridgeError

if TYPE_CHECKING:
    from collections.abc import Iterator


def chain(more: str = "budget: 1ms", port: str = "out", source: str = "") -> str:
    """A source, an operator with more keys, a sink that reads one of its ports."""
    return flow_text(
        f"id: a, operator: host:source{source}",
        f"id: w, operator: host:work, inputs: {{in: a/out}}, {more}",
        f"id: k, operator: host:keep, inputs: {{in: w/{port}}}",
    )


def same(value: int) -> int:
    return value


class Total:
    """Adds up, and says nothing before the end."""

    def __init__(self) -> None:
        self.total = 0

    def process(self, value: int) -> None:
        self.total += value


class Returned(Total):
    def finish(self) -> int:
        return self.total


class Yielded(Total):
    def finish(self) -> Iterator[Any]:
        yield self.total
        yield Emit(-self.total)


@pytest.mark.parametrize(("work", "expected"), [(Returned, [6]), (Yielded, [6, -6])])
def test_what_finish_returns_or_yields_arrives(work: type, expected: list[int]) -> None:
    kept = Kept()
    report = run(chain(), {"source": numbers(4), "work": work, "keep": kept})
    assert report.status == "done", report.errors
    assert kept.values == expected


def test_a_result_for_a_node_without_an_out_port_is_a_failure_not_lost() -> None:
    text = chain("outputs: [late]", port="late")
    report = run(text, {"source": numbers(1), "work": same, "keep": Kept()})
    assert report.status == "failed"
    assert told(report) == ["flow.yaml:5:23: node w: has no output port 'out'; it has late"]


def test_a_time_out_of_the_operators_own_is_a_failure_before_the_deadline() -> None:
    async def work(value: int) -> int:
        raise DeadlineExceeded("request", 5, 6)

    text = chain("on_error: skip", source=", deadline: 1s")
    report = run(text, {"source": numbers(2), "work": work, "keep": Kept()})
    assert report.status == "done"
    assert report.nodes["w"].errors == 2
    assert report.edges["a/out->w/in"].books.missed.total == 0


def test_a_node_counts_the_misses_of_all_its_inputs() -> None:
    report = run(
        chain("on_error: fail", source=", deadline: 1ns"), {"source": numbers(3), "work": same, "keep": Kept()}
    )
    (missed, *_), books = [node.missed for node in report.nodes.values()][1:], report.edges["a/out->w/in"].books
    assert missed == books.missed.total
    assert report.to_json()["nodes"]["w"]["missed"] == missed


def test_a_source_cannot_be_put_into_a_thread_and_says_so() -> None:
    with pytest.raises(FlowbridgeError, match=r"flow\.yaml:4:23: node a: is a source, so `thread: true`"):
        run(chain(source=", thread: true"), {"source": numbers(1), "work": same, "keep": Kept()})
