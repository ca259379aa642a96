"""Writes docs/reference/metrics.md: ``python -m flowbridge.telemetry.names_page > docs/reference/metrics.md``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowbridge.telemetry.fold import BOUNDS_NS
from flowbridge.telemetry.names import ATTRIBUTES, METRICS, SPANS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HEAD = """\
# Metrics, spans and attributes

Written from `flowbridge/telemetry/names.py`; change it there.

The messaging conventions of OpenTelemetry are still in Development. Until they are stable, flowbridge uses names of its
own under `flowbridge.`, and of the common attributes only stable ones.
"""

_METRICS = f"""
## Metrics

Counters and histograms are cumulative from the start of the run. In Prometheus a label has the name given here; in
OpenTelemetry the attribute is `flowbridge.` and that name. OpenTelemetry for Python has no observable histogram: it
gets gauges named `<name>.quantile` with the attribute `flowbridge.quantile` (`0.5`, `0.95`, `0.99`) in place of each.

Histograms in Prometheus have {len(BOUNDS_NS)} `le` bounds, from {BOUNDS_NS[0] / 1e9:g} to {BOUNDS_NS[-1] / 1e9:g}
seconds and the same for every flow. They are folded from finer buckets: a value less than 3.2 % below a bound may be
counted one bound higher, never lower.
"""

_SPANS = """
## Spans

Only sampled messages have spans. The ids travel with the message as W3C Trace Context.
"""


def page() -> str:
    """The whole page."""
    metrics = (
        (f"`{m.name}`", f"`{m.prometheus}`", m.kind, m.unit or "-", ", ".join(m.labels), m.text) for m in METRICS
    )
    spans = ((f"`{s.name}`", s.kind, ", ".join(f"`{a}`" for a in s.attributes), s.text) for s in SPANS)
    attributes = ((f"`{a.name}`", a.type, a.unit or "-", a.text) for a in ATTRIBUTES)
    return (
        _HEAD
        + _METRICS
        + _table(("OpenTelemetry", "Prometheus", "Kind", "Unit", "Labels", "Meaning"), metrics)
        + _SPANS
        + _table(("Name", "Kind", "Attributes", "Meaning"), spans)
        + "\n## Attributes\n"
        + _table(("Name", "Type", "Unit", "Meaning"), attributes)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
