"""``flowbridge bench``: measurements on this machine, through the real parts."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation
from flowbridge.cli.tls_options import EngineOption  # noqa: TC001 - Typer reads the annotation
from flowbridge.cli.units import (
    BENCH_BYTES_MAX,
    duration_text,
    parse_duration_ns,
    parse_size_bytes,
    rate_text,
    size_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.cli.bench_measure import Measured, Trial

app = typer.Typer(
    help="Measure on this machine.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


def complete_tier(incomplete: str) -> list[str]:
    """Installed tiers that continue what is typed."""
    from flowbridge import registry

    return [tier for tier in registry.transports() if tier.startswith(incomplete)]


def parse_sizes(text: str) -> list[int]:
    """Bytes of ``64,1KiB``. BadParameter for what is no size or too large."""
    sizes: list[int] = []
    for part in text.split(","):
        try:
            size_bytes = parse_size_bytes(part)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        if size_bytes > BENCH_BYTES_MAX:
            raise typer.BadParameter(f"{part}: at most {size_text(BENCH_BYTES_MAX)} are measured")
        sizes.append(size_bytes)
    return sizes


def _sizes(text: str) -> str:
    parse_sizes(text)
    return text


def _deadline(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_duration_ns(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


TierOption: TypeAlias = Annotated[str, typer.Option(help="The tier to measure.", autocompletion=complete_tier)]
SizeOption: TypeAlias = Annotated[
    str, typer.Option(metavar="SIZES", callback=_sizes, help="Sizes of a payload, as 64,1KiB,1MiB.")
]
CountOption: TypeAlias = Annotated[int, typer.Option(min=1, max=10**9, help="Messages of each size.")]
DeadlineOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="DURATION", callback=_deadline, help="Give every message this deadline.")
]
RawOption: TypeAlias = Annotated[bool, typer.Option("--raw", help="The bare ring of the ipc tier, without its port.")]
ProcessesOption: TypeAlias = Annotated[
    int, typer.Option(min=0, max=2, help="1 or 2; 0 for 2 where the tier joins processes.", show_default=False)
]


@app.command("flow")
def bench_flow(
    tier: TierOption = "inproc",
    size: SizeOption = "64,1KiB",
    count: CountOption = 20_000,
    deadline: DeadlineOption = None,
    json: JsonOption = False,
) -> None:
    """A whole flow, as fast as it goes.

    A source, a relay and a sink in a host; latency is from the source to the return of the sink.
    """
    from flowbridge.cli.bench_flow import measure

    _run("flow", measure, tier, size, count, deadline, json=json)


@app.command("rtt")
def bench_rtt(
    tier: TierOption = "inproc",
    size: SizeOption = "64,1KiB",
    count: CountOption = 20_000,
    deadline: DeadlineOption = None,
    processes: ProcessesOption = 0,
    raw: RawOption = False,
    engine: EngineOption = "auto",
    json: JsonOption = False,
) -> None:
    """Round trips, one after the other.

    In one process they are requests over the event bus; between two, a message to a data port and one back. Latency is
    from a request to its reply.
    """
    from flowbridge.cli import bench_pair, bench_transport

    if _in_two(tier, processes, raw=raw, engine=engine):
        _run("rtt", partial(bench_pair.measure_rtt, raw=raw), tier, size, count, deadline, engine=engine, json=json)
    else:
        _run("rtt", bench_transport.measure_rtt, tier, size, count, deadline, json=json)


@app.command("data")
def bench_data(
    tier: TierOption = "inproc",
    size: SizeOption = "64,1KiB",
    count: CountOption = 200_000,
    deadline: DeadlineOption = None,
    processes: ProcessesOption = 0,
    raw: RawOption = False,
    engine: EngineOption = "auto",
    json: JsonOption = False,
) -> None:
    """One data port with a full queue.

    Latency is from the offer of the sender to the take of the receiver.
    """
    from flowbridge.cli import bench_pair, bench_transport

    if _in_two(tier, processes, raw=raw, engine=engine):
        _run("data", partial(bench_pair.measure_data, raw=raw), tier, size, count, deadline, engine=engine, json=json)
    else:
        _run("data", bench_transport.measure_data, tier, size, count, deadline, json=json)


def _in_two(tier: str, processes: int, *, raw: bool, engine: str) -> bool:
    """Whether to measure between two processes. BadParameter for what cannot be."""
    from flowbridge.cli.bench_pair import can_split

    if raw and (tier != "ipc" or processes == 1):
        raise typer.BadParameter("the ring joins two processes: --raw goes with --tier ipc", param_hint="--raw")
    possible = can_split(tier)
    if processes == 2 and not possible:
        raise typer.BadParameter(f"the tier {tier} joins no two processes", param_hint="--processes")
    if processes == 1 and engine == "qh3":
        raise typer.BadParameter("qh3 is measured between two processes", param_hint="--engine")
    return possible and processes != 1


def _run(
    name: str,
    measure: Callable[[Trial], Measured],
    tier: str,
    size: str,
    count: int,
    deadline: str | None,
    *,
    engine: str = "auto",
    json: bool,
) -> None:
    from flowbridge.cli.bench_measure import Trial, surroundings

    deadline_ns = None if deadline is None else parse_duration_ns(deadline)
    trials = [Trial(tier, size_bytes, count, deadline_ns, engine) for size_bytes in parse_sizes(size)]
    results: list[Measured] = []
    for trial in trials:
        if sys.stderr.isatty():
            output.say(f"{name} {tier}: {count:,} messages of {size_text(trial.size_bytes)} ...")
        results.append(measure(trial))
    if json:
        rows = [result.to_json() for result in results]
        output.print_json({"bench": name, "tier": tier, **surroundings(), "results": rows})
    else:
        _print(name, tier, results)


def _print(name: str, tier: str, results: list[Measured]) -> None:
    from flowbridge.cli.table import print_table, table

    titles = (">size", ">messages", ">rate", ">per second", ">cpu/message", ">p50", ">p95", ">p99", ">max", ">missed")
    rows = table(f"{name} {tier}", *titles)
    for result in results:
        latency: list[Any] = [result.latency.percentile(f) for f in (0.5, 0.95, 0.99)]
        rows.add_row(
            size_text(result.trial.size_bytes),
            f"{result.delivered:,}",
            rate_text(result.per_second),
            size_text(round(result.per_second * result.trial.size_bytes)),
            duration_text(result.cpu_ns_per_message),
            *map(duration_text, latency),
            duration_text(result.latency.max if latency[0] is not None else None),
            f"{result.missed:,}",
        )
    print_table(output.console(sys.stdout), rows)
