"""Deadlines along routes: inherited, tightened, never extended; where the time of a late message went."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flow_scene import MS, Kept, WorkClock, flow_text, paced, run, values

from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE, Envelope

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorContext, Outputs


class Seen:
    """A sink that keeps the envelopes it gets, and when."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.times_ns: list[int] = []

    def open(self, context: OperatorContext) -> None:
        self.context = context

    def process(self, value: Any) -> None:
        assert self.context.envelope is not None
        self.envelopes.append(self.context.envelope)
        self.times_ns.append(self.context.clock.now_ns())

    @property
    def only(self) -> Envelope:
        (envelope,) = self.envelopes
        return envelope


def test_a_deadline_is_inherited_and_a_route_tightens_it() -> None:
    clock, plain, tight = WorkClock(), Seen(), Seen()
    start_ns = clock.now_ns()

    def work(value: int) -> int:
        clock.work(2 * MS)
        return value

    text = flow_text(
        "id: a, operator: host:source, deadline: 50ms",
        "id: w, operator: host:work, inputs: {in: a/out}",
        "id: b, operator: host:plain, inputs: {in: w/out}",
        "id: c, operator: host:tight, inputs: {in: {from: w/out, deadline: 7ms}}",
    )
    run(text, {"source": values(1), "work": work, "plain": plain, "tight": tight}, clock=clock)
    assert plain.only.deadline_ns == start_ns + 50 * MS
    assert plain.only.origin_ns == start_ns
    assert tight.only.deadline_ns == start_ns + (2 + 7) * MS, "from when it was sent on the route"
    assert tight.only.origin_ns == start_ns


def test_a_route_cannot_extend_a_deadline() -> None:
    clock, seen = WorkClock(), Seen()
    start_ns = clock.now_ns()
    text = flow_text(
        "id: a, operator: host:source, deadline: 10ms",
        "id: b, operator: host:seen, inputs: {in: {from: a/out, deadline: 1h}}",
    )
    run(text, {"source": values(1), "seen": seen}, clock=clock)
    assert seen.only.deadline_ns == start_ns + 10 * MS


def test_neither_emit_extends_a_deadline_nor_raises_a_priority_and_both_tighten() -> None:
    clock, seen = WorkClock(), Seen()
    start_ns = clock.now_ns()

    def work(value: int, out: Outputs) -> Emit:
        out.emit("later", deadline_ns=start_ns + 500 * MS, priority=0)
        out.emit("sooner", deadline_ns=start_ns + 5 * MS, priority=3)
        return Emit("returned", deadline_ns=NO_DEADLINE, priority=0)

    text = flow_text(
        "id: a, operator: host:source, deadline: 20ms",
        "id: w, operator: host:work, inputs: {in: a/out}",
        "id: b, operator: host:seen, inputs: {in: w/out}",
    )
    run(text, {"source": values(1), "work": work, "seen": seen}, clock=clock)
    found = {e.payload: (e.deadline_ns - start_ns, int(e.priority)) for e in seen.envelopes}
    assert found == {"later": (20 * MS, 2), "sooner": (5 * MS, 3), "returned": (20 * MS, 2)}


def test_a_source_may_tighten_its_own_deadline() -> None:
    clock, seen = WorkClock(), Seen()
    start_ns = clock.now_ns()
    text = flow_text("id: a, operator: host:source, deadline: 20ms", "id: b, operator: host:seen, inputs: {in: a/out}")
    given = values(Emit(1, deadline_ns=start_ns + 3 * MS), Emit(2, deadline_ns=start_ns + 90 * MS), 3)
    run(text, {"source": given, "seen": seen}, clock=clock)
    found = {e.payload: e.deadline_ns - start_ns for e in seen.envelopes}
    assert found == {1: 3 * MS, 2: 20 * MS, 3: 20 * MS}


def test_a_message_that_starts_anew_has_the_deadline_and_priority_of_its_node() -> None:
    clock, seen = WorkClock(), Seen()
    start_ns = clock.now_ns()

    def work(value: int, out: Outputs) -> None:
        clock.work(4 * MS)
        out.emit_new("new")
        out.emit_new("older", origin_ns=start_ns + MS)

    text = flow_text(
        "id: a, operator: host:source, deadline: 20ms",
        "id: w, operator: host:work, inputs: {in: a/out}, deadline: 30ms, priority: high",
        "id: b, operator: host:seen, inputs: {in: w/out}",
    )
    run(text, {"source": values(1), "work": work, "seen": seen}, clock=clock)
    found = {
        e.payload: (e.deadline_ns - start_ns, e.origin_ns - start_ns, e.priority, e.trail and e.trail.nodes)
        for e in seen.envelopes
    }
    assert found["new"] == (34 * MS, 4 * MS, 1, ("w", "b"))
    assert found["older"] == (34 * MS, MS, 1, ("w", "b"))


def test_a_reply_inherits_the_deadline_of_its_request() -> None:
    clock = WorkClock()
    start_ns = clock.now_ns()
    replies: list[Envelope] = []
    asked: list[int] = []

    class Client:
        def open(self, context: OperatorContext) -> None:
            self.context = context

        async def process(self, value: int) -> None:
            mine = self.context.envelope
            assert mine is not None
            request = Envelope(value, mine.priority, mine.deadline_ns)
            replies.append(await self.context.bus.request("price.get", request, timeout_ns=10**12))

    def desk(value: int, context: OperatorContext) -> int:
        assert context.envelope is not None
        asked.append(context.envelope.deadline_ns)
        return value * 2

    text = flow_text(
        "id: a, operator: host:source, deadline: 40ms, priority: high",
        "id: c, operator: host:client, inputs: {in: a/out}",
        "id: d, operator: host:desk, inputs: {ask: {from: bus/price.get, group: desks, reply: true}}",
    )
    run(text, {"source": values(21), "client": Client, "desk": desk}, clock=clock)
    assert asked == [start_ns + 40 * MS]
    (reply,) = replies
    assert (reply.payload, reply.deadline_ns, int(reply.priority)) == (42, start_ns + 40 * MS, 1)


# --- the four stages ------------------------------------------------------------------------------------------------


def test_an_asynchronous_operator_is_cut_off_at_its_deadline_and_can_clean_up() -> None:
    clock, kept = WorkClock(), Kept()
    start_ns = clock.now_ns()
    cleaned: list[int] = []

    async def work(value: int) -> int:
        try:
            await clock.pause((5 if value else 100) * MS)
        except asyncio.CancelledError:
            cleaned.append(clock.now_ns() - start_ns)
            raise
        return value

    text = flow_text(
        "id: a, operator: host:source, deadline: 30ms",
        "id: w, operator: host:work, inputs: {in: a/out}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    report = run(text, {"source": paced(clock, [0, 1, 2], 10 * MS), "work": work, "keep": kept}, clock=clock)
    assert cleaned == [40 * MS], "the first message started at 10 ms"
    assert kept.values == [1, 2]
    books = report.edges["a/out->w/in"].books
    assert (books.delivered, books.missed.executing, books.expired) == (3, 1, 0)
    assert report.nodes["w"].errors == 0
    assert report.status == "done"
    paths = {path.nodes: (path.delivered, path.missed) for path in report.paths}
    assert paths == {("a", "w"): (0, 1), ("a", "w", "k"): (2, 0)}


def test_an_operator_that_answers_its_deadline_with_a_value_goes_on_working() -> None:
    clock, kept = WorkClock(), Kept()

    async def work(value: int) -> int:
        try:
            await clock.pause(100 * MS)
        except asyncio.CancelledError:
            return -value
        return value

    async def timed(value: int) -> int:
        async with asyncio.timeout(3600):  # relies on the task's count of cancellations
            await asyncio.sleep(0)
        return value

    text = flow_text(
        "id: a, operator: host:source, deadline: 30ms",
        "id: w, operator: host:work, inputs: {in: a/out}",
        "id: t, operator: host:timed, inputs: {in: w/out}",
        "id: k, operator: host:keep, inputs: {in: t/out}",
    )
    report = run(text, {"source": values(1, 2), "work": work, "timed": timed, "keep": kept}, clock=clock)
    assert report.status == "done"
    assert report.edges["a/out->w/in"].books.missed.executing == 1
    assert report.edges["a/out->w/in"].books.expired == 1
    assert report.edges["w/out->t/in"].books.missed.late == 1


def test_a_synchronous_operator_that_finishes_late_is_counted_and_its_child_refused() -> None:
    clock, kept = WorkClock(), Kept()

    def work(value: int) -> int:
        clock.work(50 * MS if value == 1 else MS)
        return value

    text = flow_text(
        "id: a, operator: host:source, deadline: 30ms",
        "id: w, operator: host:work, inputs: {in: a/out}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    report = run(text, {"source": paced(clock, [0, 1, 2], 100 * MS), "work": work, "keep": kept}, clock=clock)
    first, second = report.edges["a/out->w/in"].books, report.edges["w/out->k/in"].books
    assert (first.delivered, first.missed.executing, first.missed.total) == (3, 1, 1)
    assert (second.sent, second.expired, second.missed.late, second.missed.total) == (3, 1, 1, 1)
    assert kept.values == [0, 2]
    paths = {path.nodes: (path.delivered, path.missed) for path in report.paths}
    assert paths == {("a", "w", "k"): (2, 1)}


def test_a_message_that_waits_too_long_for_its_turn_was_queued() -> None:
    clock = WorkClock()
    handled: list[int] = []

    async def work(value: int) -> None:
        handled.append(value)
        await clock.pause(20 * MS)

    text = flow_text("id: a, operator: host:source, deadline: 50ms", "id: w, operator: host:work, inputs: {in: a/out}")
    report = run(text, {"source": values(*range(6)), "work": work}, clock=clock)
    books = report.edges["a/out->w/in"].books
    assert handled == [0, 1, 2]
    assert (books.delivered, books.expired, books.missed.queued, books.missed.executing) == (3, 3, 3, 1)
    (path,) = report.paths
    assert (path.nodes, path.delivered, path.missed) == (("a", "w"), 2, 4)


def test_a_message_that_waits_too_long_for_credit_was_in_transport() -> None:
    clock = WorkClock()

    async def work(value: int) -> None:
        await clock.pause(40 * MS)

    text = flow_text(
        "id: a, operator: host:source, deadline: 30ms",
        "id: w, operator: host:work, inputs: {in: {from: a/out, queue: {size: 1}}}",
    )
    report = run(text, {"source": values(0, 1, 2), "work": work}, clock=clock)
    books = report.edges["a/out->w/in"].books
    assert books.sent == 3
    assert books.missed.transport >= 1
    assert books.expired == books.missed.transport + books.missed.late + books.missed.queued
    (path,) = report.paths
    assert path.delivered + path.missed == 3
    assert path.missed == books.expired + books.missed.executing


def test_every_miss_of_a_chain_is_in_exactly_one_path() -> None:
    clock = WorkClock()

    async def slow(value: int) -> int:
        await clock.pause((value % 5) * 9 * MS)
        return value

    def heavy(value: int) -> int:
        clock.work((value % 3) * 13 * MS)
        return value

    text = flow_text(
        "id: a, operator: host:source, deadline: 40ms",
        "id: b, operator: host:slow, inputs: {in: {from: a/out, queue: {size: 4}}}",
        "id: c, operator: host:heavy, inputs: {in: {from: b/out, queue: {size: 2}, deadline: 20ms}}",
        "id: d, operator: host:keep, inputs: {in: c/out}",
    )
    kept = Kept()
    operators = {"source": paced(clock, range(60), 5 * MS), "slow": slow, "heavy": heavy, "keep": kept}
    report = run(text, operators, clock=clock)
    delivered = sum(path.delivered for path in report.paths)
    missed = sum(path.missed for path in report.paths)
    assert delivered == len(kept.values)
    assert delivered + missed == 60, report.to_json()
    assert delivered > 0
    assert missed > 0


def test_a_tick_starts_when_it_was_due() -> None:
    clock, seen = WorkClock(), Seen()
    start_ns = clock.now_ns()

    async def stop(flow: Any) -> None:
        await clock.advance(35 * MS)
        flow.drain()

    text = flow_text("id: a, operator: host:seen, inputs: {tick: timer/10ms}, deadline: 4ms")
    report = run(text, {"seen": seen}, clock=clock, drive=stop)
    assert [e.payload for e in seen.envelopes] == [0, 1, 2]
    assert [e.origin_ns - start_ns for e in seen.envelopes] == [10 * MS, 20 * MS, 30 * MS]
    assert [e.deadline_ns - start_ns for e in seen.envelopes] == [14 * MS, 24 * MS, 34 * MS]
    assert report.status == "interrupted"
