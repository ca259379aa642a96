"""Clauses of the class form of an operator, and of whatever runs one."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import ClauseFailed, equal, holds
from flowbridge.testing.operator_bench import OperatorBench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from flowbridge.contracts import OperatorContext, Outputs

    Messages: TypeAlias = "Sequence[tuple[str, Any]]"
    RunnerMaker: TypeAlias = "Callable[[object, Messages], Awaitable[Messages]]"
    OperatorMaker: TypeAlias = "Callable[[], OperatorCase]"


@dataclass(frozen=True, slots=True)
class OperatorCase:
    """How to make an operator, always the same, and messages as (port, value) that it handles without error."""

    make: Callable[[], object]
    messages: Sequence[tuple[str, Any]]


class _Probe:
    """An operator that writes down how it is called, and fails where it is told to."""

    def __init__(self, fails_in: str = "") -> None:
        self.calls: list[str] = []
        self._fails_in = fails_in

    def _called(self, hook: str) -> None:
        self.calls.append(hook)
        if hook == self._fails_in:
            raise ValueError(f"the probe fails in {hook}")

    async def open(self, context: OperatorContext) -> None:
        holds(context.node, "the context of an operator names its node")
        self._called("open")

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        self._called("process")
        out.emit((port, value), "seen")
        return value

    def finish(self, out: Outputs) -> None:
        self._called("finish")
        out.emit_new("end", "seen")

    def close(self) -> None:
        self._called("close")


@clause("runner")
async def an_operator_lives_in_order(maker: RunnerMaker) -> None:
    """`open` comes before the first message, `finish` after the last, `close` at the end, and each of them once."""
    for count in (0, 1, 3):
        probe = _Probe()
        await maker(probe, [("in", number) for number in range(count)])
        equal(probe.calls, ["open", *["process"] * count, "finish", "close"], f"calls for {count} messages")


@clause("runner")
async def what_an_operator_sends_stays_in_order(maker: RunnerMaker) -> None:
    """What is emitted and what is returned is sent in that order, to the port named and to ``out``."""
    sent = await maker(_Probe(), [("in", 1), ("in", 2)])
    seen = [value for port, value in sent if port == "seen"]
    equal(seen, [("in", 1), ("in", 2), "end"], "what was emitted")
    equal([value for port, value in sent if port == "out"], [1, 2], "what was returned")


@clause("runner")
async def close_comes_after_a_failure_too(maker: RunnerMaker) -> None:
    """When a hook fails, the failure is told, no later hook but `close` is called, and `close` is called once."""
    for fails_in in ("open", "process", "finish"):
        probe = _Probe(fails_in)
        try:
            await maker(probe, [("in", 1), ("in", 2)])
        except ClauseFailed:
            raise
        except Exception:  # noqa: S110 - a runner wraps the failure in an error of its own choice
            pass
        else:
            raise ClauseFailed(f"a failure in {fails_in} was not told")
        wanted = {"open": ["open"], "process": ["open", "process"], "finish": ["open", *["process"] * 2, "finish"]}
        equal(probe.calls, [*wanted[fails_in], "close"], f"calls when {fails_in} fails")


def _is(value: object, kind: type) -> bool:
    """As `isinstance`, but says nothing to a type checker, which would know half of the type then."""
    return isinstance(value, kind)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; Arrow data has `equals`, whose type checks metadata too."""
    if type(one) is not type(other):
        return False
    equals = getattr(one, "equals", None)
    if equals is not None:
        return bool(equals(other))
    if _is(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if _is(one, list) or _is(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _agree(found: Messages, wanted: Messages, what: str) -> None:
    if not _same(list(found), list(wanted)):
        raise ClauseFailed(f"{what}: {found!r}, not {wanted!r}")


async def _life(case: OperatorCase, messages: Messages, bench: OperatorBench | None = None) -> Messages:
    """The rest of the life of an operator, from `open` on unless it is given opened."""
    if bench is None:
        bench = OperatorBench(case.make())
        await bench.open()
    for port, value in messages:
        await bench.process(port, value)
    await bench.finish()
    await bench.close()
    return bench.sent


@clause("operator")
async def equal_input_gives_equal_output(maker: OperatorMaker) -> None:
    """Two operators made alike send the same for the same messages; neither sees the other's."""
    case = maker()
    alone = await _life(case, case.messages)
    one, other = OperatorBench(case.make()), OperatorBench(case.make())
    await one.open()
    await other.open()
    for port, value in case.messages:
        await one.process(port, value)
        await other.process(port, value)
    _agree(await _life(case, (), one), alone, "the first of two")
    _agree(await _life(case, (), other), alone, "the second of two")


@clause("operator")
async def restoring_continues_where_it_was(maker: OperatorMaker) -> None:
    """Wherever a life is cut, a new operator given the snapshot, pickled, sends what the old one would have sent."""
    case = maker()
    whole = await _life(case, case.messages)
    for cut in range(len(case.messages) + 1):
        first = OperatorBench(case.make())
        await first.open()
        for port, value in case.messages[:cut]:
            await first.process(port, value)
        before = first.sent
        state = pickle.dumps(await first.snapshot())
        _agree(first.sent, before, f"cut at {cut}: what a snapshot sends")
        await first.close()
        second = OperatorBench(case.make())
        await second.open()
        await second.restore(pickle.loads(state))  # noqa: S301 - written two lines above
        rest = await _life(case, case.messages[cut:], second)
        _agree((*before, *rest), whole, f"cut at {cut}")


@clause("operator")
async def a_snapshot_is_a_copy(maker: OperatorMaker) -> None:
    """A snapshot does not change while its operator goes on."""
    case = maker()
    bench = OperatorBench(case.make())
    await bench.open()
    for port, value in case.messages:
        state = await bench.snapshot()
        before = pickle.dumps(state)
        await bench.process(port, value)
        holds(_same(state, pickle.loads(before)), "a snapshot changed when its operator went on")  # noqa: S301
    await bench.close()


@clause("operator")
async def leaves_its_input_as_it_was(maker: OperatorMaker) -> None:
    """A message may be shared, so no operator changes what it is given."""
    case = maker()
    bench = OperatorBench(case.make())
    await bench.open()
    for number, (port, value) in enumerate(case.messages):
        before = copy.deepcopy(value)
        await bench.process(port, value)
        holds(_same(value, before), f"message {number} was changed from {before!r} to {value!r}")
    await bench.finish()
    for number, (_, value) in enumerate(maker().messages):
        holds(_same(case.messages[number][1], value), f"message {number} was changed by finish")
    await bench.close()


@clause("operator")
async def may_be_closed_at_any_time(maker: OperatorMaker) -> None:
    """`close` does not fail after `open`, after any message, or without `finish`, and sends nothing."""
    case = maker()
    for count in range(len(case.messages) + 1):
        bench = OperatorBench(case.make())
        await bench.open()
        for port, value in case.messages[:count]:
            await bench.process(port, value)
        before = bench.sent
        await bench.close()
        _agree(bench.sent, before, f"closed after {count} messages: what was sent")
