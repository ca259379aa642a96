"""map, filter and select: one Arrow batch in, at most one out.

Everything is bound when the first batch of a schema arrives; after that a batch costs its kernels and little more.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowbridge.operators.batch import BatchOperator
from flowbridge.operators.expression import Expression
from flowbridge.operators.fault import ConfigError, ExpressionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbridge.contracts import Outputs


def _expressions(what: str, given: Any) -> dict[str, Expression]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{what} must be a mapping of new columns to expressions, and not empty")
    found: dict[str, Expression] = {}
    for name, text in given.items():
        if not isinstance(name, str):
            raise ConfigError(f"{what}: the column name {name!r} is no text")
        try:
            found[name] = Expression(text if isinstance(text, str) else repr(text))
        except ExpressionError as error:
            raise ConfigError(f"{what}.{name}: {error}") from error
    return found


class _Transform(BatchOperator):
    """`process` runs `_run`, which `_bind` prepares for one schema."""

    def __init__(self) -> None:
        super().__init__()
        self._schema: Any = None
        self._run: Callable[[Any], Any]

    def process(self, port: str, value: Any, out: Outputs) -> Any:
        """The new batch, for port ``out``; None when no row is left."""
        try:
            schema = value.schema
        except AttributeError:
            self._refuse(port, value)
        if self._schema is None or not schema.equals(self._schema):
            self._rebind(port, value)
        return self._run(value)

    def _rebind(self, port: str, value: Any) -> None:
        if not isinstance(value, pa.RecordBatch):
            self._refuse(port, value)
        self._run = self._bind(value.schema)
        self._schema = value.schema

    def _bind(self, schema: pa.Schema) -> Callable[[Any], Any]:
        raise NotImplementedError


class Map(_Transform):
    """Adds columns, or replaces them in their place. Every expression sees the batch as it came in."""

    def __init__(self, *, columns: Mapping[str, str]) -> None:
        super().__init__()
        self._expressions = _expressions("columns", columns)

    def _bind(self, schema: pa.Schema) -> Callable[[Any], Any]:
        steps: list[tuple[int, Any, Callable[[Any], Any]]] = []
        for name, expression in self._expressions.items():
            bound = expression.bind(schema)
            steps.append((schema.get_field_index(name), pa.field(name, bound.type), bound))

        def run(batch: Any) -> Any:
            result = batch
            for index, field, evaluate in steps:
                if index < 0:
                    result = result.append_column(field, evaluate(batch))
                else:
                    result = result.set_column(index, field, evaluate(batch))
            return result

        return run


class Filter(_Transform):
    """Lets the rows through for which an expression is true; a batch without such a row is not sent."""

    def __init__(self, *, where: str) -> None:
        super().__init__()
        self._where = Expression(where)

    def _bind(self, schema: pa.Schema) -> Callable[[Any], Any]:
        evaluate = self._where.bind(schema)
        if not (pa.types.is_boolean(evaluate.type) or pa.types.is_null(evaluate.type)):
            raise ExpressionError(self._where.text, f"must give true or false, not {evaluate.type}")

        def run(batch: Any) -> Any:
            mask = evaluate(batch)
            kept = mask.true_count if mask.null_count < len(mask) else 0
            if kept == batch.num_rows and kept:
                return batch
            return batch.filter(mask) if kept else None

        return run


class Select(_Transform):
    """Keeps some columns, in the order given, or makes new ones by expressions."""

    def __init__(self, *, columns: Sequence[str] | Mapping[str, str]) -> None:
        super().__init__()
        self._expressions: dict[str, Expression] | None = None
        self._names: list[str] = []
        if isinstance(columns, dict):
            self._expressions = _expressions("columns", columns)
        elif isinstance(columns, list) and columns and all(type(name) is str for name in columns):
            self._names = list(columns)
            twice = next((name for name in columns if columns.count(name) > 1), None)
            if twice is not None:
                raise ConfigError(f"columns: {twice} stands there twice")
        else:
            raise ConfigError("columns must be a list of columns, or a mapping of new columns to expressions")

    def _bind(self, schema: pa.Schema) -> Callable[[Any], Any]:
        if self._expressions is None:
            return self._bind_names(schema)
        bound = {name: expression.bind(schema) for name, expression in self._expressions.items()}
        made = pa.schema([pa.field(name, expression.type) for name, expression in bound.items()])
        evaluates = list(bound.values())

        def run(batch: Any) -> Any:
            return pa.RecordBatch.from_arrays([evaluate(batch) for evaluate in evaluates], schema=made)

        return run

    def _bind_names(self, schema: pa.Schema) -> Callable[[Any], Any]:
        for name in self._names:
            if schema.get_field_index(name) < 0:
                raise self._mismatch("in", f"the batch has no column {name}{did_you_mean(name, list(schema.names))}")
        indexes: Any = [schema.get_field_index(name) for name in self._names]

        def run(batch: Any) -> Any:
            return batch.select(indexes)

        return run
