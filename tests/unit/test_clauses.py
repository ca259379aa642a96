"""The clauses themselves: the healthy references pass every one, and each deliberate bug is caught by some."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import mutants_bus
import mutants_clock
import mutants_codec
import mutants_operator
import mutants_port
import mutants_port_blocking
import mutants_port_calls
import pytest
from mutants_operator import OPERATORS, RUNNERS, Running
from reference_bus import ReferenceBus, bus_maker
from reference_codec import ReferenceCodec
from reference_port import BlockingReferencePort, ReferencePort, port_maker

from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance import SUITES, Clause, ClauseFailed, clauses, guarantees_markdown
from flowbridge.testing.conformance.clock import ClockBench
from flowbridge.testing.conformance.operator import OperatorCase
from flowbridge.testing.faults import CloggedBus, CloggedPort
from flowbridge.testing.operator_bench import run_through
from flowbridge.testing.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import ModuleType

    from flowbridge.contracts import Clock
    from flowbridge.plan import Qos


def clogged_port_maker(seed: int) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(qos: Qos, clock: Clock) -> AsyncGenerator[CloggedPort]:
        yield CloggedPort(ReferencePort(qos, clock), seed)

    return make


def clogged_bus_maker(seed: int) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(clock: Clock) -> AsyncGenerator[CloggedBus]:
        async with bus_maker()(clock) as bus:
            yield CloggedBus(bus, seed)

    return make


def clock_maker(kind: type[ManualClock] = ManualClock) -> Callable[[], Any]:
    @asynccontextmanager
    async def make() -> AsyncGenerator[ClockBench]:
        clock = kind()
        yield ClockBench(clock, clock.advance, lambda: len(clock.pending()))

    return make


def operator_maker(kind: type[Running] = Running) -> Callable[[], OperatorCase]:
    return lambda: OperatorCase(kind, [("in", {"n": number}) for number in (3, 1, 4, 1, 5)])


def healthy_makers() -> dict[str, list[Any]]:
    return {
        "port": [port_maker(), *map(clogged_port_maker, range(3))],
        "blocking": [port_maker(BlockingReferencePort)],
        "bus": [bus_maker(), *map(clogged_bus_maker, range(3))],
        "codec": [ReferenceCodec],
        "clock": [clock_maker()],
        "runner": [run_through],
        "operator": [operator_maker()],
    }


def kinds_in(module: ModuleType, base: type) -> list[Any]:
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, base) and kind.__module__ == module.__name__]


def mutants() -> list[Any]:
    listed = [
        *(("port", kind, port_maker(kind)) for kind in kinds_in(mutants_port, ReferencePort)),
        *(("port", kind, port_maker(kind)) for kind in kinds_in(mutants_port_calls, ReferencePort)),
        *(("blocking", kind, port_maker(kind)) for kind in kinds_in(mutants_port_blocking, BlockingReferencePort)),
        *(("bus", kind, bus_maker(kind)) for kind in kinds_in(mutants_bus, ReferenceBus)),
        *(("codec", kind, kind) for kind in kinds_in(mutants_codec, ReferenceCodec)),
        *(("clock", kind, clock_maker(kind)) for kind in kinds_in(mutants_clock, ManualClock)),
        *(("runner", runner, runner) for runner in RUNNERS),
        *(("operator", kind, operator_maker(kind)) for kind in OPERATORS),
    ]
    return [pytest.param(suite, maker, id=f"{suite}-{bug.__name__}") for suite, bug, maker in listed]


def broken(clause: Clause, maker: Any) -> str:
    """How a clause fails, empty when it holds. Nothing here waits for the world, so who is still waiting hangs."""

    async def watched() -> str:
        running = asyncio.ensure_future(clause.run(maker))
        await quiet()
        if not running.done():
            running.cancel()
            await asyncio.wait([running])
            return "it hangs"
        try:
            await running
        except asyncio.CancelledError:
            return "cancelled"
        except Exception as error:  # a mutant fails as it likes
            return f"{type(error).__name__}: {error}"
        return ""

    with asyncio.Runner() as runner:
        # What a broken implementation leaves behind in tasks is its own affair.
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        return runner.run(watched())


DEAR = (
    "ten thousand messages leave nothing behind",
    "sending many is sending one by one",
    "the books balance after every step",
)


def cheap_first(suite: str) -> list[Clause]:
    """The clauses, those of thousands of steps last: the first one that bites ends a hunt."""
    return sorted(clauses(suite), key=lambda clause: DEAR.index(clause.name) + 1 if clause.name in DEAR else 0)


@pytest.mark.parametrize("suite", SUITES)
def test_a_healthy_implementation_passes_every_clause(suite: str) -> None:
    for maker in healthy_makers()[suite]:
        for clause in clauses(suite):
            assert broken(clause, maker) == "", str(clause)


@pytest.mark.parametrize(("suite", "maker"), mutants())
def test_a_deliberate_bug_is_caught(suite: str, maker: Any) -> None:
    mutants_operator.SHARED.clear()
    assert any(broken(clause, maker) for clause in cheap_first(suite)), "it survives every clause"


def test_every_clause_is_named_as_a_sentence_and_says_what_it_guarantees() -> None:
    for suite in SUITES:
        names = [clause.name for clause in clauses(suite)]
        assert len(set(names)) == len(names)
        for clause in clauses(suite):
            assert " " in clause.name
            assert clause.guarantee.endswith(".")


def test_the_table_of_guarantees_has_a_row_for_every_clause() -> None:
    table = guarantees_markdown()
    for suite in SUITES:
        for clause in clauses(suite):
            assert f"| {suite} | {clause.name} | {clause.guarantee} |" in table
    assert len(table.splitlines()) == 2 + sum(len(clauses(suite)) for suite in SUITES)
    assert all(line.count("|") == 4 for line in table.splitlines())


def test_a_suite_that_does_not_exist_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        clauses("link")


def test_check_runs_a_clause_on_a_loop_of_its_own() -> None:
    clause = clauses("port")[0]
    clause.check(port_maker())
    with pytest.raises(ClauseFailed):
        clause.check(port_maker(mutants_port_calls.LosesHeaders))
