"""The event loop of ``flowbridge run``: the host, the signals, the clock and the telemetry around one flow."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbridge.cli.run_stop import GuardedStdout, Stopper
from flowbridge.host import Host
from flowbridge.report import RunReport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence

    from flowbridge.addresses import NodeAddress, TlsFiles
    from flowbridge.cli.run_view import View
    from flowbridge.contracts import Instrument
    from flowbridge.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks of a run."""

    for_ns: int | None
    drain_ns: int
    metrics_port: int | None
    otlp: bool
    trace_ratio: float
    nodes: Mapping[str, NodeAddress] = field(default_factory=dict[str, "NodeAddress"])
    tls: TlsFiles | None = None
    engine: str = "auto"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: its report, whether a signal ended it, and whether stdout was closed on it."""

    report: RunReport
    signalled: bool
    reader_gone: bool


def run_on_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on uvloop where it is installed, else on asyncio's own loop."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        from uvloop import new_event_loop
    except ImportError:
        pass  # not on every system
    else:
        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def run_flow(plan: Plan, options: Options, view: View) -> Ending:
    """Run a plan to its end. Raises what the host raises when the plan cannot be started."""
    from flowbridge.telemetry.log import configure_logging

    configure_logging(json=False, level="WARNING")
    ending = run_on_loop(_run(plan, options, view))
    assert isinstance(ending, Ending)
    return ending


async def _run(plan: Plan, options: Options, view: View) -> Ending:
    loop = asyncio.get_running_loop()
    current: list[Callable[[], RunReport]] = [lambda: RunReport(plan.name, plan.digest, "running", 0.0)]

    def latest() -> RunReport:
        return current[0]()

    with view, Stopper(loop, view.note) as stopper:
        stdout = GuardedStdout(view.stdout, lambda: loop.call_soon_threadsafe(stopper.drain))
        try:
            async with _telemetry(plan, options, latest, view) as instruments:
                report = await _host(plan, options, view, stopper, stdout, instruments, current)
        except asyncio.CancelledError:
            if not stopper.signals:
                raise
            report = RunReport(plan.name, plan.digest, "interrupted", 0.0)  # stopped before it had started
    if stopper.signals and report.status == "done":
        report.status = "interrupted"
    return Ending(report, bool(stopper.signals), stdout.gone)


async def _host(
    plan: Plan,
    options: Options,
    view: View,
    stopper: Stopper,
    stdout: GuardedStdout,
    instruments: Sequence[Instrument],
    current: list[Callable[[], RunReport]],
) -> RunReport:
    loop = asyncio.get_running_loop()
    async with Host(
        instruments=instruments,
        drain_ns=options.drain_ns,
        stdout=stdout.as_text_io(),
        nodes=options.nodes,
        tls=options.tls,
        engine=options.engine,
    ) as host:
        flow = await host.start(plan)
        current[0] = flow.report
        stopper.attach(flow)
        shown = asyncio.create_task(_show(view, flow.report, stdout))
        timer = None if options.for_ns is None else loop.call_later(options.for_ns / 1e9, flow.drain, "done")
        try:
            return await flow.wait()
        finally:
            if timer is not None:
                timer.cancel()
            shown.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await shown


async def _show(view: View, report: Callable[[], RunReport], stdout: GuardedStdout) -> None:
    """Refresh the view while the flow runs, never spending more than a twentieth of the time on it."""
    loop = asyncio.get_running_loop()
    pause_s = view.pause_s
    while True:
        await asyncio.sleep(pause_s)
        started = loop.time()
        view.refresh(report())
        stdout.flush()
        pause_s = max(view.pause_s, 20 * (loop.time() - started))


@contextlib.asynccontextmanager
async def _telemetry(
    plan: Plan, options: Options, report: Callable[[], RunReport], view: View
) -> AsyncGenerator[Sequence[Instrument]]:
    """Metrics and traces for the length of a run; nothing of them is imported unless it is asked for."""
    async with contextlib.AsyncExitStack() as stack:
        if options.metrics_port is not None:
            from flowbridge.telemetry.serve import MetricsServer

            server = MetricsServer(options.metrics_port, report)
            server.start()
            # In a thread: both ends wait for threads of their own that may ask this loop for a report.
            stack.push_async_callback(asyncio.to_thread, server.stop)
            view.note(f"metrics: http://127.0.0.1:{server.port}/metrics")
        instruments: Sequence[Instrument] = ()
        if options.otlp or options.trace_ratio:
            from flowbridge.telemetry.otel import open_telemetry

            telemetry = open_telemetry(plan.name, report, trace_ratio=options.trace_ratio, otlp=options.otlp)
            stack.push_async_callback(asyncio.to_thread, telemetry.close)
            instruments = telemetry.instruments
        yield instruments
