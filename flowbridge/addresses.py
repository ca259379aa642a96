"""Where other hosts are, and the files with which two hosts prove to each other who they are.

Everything that can be wrong in the text of an address is found here, before anything is started.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import NAME_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES: Final = ("quic",)
"""The tiers that addresses may name."""

_PORT_MAX: Final = 65_535
_HOST_CHARACTERS_MAX: Final = 253  # of a name in the DNS (RFC 1035, section 2.3.4)
_HOST: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z._-]*[0-9A-Za-z])?\.?")
_HOST_6: Final = re.compile(r"[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._-]+)?")
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - every address of a machine
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a host listens, or is to listen. `scheme` is the tier that reaches it; port 0 takes a free one."""

    host: str
    port: int
    scheme: str = "quic"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: our certificate (with its chain), its key, and the authorities that sign our peers.

    A host may have a file with `token` s instead of a certificate, whose name and key's are empty then. A node takes
    tokens that are signed with one of `token_keys` (PEM or a JWK Set).
    """

    certificate: str
    key: str
    ca: str
    token: str = ""
    token_keys: str = ""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who a peer is, as its certificate says: the name ``fb://FABRIC/node/NODE`` in its subject alternative name.

    `fingerprint` is the SHA-256 of the certificate in hexadecimal, empty when there is none.
    """

    fabric: str
    node: str
    fingerprint: str = ""

    def __str__(self) -> str:
        return f"fb://{self.fabric}/node/{self.node}"


def parse_address(text: str, *, listening: bool = False) -> NodeAddress:
    """The address that a text such as ``quic://edge-1.example:4433`` or ``quic://[::1]:4433`` names.

    Port 0 is for listening only. Raises: LocalProtocolError, one line that says what is missing.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise LocalProtocolError(f"address {text!r:.80} has no scheme; write {SCHEMES[0]}://HOST:PORT")
    if scheme not in SCHEMES:
        raise LocalProtocolError(
            f"address {text!r:.80}: scheme {scheme!r:.20} is not known; known: {', '.join(SCHEMES)}"
        )
    host, colon, port = rest.rpartition(":")
    if not colon or "]" in port:
        raise LocalProtocolError(f"address {text!r:.80} has no port; write {scheme}://{rest[:60] or 'HOST'}:PORT")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > _PORT_MAX:
        raise LocalProtocolError(f"address {text!r:.80}: port {port!r:.20} is not a number of 1..{_PORT_MAX}")
    if not int(port) and not listening:
        raise LocalProtocolError(f"address {text!r:.80}: port 0 is only for listening")
    found = NodeAddress(_host(text, host), int(port), scheme)
    if found.host in _ANY and not listening:
        raise LocalProtocolError(f"address {text!r:.80}: {found.host} is only for listening; write where to reach it")
    return found


def _host(text: str, host: str) -> str:
    if not host:
        raise LocalProtocolError(f"address {text!r:.80} has no host")
    if host.startswith("[") and host.endswith("]"):
        bare = host[1:-1]
        if ":" in bare and _HOST_6.fullmatch(bare):
            return bare
    elif ":" in host:
        raise LocalProtocolError(f"address {text!r:.80}: an IPv6 address stands in brackets, as in quic://[::1]:4433")
    elif len(host) <= _HOST_CHARACTERS_MAX and _HOST.fullmatch(host):
        return host
    raise LocalProtocolError(f"address {text!r:.80}: {host!r:.60} is neither a host name nor an address")


def parse_nodes(nodes: Mapping[str, str | NodeAddress]) -> dict[str, NodeAddress]:
    """The addresses of hosts by name. Raises: LocalProtocolError that names the host."""
    found: dict[str, NodeAddress] = {}
    for name, address in nodes.items():
        check_node_name(name)
        try:
            found[name] = address if isinstance(address, NodeAddress) else parse_address(address)
        except LocalProtocolError as error:
            raise LocalProtocolError(f"host {name}: {error}") from error
    return found


def check_node_name(name: str) -> None:
    """Raises: LocalProtocolError when this cannot be the name of a host, in a flow and in a certificate."""
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise LocalProtocolError(
            f"host name {name!r:.40} is not letters, digits, `_`, `-` and `.` beginning with a letter or digit, "
            f"at most {NAME_CHARACTERS_MAX} characters"
        )
