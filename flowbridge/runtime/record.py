"""`per: record`: an operator that handles rows as dicts, on a route that carries Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.codec.arrow import from_rows, is_batch, to_rows
from flowbridge.errors import EncodeError, OperatorLoadError, SchemaMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.runtime.binding import Bound


def per_record(bound: Bound, schema: Any) -> None:
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
            return from_rows(rows, schema)
        except EncodeError as error:
            raise SchemaMismatchError(node, str(error), port="out") from error

    bound.process = _async_rows(process, gather) if bound.is_async else _rows(process, gather, many=bound.many)


def _rows(process: Callable[..., Any], gather: Callable[[list[Any]], Any], *, many: bool) -> Callable[..., Any]:
    def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return process(value, **given)
        results: list[Any] = []
        for row in to_rows(value):
            result = process(row, **given)
            if result is not None:
                results.extend(result) if many else results.append(result)
        gathered = gather(results)
        if many:
            return [] if gathered is None else [gathered]
        return gathered

    return handle


def _async_rows(process: Callable[..., Any], gather: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    async def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return await process(value, **given)
        results = [await process(row, **given) for row in to_rows(value)]
        return gather([result for result in results if result is not None])

    return handle
