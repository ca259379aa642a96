"""The report of a run as observable OpenTelemetry instruments."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from flowbridge.errors import FlowbridgeError
from flowbridge.telemetry.names import METRICS, PREFIX
from flowbridge.telemetry.readings import histograms, scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter

    from flowbridge.report import RunReport
    from flowbridge.telemetry.names import Metric
    from flowbridge.telemetry.otel_trace import TimeSource
    from flowbridge.telemetry.snapshot import ReportReader

_logger: Final = logging.getLogger(__name__)

SNAPSHOT_AGE_NS_MAX: Final = 500_000_000
"""The callbacks of one collection follow each other at once and share one snapshot; a later one takes its own."""

QUANTILES: Final = (("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99))


class SharedReport:
    """One snapshot for all the callbacks of a collection."""

    def __init__(self, reader: ReportReader, clock: TimeSource) -> None:
        self._reader: Final = reader
        self._clock: Final = clock
        self._guard: Final = threading.Lock()
        self._report: RunReport | None = None
        self._read_ns: int | None = None
        self._frozen = False

    def get(self) -> RunReport | None:
        """The snapshot, None (and one line in the log) when the flow does not answer, and after `end`."""
        with self._guard:
            now_ns = self._clock.now_ns()
            if not self._frozen and (self._read_ns is None or now_ns - self._read_ns > SNAPSHOT_AGE_NS_MAX):
                self._report = self._read()
                self._read_ns = self._clock.now_ns()
            return self._report

    def freeze(self) -> None:
        """Take a last snapshot; from now on `get` gives that."""
        report = self._read()
        with self._guard:
            self._frozen = True
            self._report = report or self._report

    def end(self) -> None:
        """Report nothing any more."""
        with self._guard:
            self._frozen = True
            self._report = None

    def _read(self) -> RunReport | None:
        try:
            return self._reader.read()
        except FlowbridgeError as error:
            _logger.warning("metrics are missing from one export: %s", error)
            return None


def register(meter: Meter, shared: SharedReport) -> None:
    """Make one instrument per metric of `names.METRICS`."""
    for metric in METRICS:
        if metric.kind == "counter":
            callback = _scalar_callback(metric, shared)
            meter.create_observable_counter(metric.name, [callback], unit=metric.unit, description=metric.text)
        elif metric.kind == "gauge":
            callback = _scalar_callback(metric, shared)
            meter.create_observable_gauge(metric.name, [callback], unit=metric.unit, description=metric.text)
        else:
            gauge = metric.quantile
            callback = _quantile_callback(metric, shared)
            meter.create_observable_gauge(gauge.name, [callback], unit=gauge.unit, description=gauge.text)


def _scalar_callback(metric: Metric, shared: SharedReport) -> Callable[[CallbackOptions], Iterator[Observation]]:
    keys = _keys(metric)

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        report = shared.get()
        if report is not None:
            for labels, value in scalars(metric, report):
                yield Observation(value, dict(zip(keys, labels, strict=True)))

    return observe


def _quantile_callback(metric: Metric, shared: SharedReport) -> Callable[[CallbackOptions], Iterator[Observation]]:
    keys = _keys(metric.quantile)

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        report = shared.get()
        if report is None:
            return
        for labels, histogram in histograms(metric, report):
            for word, fraction in QUANTILES:
                value_ns = histogram.percentile(fraction)
                if value_ns is not None:
                    yield Observation(value_ns / 1e9, dict(zip(keys, (*labels, word), strict=True)))

    return observe


def _keys(metric: Metric) -> tuple[str, ...]:
    return tuple(PREFIX + label for label in metric.labels)
