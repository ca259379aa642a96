"""Ways to run an operator, and operators, with one bug each. The docstring says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.testing.operator_bench import OperatorBench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.contracts import Outputs

    Messages = Sequence[tuple[str, Any]]


async def forgets_close_after_failure(operator: object, messages: Messages) -> Messages:
    """`close` is called only when all went well."""
    bench = OperatorBench(operator)
    await bench.open()
    for port, value in messages:
        await bench.process(port, value)
    await bench.finish()
    await bench.close()
    return bench.sent


async def swallows_failures(operator: object, messages: Messages) -> Messages:
    """A failed message is passed over."""
    bench = OperatorBench(operator)
    await bench.open()
    for port, value in messages:
        try:
            await bench.process(port, value)
        except ValueError:
            break
    await bench.close()
    return bench.sent


async def finishes_after_failure(operator: object, messages: Messages) -> Messages:
    """`finish` is called also after a failure."""
    bench = OperatorBench(operator)
    try:
        await bench.open()
        try:
            for port, value in messages:
                await bench.process(port, value)
        finally:
            await bench.finish()
    finally:
        await bench.close()
    return bench.sent


async def opens_late(operator: object, messages: Messages) -> Messages:
    """`open` is called with the first message."""
    bench = OperatorBench(operator)
    try:
        for number, (port, value) in enumerate(messages):
            if number == 0:
                await bench.open()
            await bench.process(port, value)
        await bench.finish()
    finally:
        await bench.close()
    return bench.sent


async def never_finishes(operator: object, messages: Messages) -> Messages:
    """`finish` is left out."""
    bench = OperatorBench(operator)
    try:
        await bench.open()
        for port, value in messages:
            await bench.process(port, value)
    finally:
        await bench.close()
    return bench.sent


async def reorders(operator: object, messages: Messages) -> Messages:
    """What was emitted comes in reverse."""
    bench = OperatorBench(operator)
    try:
        await bench.open()
        for port, value in messages:
            await bench.process(port, value)
        await bench.finish()
    finally:
        await bench.close()
    return bench.sent[::-1]


RUNNERS = (
    forgets_close_after_failure,
    swallows_failures,
    finishes_after_failure,
    opens_late,
    never_finishes,
    reorders,
)


class Running:
    """A healthy operator: the running total, and every value at the end."""

    def __init__(self) -> None:
        self.total = 0
        self.values: list[int] = []

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        self.total += value["n"]
        self.values.append(value["n"])
        return {"total": self.total}

    def finish(self, out: Outputs) -> None:
        out.emit_new({"values": list(self.values)})

    def snapshot(self) -> Any:
        return self.total, list(self.values)

    def restore(self, state: Any) -> None:
        self.total, self.values = state

    def close(self) -> None:
        pass


class ChangesItsInput(Running):
    """Writes into the message."""

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        result = super().process(port, value, out)
        value["total"] = self.total
        return result


class ChangesItAtTheEnd(Running):
    """Writes into the messages it kept."""

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        self.__dict__.setdefault("kept", []).append(value)
        return super().process(port, value, out)

    def finish(self, out: Outputs) -> None:
        super().finish(out)
        for value in self.__dict__.get("kept", ()):
            value["n"] = 0


SHARED: list[int] = []


class SharesState(Running):
    """Every instance keeps its values in the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.values = SHARED


class ForgetsPartOfItsState(Running):
    """The values are not in the snapshot."""

    def snapshot(self) -> Any:
        return self.total, []


class RestoresNothing(Running):
    """`restore` does nothing."""

    def restore(self, state: Any) -> None:
        pass


class LendsItsState(Running):
    """The snapshot is the state itself."""

    def snapshot(self) -> Any:
        return self.total, self.values


class KeepsALambda(Running):
    """The snapshot cannot be pickled."""

    def snapshot(self) -> Any:
        return lambda: self.total


class NeedsToFinish(Running):
    """`close` fails without `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self.finished = False

    def finish(self, out: Outputs) -> None:
        super().finish(out)
        self.finished = True

    def close(self) -> None:
        if self.values and not self.finished:
            raise ValueError("not finished")


OPERATORS: tuple[type[Running], ...] = (
    ChangesItsInput,
    ChangesItAtTheEnd,
    SharesState,
    ForgetsPartOfItsState,
    RestoresNothing,
    LendsItsState,
    KeepsALambda,
    NeedsToFinish,
)
