"""NodeRunner: runs one operator, from its inputs to its outputs, until its inputs end.

The loop is: take what is ready, ask the TimeManager what comes next, run it, send what it gave. A synchronous operator
is called directly, many messages per turn of the event loop; an asynchronous one is awaited message by message and cut
off at the message's deadline.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from flowbridge.emit import Emit
from flowbridge.envelope import Envelope
from flowbridge.errors import DeadlineExceeded, FlowbridgeError, OperatorError, WouldBlock
from flowbridge.limits import SLICE_ITEMS_MAX
from flowbridge.plan import OnError, Policy
from flowbridge.runtime.call import NOTHING, SPECIAL, in_thread, retries, retry_delay_ns, said, until_deadline
from flowbridge.runtime.inlet import Intake
from flowbridge.runtime.pump import pump_for
from flowbridge.runtime.slice import Slice, slice_ns
from flowbridge.runtime.snapshots import Snapshots
from flowbridge.time.manager import Run, TimeManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from flowbridge.contracts import Clock, EventBus, Instrument
    from flowbridge.envelope import TraceContext
    from flowbridge.plan import PluginManifest
    from flowbridge.report import NodeReport
    from flowbridge.runtime.binding import Bound, Handler
    from flowbridge.runtime.context import Context, Outbox
    from flowbridge.runtime.inlet import Inlet
    from flowbridge.runtime.outlet import Edge
    from flowbridge.runtime.path import PathBook
    from flowbridge.runtime.producer import Producer
    from flowbridge.runtime.pump import Pump
    from flowbridge.runtime.sender import Sender
    from flowbridge.runtime.turn import Turns


class NodeRunner:
    """Runs one node; after a failure it can be equipped with a new operator and run again.

    Promises: every message taken is settled, or given back when `run` ends early. Does not promise: to return while a
    synchronous operator runs; that is not interrupted, but counted when it finishes late.
    """

    def __init__(
        self,
        manifest: PluginManifest,
        *,
        inlets: Sequence[Inlet],
        timers: Sequence[Edge],
        sender: Sender,
        producer: Producer | None,
        bus: EventBus,
        clock: Clock,
        report: NodeReport,
        paths: PathBook,
        turns: Turns,
        instrument: Instrument | None = None,
        owns_loop: bool = False,
    ) -> None:
        """`owns_loop`: nothing else runs on this loop that could not wait for `SLICE_NS_MAX`."""
        self.manifest = manifest
        self.node = manifest.node
        self.report = report
        self.snapshots = Snapshots(manifest, inlets, clock, self._notify)
        self._sender = sender
        self._producer = producer
        self._clock = clock
        self._bus = bus
        self._paths = paths
        self._turns = turns
        self._timers = tuple(timers)
        self._instrument = instrument
        self._owns_loop = owns_loop
        self._pump: Pump | None = None
        self._is_last = sender.is_last
        self._manager: TimeManager[Envelope] = TimeManager()
        self._intake = Intake(inlets, self._manager, paths, self._notify)
        self._waking: asyncio.Future[None] | None = None
        self._news = True
        self._has_asked = False  # it sleeps, and its turn is asked for
        self._has_turn = False  # it was woken because it is its turn
        self._draining = False
        self._left_out = 0
        self._handlers: dict[str, Handler] = {}
        self._loop: asyncio.AbstractEventLoop
        self._bound: Bound
        self._outbox: Outbox
        self._context: Context

    # --- life -------------------------------------------------------------------------------------------------------

    def equip(self, bound: Bound, context: Context, outbox: Outbox) -> None:
        """Give it the operator to run. Raises: OperatorLoadError."""
        self.snapshots.check(bound)
        self._bound, self._context, self._outbox = bound, context, outbox
        self._handlers = {}

    def drain(self) -> None:
        """Start nothing new: timers stop, a source yields no more, and a node that only the bus feeds leaves it.

        What came before is handled first. A node with other inputs leaves the bus when these have ended.
        """
        self._draining = True
        self._intake.drain()
        if self._producer is not None:
            self._producer.drain()
        self._notify()

    @property
    def is_source(self) -> bool:
        """Whether messages start here only."""
        return self._producer is not None

    @property
    def has_timers(self) -> bool:
        """Whether a timer wakes it."""
        return bool(self._timers)

    @property
    def inlets(self) -> Sequence[Inlet]:
        """The routes that end here."""
        return self._intake.inlets

    async def run(self) -> None:
        """Handle messages until every input has ended and everything was sent; `end` then ends the outputs.

        Raises: OperatorError when the operator failed and its manifest says so; BrokenError when a consumer is gone.
        """
        if self._producer is not None:
            await self._producer.run(
                self._bound, self._outbox, None if self.manifest.snapshot_ns is None else self._keep
            )
        else:
            await self._consume()
        if self._bound.finish is not None:
            last = await self.hook(self._bound.finish, self._outbox)
            if last is not None:
                await self.hook(self._finish_with, last if inspect.isgenerator(last) else (last,))
            await self._sender.send_outbox(self._outbox, None, None)

    def _finish_with(self, last: Iterable[Any]) -> None:
        """Send what `finish` returned or yields, as `process` does."""
        for value in last:
            if type(value) is Emit:
                self._outbox.emit(value.value, value.port, deadline_ns=value.deadline_ns, priority=value.priority)
            elif value is not None:
                self._outbox.emit(value)

    async def end(self) -> None:
        """Send what is left and end every output: those that read from here see the end of the stream."""
        await self._sender.finish()

    def abandon(self) -> None:
        """Count what was made but can no longer be sent."""
        self._sender.abandon()

    async def hook(self, hook: Callable[..., Any], *args: Any) -> Any:
        """Call an optional part of the operator, plain or async; what it raises becomes an OperatorError."""
        try:
            result = hook(*args)
            return await result if inspect.isawaitable(result) else result
        except FlowbridgeError:
            raise
        except Exception as error:
            name = getattr(hook, "__name__", "hook")
            raise OperatorError(self.node, f"{name}: {said(error)}") from error

    async def send_now(self, value: Any, port: str) -> None:
        """`out.send` of an asynchronous operator; what it emitted before goes first."""
        like = self._context.envelope
        await self._sender.send_outbox(self._outbox, like, None if like is None else like.trace)
        parent = self._sender.starting(self._clock.now_ns()) if like is None else like
        await self._sender.send(Emit(value, port), parent, parent.trace)

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        manager, intake, clock_ns = self._manager, self._intake, self._clock.now_ns
        waiting = self._bound.is_async or self.manifest.thread
        work = self._work_waiting if waiting else self._work
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call in CPython 3.11
        outlet = self._sender.outlets.get("out")
        pump = self._pump = None
        if self._owns_loop and not waiting and not self._timers:
            pump = self._pump = pump_for(self._clock, self._bound, intake, self._sender.outlets.values())
        intake.listen()
        self._start_timers()
        is_held = False  # the manager has work
        try:
            while True:
                if pump is not None and not is_held and (run := await pump.take(outlet)) is not None:
                    await self._handle(work, run)
                    continue
                if self._timers and not self._draining:
                    self._tick(clock_ns())
                intake.gather(clock_ns())
                urgency = manager.urgency()
                if urgency is not None:
                    if not self._has_turn:
                        await self._turns.take(*urgency)
                        intake.gather(clock_ns())
                    self._has_turn = False
                    now_ns = clock_ns()
                    # Handle no more than can be sent on: what is not taken can still be overtaken, or dropped.
                    room = SLICE_ITEMS_MAX if outlet is None else outlet.room(urgency[0])
                    run = manager.pop(now_ns=now_ns, limit=min(intake.limit, room))
                    if manager.has_expired:
                        intake.expire_held(now_ns)
                    if run is not None:
                        await self._handle(work, run)
                    is_held = pump is not None and bool(manager.waiting)
                elif self._intake.has_ended:
                    await self._intake.tell_gaps(self.hook, self._bound.on_gap)
                    await self.snapshots.finish(self.hook, self._bound.snapshot)
                    return
                else:
                    self._has_turn = False
                    await self._rest()
        finally:
            intake.return_held()
            if pump is not None:
                pump.leave()

    async def _handle(self, work: Callable[[Run[Envelope]], Awaitable[None]], run: Run[Envelope]) -> None:
        """Handle messages, after what is missing before them was told; take a snapshot if it is time."""
        if self._intake.gaps:
            try:
                await self._intake.tell_gaps(self.hook, self._bound.on_gap)
            except BaseException:
                self._intake.give_back(run)
                raise
        await work(run)
        if self.manifest.snapshot_ns is not None:
            await self._keep()

    async def _keep(self) -> None:
        await self.snapshots.keep(self.hook, self._bound.snapshot)

    async def _rest(self) -> None:
        """Nothing is to be done: sleep, but for a snapshot that inputs wait for."""
        if self.snapshots.is_settling:
            await self._keep()
        await self._wait()

    def _notify(self) -> None:
        """Something arrived or ended. A sleeping node that has work is woken when it is its turn."""
        self._news = True
        waking = self._waking
        if waking is None or waking.done() or self._has_asked:
            return
        lane = self._intake.lane()
        if lane is None:
            waking.set_result(None)
        else:
            self._has_asked = True
            self._turns.ask(waking, lane, self._clock.now_ns())

    def _wake(self) -> None:
        self._news = True
        if self._waking is not None and not self._waking.done():
            self._waking.set_result(None)

    async def _wait(self) -> None:
        """Sleep until there is news or a timer is due. True in `_has_turn` when it was woken by a turn."""
        if not self._news:
            if self._pump is not None:
                self._pump.pause()
            waking = self._waking = self._loop.create_future()
            until_ns = None if self._draining else self._manager.next_wakeup_ns()
            if self.snapshots.is_settling:
                until_ns = self.snapshots.wake_by(until_ns)
            alarm = None if until_ns is None else self._clock.call_at(until_ns, self._wake)
            try:
                await waking
            finally:
                self._waking = None
                self._has_turn, self._has_asked = self._has_asked, False
                if alarm is not None:
                    alarm.cancel()
                if self._pump is not None:
                    self._pump.resume()
        self._news = False

    def _start_timers(self) -> None:
        now_ns = self._clock.now_ns()
        for index, edge in enumerate(self._timers):
            period_ns = edge.route.period_ns
            assert period_ns is not None, f"route {edge.route.id} has no period"
            self._manager.add_timer(index, period_ns=period_ns, start_ns=now_ns + period_ns)

    def _tick(self, now_ns: int) -> None:
        """Put due ticks into the timer inputs. A tick starts when it was due, however late it is looked at."""
        for tick in self._manager.poll(now_ns=now_ns):
            edge = self._timers[tick.timer]
            like = self._sender.starting(tick.at_ns)
            edge.add(tick.index, like, 0, now_ns, None, None)
            if not edge.push():
                edge.drop(Policy.DROP_NEWEST.value)  # a timer never waits

    # --- synchronous operators: the hot path ------------------------------------------------------------------------

    async def _work(self, run: Run[Envelope]) -> None:
        """Run a synchronous operator over consecutive messages of one route.

        Plain results are collected and sent together when the slice ends: nobody could take them sooner, because this
        loop lets no other task run.
        """
        inlet = self._intake.inlets[run.stream]
        handler = self._handler(inlet)
        context, outbox, clock_ns = self._context, self._outbox, self._clock.now_ns
        outlet = self._sender.outlets.get("out")
        part = Slice(outlet)
        collects = outlet is not None and not outlet.is_special and not inlet.route.reply and not self._bound.many
        check = None if outlet is None or self._bound.many else outlet.check
        done = 0
        now_ns = clock_ns()
        slice_ends_ns = now_ns + slice_ns(run.items[0].deadline_ns - now_ns)
        try:
            for envelope in run.items:
                if now_ns >= slice_ends_ns:
                    break
                done += 1
                if envelope.deadline_ns <= now_ns:
                    part.late.append(envelope)
                    continue
                context.envelope = envelope
                part.waits.append(now_ns - envelope.sent_ns)
                try:
                    result = handler(envelope.payload)
                    if check is not None and result is not None and type(result) is not Emit:
                        check(result)
                except Exception as error:
                    await part.send()
                    result = await self._failed(error, inlet, envelope, handler, now_ns)
                end_ns = clock_ns()
                part.busy.append(end_ns - now_ns)
                part.ends.append(end_ns)
                if end_ns >= envelope.deadline_ns:
                    inlet.books.missed.executing += 1
                if (
                    collects
                    and not outbox.entries
                    and envelope.trace is None
                    and envelope.headers is None
                    and type(result) not in SPECIAL
                ):
                    part.results.append(result)
                    part.likes.append(envelope)
                    part.times_ns.append(end_ns)
                elif outbox.entries or result is not None or envelope.trace is not None:
                    await part.send()
                    await self._deliver(result, inlet, envelope, now_ns, end_ns)
                    end_ns = clock_ns()
                now_ns = end_ns
            await part.send()
        finally:
            self._close(inlet, run, done, part)

    # --- operators that wait ----------------------------------------------------------------------------------------

    async def _work_waiting(self, run: Run[Envelope]) -> None:
        """Run an asynchronous or threaded operator over consecutive messages, each cut off at its deadline."""
        inlet = self._intake.inlets[run.stream]
        handler = self._handler(inlet)
        part = Slice(None)
        done = 0
        try:
            for envelope in run.items:
                now_ns = self._clock.now_ns()
                done += 1
                if envelope.deadline_ns <= now_ns:
                    part.late.append(envelope)
                    continue
                self._context.envelope = envelope
                part.waits.append(now_ns - envelope.sent_ns)
                try:
                    result = await self._call(handler, inlet, envelope)
                except Exception as error:
                    if isinstance(error, DeadlineExceeded) and self._clock.now_ns() >= envelope.deadline_ns:
                        result = NOTHING  # begun and given up; a deadline of the operator's own is a failure
                        part.cut.append(envelope)
                        self._trace(inlet, envelope, now_ns, self._clock.now_ns(), error)
                    else:
                        result = await self._failed(error, inlet, envelope, handler, now_ns)
                end_ns = self._clock.now_ns()
                part.busy.append(end_ns - now_ns)
                if not part.cut or part.cut[-1] is not envelope:
                    part.ends.append(end_ns)
                if end_ns >= envelope.deadline_ns:
                    inlet.books.missed.executing += 1
                await self._deliver(result, inlet, envelope, now_ns, end_ns)
        finally:
            self._close(inlet, run, done, part)

    async def _call(self, handler: Handler, inlet: Inlet, envelope: Envelope) -> Any:
        if self._bound.is_async:
            where = f"node {self.node}, port {inlet.port}, message {envelope.seq}"
            return await until_deadline(handler(envelope.payload), envelope.deadline_ns, self._clock, where)
        # A thread cannot be cut off: it is waited for, and counted when it is late.
        return await asyncio.get_running_loop().run_in_executor(None, in_thread, handler, envelope.payload)

    # --- common to both ---------------------------------------------------------------------------------------------

    def _handler(self, inlet: Inlet) -> Handler:
        handler = self._handlers.get(inlet.port)
        if handler is None:
            handler = self._handlers[inlet.port] = self._bound.handler(inlet.port)
        return handler

    def _close(self, inlet: Inlet, run: Run[Envelope], done: int, part: Slice) -> None:
        """Settle what was handled, give back what was not, and enter the times."""
        self._context.envelope = None
        part.line_up()
        handled = run.items
        if done < len(handled):
            self._intake.give_back(Run(run.stream, handled[done:]))
            handled = handled[:done]
        inlet.source.settle(handled, expired=len(part.late))
        given_up = [*part.late, *part.cut]
        for envelope in given_up:
            self._paths.lost(envelope)
        inlet.books.latency.extend(part.waits)
        if self._is_last:
            ran = [envelope for envelope in handled if envelope not in given_up] if given_up else handled
            self._paths.ended(ran[: len(part.ends)], part.ends)
        if part.busy:
            self.report.latency.extend(part.busy)
            self.report.processed += len(part.busy)
            self._intake.learn(len(part.busy), sum(part.busy))

    async def _failed(self, error: Exception, inlet: Inlet, envelope: Envelope, handler: Handler, began_ns: int) -> Any:
        """Repeat a call as the manifest says; then leave the message out, or fail the node."""
        policy = self.manifest.retry
        for attempt in range(1, policy.max + 2):
            self._outbox.entries.clear()
            self.report.errors += 1
            resume_ns = self._clock.now_ns() + retry_delay_ns(policy, attempt)
            if attempt > policy.max or not retries(error, policy) or resume_ns >= envelope.deadline_ns:
                break
            await self._clock.sleep_until(resume_ns)
            self._context.envelope = envelope
            try:
                if self._bound.is_async or self.manifest.thread:
                    return await self._call(handler, inlet, envelope)
                return handler(envelope.payload)
            except Exception as again:
                error = again
                if isinstance(error, DeadlineExceeded) and self._clock.now_ns() >= envelope.deadline_ns:
                    self._trace(inlet, envelope, began_ns, self._clock.now_ns(), error)
                    return NOTHING
        self._trace(inlet, envelope, began_ns, self._clock.now_ns(), error)
        self._give_up(error, inlet, envelope)
        return NOTHING

    def _give_up(self, error: Exception, inlet: Inlet, envelope: Envelope) -> None:
        named = isinstance(error, OperatorError) and error.node == self.node
        failure = error if named else OperatorError(self.node, said(error), port=inlet.port, seq=envelope.seq)
        if self.manifest.on_error is OnError.SKIP:
            self._left_out += 1
            if not self._left_out & (self._left_out - 1):  # the 1st, 2nd, 4th, 8th ...: a log must not be a flood
                count = f"; {self._left_out} messages left out so far" if self._left_out > 1 else "; it is left out"
                self._context.log.warning("%s%s", failure, count)
        elif named:
            raise failure
        else:
            raise failure from error

    async def _deliver(self, result: Any, inlet: Inlet, envelope: Envelope, started_ns: int, ended_ns: int) -> None:
        """Send whatever a call gave, wherever it is to go; a route that refuses it is a failure of this message."""
        if result is NOTHING:
            self._outbox.entries.clear()
            return
        trace = self._trace(inlet, envelope, started_ns, ended_ns)
        try:
            if inlet.route.reply and envelope.headers is not None and "reply_to" in envelope.headers:
                await self._bus.reply(envelope, Envelope(result, envelope.priority, envelope.deadline_ns))
                result = None
            if self._outbox.entries:
                await self._sender.send_outbox(self._outbox, envelope, trace)
            if result is not None:
                for value in result if self._bound.many else (result,):
                    await self._sender.send(value, envelope, trace)
        except (WouldBlock, OperatorError) as error:
            self.report.errors += 1
            self._give_up(error, inlet, envelope)

    def _trace(
        self, inlet: Inlet, envelope: Envelope, started_ns: int, ended_ns: int, error: Exception | None = None
    ) -> TraceContext | None:
        if envelope.trace is None or self._instrument is None:
            return envelope.trace
        return self._instrument.hop(self.node, inlet.route.id, envelope, started_ns, ended_ns, error) or envelope.trace
