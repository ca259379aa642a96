"""The seam to a QUIC implementation: one object per connection, without sockets, clock or event loop.

Whoever drives an engine hands it datagrams and the time, sends what it wants sent, and calls it again when its timer is
due. Times are seconds of any monotonic clock, always of the same one. Nothing here raises for what a peer does: it ends
in a `Closed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.contracts import BytesLike

Address: TypeAlias = "tuple[str, int]"
"""A numeric host and a port."""

UNIDIRECTIONAL: Final = 2
"""The bit of such streams in their numbers (RFC 9000, section 2.1)."""

URGENCIES: Final = 5
"""Streams are of an urgency from 0, the most urgent, to 4; what is more urgent is sent first."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the peer is, as its certificate says and as we have checked it.

    `node` is the name in its subject alternative name ``fb://FABRIC/node/NAME`` (RFC 5280, section 4.2.1.6), empty when
    it has none; `names` are the host names and addresses in it. `fingerprint` is the SHA-256 of the certificate in
    hexadecimal, `not_after` its last second since 1970.
    """

    fabric: str
    node: str
    names: tuple[str, ...]
    fingerprint: str
    not_after: float


@dataclass(frozen=True, slots=True)
class EngineCaps:
    """What an engine can do. Where it has no back-pressure, credit of the ports alone bounds what is received."""

    name: str
    receive_backpressure: bool
    priorities: bool
    client_certificates: bool
    datagram_bytes_max: int
    congestion: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The state of a connection's path, for admission and for people. Times in seconds, sizes in bytes.

    `rtt` and `rtt_min` are 0 before the first sample. `probes` are timeouts in a row that nothing answered.
    """

    rtt: float
    rtt_min: float
    window_bytes: int
    in_flight_bytes: int
    backlog_bytes: int
    probes: int
    packets_lost: int
    packets_sent: int
    bytes_sent: int
    bytes_received: int


class Connected(NamedTuple):
    """The handshake is complete. A client learns only from data of the server whether its certificate was taken."""

    identity: Identity | None


class StreamData(NamedTuple):
    """Bytes in order; `fin` when nothing follows them. `Engine.consume` says when they were used."""

    stream: int
    data: bytes
    fin: bool


class StreamReset(NamedTuple):
    """The peer gave up sending on a stream; what had not arrived is lost, and all of it counts as consumed."""

    stream: int
    code: int


class StreamStopped(NamedTuple):
    """The peer does not want the rest of a stream. What is unsent of it is gone."""

    stream: int
    code: int


class StreamRoom(NamedTuple):
    """The backlog of a stream whose `write` returned more than the high watermark is below the low one."""

    stream: int


class StreamsLeft(NamedTuple):
    """After `open` returned None: there may be room for a stream now."""


class DatagramReceived(NamedTuple):
    """An unreliable datagram (RFC 9221)."""

    data: bytes


class Closed(NamedTuple):
    """The connection is over; no event follows. `by_application` tells codes of ours from those of QUIC or TLS.

    `code` is that of RFC 9000, section 20, or the application's; `is_remote` when the peer said it. A connection that
    timed out has code 0, `is_timeout`, and nobody said anything; so has one whose peer forgot it (`is_reset`).
    """

    code: int
    reason: str
    by_application: bool
    is_remote: bool
    is_timeout: bool = False
    is_reset: bool = False


EngineEvent: TypeAlias = (
    "Connected | StreamData | StreamReset | StreamStopped | StreamRoom | StreamsLeft | DatagramReceived | Closed"
)


class Engine(Protocol):
    """One connection. Streams are numbered as RFC 9000, section 2.1 says; all calls after `Closed` do nothing."""

    on_left: Callable[[int], None] | None
    """Called with the number of each stream whose backlog has become smaller; it must not call the engine."""

    @property
    def caps(self) -> EngineCaps: ...
    @property
    def is_client(self) -> bool: ...
    @property
    def peer_address(self) -> Address:
        """Where it sends to now."""
        ...

    @property
    def heard_at(self) -> float:
        """The `now` at which the peer was heard last, -inf before that. What only looks as if it spoke is not it.

        A stateless reset with a token that nobody knows comes from whoever listens now where the peer was.
        """
        ...

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """A datagram arrived."""
        ...

    def transmit(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """What is to be sent now. Events may follow from it: `StreamRoom`, and `Closed` when it has the last packet."""
        ...

    def timer(self) -> float | None:
        """When `on_timer` is due; None for never. It may change with every other call."""
        ...

    def on_timer(self, now: float) -> None:
        """The timer's moment has come."""
        ...

    def events(self) -> Sequence[EngineEvent]:
        """What happened since the last call, in order."""
        ...

    def open(self, *, unidirectional: bool = False, urgency: int = 2) -> int | None:
        """A new stream; None when the peer allows no more for now, and `StreamsLeft` comes later."""
        ...

    def prioritize(self, stream: int, urgency: int, deadline: float | None = None) -> None:
        """Change a stream's urgency; within one urgency the earliest deadline is sent first, then in turn."""
        ...

    def write(self, stream: int, data: BytesLike, fin: bool = False) -> int:
        """Send bytes, which are copied; returns how many of this stream are unsent. Always accepts.

        Stop when it returns more than `WRITE_BYTES_HIGH`, until `StreamRoom` comes. Nothing happens, and 0 is
        returned, on a stream that was reset or stopped.

        Raises:
            LocalProtocolError: after `fin`, or on a stream that this side never could write to.
        """
        ...

    def backlog(self, stream: int) -> int:
        """How many bytes of a stream are unsent."""
        ...

    def reset(self, stream: int, code: int) -> None:
        """Give up sending (RESET_STREAM); what is unsent is not sent."""
        ...

    def stop(self, stream: int, code: int) -> None:
        """Want no more of what the peer sends (STOP_SENDING); what came and what still comes is consumed unseen."""
        ...

    def consume(self, stream: int, size_bytes: int) -> None:
        """So many received bytes were used: the peer may send as many more. Does nothing without back-pressure.

        A stream of the peer keeps its place among those allowed at once until all its bytes are consumed.
        """
        ...

    def send_datagram(self, data: bytes) -> bool:
        """Send an unreliable datagram; False when it is too large for one packet, the peer takes none, or many wait."""
        ...

    def ping(self) -> None:
        """Send something that has to be acknowledged."""
        ...

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close with a code of the application. `transmit` then has the last packet."""
        ...

    def stats(self) -> EngineStats: ...


class Acceptor(Protocol):
    """The server's side of one socket: tells connections apart and refuses those that are too many.

    What needs no connection (version negotiation, Retry, stateless reset; RFC 9000, sections 6, 8.1 and 10.3) comes out
    of `transmit`.
    """

    def receive(self, data: bytes, address: Address, now: float) -> Engine | None:
        """Hand a datagram to its connection, which may be a new one; None when it belongs to none."""
        ...

    def transmit(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """What is to be sent on behalf of no connection."""
        ...

    def forget(self, engine: Engine) -> None:
        """A connection is over and need not be known any more."""
        ...

    @property
    def connections(self) -> int:
        """How many are known."""
        ...


WRITE_BYTES_HIGH: Final = 256 * 1024
"""Of one stream: a writer that sees more unsent stops. Little enough that what is stamped when it is written is not
old when it leaves, and enough for the window of a path of 20 ms at 10 MiB/s."""
WRITE_BYTES_LOW: Final = 128 * 1024
