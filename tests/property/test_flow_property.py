"""Random flows on a virtual clock: the books balance at any moment, order holds, nothing is lost or invented."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from flow_scene import MS, S, WorkClock, balanced, compiled, flow_text, state_of, to_end
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowbridge.emit import Emit
from flowbridge.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import OperatorContext, Outputs
    from flowbridge.report import RunReport

POLICIES = ("block", "drop_oldest", "drop_newest", "latest")
PRIORITIES = ("realtime", "high", "normal", "best-effort")


@dataclass
class Draft:
    """A random flow: layers of nodes, every edge with its own queue."""

    nodes: list[str] = field(default_factory=list[str])
    operators: dict[str, Any] = field(default_factory=dict[str, Any])
    lossless: bool = True
    seen: dict[str, list[tuple[str, int]]] = field(default_factory=dict[str, list[tuple[str, int]]])


def queue(random: Random, *, lossy: bool) -> str:
    """The queue of one edge."""
    policy = random.choice(POLICIES) if lossy else "block"
    size = 1 if policy == "latest" else random.choice([1, 2, 3, 8, 64])
    high = random.randint(1, size)
    marks = f", high: {high}, low: {random.randint(0, high - 1)}" if policy == "block" and size > 1 else ""
    return f"queue: {{policy: {policy}, size: {size}{marks}}}"


def source(clock: WorkClock, name: str, count: int, random: Random) -> Callable[[], Any]:
    """Values (name, n), given at once, with work, or with pauses."""
    kind = random.choice(["fast", "work", "pause", "lanes"])
    seed = random.random()

    def fast() -> Any:
        own = Random(seed)
        for n in range(count):
            if kind == "work":
                clock.work(own.randint(0, 400_000))
            if kind == "lanes":
                yield Emit((name, n), priority=own.randint(0, 3))
            else:
                yield name, n

    async def paused() -> Any:
        own = Random(seed)
        for n in range(count):
            await clock.pause(own.randint(0, 3) * MS)
            yield name, n

    return paused if kind == "pause" else fast


def worker(clock: WorkClock, name: str, draft: Draft, random: Random) -> Any:
    """An operator of a random form that passes everything on and notes what it saw, by edge."""
    kind = random.choice(["sync", "work", "async", "emit", "send", "generator"])
    seed = random.random()

    class Node:
        def open(self, context: OperatorContext) -> None:
            self.context = context
            self.random = Random(seed)

        def note(self, value: tuple[str, int], port: str) -> None:
            envelope = self.context.envelope
            assert envelope is not None
            draft.seen.setdefault(f"{name}/{port}/{envelope.priority}", []).append(("", envelope.seq))
            draft.seen.setdefault(name, []).append(value)

    class Sync(Node):
        def process(self, port: str, value: tuple[str, int]) -> tuple[str, int] | None:
            self.note(value, port)
            if port == "back":
                return None
            if kind == "work":
                clock.work(self.random.randint(0, 1_500_000))
            return value

    class Async(Node):
        async def process(self, port: str, value: tuple[str, int], out: Outputs) -> tuple[str, int] | None:
            self.note(value, port)
            await clock.pause(self.random.randint(0, 2) * MS)
            if kind == "send" and port != "back":
                await out.send(value)
                return None
            return value if port != "back" else None

    class Emits(Node):
        def process(self, port: str, value: tuple[str, int], out: Outputs) -> None:
            self.note(value, port)
            if port != "back":
                out.emit(value)

    class Yields(Node):
        def process(self, port: str, value: tuple[str, int]) -> Any:
            self.note(value, port)
            if port != "back":
                yield value

    forms: dict[str, Any] = {"sync": Sync, "work": Sync, "async": Async, "send": Async, "emit": Emits}
    return forms.get(kind, Yields)


def draft_of(random: Random, clock: WorkClock, *, lossless: bool) -> Draft:
    """One to three sources, up to three layers of workers, one sink at least."""
    draft = Draft(lossless=lossless)
    layers: list[list[str]] = [[f"s{i}" for i in range(random.randint(1, 3))]]
    for name in layers[0]:
        draft.operators[name] = source(clock, name, random.choice([1, 5, 40, 150]), random)
        more = f", priority: {random.choice(PRIORITIES)}"
        if not lossless and random.random() < 0.5:
            more += f", deadline: {random.choice([1, 3, 10, 50])}ms"
        if random.random() < 0.3:
            more += f", outputs: {{out: {{scatter: {random.choice(['round_robin', 'least_full'])}}}}}"
        draft.nodes.append(f"id: {name}, operator: host:{name}{more}")
    for depth in range(random.randint(1, 3)):
        layer = [f"w{depth}{i}" for i in range(random.randint(1, 2))]
        before = [name for earlier in layers for name in earlier]
        for name in layer:
            froms = random.sample(before, random.randint(1, min(3, len(before))))
            inputs = [edge(random, f"i{i}", f"{other}/out", lossless) for i, other in enumerate(froms)]
            if not lossless and random.random() < 0.3:
                # What goes round again does so once: the operators leave it out the second time.
                limits = "queue: {policy: drop_oldest, size: 3}, deadline: 9ms"
                inputs.append(f"back: {{from: {name}/out, feedback: true, {limits}}}")
            draft.operators[name] = worker(clock, name, draft, random)
            draft.nodes.append(f"id: {name}, operator: host:{name}, inputs: {{{', '.join(inputs)}}}")
        layers.append(layer)
    return draft


def edge(random: Random, port: str, origin: str, lossless: bool) -> str:
    """One input."""
    parts = [f"from: {origin}", queue(random, lossy=not lossless)]
    if not lossless and random.random() < 0.3:
        parts.append(f"deadline: {random.choice([1, 2, 8])}ms")
    if random.random() < 0.2:
        parts.append(f"priority: {random.choice(PRIORITIES)}")
    return f"{port}: {{{', '.join(parts)}}}"


def play(seed: int, *, lossless: bool, stop_ns: int | None = None, drains: bool = True) -> tuple[Draft, RunReport]:
    """Run a random flow to its end and look at the books between all steps."""
    random, clock = Random(seed), WorkClock()
    draft = draft_of(random, clock, lossless=lossless)
    text = flow_text(*draft.nodes)

    async def main() -> RunReport:
        async with Host(operators=draft.operators, clock=clock, drain_ns=3600 * S) as host:
            flow = await host.start(compiled(text))

            def look() -> None:
                balanced(flow.report(), in_flight=None)

            if stop_ns is not None:
                left = stop_ns
                while left > 0 and flow.is_running:
                    step = min(left, MS)
                    await clock.advance(step)
                    look()
                    left -= step
                if drains:
                    flow.drain()
                else:
                    flow.abort()
            report = await to_end(flow, clock, each=look)
            balanced(report)
            assert report.errors == [], f"{text}{state_of(flow)}"
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return report

    return draft, asyncio.run(main())


def in_order(draft: Draft) -> None:
    """Along every edge and lane the sequence numbers only grow; feedback included."""
    for key, seen in draft.seen.items():
        if "/" in key:
            numbers = [seq for _, seq in seen]
            assert numbers == sorted(set(numbers)), f"{key}: {numbers}"


seeds = st.integers(0, 2**32)
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(seeds)
def test_without_drops_and_deadlines_everything_arrives_in_order(seed: int) -> None:
    draft, report = play(seed, lossless=True)
    in_order(draft)
    assert report.status == "done"
    for name, found in report.edges.items():
        books = found.books
        assert books.sent == books.delivered, f"{name}: {books}"
        assert books.missed.total == 0
    for name, node in report.nodes.items():
        into = [e.books.delivered for key, e in report.edges.items() if key.partition("->")[2].startswith(f"{name}/")]
        if into:
            assert node.processed == sum(into) == len(draft.seen.get(name, ()))
        out = {key: e.books.sent for key, e in report.edges.items() if key.startswith(f"{name}/out->")}
        scatters = any(f"id: {name}," in text and "scatter" in text for text in draft.nodes)
        for key, sent in out.items():
            assert scatters or sent == node.processed, f"{key}: {sent} of {node.processed}"
        if out and scatters and len(out) > 1:
            assert sum(out.values()) == node.processed


@quick
@given(seeds)
def test_with_every_policy_and_random_deadlines_the_books_balance_and_order_holds(seed: int) -> None:
    draft, report = play(seed, lossless=False)
    in_order(draft)
    assert report.status == "done"
    for name, node in report.nodes.items():
        assert node.processed == len(draft.seen.get(name, ())) or name.startswith("s")
    for name, found in report.edges.items():
        books = found.books
        assert books.expired <= books.missed.total, name
        assert books.missed.late + books.missed.transport + books.missed.queued == books.expired


@quick
@given(seeds, st.integers(0, 60_000_000), st.booleans(), st.booleans())
def test_a_flow_that_is_stopped_at_any_moment_accounts_for_everything(
    seed: int, stop_ns: int, lossless: bool, drains: bool
) -> None:
    draft, report = play(seed, lossless=lossless, stop_ns=stop_ns, drains=drains)
    in_order(draft)
    assert report.status in {"done", "interrupted"}
    if drains and lossless:
        for name, found in report.edges.items():
            assert found.books.sent == found.books.delivered, f"{name}: {found.books}"
