"""How the two processes of a benchmark are joined: by sockets that one inherits, or as a host and a node by network.

A tier whose transport has `serve_node` joins machines: the other process is a node on the loopback interface, with
certificates that last as long as the benchmark.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from flowbridge import registry
from flowbridge.addresses import NodeAddress, TlsFiles
from flowbridge.errors import FlowbridgeError
from flowbridge.placing import Ticket, node_options
from flowbridge.plan import ContentType, Placement, Plane, Qos, Route
from flowbridge.runtime.clock import SystemClock

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Sequence

    from flowbridge.contracts import DataSink, DataSource
    from flowbridge.placing import NodeTransport

_ADDRESS: Final = "127.0.0.1"
_HOST: Final = "bench-host"
_NODE: Final = "bench-node"
_TOKEN: Final = "token"  # noqa: S105 - the name of a file
_PATIENCE_S: Final = 60.0  # for the other process to start
_LINE_BYTES_MAX: Final = 65_536


class SplitTransport(Protocol):
    """A tier whose ports may have their ends in two processes, joined by a connected socket or by tickets."""

    async def open_sink(self, route: Route, end: Any) -> DataSink:
        """The producer's end."""
        ...

    async def open_source(self, route: Route, end: Any) -> DataSource:
        """The consumer's end."""
        ...

    async def aclose(self) -> None:
        """Close every end."""
        ...


def bench_route(name: str) -> Route:
    """The route from one process to the other."""
    return Route(
        id=f"{name}/out->{name}/in",
        plane=Plane.DATA,
        source_node=name,
        source_port="out",
        target_node=name,
        target_port="in",
        qos=Qos(),
        content_type=ContentType.BYTES,
    )


@contextmanager
def identities(tier: str, engine: str) -> Generator[str]:
    """The folder with the certificates of both processes while they run; empty for a tier that needs none.

    With the engine qh3, whose servers ask for no certificates, the host has a token.
    """
    if not hasattr(registry.transport(tier, SystemClock()), "serve_node"):
        yield ""
        return
    from flowbridge.transports.quic.certificates import make_certificates

    with TemporaryDirectory(prefix="flowbridge-bench-") as folder:
        now = dt.datetime.now(dt.UTC)
        names = [_HOST, _NODE]
        make_certificates(Path(folder), names, hosts=[_ADDRESS], fabric="bench", days=1, force=False, now=now)
        if engine == "qh3":
            from flowbridge.transports.quic.tokens import make_token

            key = str(Path(folder, "ca.key"))
            token = make_token(key, fabric="bench", node=_HOST, audience=_NODE, now=now.timestamp())
            Path(folder, _TOKEN).write_text(token, encoding="ascii")
        yield folder


def _files(folder: str, name: str, engine: str) -> TlsFiles:
    certificate, key, ca, token = (str(Path(folder, file)) for file in (f"{name}.pem", f"{name}.key", "ca.pem", _TOKEN))
    if engine != "qh3":
        return TlsFiles(certificate, key, ca)
    return TlsFiles("", "", ca, token) if name == _HOST else TlsFiles(certificate, key, ca, token_keys=ca)


async def near_ends(
    tier: str, folder: str, there: socket.socket, back: socket.socket | None = None, *, engine: str = "auto"
) -> tuple[SplitTransport, Sequence[Any]]:
    """A transport of this process, and its ends of the route there and of the one back. Raises: FlowbridgeError."""
    if not folder:
        return cast("SplitTransport", registry.transport(tier, SystemClock())), (there, back)
    port = int(await asyncio.to_thread(_line, there))
    options = node_options(_files(folder, _HOST, engine), engine, {_NODE: NodeAddress(_ADDRESS, port)})
    transport = cast("NodeTransport", registry.transport(tier, SystemClock(), **options))
    here, place = Placement(), Placement(host=_NODE)
    own_there, its_there = await transport.join(bench_route("there"), here, place)
    its_back, own_back = await transport.join(bench_route("back"), place, here)
    there.sendall(json.dumps([end.data.hex() for end in (its_there, its_back)]).encode() + b"\n")
    return cast("SplitTransport", transport), (own_there, own_back)


async def far_ends(
    tier: str, folder: str, there: socket.socket, back: socket.socket | None, *, engine: str = "auto"
) -> tuple[SplitTransport, Sequence[Any]]:
    """As `near_ends`, in the other process. Raises: FlowbridgeError."""
    if not folder:
        return cast("SplitTransport", registry.transport(tier, SystemClock())), (there, back)
    options = node_options(_files(folder, _NODE, engine), engine)
    transport = cast("NodeTransport", registry.transport(tier, SystemClock(), **options))
    node = await transport.serve_node(NodeAddress(_ADDRESS, 0), _NODE, lambda link, _: link.close())
    there.sendall(f"{node.address.port}\n".encode())
    tickets = json.loads(await asyncio.to_thread(_line, there))
    return cast("SplitTransport", transport), [Ticket(bytes.fromhex(text)) for text in tickets]


def _line(sock: socket.socket) -> str:
    """A line that the other process writes. Raises: FlowbridgeError."""
    sock.settimeout(_PATIENCE_S)
    with sock.makefile("rb") as file:  # nothing follows a line before it is answered
        try:
            line = file.readline(_LINE_BYTES_MAX)
        except TimeoutError as error:
            raise FlowbridgeError(f"bench: the other process says nothing within {_PATIENCE_S:.0f} s") from error
    if not line.endswith(b"\n"):
        raise FlowbridgeError("bench: the other process ended before it was joined")
    return line.decode()
