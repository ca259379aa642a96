"""The raw ring beside its peers, two pinned processes at a time, and what C makes of the same ring.

    pip install 'flowbridge[bench-ipc]'
    python benchmarks/ipc.py [--repeats 5] [--only rtt-64,raw-1MiB] [--together] [--json]

For each workload a table: medians over the repeats, which take turns, and the ratio of flowbridge to the best peer and
to each. CPU is that of all processes of a trial, per message or per round trip. A peer that is not installed, or fails,
is named below its table.

On a virtual machine the wake-up of a core that sleeps can cost more than everything else. With `--together` nobody has
to be woken up on another core, and what is left is the system call and the work. Ratios within one run mean something;
the figures alone are those of a machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipc_ends import BareSocket, Pipe, Ring, SleepingRing, missing
from ipc_pair import PLACES, TrialError, cores
from ipc_peers import Iceoryx, Zenoh, Zmq
from ipc_ping import ping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ipc_ends import Contender

    Trial = Callable[[], dict[str, float]]

HOME = Path(__file__).resolve().parent.parent
KIB, MIB = 1024, 1024 * 1024
OURS = "flowbridge"
PEERS: tuple[Contender, ...] = (BareSocket(), Pipe(), Zmq(), Iceoryx(), Zenoh())
LIMIT = "C ring"


@dataclass(slots=True)
class Workload:
    """What is compared: trials by name, the figure that counts, and the others that are shown."""

    name: str
    title: str
    figure: str
    trials: dict[str, Trial]
    skipped: list[str] = field(default_factory=list)
    more_is_better: bool = False
    against: str = ""
    """The one that the target is about; else the best peer."""


def build_limit(folder: Path) -> Path | None:
    """The C program over the ring's own header; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "ipc_limit"
    source = HOME / "benchmarks" / "ipc_limit.c"
    folders = ["-I", str(HOME / "shm"), "-I", str(HOME / "tests" / "native")]
    subprocess.run([compiler, "-O2", "-std=gnu11", *folders, str(source), "-o", str(program)], check=True)
    return program


def limit(program: Path, size_bytes: int, count: int, *, echo: bool) -> dict[str, float]:
    """One run of the C program."""
    arguments = [size_bytes, count, *PLACES, int(echo)]
    done = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=30)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _with_peers(
    workload: Workload, trial: Callable[[Contender], dict[str, float]], first: Sequence[Contender]
) -> Workload:
    for contender in (*first, *PEERS):
        reason = missing(contender)
        if reason is None:
            workload.trials[contender.name] = partial(trial, contender)
        else:
            workload.skipped.append(reason)
    return workload


def ping_workload(name: str, size_bytes: int, count: int, program: Path | None, *, echo: bool) -> Workload:
    """Round trips of one size, or ways in one direction."""
    title = f"{'round trip' if echo else 'one way'}, {name.partition('-')[2]}, copied in"
    workload = Workload(name, title, "rtt_p50_us" if echo else "one_way_p50_us", {})
    first: list[Contender] = [Ring(), SleepingRing()]
    _with_peers(workload, lambda contender: ping(contender, size_bytes, count, echo=echo), first)
    if size_bytes >= MIB:
        workload.against = "iceoryx2"
    if program is not None:
        workload.trials[LIMIT] = partial(limit, program, size_bytes, count, echo=echo)
    else:
        workload.skipped.append(f"{LIMIT}: skipped, there is no C compiler")
    return workload


def other_workloads() -> list[Workload]:
    """Arrow, computed columns, streams, loops and fan-out."""
    from ipc_arrow import arrow, computed
    from ipc_streams import fan_out, loops, ring_batches, stream

    found: list[Workload] = []
    for label, size_bytes, count in (("1KiB", KIB, 2000), ("64KiB", 64 * KIB, 1500), ("1MiB", MIB, 200)):
        workload = Workload(
            f"arrow-{label}", f"one way, Arrow batch of {label}, encoded and readable", "one_way_p50_us", {}
        )
        found.append(_with_peers(workload, partial(_arrow, arrow, size_bytes, count), [Ring()]))
    for label, size_bytes, count in (("1MiB", MIB, 200), ("16MiB", 16 * MIB, 10)):
        workload = Workload(
            f"computed-{label}", f"one way, {label} computed, by us in a loaned slot", "one_way_p50_us", {}
        )
        workload.against = "iceoryx2"
        trio: tuple[Contender, ...] = (Ring(), BareSocket(), Iceoryx())
        for contender in trio:
            reason = missing(contender)
            if reason is None:
                workload.trials[contender.name] = partial(computed, contender, size_bytes, count)
            else:
                workload.skipped.append(reason)
        found.append(workload)
    streams = Workload("stream-64", "million messages of 64 B per second", "million_per_s", {}, more_is_better=True)
    rates: tuple[tuple[Contender, int], ...] = (
        (Ring(), 300_000),
        (BareSocket(), 60_000),
        (Pipe(), 30_000),
        (Zmq(), 60_000),
    )
    for contender, count in rates:
        reason = missing(contender)
        if reason is None:
            streams.trials[contender.name] = partial(stream, contender, 64, count)
        else:
            streams.skipped.append(reason)
    streams.trials[f"{OURS}, batches of 64"] = partial(ring_batches, 64, 1_000_000)
    asyncio_rtt = Workload("asyncio-64", "round trip of 64 B between two uvloop programs", "rtt_p50_us", {})
    for name in (OURS, "UDS"):
        asyncio_rtt.trials[name] = partial(loops, name, 64, 3000)
    fan = Workload("fan-1MiB", "1 MiB to four readers, until the last has it", "all_p50_us", {}, against="iceoryx2")
    publishers: tuple[Contender, ...] = (Ring(), BareSocket(), Zmq(), Iceoryx())
    for contender in publishers:
        reason = missing(contender)
        if reason is None:
            fan.trials[contender.name] = partial(fan_out, contender.name, MIB, 150)
        else:
            fan.skipped.append(reason)
    return [*found, streams, asyncio_rtt, fan]


def control_workloads() -> list[Workload]:
    """Requests and replies between two processes, one at a time and with twenty under way."""
    from ipc_control import blocking, bus, looped, zmq

    found: list[Workload] = []
    for name, title, under_way, count in (
        ("control-64B", "request and reply of 64 B over the bus of another process", 1, 3000),
        ("control-64B-20", "the same, twenty under way", 20, 10_000),
    ):
        workload = Workload(name, title, "rtt_p50_us", {}, against="UDS, cbor2")
        workload.trials[OURS] = partial(bus, 64, count, under_way)
        workload.trials["UDS, cbor2, uvloop"] = partial(looped, 64, count, under_way)
        if under_way == 1:
            workload.trials["UDS, cbor2"] = partial(blocking, 64, count)
            reason = missing(Zmq())
            if reason is None:
                workload.trials["pyzmq REQ/REP, cbor2"] = partial(zmq, 64, count)
            else:
                workload.skipped.append(reason)
        else:
            workload.against = "UDS, cbor2, uvloop"
        found.append(workload)
    return found


def _arrow(trial: Any, size_bytes: int, count: int, contender: Contender) -> dict[str, float]:
    found: dict[str, float] = trial(contender, size_bytes, count)
    return found


def _sweep(before: set[str]) -> None:
    """Remove what zenoh leaves of a session whose process has ended."""
    for name in set(os.listdir("/dev/shm")) - before:
        if name.endswith(".zenoh"):
            Path("/dev/shm", name).unlink(missing_ok=True)


def measure(workload: Workload, repeats: int) -> dict[str, dict[str, float]]:
    """Medians by contender; the repeats take turns, so that a busy moment does not fall on one of them."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in workload.trials}
    for _ in range(repeats):
        for name in list(rows):
            before = set(os.listdir("/dev/shm"))
            try:
                rows[name].append(workload.trials[name]())
            except (TrialError, subprocess.SubprocessError) as error:
                workload.skipped.append(f"{name}: failed, {error}")
                del rows[name]
            if name == Zenoh.name:
                _sweep(before)
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in rows.items()
        if runs
    }


def ratio_to(workload: Workload, found: dict[str, dict[str, float]], name: str) -> float | None:
    """How flowbridge stands to another: below one it takes less time, or does more of it per second."""
    if OURS not in found or name not in found:
        return None
    ours, theirs = found[OURS][workload.figure], found[name][workload.figure]
    return theirs / ours if workload.more_is_better else ours / theirs


def best_peer(workload: Workload, found: dict[str, dict[str, float]]) -> str | None:
    """The peer to be compared with."""
    if workload.against:
        return workload.against if workload.against in found else None
    peers = [name for name in found if not name.startswith(OURS) and name != LIMIT]
    pick = max if workload.more_is_better else min
    return pick(peers, key=lambda name: found[name][workload.figure]) if peers else None


def show(workload: Workload, found: dict[str, dict[str, float]]) -> None:
    """One table."""
    best = best_peer(workload, found)
    print(f"\n{workload.name}: {workload.title}")
    keys = list(dict.fromkeys(key for row in found.values() for key in row))
    print(f"  {'':24}" + "".join(f"{key:>16}" for key in keys) + f"{'we / it':>10}")
    for name, row in found.items():
        cells = "".join(f"{row[key]:16.2f}" if key in row else f"{'':16}" for key in keys)
        ratio = None if name == OURS else ratio_to(workload, found, name)
        print(
            f"  {name:24}{cells}{'' if ratio is None else f'{ratio:.2f}':>10}{'  <- compared' if name == best else ''}"
        )
    for line in workload.skipped:
        print(f"  {line}")


def as_json(workload: Workload, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One element of `workloads`."""
    best = best_peer(workload, found)
    return {
        "name": workload.name,
        "title": workload.title,
        "figure": workload.figure,
        "medians": found,
        "compared_with": best,
        "ratio": None if best is None else ratio_to(workload, found, best),
        "ratio_to_c": ratio_to(workload, found, LIMIT),
        "skipped": workload.skipped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="names of workloads, or how they begin, with commas between them")
    parser.add_argument("--together", action="store_true", help="both processes on one core, not on two")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    PLACES[:] = cores(together=options.together)
    begun = time.monotonic()
    wanted = tuple(name for name in str(options.only).split(",") if name)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build_limit(Path(folder))
        pings = [
            ping_workload("rtt-64B", 64, 3000, program, echo=True),
            ping_workload("raw-1KiB", KIB, 2000, program, echo=False),
            ping_workload("raw-64KiB", 64 * KIB, 1500, program, echo=False),
            ping_workload("raw-1MiB", MIB, 200, program, echo=False),
            ping_workload("raw-16MiB", 16 * MIB, 12, program, echo=False),
        ]
        for workload in [*pings, *other_workloads(), *control_workloads()]:
            if wanted and not workload.name.startswith(wanted):
                continue
            found = measure(workload, options.repeats)
            results.append(as_json(workload, found))
            if not options.json:
                show(workload, found)
            sys.stdout.flush()
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"repeats": options.repeats, "cores": PLACES, "load": load, "workloads": results}, indent=2))
    else:
        print(f"\n{time.monotonic() - begun:.0f} s on cores {PLACES}, load average {load:.1f}")


if __name__ == "__main__":
    main()
