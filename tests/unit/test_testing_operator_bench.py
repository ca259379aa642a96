"""The operator bench drives operators of every form."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import LocalProtocolError
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.operator_bench import OperatorBench, run_through

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from flowbridge.contracts import OperatorContext, Outputs


class Plain:
    """Only `process`."""

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        return Emit((port, value), "named") if value else None


class Yields:
    """A generator."""

    def process(self, port: str, value: int, out: Outputs) -> Iterator[Any]:
        yield value
        yield Emit(value + 1, "more")


class YieldsLater:
    """An asynchronous generator and a coroutine."""

    async def process(self, port: str, value: int, out: Outputs) -> int:
        await out.send(value, "first")
        return value + 1

    async def finish(self, out: Outputs) -> AsyncIterator[int]:
        async def items() -> AsyncIterator[int]:
            yield 8
            yield 9

        return items()


class Asks:
    """Asks its context."""

    context: OperatorContext

    def open(self, context: OperatorContext) -> None:
        self.context = context
        assert context.envelope is None

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        assert self.context.envelope is not None
        return self.context.remaining_ns()


def test_every_form_of_an_operator_is_driven() -> None:
    async def main() -> None:
        assert await run_through(Plain(), [("in", 1), ("in", 0)]) == (("named", ("in", 1)),)
        assert await run_through(Yields(), [("in", 1)]) == (("out", 1), ("more", 2))
        assert await run_through(YieldsLater(), [("in", 1)]) == (("first", 1), ("out", 2), ("out", 8), ("out", 9))

    asyncio.run(main())


def test_the_context_knows_the_message_and_what_time_is_left() -> None:
    async def main() -> None:
        clock = ManualClock(100)
        bench = OperatorBench(Asks(), node="n", config={"k": 1}, clock=clock)
        await bench.open()
        await bench.process("in", "x", deadline_ns=150)
        await bench.process("in", "x")
        assert bench.sent == (("out", 50), ("out", NO_DEADLINE))
        assert bench.context.envelope is None
        assert (bench.context.node, dict(bench.context.manifest.config)) == ("n", {"k": 1})
        with pytest.raises(LocalProtocolError, match="node n: there is no bus"):
            _ = bench.context.bus

    asyncio.run(main())


def test_an_operator_without_state_has_none() -> None:
    async def main() -> None:
        bench = OperatorBench(Plain())
        assert await bench.snapshot() is None
        await bench.restore(None)
        await bench.close()

    asyncio.run(main())
