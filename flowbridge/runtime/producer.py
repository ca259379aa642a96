"""Runs a source: draws values from its iterator for as long as there is credit, and stops between two of them."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import FlowbridgeError, OperatorError, SchemaMismatchError, WouldBlock
from flowbridge.limits import SLICE_ITEMS_MAX, VIRTUAL_DEADLINE_NS
from flowbridge.runtime.call import said
from flowbridge.runtime.slice import Slice, slice_ns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from flowbridge.contracts import Clock, Instrument
    from flowbridge.envelope import Envelope, TraceContext
    from flowbridge.report import NodeReport
    from flowbridge.runtime.binding import Bound
    from flowbridge.runtime.context import Outbox
    from flowbridge.runtime.sender import Sender
    from flowbridge.runtime.turn import Turns


class Producer:
    """One source node. `drain` lets the value at hand through and draws no more."""

    def __init__(
        self,
        sender: Sender,
        clock: Clock,
        report: NodeReport,
        turns: Turns,
        instrument: Instrument | None,
        *,
        skip: bool,
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._report = report
        self._turns = turns
        self._instrument = instrument
        self._skip = skip  # a value that is refused is left out instead of failing the node
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Draw no more values."""
        self._draining.set()

    async def run(self, bound: Bound, outbox: Outbox, keep: Callable[[], Awaitable[None]] | None) -> None:
        """Draw every value and send it; `keep` takes snapshots, when all that was drawn was sent."""
        assert bound.produce is not None, f"node {bound.node} is no source"
        try:
            made = bound.produce()
            if inspect.isawaitable(made):
                made = await made
            if hasattr(made, "__aiter__"):
                await self._draw_async(made, outbox, keep)
            elif hasattr(made, "__iter__"):
                await self._draw(iter(made), outbox, keep)
            else:
                raise OperatorError(bound.node, f"a source gives an iterable of values, not a {type(made).__name__}")
        except FlowbridgeError:
            self._report.errors += 1
            raise
        except Exception as error:
            self._report.errors += 1
            raise OperatorError(bound.node, said(error)) from error

    async def _draw(self, values: Iterator[Any], outbox: Outbox, keep: Callable[[], Awaitable[None]] | None) -> None:
        sender, instrument, clock_ns = self._sender, self._instrument, self._clock.now_ns
        outlet = sender.outlets.get("out")
        collects = outlet is not None and not outlet.is_special and instrument is None
        part = Slice(outlet)
        lane, lasts_ns = sender.priority, sender.lasts_ns
        length_ns = slice_ns(lasts_ns)
        ahead_ns = VIRTUAL_DEADLINE_NS if lasts_ns == NO_DEADLINE else lasts_ns  # as its messages will be ordered
        await self._turns.take(lane, clock_ns() + ahead_ns)
        slice_ends_ns = clock_ns() + length_ns
        room = SLICE_ITEMS_MAX if outlet is None else min(SLICE_ITEMS_MAX, outlet.room(lane))
        try:
            started_ns = clock_ns()
            for value in values:
                now_ns = clock_ns()
                part.busy.append(now_ns - started_ns)
                if collects and type(value) is not Emit and not outbox.entries:
                    part.results.append(value)
                    part.times_ns.append(now_ns)
                else:
                    await self._push(part)
                    trace = None if instrument is None else instrument.start(sender.node)
                    await self._send(value, sender.starting(now_ns), trace, outbox)
                if self._draining.is_set():
                    break
                if len(part.busy) >= room or now_ns >= slice_ends_ns:
                    await self._push(part)
                    if keep is not None:
                        await keep()
                    await self._turns.take(lane, clock_ns() + ahead_ns)
                    slice_ends_ns = clock_ns() + length_ns
                    room = SLICE_ITEMS_MAX if outlet is None else min(SLICE_ITEMS_MAX, outlet.room(lane))
                started_ns = clock_ns()
            await self._push(part)
        except Exception:
            await self._push(part)  # what was drawn before it failed is good
            raise
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    async def _push(self, part: Slice) -> None:
        """Send what was drawn, waiting for credit."""
        self._report.latency.extend(part.busy)
        self._report.processed += len(part.busy)
        part.busy.clear()
        outlet, values, times_ns = part.outlet, part.results, part.times_ns
        if outlet is None or not values:
            return
        part.results, part.times_ns = [], []
        refused = None if outlet.check is None else self._sort_out(outlet.check, values, times_ns)
        outlet.emit_many(values, self._parents(times_ns), times_ns)
        if not outlet.push():
            await outlet.flush()
        if refused is not None:
            raise refused

    def _sort_out(
        self, check: Callable[[Any], None], values: list[Any], times_ns: list[int]
    ) -> SchemaMismatchError | None:
        """Keep the values that the port carries, all or those before the first misfit, which is returned."""
        fit: list[int] = []
        refused: SchemaMismatchError | None = None
        for index, value in enumerate(values):
            try:
                check(value)
            except SchemaMismatchError as error:
                if not self._skip:
                    refused = error
                    break
                self._report.errors += 1
            else:
                fit.append(index)
        values[:] = [values[index] for index in fit]
        times_ns[:] = [times_ns[index] for index in fit]
        return refused

    def _parents(self, times_ns: list[int]) -> Iterator[Envelope]:
        """What each message inherits from; one object, changed between two, because children copy what they take."""
        like = self._sender.starting(0)
        lasts_ns = like.deadline_ns
        for now_ns in times_ns:
            like.origin_ns = like.sent_ns = now_ns
            if lasts_ns != NO_DEADLINE:
                like.deadline_ns = now_ns + lasts_ns
            yield like

    async def _send(self, value: Any, like: Envelope, trace: TraceContext | None, outbox: Outbox) -> None:
        try:
            await self._sender.send_outbox(outbox, like, trace)
            await self._sender.send(value, like, trace)
        except (WouldBlock, OperatorError) as error:
            self._give_up(error)

    def _give_up(self, error: WouldBlock | OperatorError) -> None:
        if not self._skip:
            raise error
        self._report.errors += 1

    async def _draw_async(
        self, values: AsyncIterator[Any], outbox: Outbox, keep: Callable[[], Awaitable[None]] | None
    ) -> None:
        draining = asyncio.ensure_future(self._draining.wait())
        following: asyncio.Future[Any] | None = None
        try:
            iterator = aiter(values)
            while not self._draining.is_set():
                started_ns = self._clock.now_ns()
                following = asyncio.ensure_future(anext(iterator))
                await asyncio.wait({following, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    break
                try:
                    value = following.result()
                except StopAsyncIteration:
                    break
                now_ns = self._clock.now_ns()
                self._report.latency.record(now_ns - started_ns)
                self._report.processed += 1
                like = self._sender.starting(now_ns)
                trace = None if self._instrument is None else self._instrument.start(self._sender.node)
                await self._send(value, like, trace, outbox)
                if keep is not None:
                    await keep()
        finally:
            for future in (draining, following):
                if future is not None and not future.done():
                    future.cancel()
                    await asyncio.wait({future})
            aclose = getattr(values, "aclose", None)
            if aclose is not None:
                await aclose()
