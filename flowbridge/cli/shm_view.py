"""``flowbridge shm ls`` for people: one table for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.markup import escape

from flowbridge.cli.table import print_rest, print_table, table
from flowbridge.cli.units import count_text, duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rich.console import Console

    from flowbridge.shm.listing import Channel, Listing, Pool, Process

_COMMAND_CHARACTERS_MAX: Final = 28
_LEASES_MAX: Final = 30
_NAMES_MAX: Final = 3
_STYLES: Final = {"dead": "red", "stopped": "yellow", "unknown": "dim"}


def print_listing(console: Console, listing: Listing, live: Sequence[Path], stale: Sequence[Path]) -> None:
    """Print everything that was found; what stands still or is dead is marked."""
    console.print(_summary(listing), soft_wrap=True)
    _print_channels(console, listing.channels)
    _print_leases(console, listing.channels)
    _print_pools(console, listing.pools)
    _print_problems(console, [one for one in (*listing.channels, *listing.others) if one.problem])
    _print_named(console, listing, live, stale)
    if listing.unread:
        console.print(f"\n[dim]processes that could not be looked into: {listing.unread:,}[/dim]", soft_wrap=True)


def _summary(listing: Listing) -> str:
    segments: list[Channel | Pool] = [*listing.channels, *listing.pools, *listing.others]
    folder = ""
    if listing.folder_bytes:
        free, size = size_text(listing.folder_free_bytes), size_text(listing.folder_bytes)
        folder = f"; /dev/shm has {free} free of {size}"
    if not segments:
        return f"no shared memory of flowbridge is in use{folder}"
    used = sum(one.allocated_bytes or 0 for one in segments)
    at_least = "at least " if any(one.allocated_bytes is None for one in segments) else ""
    most = sum(one.size_bytes for one in segments)
    seen = sum(one.sight is not None for one in listing.channels)
    counts = f"{count_text(seen, 'channel')}, {count_text(len(listing.pools), 'pool')}"
    return f"{counts}: {at_least}{size_text(used)} in memory, at most {size_text(most)}{folder}"


def _who(process: Process | None) -> str:
    if process is None:
        return "-"
    # A folder says little where there is room for a few characters.
    command = " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in process.command.split())
    if len(command) > _COMMAND_CHARACTERS_MAX:
        command = command[: _COMMAND_CHARACTERS_MAX - 3] + "..."
    style = _STYLES.get(process.state)
    mark = f" [{style}]{process.state}[/{style}]" if style else ""
    return f"{process.pid}{mark}" + (f" {escape(command)}" if command else "")


def _print_channels(console: Console, channels: Iterable[Channel]) -> None:
    rows = table("Channels", "channel", "state", "producer", "consumer", ">ring", ">waiting", ">slots out", ">memory")
    for channel in channels:
        sight = channel.sight
        if sight is None:
            continue
        left = " (left)" if sight.consumer_left else ""
        style = "" if sight.state in {"open", "closed"} else "red"
        rows.add_row(
            escape(channel.name),
            f"[{style}]{sight.state}[/{style}]" if style else sight.state,
            _who(channel.producer),
            _who(channel.consumer) + left,
            f"{100 * sight.ring_used_bytes / sight.ring_bytes:.0f} % of {size_text(sight.ring_bytes)}",
            f"{sight.waiting_items:,}",
            f"{sight.slots_out:,}{'+' if sight.is_partial else ''}",
            "-" if channel.allocated_bytes is None else size_text(channel.allocated_bytes),
        )
    if rows.row_count:
        print_table(console, rows)


def _print_leases(console: Console, channels: Iterable[Channel]) -> None:
    held = [(lease, channel) for channel in channels for lease in channel.leases]
    held.sort(key=lambda pair: -pair[0].held_ns)
    rows = table("Leases, the longest first", "channel", ">slot", ">size", "held by", ">held for")
    for lease, channel in held[:_LEASES_MAX]:
        rows.add_row(
            escape(channel.name),
            str(lease.slot),
            size_text(lease.slot_bytes),
            _who(channel.consumer),
            duration_text(lease.held_ns),
        )
    if held:
        print_table(console, rows)
        print_rest(console, len(held), _LEASES_MAX, "lease")


def _print_pools(console: Console, pools: Iterable[Pool]) -> None:
    rows = table("Pools", "channels", "producer", ">slots out", ">memory", ">at most", "held open by")
    for pool in pools:
        names = ", ".join(pool.channels[:_NAMES_MAX]) or f"({pool.name})"
        more = len(pool.channels) - _NAMES_MAX
        rows.add_row(
            escape(names) + (f" and {more} more" if more > 0 else ""),
            _who(pool.producer),
            f"{pool.slots_out:,} of {pool.slots:,}" if pool.slots else "-",
            "-" if pool.allocated_bytes is None else size_text(pool.allocated_bytes),
            size_text(pool.size_bytes),
            _pids(pool.holders),
        )
    if rows.row_count:
        print_table(console, rows)


def _pids(processes: Sequence[Process]) -> str:
    return ", ".join(f"{one.pid}" if one.state == "running" else f"{one.pid} {one.state}" for one in processes) or "-"


def _print_problems(console: Console, others: Sequence[Channel]) -> None:
    rows = table("Not to be read", "segment", "name", "held by", ">size", "why")
    for other in others:
        rows.add_row(
            other.id, escape(other.name), _pids(other.holders), size_text(other.size_bytes), f"[red]{other.problem}[/]"
        )
    if others:
        print_table(console, rows)


def _print_named(console: Console, listing: Listing, live: Sequence[Path], stale: Sequence[Path]) -> None:
    rows = table("Names", "path", "kind", "state")
    for one in listing.leftovers:
        state = "[red]left behind[/]" if one.is_removable else one.problem or f"in use by {_pids(one.holders)}"
        rows.add_row(escape(str(one.path)), "segment", state)
    for path in live:
        rows.add_row(escape(str(path)), "socket", "its owner lives")
    for path in stale:
        rows.add_row(escape(str(path)), "socket", "[red]left behind[/]")
    if rows.row_count:
        print_table(console, rows)
    if stale or any(one.is_removable for one in listing.leftovers):
        console.print("\n[dim]flowbridge shm gc removes what was left behind[/dim]")
