"""Options about other hosts: where they are, and the files that prove who is who."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import stat
import time
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from flowbridge.addresses import NodeAddress, TlsFiles, parse_nodes
from flowbridge.cli.output import WrongUse, say
from flowbridge.errors import LocalProtocolError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ENGINES: Final = ("auto", "aioquic", "qh3")

CertOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--cert", metavar="FILE", envvar="FLOWBRIDGE_CERT", help="The own certificate, in PEM form."),
]
KeyOption: TypeAlias = Annotated[
    str | None, typer.Option("--key", metavar="FILE", envvar="FLOWBRIDGE_KEY", help="The key of the certificate.")
]
AuthorityOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--ca", metavar="FILE", envvar="FLOWBRIDGE_CA", help="The authorities that sign for other hosts."),
]

TokenOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="FILE", envvar="FLOWBRIDGE_TOKEN", help="Tokens instead of a certificate, one in each line."
    ),
]
TokenKeysOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token-keys",
        metavar="FILE",
        envvar="FLOWBRIDGE_TOKEN_KEYS",
        help="Take tokens of hosts that are signed with these keys (PEM or JWKS).",
    ),
]


def _known_engine(name: str) -> str:
    """Refuse what is no engine, or is not installed, while the command line is read."""
    if name not in ENGINES:
        raise typer.BadParameter(f"{name!r:.40} is not one of {', '.join(ENGINES)}")
    if name == "qh3" and importlib.util.find_spec("qh3") is None:
        raise WrongUse("--engine qh3: it is not installed; pip install 'flowbridge[qh3]'")
    return name


EngineOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="|".join(ENGINES),
        envvar="FLOWBRIDGE_ENGINE",
        callback=_known_engine,
        help="What speaks QUIC with other hosts; auto is aioquic.",
    ),
]


def node_addresses(given: Sequence[str]) -> dict[str, NodeAddress]:
    """What ``--node NAME=ADDRESS`` says. Raises: WrongUse."""
    found: dict[str, str | NodeAddress] = {}
    for text in given:
        name, equals, address = text.partition("=")
        if not equals:
            raise WrongUse(f"--node {text!r:.80}: write NAME=quic://HOST:PORT")
        if name in found:
            raise WrongUse(f"--node: host {name!r:.40} has two addresses")
        found[name] = address
    try:
        return parse_nodes(found)
    except LocalProtocolError as error:
        raise WrongUse(f"--node: {error}") from error


def tls_files(
    cert: str | None,
    key: str | None,
    ca: str | None,
    *,
    needed_by: str = "",
    token: str | None = None,
    token_keys: str | None = None,
) -> TlsFiles | None:
    """The files, looked at; None when there are none and nothing needs them. A token stands for `cert` and `key`.

    Raises: WrongUse when one is missing; ResourceError, one line, for one that cannot be used.
    """
    if not needed_by:
        return None
    given = {"--cert": cert, "--key": key, "--ca": ca, "--token": token, "--token-keys": token_keys}
    for option, path in given.items():
        check_path(option, path)
    if token and ca and not cert and not key:
        return _with_token(token, ca)
    wanted = ("--ca",) if token and not cert and not key else ("--cert", "--key", "--ca")
    missing = [option for option in wanted if not given[option]]
    if not cert or not key or not ca:
        variables = ", ".join(f"FLOWBRIDGE_{option.removeprefix('--').upper()}" for option in missing)
        raise WrongUse(
            f"{needed_by} needs {' and '.join(missing)} (or {variables}); `flowbridge certs new DIR` makes such files"
        )
    from flowbridge.transports.quic.certificates import check_files

    tls = TlsFiles(cert, key, ca, token or "", token_keys or "")
    check_files(tls, dt.datetime.now(dt.UTC))
    _warn_of_open(key)
    if token_keys:
        from flowbridge.transports.quic.tokens import read_token_keys

        with _readable("--token-keys"):
            read_token_keys(token_keys)
    if token:
        _look_at(token)
    return tls


def check_path(option: str, path: str | None) -> None:
    """Refuse a file that is not there, or is none. Raises: WrongUse."""
    if path and not os.path.exists(path):
        raise WrongUse(f"{option} {path}: no such file")
    if path and os.path.isdir(path):
        raise WrongUse(f"{option} {path}: is a folder, not a file")


def _warn_of_open(key: str) -> None:
    """Say that every user of the machine can read a key; a group may be meant to."""
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(os.stat(key).st_mode)
        if mode & stat.S_IROTH:
            say(f"warning: --key {key}: every user of this machine can read it (mode {mode:04o}); chmod 600 {key}")


def _with_token(token: str, ca: str) -> TlsFiles:
    from flowbridge.transports.quic.identity import read_certificates

    with _readable("--ca"):
        read_certificates(ca, "ca")
    _look_at(token)
    return TlsFiles("", "", ca, token)


def _look_at(token: str) -> None:
    from flowbridge.transports.quic.proving import TokenFile

    with _readable("--token"):
        _ = TokenFile(token, time.time).node


@contextlib.contextmanager
def _readable(option: str) -> Generator[None]:
    """Name the option whose file cannot be used."""
    try:
        yield
    except LocalProtocolError as error:
        raise ResourceError(f"{option}: {error}") from error
