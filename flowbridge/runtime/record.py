"""`per: record`: an operator that handles rows as dicts, on a route that carries Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.codec.arrow import from_rows, is_batch, to_rows
from flowbridge.errors import EncodeError, OperatorLoadError, SchemaMismatchError
from flowbridge.runtime.outlet import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.runtime.binding import Bound


def per_record(bound: Bound, schema: Any = None) -> None:
    """Let the operator be called once per row; the dicts it gives are gathered into one batch again.

    Rows for which it gives None are left out. A value that is no Arrow batch is handed to it as it is. `schema` is
    that of port ``out``, None when it has none; rows that do not fit it raise SchemaMismatchError.
    """
    process = bound.process
    if process is None:
        raise OperatorLoadError(bound.node, "is a source, so `per: record` has no meaning for it")
    node = bound.node

    def gather(rows: list[Any]) -> Any:
        try:
            return from_rows([row for row in rows if row is not None], schema)
        except EncodeError as error:
            declared = f"is declared as {one_line(schema)}, but was given other rows: " if schema is not None else ""
            raise SchemaMismatchError(node, f"{declared}{error}", port="out") from error

    if bound.many:
        bound.process = _many_rows(process, gather)
    else:
        bound.process = _async_rows(process, gather) if bound.is_async else _rows(process, gather)


def _rows(process: Callable[..., Any], gather: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return process(value, **given)
        return gather([process(row, **given) for row in to_rows(value)])

    return handle


def _many_rows(process: Callable[..., Any], gather: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def handle(value: Any, **given: Any) -> list[Any]:
        if not is_batch(value):
            results: list[Any] = process(value, **given)
            return results
        batch = gather([result for row in to_rows(value) for result in process(row, **given)])
        return [] if batch is None else [batch]

    return handle


def _async_rows(process: Callable[..., Any], gather: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    async def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return await process(value, **given)
        return gather([await process(row, **given) for row in to_rows(value)])

    return handle
