"""What an endpoint of the tier between machines is told, whatever engine it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import (
    DURATION_NS_MAX,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_CONNECTIONS_MAX,
    QUIC_CONNECTIONS_PER_HOST_MAX,
    QUIC_DATAGRAM_BYTES,
    QUIC_DATAGRAM_BYTES_MAX,
    QUIC_DATAGRAM_BYTES_MIN,
    QUIC_HALF_OPEN_MAX,
    QUIC_HANDSHAKE_NS,
    QUIC_HANDSHAKES_PER_SECOND_MAX,
    QUIC_IDLE_NS,
    QUIC_STREAM_WINDOW_BYTES,
    QUIC_STREAMS_MAX,
    QUIC_WINDOW_BYTES_MAX,
)

if TYPE_CHECKING:
    from pathlib import Path

Congestion: TypeAlias = Literal["reno", "cubic", "fb-bdp"]
EngineName: TypeAlias = Literal["auto", "aioquic", "qh3"]
ClientCertificates: TypeAlias = Literal["require", "ask", "none"]

_CHOICES = {
    "congestion": ("reno", "cubic", "fb-bdp"),
    "engine": ("auto", "aioquic", "qh3"),
    "client_certificates": ("require", "ask", "none"),
}
_RESET_KEY_BYTES_MIN = 16
_WINDOW_BYTES_MIN = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicSettings:
    """The settings of a client or of an acceptor; what only one of them uses, the other ignores.

    `certificate`, `key` and `ca` are PEM: names of files, or their content as bytes; `certificate` may go on with
    intermediate ones. A client without a certificate of its own can connect where none is required. `server_name` is
    what a client expects in the server's certificate, the host it dials when empty. `reset_key`, kept over a restart,
    lets clients know at once that their connections are gone; it can end connections, so it is as secret as `key`.

    `datagram_bytes` is the largest UDP payload that is sent: nothing finds out what the path carries. Given no settings
    at all, a transport sends larger ones within a machine (`sockets.datagram_bytes_to`).
    """

    certificate: str | Path | bytes | None = None
    key: str | Path | bytes | None = None
    ca: str | Path | bytes | None = None
    alpn: str = "fb/1"
    server_name: str = ""
    client_certificates: ClientCertificates = "require"
    engine: EngineName = "auto"
    congestion: Congestion = "cubic"
    stream_window_bytes: int = QUIC_STREAM_WINDOW_BYTES
    connection_window_bytes: int = QUIC_CONNECTION_WINDOW_BYTES
    bidirectional_streams: int = QUIC_STREAMS_MAX
    unidirectional_streams: int = QUIC_STREAMS_MAX
    datagram_bytes: int = QUIC_DATAGRAM_BYTES
    idle_ns: int = QUIC_IDLE_NS
    connections: int = QUIC_CONNECTIONS_MAX
    connections_per_host: int = QUIC_CONNECTIONS_PER_HOST_MAX
    half_open: int = QUIC_HALF_OPEN_MAX
    handshake_ns: int = QUIC_HANDSHAKE_NS
    handshakes_per_second: int = QUIC_HANDSHAKES_PER_SECOND_MAX
    reset_key: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            LocalProtocolError: names the field, its limit and its value.
        """
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                raise LocalProtocolError(f"{field} is one of {', '.join(choices)}, not {value!r}")
        if (self.certificate is None) != (self.key is None):
            here, missing = ("key", "certificate") if self.certificate is None else ("certificate", "key")
            raise LocalProtocolError(f"a {here} was given without its {missing}")
        if not 0 < len(self.alpn.encode()) <= 255:
            raise LocalProtocolError(f"alpn is 1 to 255 bytes, not {len(self.alpn.encode())}")
        if self.reset_key is not None and len(self.reset_key) < _RESET_KEY_BYTES_MIN:
            raise LocalProtocolError(f"reset_key is {_RESET_KEY_BYTES_MIN} bytes or more, not {len(self.reset_key)}")
        most = QUIC_WINDOW_BYTES_MAX
        _within("stream_window_bytes", self.stream_window_bytes, _WINDOW_BYTES_MIN, most)
        _within("connection_window_bytes", self.connection_window_bytes, self.stream_window_bytes, most)
        _within("bidirectional_streams", self.bidirectional_streams, 1, 65_536)
        _within("unidirectional_streams", self.unidirectional_streams, 0, 65_536)
        _within("datagram_bytes", self.datagram_bytes, QUIC_DATAGRAM_BYTES_MIN, QUIC_DATAGRAM_BYTES_MAX)
        _within("idle_ns", self.idle_ns, 10**6, DURATION_NS_MAX)
        _within("connections", self.connections, 1, 1_000_000)
        _within("connections_per_host", self.connections_per_host, 1, self.connections)
        _within("half_open", self.half_open, 0, self.connections)
        _within("handshake_ns", self.handshake_ns, 10**6, DURATION_NS_MAX)
        _within("handshakes_per_second", self.handshakes_per_second, 1, 1_000_000)


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise LocalProtocolError(f"{what} is {least} to {most}, not {value}")
