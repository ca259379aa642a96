"""``flowbridge shm``: what shared memory is in use, by whom, and what dead processes left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbridge.shm.listing import Channel, Leftover, Listing, Pool, Process
    from flowbridge.transports.uds.place import SocketPlace

app = typer.Typer(
    help="Look at shared memory, and clean up after dead processes.", rich_markup_mode=None, no_args_is_help=True
)


@app.command("ls")
def list_memory(json: JsonOption = False) -> None:
    """Channels, leases, pools and leftovers of this user's processes. Nothing is disturbed."""
    from flowbridge.shm.listing import list_segments

    listing = list_segments()
    live, stale = _sockets()
    if json:
        document = _document(listing)
        document["sockets"] = [{"path": str(path), "owner_lives": path in live} for path in sorted(live + stale)]
        output.print_json(document)
    else:
        from flowbridge.cli.shm_view import print_listing

        print_listing(output.console(sys.stdout), listing, live, stale)


@app.command("gc")
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove the names, sockets and locks that only dead processes left.

    Segments without a name need no cleaning: the kernel frees them with their last process.
    """
    from flowbridge.shm.listing import list_segments

    removed: list[str] = []
    left: list[dict[str, str]] = []
    failed = False
    for leftover in list_segments().leftovers:
        why = _why_left(leftover)
        if not why:
            why = _remove(leftover, dry_run)
            failed = failed or bool(why)
        if why:
            left.append({"path": str(leftover.path), "why": why})
        else:
            removed.append(str(leftover.path))
    failed = _collect_sockets(removed, left, dry_run=dry_run) or failed
    if json:
        output.print_json({"dry_run": dry_run, "removed": removed, "left": left, "ok": not failed})
    else:
        verb = "would remove" if dry_run else "removed"
        sys.stdout.write("".join(f"{verb} {path}\n" for path in removed))
        sys.stdout.write("".join(f"left {entry['path']}: {entry['why']}\n" for entry in left))
        if not removed:
            sys.stdout.write("nothing to remove\n")
    raise typer.Exit(output.FAILED if failed else output.DONE)


def _why_left(leftover: Leftover) -> str:
    if leftover.problem:
        return leftover.problem
    pids = [str(process.pid) for process in leftover.holders if process.state != "dead"]
    return f"in use by process {', '.join(pids)}" if pids else ""


def _remove(leftover: Leftover, dry_run: bool) -> str:
    """Remove a name; why it could not be removed, or nothing."""
    from flowbridge.errors import ResourceError
    from flowbridge.shm.listing import remove_leftover

    try:
        if dry_run or remove_leftover(leftover):
            return ""
    except ResourceError as error:
        return str(error)
    return ""  # somebody else removed it


def _place() -> SocketPlace | None:
    """Where this user's sockets are; None, with a word to the user, when that is not a place to be trusted."""
    from flowbridge.errors import FlowbridgeError
    from flowbridge.transports.uds.place import SocketPlace

    try:
        return SocketPlace.of_user()
    except FlowbridgeError as error:
        output.say(f"sockets were not looked at: {error}")
        return None


def _sockets() -> tuple[list[Path], list[Path]]:
    """Sockets whose owner lives, and those that dead owners left."""
    place = _place()
    if place is None:
        return [], []
    stale = place.stale_sockets()
    return [path for path in place.sockets() if path not in stale], stale


def _collect_sockets(removed: list[str], left: list[dict[str, str]], *, dry_run: bool) -> bool:
    """Do the same for sockets; whether something failed."""
    from flowbridge.errors import ResourceError

    place = _place()
    if place is None:
        return False
    failed = False
    gone: list[Path] = []
    try:
        gone = place.stale_sockets() if dry_run else place.remove_stale()
    except ResourceError as error:
        left.append({"path": str(place.folder), "why": str(error)})
        failed = True
    removed.extend(map(str, gone))
    left.extend({"path": str(path), "why": "its owner lives"} for path in place.sockets() if path not in gone)
    return failed


# --- JSON ---------------------------------------------------------------------------------------------------------


def _document(listing: Listing) -> dict[str, Any]:
    return {
        "channels": [_channel(channel) for channel in listing.channels],
        "pools": [_pool(pool) for pool in listing.pools],
        "others": [_channel(other) for other in listing.others],
        "leftovers": [
            {"path": str(one.path), "bytes": one.size_bytes, "removable": one.is_removable, "why": _why_left(one)}
            for one in listing.leftovers
        ],
        "dev_shm": {"bytes": listing.folder_bytes, "free_bytes": listing.folder_free_bytes},
        "processes_not_read": listing.unread,
    }


def _process(process: Process | None) -> dict[str, Any] | None:
    return None if process is None else {"pid": process.pid, "command": process.command, "state": process.state}


def _holders(holders: Sequence[Process]) -> list[dict[str, Any] | None]:
    return [_process(holder) for holder in holders]


def _channel(channel: Channel) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": channel.id,
        "name": channel.name,
        "problem": channel.problem,
        "bytes": channel.size_bytes,
        "allocated_bytes": channel.allocated_bytes,
        "holders": _holders(channel.holders),
    }
    sight = channel.sight
    if sight is not None:
        holder = None if channel.consumer is None else channel.consumer.pid
        document |= {
            "uuid": sight.uuid,
            "state": sight.state,
            "sealed": sight.sealed,
            "producer": _process(channel.producer),
            "consumer": _process(channel.consumer),
            "consumer_left": sight.consumer_left,
            "pool": channel.pool_id,
            "ring_bytes": sight.ring_bytes,
            "ring_used_bytes": sight.ring_used_bytes,
            "sent": sight.sent,
            "waiting": sight.waiting_items,
            "slots_out": sight.slots_out,
            "leases": [
                {"slot": lease.slot, "slot_bytes": lease.slot_bytes, "held_ns": lease.held_ns, "holder_pid": holder}
                for lease in channel.leases
            ],
            "partial": sight.is_partial,
        }
    return document


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "id": pool.id,
        "name": pool.name,
        "bytes": pool.size_bytes,
        "allocated_bytes": pool.allocated_bytes,
        "producer": _process(pool.producer),
        "holders": _holders(pool.holders),
        "channels": [*pool.channels],
        "slots": pool.slots,
        "slots_out": pool.slots_out,
    }
