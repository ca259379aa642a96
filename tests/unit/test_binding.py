"""Everything that a user may write as an operator, and what is refused with words that help."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from flowbridge.emit import Emit
from flowbridge.errors import OperatorLoadError, SchemaMismatchError
from flowbridge.plan import Artifact, ArtifactKind, Origin, PluginManifest
from flowbridge.runtime.binding import Bound, bind
from flowbridge.runtime.context import Context, Outbox
from flowbridge.runtime.record import per_record
from flowbridge.testing.clock import ManualClock
from flowbridge.transports.bus import LocalEventBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


async def _unused(value: Any, port: str) -> None:
    raise AssertionError(f"sent {value!r} to {port}")


CLOCK = ManualClock()
ARTIFACT = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="python:x:y")
CONTEXT = Context(
    PluginManifest(node="n", artifact=ARTIFACT, origin=Origin.EXTERNAL), CLOCK, LocalEventBus(CLOCK), ".", None
)
OUT = Outbox("n", _unused)


def bound(made: Any, config: dict[str, Any] | None = None, *, source: bool = False) -> Bound:
    return bind("n", made, config or {}, CONTEXT, OUT, source=source)


def call(made: Any, value: Any = 3, config: dict[str, Any] | None = None) -> Any:
    """What an operator makes of a value that arrives at port ``in``, however it gives it."""
    found = bound(made, config)
    result = found.handler("in")(value)
    if found.is_async:
        result = asyncio.run(result)
    return list(result) if found.many else result


def draw(made: Any, config: dict[str, Any] | None = None) -> list[Any]:
    """Everything that a source produces."""
    produce = bound(made, config, source=True).produce
    assert produce is not None
    made = produce()

    async def collect() -> list[Any]:
        return [value async for value in made]

    return asyncio.run(collect()) if hasattr(made, "__aiter__") else list(made)


def refused(made: Any, config: dict[str, Any] | None = None, *, source: bool = False) -> str:
    """What it is refused with."""
    with pytest.raises(OperatorLoadError) as caught:
        bound(made, config, source=source)
    assert caught.value.node == "n"
    return str(caught.value)


# --- functions ----------------------------------------------------------------------------------------------------


def twice(value: int) -> int:
    return value * 2


def scaled(value: int, factor: int = 10, *, offset: int = 0) -> int:
    return value * factor + offset


def factor_first(factor: int, value: int) -> int:
    return factor - value


def with_all(value: int, out: Any, port: str, context: Any) -> tuple[Any, ...]:
    return value, out is OUT, port, context is CONTEXT


def port_first(port: str, value: int, factor: int = 1) -> tuple[str, int]:
    return port, value * factor


def port_first_other_name(port: str, item: int, out: Any, ctx: Any) -> tuple[Any, ...]:
    return port, item, out is OUT, ctx is CONTEXT


def keyword_only(*, value: int, port: str) -> tuple[int, str]:
    return value, port


def several(value: int) -> Iterator[int]:
    yield value
    yield value + 1


async def later(value: int, factor: int = 1) -> int:
    await asyncio.sleep(0)
    return value * factor


def anything(*args: Any, **rest: Any) -> tuple[Any, ...]:
    return (*args, rest)


def no_value(out: Any, port: str) -> int:
    raise AssertionError(out, port)


def only_settings(**settings: Any) -> int:
    raise AssertionError(settings)


LAMBDAS: tuple[Callable[[Any], Any], ...] = (lambda v: v + 1,)


def with_default(v: int = 0) -> int:
    return v + 1


class Callable1:
    def __call__(self, value: int, factor: int = 5) -> int:
        return value * factor


class CallableLater:
    async def __call__(self, value: int) -> int:
        return value + 1


class CallableSeveral:
    def __call__(self, value: int) -> Iterator[int]:
        yield from (value, value)


class Holder:
    def method(self, value: int) -> int:
        return -value

    @staticmethod
    def static(value: int) -> int:
        return value + 100

    @classmethod
    def of_class(cls, value: int) -> str:
        return f"{cls.__name__} {value}"


@pytest.mark.parametrize(
    ("made", "config", "wanted"),
    [
        (twice, {}, 6),
        (LAMBDAS[0], {}, 4),
        (with_default, {}, 4),
        (scaled, {}, 30),
        (scaled, {"factor": 2, "offset": 1}, 7),
        (scaled, {"value": 2}, 6),
        (factor_first, {"factor": 10}, 7),
        (with_all, {}, (3, True, "in", True)),
        (port_first, {}, ("in", 3)),
        (port_first, {"factor": 4}, ("in", 12)),
        (port_first_other_name, {}, ("in", 3, True, True)),
        (keyword_only, {}, (3, "in")),
        (keyword_only, {"port": "mine"}, (3, "mine")),
        (several, {}, [3, 4]),
        (later, {}, 3),
        (later, {"factor": 7}, 21),
        (anything, {"x": 1}, (3, {"x": 1})),
        (functools.partial(scaled, factor=4), {}, 12),
        (functools.partial(scaled, factor=4), {"factor": 5}, 15),
        (functools.partial(factor_first, 9), {}, 6),
        (functools.partial(factor_first, factor=8), {}, 5),
        (functools.partial(later, factor=2), {}, 6),
        (functools.partial(several), {}, [3, 4]),
        (functools.partial(CallableLater()), {}, 4),
        (Callable1(), {}, 15),
        (Callable1(), {"factor": 2}, 6),
        (CallableLater(), {}, 4),
        (CallableSeveral(), {}, [3, 3]),
        (Holder().method, {}, -3),
        (Holder.static, {}, 103),
        (Holder.of_class, {}, "Holder 3"),
        (abs, {}, 3),
        (operator.neg, {}, -3),
        (str.upper, {}, "TEXT"),
    ],
)
def test_a_function_gets_what_its_parameters_ask_for(made: Any, config: dict[str, Any], wanted: Any) -> None:
    assert call(made, "text" if made is str.upper else 3, config) == wanted


def test_a_builtin_without_a_signature_takes_the_value_alone() -> None:
    names = {3: "three"}
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(names.pop)
    assert call(names.pop) == "three"


def test_each_port_has_its_own_handler() -> None:
    found = bound(port_first)
    assert [found.handler(port)(1) for port in ("a", "b")] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("made", "config", "wanted"),
    [
        (scaled, {"facto": 2}, "has no setting 'facto'; it takes value, factor, offset"),
        (with_all, {"x": 2}, "has no setting 'x'; it takes value"),
        (factor_first, {}, "needs a setting for value"),
        (lambda: 1, {}, "takes no value: its first parameter is what it handles"),
        (no_value, {}, "takes no value: its first parameter is what it handles"),
        (only_settings, {}, "takes no value: its first parameter is what it handles"),
        (3, {}, "int is neither a function nor an operator class"),
        (None, {}, "NoneType is neither a function nor an operator class"),
    ],
)
def test_what_a_function_cannot_be_given_is_refused(made: Any, config: dict[str, Any], wanted: str) -> None:
    assert refused(made, config) == f"node n: {wanted}"


def test_an_async_generator_is_told_what_to_use_instead() -> None:
    async def give(value: int) -> AsyncIterator[int]:
        yield value

    assert "is an async generator; use `await out.send(...)` or `out.emit(...)` instead" in refused(give)


# --- classes ------------------------------------------------------------------------------------------------------


class OneArgument:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def process(self, value: int) -> int:
        return value * self.factor


class InOrder:
    def process(self, port: str, value: int, out: Any) -> tuple[str, int, bool]:
        return port, value, out is OUT


class OutOnly:
    def process(self, value: int, out: Any) -> bool:
        return out is OUT and value == 3


class Later:
    async def process(self, port: str, value: int, out: Any) -> tuple[str, int, bool]:
        await asyncio.sleep(0)
        return port, value, out is OUT


class Several:
    def process(self, port: str, value: int) -> Iterator[Any]:
        yield Emit(value, port)
        yield value


class Static:
    @staticmethod
    def process(value: int) -> int:
        return value + 1


@pytest.mark.parametrize(
    ("made", "config", "wanted"),
    [
        (OneArgument, {}, 6),
        (OneArgument, {"factor": 5}, 15),
        (OneArgument(7), {}, 21),
        (functools.partial(OneArgument, factor=4), {}, 12),
        (functools.partial(OneArgument, factor=4), {"factor": 3}, 9),
        (InOrder, {}, ("in", 3, True)),
        (OutOnly, {}, True),
        (Later, {}, ("in", 3, True)),
        (Static, {}, 4),
    ],
)
def test_a_class_may_spell_process_as_it_likes(made: Any, config: dict[str, Any], wanted: Any) -> None:
    assert call(made, 3, config) == wanted


def test_a_generator_method_gives_many() -> None:
    first, second = call(Several)
    assert (first.value, first.port, second) == (3, "in", 3)


class Whole:
    def __init__(self, port: int = 80) -> None:
        self.port = port
        self.seen: list[Any] = []

    def open(self) -> None:
        self.seen.append("open")

    def process(self, value: Any) -> None:
        self.seen.append(value)

    def finish(self, out: Any) -> None:
        self.seen.append(out)

    def snapshot(self) -> list[Any]:
        return list(self.seen)

    def restore(self, state: list[Any]) -> None:
        self.seen = state

    async def close(self) -> None:
        self.seen.append("close")


def test_the_hooks_of_a_class_are_found_and_may_leave_out_their_argument() -> None:
    whole = Whole()
    found = bound(whole)
    hooks = (found.open, found.finish, found.snapshot, found.restore, found.close)
    assert all(hook is not None for hook in hooks)
    assert found.open is not None
    assert found.finish is not None
    found.open(CONTEXT)
    found.finish(OUT)
    assert whole.seen == ["open", OUT]
    plain = bound(twice)
    assert [plain.open, plain.finish, plain.snapshot, plain.restore, plain.close] == [None] * 5


class Needs:
    def __init__(self, path: str) -> None:
        raise ValueError(f"{path} is no good")

    def process(self, value: Any) -> Any:
        return value


class Produces:
    def __init__(self, count: int = 2) -> None:
        self.count = count

    def produce(self) -> Iterator[int]:
        return iter(range(self.count))


@pytest.mark.parametrize(
    ("made", "config", "wanted"),
    [
        (OneArgument, {"fac": 1}, "has no setting 'fac'; it takes factor"),
        (InOrder, {"fac": 1}, "has no setting 'fac'; it takes nothing"),
        (Whole, {"host": "x"}, "has no setting 'host'; it takes port"),
        (OneArgument(), {"factor": 1}, "is an object and takes no configuration, but was given factor"),
        (Needs, {"path": "p"}, "refused its configuration: p is no good"),
        (Produces, {}, "has inputs, but its class has no `process`"),
        (int, {}, "has inputs, but its class has no `process`"),
    ],
)
def test_what_a_class_cannot_be_given_is_refused(made: Any, config: dict[str, Any], wanted: str) -> None:
    assert refused(made, config) == f"node n: {wanted}"


def test_a_setting_that_is_missing_is_named_and_the_cause_kept() -> None:
    with pytest.raises(OperatorLoadError, match=r"refused its configuration: .*'path'") as caught:
        bound(Needs)
    assert isinstance(caught.value.__cause__, TypeError)


# --- sources ------------------------------------------------------------------------------------------------------


def count_to(count: int = 3, *, out: Any = None, context: Any = None) -> Iterator[Any]:
    yield from range(count)
    yield (out is OUT, context is CONTEXT)


async def count_later(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


class ProducesLater:
    async def produce(self) -> AsyncIterator[int]:
        yield 1
        yield 2


@pytest.mark.parametrize(
    ("made", "config", "wanted"),
    [
        (count_to, {}, [0, 1, 2, (True, True)]),
        (count_to, {"count": 1}, [0, (True, True)]),
        (count_to, {"count": 0, "out": 1}, [(False, True)]),
        (functools.partial(count_to, 1), {}, [0, (True, True)]),
        (count_later, {"count": 2}, [0, 1]),
        (lambda: [4, 5], {}, [4, 5]),
        (Produces, {"count": 3}, [0, 1, 2]),
        (Produces(1), {}, [0]),
        (ProducesLater, {}, [1, 2]),
    ],
)
def test_a_source_is_a_generator_a_function_or_a_class(made: Any, config: dict[str, Any], wanted: list[Any]) -> None:
    assert draw(made, config) == wanted


def test_a_source_that_lacks_a_setting_or_produce_is_refused() -> None:
    assert refused(count_later, source=True) == "node n: needs a setting for count"
    assert refused(OneArgument, source=True) == "node n: has no inputs, but its class has no `produce`"
    assert refused(count_later, {"cuont": 1}, source=True) == "node n: has no setting 'cuont'; it takes count"


# --- per: record --------------------------------------------------------------------------------------------------

BATCH = pa.RecordBatch.from_pydict({"a": [1, 2, 3], "b": ["x", "y", "z"]})


def by_row(made: Callable[..., Any], value: Any, config: dict[str, Any] | None = None) -> Any:
    found = bound(made, config)
    per_record(found)
    result = found.handler("in")(value)
    if found.is_async:
        result = asyncio.run(result)
    return list(result) if found.many else result


def test_each_row_is_a_dict_and_the_results_are_one_batch() -> None:
    def odd(row: dict[str, Any], factor: int = 1) -> dict[str, Any] | None:
        return {"c": row["a"] * factor} if row["a"] % 2 else None

    assert by_row(odd, BATCH, {"factor": 10}).to_pydict() == {"c": [10, 30]}


def test_a_port_aware_and_an_asynchronous_operator_work_by_row_too() -> None:
    class Named:
        async def process(self, port: str, value: dict[str, Any], out: Any) -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"port": port, "a": value["a"], "out": out is OUT}

    found = by_row(Named, BATCH.slice(1))
    assert found.to_pylist() == [{"port": "in", "a": 2, "out": True}, {"port": "in", "a": 3, "out": True}]


def test_a_generator_gives_any_number_of_rows_for_each() -> None:
    def repeat(row: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        for _ in range(row["a"] - 1):
            yield {"b": row["b"]}
        yield None

    (found,) = by_row(repeat, BATCH)
    assert found.to_pydict() == {"b": ["y", "z", "z"]}
    assert by_row(repeat, BATCH.slice(0, 1)) == []


def test_no_row_means_no_batch() -> None:
    def nothing(row: dict[str, Any]) -> None:
        assert row

    assert by_row(nothing, BATCH) is None
    assert by_row(nothing, BATCH.slice(0, 0)) is None


def test_a_value_that_is_no_batch_is_handed_over_as_it_is() -> None:
    assert by_row(LAMBDAS[0], 3) == 4
    assert by_row(later, 3) == 3
    assert by_row(several, 3) == [3, 4]


def test_a_row_that_is_no_dict_and_a_source_are_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="a row must be a dict of column to value, not int"):
        by_row(operator.itemgetter("a"), BATCH)
    with pytest.raises(OperatorLoadError, match="is a source, so `per: record` has no meaning for it"):
        per_record(bound(count_to, source=True))
