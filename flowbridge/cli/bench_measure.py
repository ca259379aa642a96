"""What a benchmark is asked and what it found."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbridge.report import latency_us

if TYPE_CHECKING:
    from flowbridge.time.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement: so many messages of one size on one tier."""

    tier: str
    size_bytes: int
    count: int
    deadline_ns: int | None
    engine: str = "auto"


@dataclass(frozen=True, slots=True)
class Measured:
    """Its result. `cpu_ns` is that of the whole process; `missed` counts messages that were late anywhere."""

    trial: Trial
    delivered: int
    missed: int
    wall_ns: int
    cpu_ns: int
    latency: Histogram

    @property
    def per_second(self) -> float:
        """Messages delivered per second."""
        return self.delivered * 1e9 / self.wall_ns if self.wall_ns else 0.0

    @property
    def cpu_ns_per_message(self) -> float | None:
        """Processor time of one message, both ends together."""
        return self.cpu_ns / self.delivered if self.delivered else None

    def to_json(self) -> dict[str, Any]:
        """One element of ``results``."""
        cpu_ns = self.cpu_ns_per_message
        return {
            "size_bytes": self.trial.size_bytes,
            "count": self.trial.count,
            "delivered": self.delivered,
            "seconds": round(self.wall_ns / 1e9, 6),
            "messages_per_second": round(self.per_second, 1),
            "bytes_per_second": round(self.per_second * self.trial.size_bytes),
            "cpu_ns_per_message": None if cpu_ns is None else round(cpu_ns),
            "latency_us": latency_us(self.latency),
            "deadline_ns": self.trial.deadline_ns,
            "deadline_missed": self.missed,
        }


def surroundings() -> dict[str, Any]:
    """What numbers depend on besides the code."""
    return {
        "python": platform.python_version(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
