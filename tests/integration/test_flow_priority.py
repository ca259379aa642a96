"""Priority: who overtakes whom, and that nobody is passed over for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flow_scene import MS, Kept, WorkClock, flow_text, paced, run, values

from flowbridge.emit import Emit
from flowbridge.limits import STARVATION_TURNS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable


def slow(clock: WorkClock, handled: list[Any], pause_ns: int) -> Callable[[Any], Any]:
    """An operator that waits, and says in which order it began."""

    async def work(value: Any) -> None:
        handled.append(value)
        await clock.pause(pause_ns)

    return work


def test_an_urgent_message_overtakes_queued_ones_on_the_same_edge() -> None:
    clock = WorkClock()
    handled: list[Any] = []
    urgent = [Emit(f"n{n}", priority=2) for n in range(8)] + [Emit("now", priority=0), Emit("n8", priority=2)]
    text = flow_text(
        "id: a, operator: host:source, priority: realtime",
        "id: w, operator: host:work, inputs: {in: a/out}",
    )
    run(text, {"source": values(*urgent), "work": slow(clock, handled, 10 * MS)}, clock=clock)
    assert handled.index("now") <= 1, handled
    assert [v for v in handled if v != "now"] == [f"n{n}" for n in range(9)]


def test_an_urgent_message_overtakes_between_two_inputs_of_one_node() -> None:
    clock = WorkClock()
    handled: list[Any] = []
    text = flow_text(
        "id: a, operator: host:many",
        "id: b, operator: host:few, priority: realtime",
        "id: w, operator: host:work, inputs: {in: a/out, urgent: b/out}",
    )
    operators = {
        "many": values(*range(20)),
        "few": paced(clock, ["now"], 25 * MS),
        "work": slow(clock, handled, 10 * MS),
    }
    run(text, operators, clock=clock)
    # It came at 25 ms while the third was being handled: at most what had been taken already goes first.
    assert handled.index("now") <= 4, handled
    assert [v for v in handled if v != "now"] == list(range(20))


def test_a_full_lane_does_not_drop_or_stop_another() -> None:
    clock = WorkClock()
    handled: list[Any] = []
    given = [Emit(("low", n), priority=3) for n in range(40)] + [Emit(("high", n), priority=1) for n in range(3)]
    text = flow_text(
        "id: a, operator: host:source, priority: realtime",
        "id: w, operator: host:work, inputs: {in: {from: a/out, queue: {policy: drop_oldest, size: 4}}}",
    )
    report = run(text, {"source": values(*given), "work": slow(clock, handled, MS)}, clock=clock)
    assert [v for v in handled if v[0] == "high"] == [("high", n) for n in range(3)]
    low = [n for name, n in handled if name == "low"]
    assert low == sorted(low)
    assert low[-4:] == [36, 37, 38, 39]
    assert report.edges["a/out->w/in"].books.dropped["drop_oldest"] == 40 - len(low)


def test_no_lane_waits_longer_than_the_starvation_bound() -> None:
    clock = WorkClock()
    handled: list[Any] = []
    text = flow_text(
        "id: a, operator: host:busy, priority: realtime",
        "id: b, operator: host:patient, priority: best-effort",
        "id: w, operator: host:work, inputs: {urgent: a/out, low: b/out}",
    )
    operators = {
        "busy": values(*(("busy", n) for n in range(400))),
        "patient": values(*(("patient", n) for n in range(6))),
        "work": slow(clock, handled, 2 * MS),
    }
    run(text, operators, clock=clock)
    places = [index for index, value in enumerate(handled) if value[0] == "patient"]
    gaps = [after - before for before, after in zip([-1, *places], places, strict=False)]
    assert len(places) == 6
    # A turn is a slice; these take more than a slice each, after the first few that are taken together.
    assert max(gaps[1:]) <= STARVATION_TURNS_MAX + 1, places
    assert places[0] < 400 - 6 * (STARVATION_TURNS_MAX + 1)


def test_a_route_may_change_the_lane_of_what_travels_on_it() -> None:
    clock, first, second = WorkClock(), Kept(), Kept()
    order: list[str] = []

    def note(name: str, kept: Kept) -> Callable[[Any], None]:
        def process(value: Any) -> None:
            order.append(name)
            kept.process(value)

        return process

    text = flow_text(
        "id: a, operator: host:source",
        "id: b, operator: host:low, inputs: {in: {from: a/out, priority: best-effort}}",
        "id: c, operator: host:high, inputs: {in: {from: a/out, priority: realtime}}",
    )
    run(text, {"source": values(1), "low": note("low", first), "high": note("high", second)}, clock=clock)
    assert order == ["high", "low"]
    assert first.values == second.values == [1]
