"""``flowbridge certs``: certificates for hosts and nodes, for development."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import JsonOption  # noqa: TC001 - Typer reads the annotation
from flowbridge.limits import CERTIFICATE_DAYS_MAX, CERTIFICATE_SOON_NS, TOKEN_S_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.transports.quic.certificates import CertificateFacts

_NODES = ("host", "edge-1")
_HOSTS = ("localhost", "127.0.0.1", "::1")

app = typer.Typer(
    help="Make certificates for development, and look at them.", rich_markup_mode=None, no_args_is_help=True
)


@app.command("new")
def new(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write; an authority that is there is used.")],
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NAME", help="A node; host and edge-1 when none is named.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME_OR_IP", help="Where the nodes are reached; this machine when left out."),
    ] = None,
    fabric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name of the whole; `dev` for a new authority.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=CERTIFICATE_DAYS_MAX, help="How long they are valid.")] = 30,
    force: Annotated[bool, typer.Option("--force", help="Replace files of nodes. The authority is kept.")] = False,
    json: JsonOption = False,
) -> None:
    """Make an authority for development, and certificates of nodes that it signs.

    Named again, the folder's authority signs further nodes. Keep ca.key away from the nodes; they need ca.pem.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise output.WrongUse(f"{folder}: is a file; name a folder")
    from flowbridge.errors import LocalProtocolError
    from flowbridge.transports.quic.certificates import make_certificates

    nodes = [*dict.fromkeys(node or _NODES)]
    names = host or _HOSTS
    try:
        written = make_certificates(target, nodes, hosts=names, fabric=fabric, days=days, force=force, now=_now())
    except LocalProtocolError as error:
        raise output.WrongUse(str(error)) from error
    commands = _next(target, nodes, names[0])
    if json:
        files = [path.name for path in written]
        output.print_json({"folder": folder, "nodes": nodes, "files": files, "next": commands})
        return
    typer.echo(f"{folder}: {', '.join(path.name for path in written)}")
    typer.echo("\n" + "\n".join(f"  {command}" for command in commands))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _next(folder: Path, nodes: Sequence[str], host: str) -> list[str]:
    """The two commands to go on with: a node, and a run that uses it."""
    starts = nodes[0] if len(nodes) > 1 or not (folder / f"{_NODES[0]}.pem").exists() else _NODES[0]
    edge = nodes[-1]
    shown = f"[{host}]" if ":" in host else host

    def files(name: str) -> str:
        return f"--cert {folder / name}.pem --key {folder / name}.key --ca {folder / 'ca'}.pem"

    return [
        f"flowbridge node --listen quic://{shown}:4433 --name {edge} {files(edge)}",
        f"flowbridge run FLOW --node {edge}=quic://{shown}:4433 {files(starts)}",
    ]


@app.command("show")
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A certificate in PEM form.")], json: JsonOption = False
) -> None:
    """Say whose a certificate is, what it is for, and how long; exit code 1 when it has expired."""
    if not Path(file).exists():
        raise output.WrongUse(f"{file}: no such file")
    from flowbridge.transports.quic.certificates import certificate_facts, read_certificates

    found = [certificate_facts(certificate) for certificate in read_certificates(file)]
    now = _now()
    warning = _warning(found[0], now)
    if json:
        shown = [_to_json(facts) for facts in found]
        output.print_json({"file": file, "certificates": shown, "warning": warning or None})
    else:
        for facts in found:
            typer.echo("\n".join(_lines(facts, now)))
        if warning:
            output.say(f"warning: {file}: {warning}")
    raise typer.Exit(output.FAILED if found[0].not_after <= now else output.DONE)


@app.command("token")
def token(
    key: Annotated[
        str,
        typer.Option("--key", metavar="FILE", help="What signs it: a private key of P-256 or Ed25519, in PEM form."),
    ],
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="Whose it is: the host that shows it.")],
    audience: Annotated[str, typer.Option("--for", metavar="NODE", help="The node that it is shown to.")],
    fabric: Annotated[str, typer.Option(metavar="NAME", help="The fabric of both.")] = "dev",
    minutes: Annotated[int, typer.Option(min=1, max=TOKEN_S_MAX // 60, help="How long it is good for.")] = (
        TOKEN_S_MAX // 60
    ),
    cert: Annotated[
        str | None, typer.Option("--cert", metavar="FILE", help="Bind it to this certificate of the host.")
    ] = None,
) -> None:
    """Print a token that says to a node who a host is, where the host has no certificate.

    It is good for one session. The node takes it when the public half of the key is in its --token-keys.
    """
    if not Path(key).exists():
        raise output.WrongUse(f"--key {key}: no such file")
    from flowbridge.errors import LocalProtocolError, ResourceError
    from flowbridge.transports.quic.certificates import certificate_facts, read_certificates
    from flowbridge.transports.quic.tokens import make_token

    fingerprint = certificate_facts(read_certificates(cert)[0]).fingerprint if cert else ""
    try:
        made = make_token(
            key,
            fabric=fabric,
            node=node,
            audience=audience,
            now=_now().timestamp(),
            lifetime_s=minutes * 60,
            fingerprint=fingerprint,
        )
    except LocalProtocolError as error:
        raise ResourceError(str(error)) from error
    typer.echo(made)


def _warning(facts: CertificateFacts, now: dt.datetime) -> str:
    left = facts.not_after - now
    if left <= dt.timedelta():
        return f"it expired on {facts.not_after:%Y-%m-%d %H:%M} UTC"
    if facts.not_before > now:
        return f"it is valid from {facts.not_before:%Y-%m-%d %H:%M} UTC on, not yet"
    if left < dt.timedelta(seconds=CERTIFICATE_SOON_NS / 1e9):
        return f"it expires soon, on {facts.not_after:%Y-%m-%d %H:%M} UTC"
    return ""


def _lines(facts: CertificateFacts, now: dt.datetime) -> list[str]:
    left = facts.not_after - now
    rest = f"{left.days} days left" if left > dt.timedelta() else "expired"
    named = facts.node or ("(an authority)" if facts.is_authority else "(none)")
    return [
        f"node         {named}",
        f"fabric       {facts.fabric or '(none)'}",
        f"hosts        {', '.join(facts.hosts) or '(none)'}",
        f"usages       {', '.join(facts.usages) or '(none)'}",
        f"valid        {facts.not_before:%Y-%m-%d %H:%M} to {facts.not_after:%Y-%m-%d %H:%M} UTC, {rest}",
        f"issuer       {facts.issuer}",
        f"fingerprint  sha256:{facts.fingerprint}",
    ]


def _to_json(facts: CertificateFacts) -> dict[str, object]:
    return {
        "node": facts.node or None,
        "fabric": facts.fabric or None,
        "hosts": list(facts.hosts),
        "usages": list(facts.usages),
        "is_authority": facts.is_authority,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "issuer": facts.issuer,
        "serial": facts.serial,
        "fingerprint": f"sha256:{facts.fingerprint}",
    }
