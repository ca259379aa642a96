"""An operator of one's own: any function will do, and one that waits is declared `async`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

if TYPE_CHECKING:
    import pyarrow as pa


async def slow_audit(batch: pa.RecordBatch, *, wait_ms: float = 15.0) -> dict[str, Any]:
    """Summarise a batch as a slow service would: it waits, and meanwhile the rest of the flow goes on.

    It cannot keep up with the source. Its input drops the oldest batches, and the report counts them.
    """
    await asyncio.sleep(wait_ms / 1000)
    delays = batch.column("dep_delay")
    return {
        "first_hour": str(batch.column("time_hour")[0].as_py()),
        "flights": batch.num_rows,
        "cancelled": delays.null_count,
        "worst_delay_min": pc.max(delays).as_py(),
    }
