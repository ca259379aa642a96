"""`per: record`: an operator that handles rows as dicts, on a route that carries Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.codec.arrow import from_rows, is_batch, to_rows
from flowbridge.errors import OperatorLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowbridge.runtime.binding import Bound


def per_record(bound: Bound) -> None:
    """Let the operator be called once per row; the dicts it gives are gathered into one batch again.

    Rows for which it gives None are left out. A value that is no Arrow batch is handed to it as it is.
    """
    process = bound.process
    if process is None:
        raise OperatorLoadError(bound.node, "is a source, so `per: record` has no meaning for it")
    if bound.many:
        bound.process = _many_rows(process)
    else:
        bound.process = _async_rows(process) if bound.is_async else _rows(process)


def _rows(process: Callable[..., Any]) -> Callable[..., Any]:
    def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return process(value, **given)
        results = [process(row, **given) for row in to_rows(value)]
        return from_rows([result for result in results if result is not None])

    return handle


def _many_rows(process: Callable[..., Any]) -> Callable[..., Any]:
    def handle(value: Any, **given: Any) -> Iterator[Any]:
        if not is_batch(value):
            yield from process(value, **given)
            return
        rows = [result for row in to_rows(value) for result in process(row, **given) if result is not None]
        if rows:
            yield from_rows(rows)

    return handle


def _async_rows(process: Callable[..., Any]) -> Callable[..., Any]:
    async def handle(value: Any, **given: Any) -> Any:
        if not is_batch(value):
            return await process(value, **given)
        results = [await process(row, **given) for row in to_rows(value)]
        return from_rows([result for result in results if result is not None])

    return handle
