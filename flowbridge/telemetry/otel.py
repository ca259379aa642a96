"""Joins a run to OpenTelemetry: metrics from its report, spans of sampled messages.

The standard variables hold: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_BSP_*`. `OTEL_TRACES_SAMPLER` does not: `trace_ratio` decides, once per message.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Protocol, cast

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowbridge.errors import LocalProtocolError, MissingExtraError
from flowbridge.telemetry.otel_far import FarSpans
from flowbridge.telemetry.otel_metrics import SharedReport, register
from flowbridge.telemetry.otel_trace import OtelInstrument, SystemTime
from flowbridge.telemetry.snapshot import ReportReader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import Instrument
    from flowbridge.report import RunReport
    from flowbridge.telemetry.otel_trace import TimeSource

_logger: Final = logging.getLogger(__name__)

CLOSE_NS_MAX: Final = 5 * 10**9
"""What is not delivered by then is given up, and the log says so."""


def open_telemetry(
    flow_name: str,
    report: Callable[[], RunReport],
    *,
    trace_ratio: float,
    otlp: bool,
    endpoint: str | None = None,
    clock: TimeSource | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Telemetry:
    """Start exporting; close what is returned when the run has ended.

    With `otlp`, metrics and spans go by OTLP over HTTP to `endpoint` (a base such as ``http://localhost:4318``) or
    where the environment says. Without it, they go to the providers that the application has set, if it has.
    `trace_ratio` is the share of messages that start here which are traced; 0 turns tracing off altogether.
    `clock` must be the one the run uses. `loop` is as in `ReportReader`.

    Raises: LocalProtocolError for a ratio outside 0..1 or an endpoint that is no HTTP address; MissingExtraError
    without the exporter.
    """
    if not 0 <= trace_ratio <= 1:
        raise LocalProtocolError(f"trace ratio {trace_ratio} is not between 0 and 1")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise LocalProtocolError(f"OTLP endpoint {endpoint!r} does not begin with http:// or https://")
    time = clock if clock is not None else SystemTime()
    shared = SharedReport(ReportReader(report, loop=loop), time)
    providers = _otlp_providers(flow_name, endpoint, tracing=trace_ratio > 0) if otlp else _Providers(None, None)
    release = version("flowbridge")
    meters = providers.meters if providers.meters is not None else metrics.get_meter_provider()
    register(meters.get_meter("flowbridge", release), shared)
    if trace_ratio == 0:
        return Telemetry((), shared, providers)
    tracers = providers.tracers if providers.tracers is not None else trace.get_tracer_provider()
    tracer = tracers.get_tracer("flowbridge", release)
    far = FarSpans(tracer, flow_name, InstrumentationScope("flowbridge", release))
    return Telemetry((OtelInstrument(tracer, flow_name, trace_ratio, time, far=far),), shared, providers)


class _Closes(Protocol):
    def shutdown(self) -> None: ...


class Telemetry:
    """An open connection to OpenTelemetry; `instruments` are for the runners."""

    def __init__(self, instruments: Sequence[Instrument], shared: SharedReport, providers: _Providers) -> None:
        self.instruments: Final = instruments
        self._shared: Final = shared
        self._providers: Final = providers
        self._closed = False

    def close(self, timeout_ns: int = CLOSE_NS_MAX) -> None:
        """Export the last values and every span, then stop. Idempotent.

        Waits at most about `timeout_ns` (and what the loop takes to give a snapshot): from a coroutine call it with
        `asyncio.to_thread`, unless nothing else is left to run. The providers of the application are left open.
        """
        if self._closed:
            return
        self._closed = True
        self._shared.freeze()
        worker = threading.Thread(target=self._providers.shutdown, name="flowbridge-otel-close", daemon=True)
        worker.start()
        worker.join(timeout_ns / 1e9)
        if worker.is_alive():
            _logger.warning("OpenTelemetry: not everything was exported within %g s", timeout_ns / 1e9)
            self._providers.give_up()
        self._shared.end()


@dataclass(frozen=True, slots=True)
class _Providers:
    """Providers of our own, or None for those of the application."""

    meters: MeterProvider | None
    tracers: TracerProvider | None
    exporters: tuple[_Closes, ...] = ()

    def shutdown(self) -> None:
        try:
            if self.tracers is not None:
                self.tracers.shutdown()
            if self.meters is not None:
                cast("_Closes", self.meters).shutdown()
        except Exception as error:
            _logger.warning("OpenTelemetry: %s", error)

    def give_up(self) -> None:
        """Break off the retries of the exporters."""
        for exporter in self.exporters:
            exporter.shutdown()


def _otlp_providers(flow_name: str, endpoint: str | None, *, tracing: bool) -> _Providers:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtraError("otel", "export by OTLP") from error
    base = endpoint.rstrip("/") if endpoint else None
    resource = _resource(flow_name)
    metric_exporter = OTLPMetricExporter(endpoint=f"{base}/v1/metrics" if base else None)
    meters = MeterProvider([PeriodicExportingMetricReader(metric_exporter)], resource, shutdown_on_exit=False)
    if not tracing:
        return _Providers(meters, None, (metric_exporter,))
    span_exporter = OTLPSpanExporter(endpoint=f"{base}/v1/traces" if base else None)
    tracers = TracerProvider(ParentBased(ALWAYS_ON), resource, shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(span_exporter))
    return _Providers(meters, tracers, (span_exporter, metric_exporter))


def _resource(flow_name: str) -> Resource:
    """What the environment says; the flow's name as `service.name` when it names no service."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: flow_name}))
    return resource
