"""The tier between machines beside its QUIC engine alone and TLS over TCP: two pinned processes on one machine.

    python benchmarks/quic.py [--repeats 5] [--only rtt-64B,bulk-8900B] [--loop asyncio] [--engine qh3] [--json]

For each workload a table: medians over the repeats, which take turns, and the ratio of flowbridge to each. CPU is that
of both processes, for a message and for a packet that either end has sent; on a machine that is shared only CPU means
something. `mib_per_cpu_s` is the speed of the end that works more, had it its core for itself.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import quic_bare
import quic_ours
from ipc_pair import PLACES, TrialError, cores
from quic_bare import QUIC, TLS
from quic_pair import CROWD, ENGINE, FAR, HOST, LOOP, NEAR, Files

from flowbridge.transports.quic.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable

    Trial = Callable[[], dict[str, float]]

MIB = 1024 * 1024
OURS = quic_ours.NAME
PORTS = f"{OURS}, ports"
OWN_CHOICE = f"{OURS}, own datagrams"
PIECE_BYTES = 64 * 1024


@dataclass(slots=True)
class Workload:
    """What is compared: trials by name, the figure that counts, and the target for its ratio to bare QUIC."""

    name: str
    title: str
    figure: str
    trials: dict[str, Trial]
    target: str
    more_is_better: bool = False
    failed: list[str] = field(default_factory=list)


def workloads(files: Files) -> list[Workload]:
    """All of them, in the order in which they are shown."""
    small = 1_200
    asks: dict[str, Trial] = {
        OURS: partial(quic_ours.requests, files, small, 2_000, 1),
        PORTS: partial(quic_ours.ports, files, small, 2_000),
        **{name: partial(quic_bare.requests, name, files, small, 2_000, 1) for name in (QUIC, TLS)},
    }
    pipelined: dict[str, Trial] = {
        OURS: partial(quic_ours.requests, files, small, 10_000, 64),
        **{name: partial(quic_bare.requests, name, files, small, 10_000, 64) for name in (QUIC, TLS)},
    }
    found = [
        Workload("rtt-64B", "request and reply, one at a time", "rtt_p50_us", asks, "at most 1.25"),
        Workload("pipelined-64B", "64 requests under way", "per_s", pipelined, "5,000 requests/s", more_is_better=True),
    ]
    for size, mib in ((1_200, 4), (8_900, 16), (16_300, 24)):
        bulk: dict[str, Trial] = {OURS: partial(quic_ours.bulk, files, size, PIECE_BYTES, mib * MIB)}
        for name in (QUIC, TLS):
            bulk[name] = partial(quic_bare.bulk, name, files, size, PIECE_BYTES, mib * MIB)
        if size == small:
            bulk[OWN_CHOICE] = partial(quic_ours.bulk, files, None, PIECE_BYTES, 4 * mib * MIB)
        title = f"messages of 64 KiB in datagrams of {size:,} bytes"
        found.append(Workload(f"bulk-{size}B", title, "mib_per_s", bulk, "at least 0.9", more_is_better=True))
    if ENGINE[0] == "qh3":
        return found  # a token is good for one session, so hundreds would need as many
    idle: dict[str, Trial] = {
        OURS: partial(quic_ours.idle, files, 500, 16),
        QUIC: partial(quic_bare.idle, files, 500, 16),
    }
    found.append(Workload("idle-500", "500 idle connections", "kib_far", idle, "at most 100 KiB at either end"))
    return found


def measure(workload: Workload, repeats: int) -> dict[str, dict[str, float]]:
    """Medians by contender; the repeats take turns, so that a busy moment does not fall on one of them."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in workload.trials}
    for _ in range(repeats):
        for name in list(rows):
            try:
                rows[name].append(workload.trials[name]())
            except TrialError as error:
                workload.failed.append(f"{name}: failed, {error}")
                del rows[name]
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in rows.items()
        if runs
    }


def ratios(workload: Workload, found: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """How a contender of ours stands to bare QUIC in each figure that both have."""
    if name not in found or QUIC not in found:
        return {}
    theirs = found[QUIC]
    return {key: value / theirs[key] for key, value in found[name].items() if theirs.get(key)}


def show(workload: Workload, found: dict[str, dict[str, float]]) -> None:
    """One table."""
    print(f"\n{workload.name}: {workload.title} ({workload.figure}: {workload.target})")
    keys = list(dict.fromkeys(key for row in found.values() for key in row))
    print(f"  {'':28}" + "".join(f"{key:>15}" for key in keys))
    for name, row in found.items():
        print(f"  {name:28}" + "".join(f"{row[key]:15.2f}" if key in row else f"{'':15}" for key in keys))
    for name in found:
        if name.startswith(OURS) and (ratio := ratios(workload, found, name)):
            cells = "".join(f"{ratio[key]:15.2f}" if key in ratio else f"{'':15}" for key in keys)
            print(f"  {f'{name} / {QUIC}':28.28}{cells}")
    for line in workload.failed:
        print(f"  {line}")


def as_json(workload: Workload, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One element of `workloads`."""
    return {
        "name": workload.name,
        "title": workload.title,
        "figure": workload.figure,
        "target": workload.target,
        "medians": found,
        "ratios": {name: ratios(workload, found, name) for name in found if name.startswith(OURS)},
        "failed": workload.failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="names of workloads, or how they begin, with commas between them")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--engine", choices=("aioquic", "qh3"), default="aioquic", help="of ours and of bare QUIC")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    PLACES[:] = cores()
    LOOP[0], ENGINE[0] = options.loop, options.engine
    begun = time.monotonic()
    wanted = tuple(name for name in str(options.only).split(",") if name)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        now = dt.datetime.now(dt.UTC)
        names = [NEAR, FAR, *CROWD]
        make_certificates(Path(folder), names, hosts=[HOST], fabric="bench", days=1, force=False, now=now)
        for workload in workloads(Files(Path(folder))):
            if wanted and not workload.name.startswith(wanted):
                continue
            found = measure(workload, options.repeats)
            results.append(as_json(workload, found))
            if not options.json:
                show(workload, found)
            sys.stdout.flush()
    load = os.getloadavg()[0]
    if options.json:
        shown = {
            "repeats": options.repeats,
            "loop": LOOP[0],
            "engine": ENGINE[0],
            "cores": PLACES,
            "load": load,
            "workloads": results,
        }
        print(json.dumps(shown, indent=2))
    else:
        how = f"with {LOOP[0]} and {ENGINE[0]}, load average {load:.1f}"
        print(f"\n{time.monotonic() - begun:.0f} s on cores {PLACES} {how}")


if __name__ == "__main__":
    main()
