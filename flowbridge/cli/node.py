"""``flowbridge node``: run parts of flows for hosts on other machines."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation
from flowbridge.cli.tls_options import (
    AuthorityOption,
    CertOption,
    EngineOption,
    KeyOption,
    TokenKeysOption,
    check_path,
    tls_files,
)
from flowbridge.cli.units import parse_duration_ns

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from flowbridge.addresses import NodeAddress, TlsFiles
    from flowbridge.machines.node_policy import NodePolicy
    from flowbridge.node import Node, NodeEvent

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

app = typer.Typer(
    help="Run parts of flows for hosts on other machines.", rich_markup_mode=None, invoke_without_command=True
)


@app.callback()
def node(
    context: typer.Context,
    listen: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen, as quic://0.0.0.0:4433.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Its name, as in the certificate.")] = None,
    cert: CertOption = None,
    key: KeyOption = None,
    ca: AuthorityOption = None,
    token_keys: TokenKeysOption = None,
    engine: EngineOption = "auto",
    policy: Annotated[str | None, typer.Option(metavar="FILE", help="What hosts may run and use here (YAML).")] = None,
    drain_timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="A drain that takes longer cuts off what still runs.")
    ] = "10s",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and event on stdout.")] = False,
) -> None:
    """Run parts of flows for hosts on other machines.

    Without a policy hosts of the own fabric may run built-in operators that touch no file, and nothing else.
    Ctrl-C or SIGTERM drains: hosts are asked to end their flows. A second one ends at once, with exit code 130.
    """
    if context.invoked_subcommand is not None:
        return
    if listen is None or name is None:
        raise output.WrongUse("needs --listen quic://HOST:PORT and --name NAME")
    if engine == "qh3" and not token_keys:
        raise output.WrongUse(
            "--engine qh3: a node with it cannot ask hosts for certificates; give --token-keys, or use aioquic"
        )
    check_path("--policy", policy)
    address, drain_ns = _address(listen), _drain_ns(drain_timeout)
    tls = tls_files(cert, key, ca, needed_by="a node", token_keys=token_keys)
    assert tls is not None, "a node needs files"
    made = _policy(policy, _fabric(name, tls))
    cut = _run(address, name, made, tls, drain_ns, engine=engine, as_json=json)
    raise typer.Exit(output.INTERRUPTED if cut else output.DONE)


@app.command("digest")
def digest(
    ref: Annotated[str, typer.Argument(metavar="REF", help="An operator, as python:module:attr.")],
    json: JsonOption = False,
) -> None:
    """Print the digest of an operator's source, for the policy of a node that has the same module."""
    from flowbridge import registry
    from flowbridge.runtime.digest import operator_digest

    found = operator_digest(ref, registry.catalog())
    if json:
        output.print_json({"ref": ref, "digest": found})
    else:
        typer.echo(found)


def _address(listen: str) -> NodeAddress:
    from flowbridge.addresses import parse_address
    from flowbridge.errors import LocalProtocolError

    try:
        return parse_address(listen, listening=True)
    except LocalProtocolError as error:
        raise output.WrongUse(f"--listen: {error}") from error


def _drain_ns(text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueError as error:
        raise output.WrongUse(f"--drain-timeout: {error}") from error


def _fabric(name: str, tls: TlsFiles) -> str:
    """The fabric of the own certificate, which must be that of the node."""
    from flowbridge.errors import ResourceError
    from flowbridge.transports.quic.certificates import certificate_facts, read_certificates

    facts = certificate_facts(read_certificates(tls.certificate)[0])
    if facts.node != name:
        raise ResourceError(f"{tls.certificate}: is the certificate of node {facts.node!r}, not of {name!r:.80}")
    return facts.fabric


def _policy(path: str | None, fabric: str) -> NodePolicy:
    if path is None:
        from flowbridge.machines.node_policy import default_policy

        return default_policy(fabric)
    from flowbridge.cli.policy_file import read_policy

    return read_policy(path)


def _run(
    address: NodeAddress, name: str, policy: NodePolicy, tls: TlsFiles, drain_ns: int, *, engine: str, as_json: bool
) -> bool:
    """Serve until a signal ended it; returns whether something was cut off."""
    from flowbridge.cli.run_loop import run_on_loop
    from flowbridge.telemetry.log import configure_logging

    configure_logging(json=False, level="WARNING")

    async def main() -> bool:
        from asyncio import get_running_loop

        from flowbridge.node import Node

        made = Node(name, policy, tls=tls, engine=engine, tell=tell, drain_ns=drain_ns)
        with _Signals(made, get_running_loop()):
            await made.serve(address)
        return made.was_cut

    tell = _teller(sys.stdout, as_json=as_json)
    with contextlib.redirect_stdout(sys.stderr):  # what operators print does not get between the events
        return bool(run_on_loop(main()))


def _teller(stdout: TextIO, *, as_json: bool) -> Callable[[NodeEvent], None]:
    def tell(event: NodeEvent) -> None:
        try:
            if as_json:
                output.print_json_line({"event": event.kind, "text": event.text, **event.about}, stdout)
            else:
                stdout.write(_shown(event.text) + "\n")
                stdout.flush()
        except BrokenPipeError:
            output.drop_stdout(stdout)  # a node goes on without anybody who reads

    return tell


def _shown(text: str) -> str:
    """One line of printable characters: some of it was said by peers."""
    return "".join(c if c.isprintable() else " " for c in text)


class _Signals:
    """First signal: drain. Second: end. Third: leave at once, even when an operator holds the loop."""

    def __init__(self, node: Node, loop: AbstractEventLoop) -> None:
        self._node = node
        self._loop = loop
        self._count = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(output.INTERRUPTED)
        self._loop.call_soon_threadsafe(self._node.drain if self._count == 1 else self._node.stop)
