"""The report of a run as Prometheus metrics (extra `otel`).

A collector, not live metrics: nothing is counted twice and nothing happens between two scrapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.errors import MissingExtraError
from flowbridge.telemetry.fold import BOUNDS_NS, fold
from flowbridge.telemetry.names import METRICS
from flowbridge.telemetry.readings import histograms, scalars

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as error:
    raise MissingExtraError("otel", "the Prometheus endpoint") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric as Family

    from flowbridge.report import RunReport
    from flowbridge.telemetry.names import Metric

_LE: Final = (*(str(bound / 1e9) for bound in BOUNDS_NS), "+Inf")


class ReportCollector:
    """Implements `prometheus_client.registry.Collector`: reads the report once per scrape."""

    def __init__(self, read: Callable[[], RunReport]) -> None:
        self._read: Final = read

    def describe(self) -> Iterator[Family]:
        """The families without values, so that registering reads no report."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """Every family with its values."""
        report = self._read()
        for metric in METRICS:
            family = _family(metric)
            if isinstance(family, HistogramMetricFamily):
                for labels, histogram in histograms(metric, report):
                    buckets = [(le, float(count)) for le, count in zip(_LE, fold(histogram), strict=True)]
                    family.add_metric(labels, buckets, histogram.sum / 1e9)
            else:
                for labels, value in scalars(metric, report):
                    family.add_metric(labels, value)
            yield family


def registry_of(read: Callable[[], RunReport]) -> CollectorRegistry:
    """A registry of this run alone: the global one belongs to the application."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReportCollector(read))
    return registry


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.prometheus, metric.text, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.prometheus, metric.text, labels=metric.labels)
    return HistogramMetricFamily(metric.prometheus, metric.text, labels=metric.labels)
