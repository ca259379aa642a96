"""The server's side of a socket: which connection a datagram belongs to, and how many there may be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, cast

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicErrorCode

from flowbridge.limits import QUIC_ANSWERS_WAITING_MAX, QUIC_STATELESS_PER_SECOND_MAX
from flowbridge.machines.rate import Rate
from flowbridge.transports.quic.aio.configuration import PACKET_BYTES_MAX, configure_server
from flowbridge.transports.quic.aio.connection import CONNECTION_ID_BYTES, BoundedConnection
from flowbridge.transports.quic.aio.engine import AioquicEngine
from flowbridge.transports.quic.aio.reset import ResetTokens, reset_packet
from flowbridge.transports.quic.aio.stateless import AddressTokens, Initial, read_initial, refusal, version_negotiation
from flowbridge.transports.quic.aio.tls import read_credentials
from flowbridge.transports.quic.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbridge.transports.quic.engine import Address
    from flowbridge.transports.quic.settings import QuicSettings


@dataclass(slots=True)
class AcceptorCounts:
    """What an acceptor did with datagrams that belong to no connection."""

    accepted: int = 0
    retried: int = 0
    refused: int = 0
    ignored: int = 0
    resets: int = 0
    versions: int = 0
    dropped: int = 0


class AcceptedEngine(Engine, Protocol):
    """What an acceptor asks of the engine of a connection that it made."""

    on_connection_id: Callable[[bytes, bool], None] | None

    @property
    def is_half_open(self) -> bool:
        """Whether the handshake is under way."""
        ...

    @property
    def is_begun(self) -> bool:
        """Whether anything that came made sense."""
        ...

    @property
    def connection_id(self) -> bytes:
        """The id that it chose for itself."""
        ...


class BoundedAcceptor:
    """Connections by their ids; see `flowbridge.transports.quic.engine.Acceptor`.

    Whoever comes while `half_open` handshakes are under way has to show first that it can receive at its address
    (RFC 9000, section 8.1.2). Beyond the number of connections, in all or from one host, it is refused; beyond the
    rate of handshakes it is ignored, and comes again by itself. `_make` is that of an engine.
    """

    def __init__(self, settings: QuicSettings) -> None:
        """Know nobody yet."""
        self._settings: Final = settings
        self._tokens: Final = ResetTokens(settings.reset_key)
        self._addresses: Final = AddressTokens()
        self._by_id: Final[dict[bytes, AcceptedEngine]] = {}
        self._ids: Final[dict[AcceptedEngine, set[bytes]]] = {}
        self._hosts: Final[Counter[str]] = Counter()
        self._host_of: Final[dict[AcceptedEngine, str]] = {}
        self._half_open: set[AcceptedEngine] = set()
        self._answers: list[tuple[bytes, Address]] = []
        self._handshake_rate: Final = Rate(settings.handshakes_per_second)
        self._stateless_rate: Final = Rate(QUIC_STATELESS_PER_SECOND_MAX)
        self.counts: Final = AcceptorCounts()

    @property
    def connections(self) -> int:
        """How many are known."""
        return len(self._ids)

    def receive(self, data: bytes, address: Address, now: float) -> Engine | None:
        """Hand a datagram to its connection, which is made when somebody new may come."""
        if not data:
            return None
        is_long = data[0] & 0x80
        connection_id = data[6 : 6 + data[5]] if is_long and len(data) > 6 else data[1 : 1 + CONNECTION_ID_BYTES]
        engine = self._by_id.get(connection_id)
        if engine is not None:
            engine.receive(data, address, now)
            return engine
        try:
            if is_long:
                return self._receive_unknown(data, address, now)
            self._reset(data, connection_id, address, now)
        except Exception:  # of aioquic's parsers, about what a stranger sent
            self.counts.dropped += 1
        return None

    def transmit(self, now: float) -> Sequence[tuple[bytes, Address]]:
        """Answers to whom no connection belongs."""
        answers = self._answers
        if answers:
            self._answers = []
        return answers

    def forget(self, engine: Engine) -> None:
        """Free the place and the ids of a connection. Idempotent."""
        known = cast("AcceptedEngine", engine)
        if known not in self._ids:
            return
        for connection_id in self._ids.pop(known):
            self._by_id.pop(connection_id, None)
        host = self._host_of.pop(known)
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        self._half_open.discard(known)
        known.on_connection_id = None

    def _receive_unknown(self, data: bytes, address: Address, now: float) -> Engine | None:
        """A long header with a connection id that nobody has: perhaps somebody new."""
        if len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            self.counts.ignored += 1
            return None
        answer = version_negotiation(data)
        if answer is not None:
            self.counts.versions += 1
            self._answer(answer, address)
            return None
        initial = read_initial(data)
        if initial is None:
            self.counts.ignored += 1
            return None
        original, is_retry = initial.destination, False
        if initial.token:
            # No other tokens are given out: one that is not right is that of somebody else, or too old.
            checked = self._addresses.check(initial, address, now)
            if checked is None:
                self._refuse(initial, QuicErrorCode.INVALID_TOKEN, address, now)
                return None
            original, is_retry = checked, True
        elif self._is_crowded():
            self.counts.retried += 1
            self._answer(self._addresses.retry(initial, address, now), address)
            return None
        if len(self._ids) >= self._settings.connections or (
            self._hosts[address[0]] >= self._settings.connections_per_host
        ):
            self._refuse(initial, QuicErrorCode.CONNECTION_REFUSED, address, now)
            return None
        if not self._handshake_rate.take(now):
            self.counts.ignored += 1
            return None
        return self._accept(data, initial.destination, original, is_retry, address, now)

    def _accept(
        self, data: bytes, destination: bytes, original: bytes, is_retry: bool, address: Address, now: float
    ) -> Engine | None:
        engine = self._make(destination, original, is_retry, address, now)
        engine.receive(data, address, now)
        if not engine.is_begun:  # an Initial that does not decrypt leaves nothing behind
            self.counts.dropped += 1
            return None
        ids = {destination, engine.connection_id}
        self._ids[engine] = ids
        for connection_id in ids:
            self._by_id[connection_id] = engine
        self._hosts[address[0]] += 1
        self._host_of[engine] = address[0]
        self._half_open.add(engine)

        def changed(connection_id: bytes, is_issued: bool) -> None:
            if is_issued:
                ids.add(connection_id)
                self._by_id[connection_id] = engine
            else:
                ids.discard(connection_id)
                self._by_id.pop(connection_id, None)

        engine.on_connection_id = changed
        self.counts.accepted += 1
        return engine

    def _is_crowded(self) -> bool:
        if len(self._half_open) < self._settings.half_open:
            return False
        self._half_open = {engine for engine in self._half_open if engine.is_half_open}
        return len(self._half_open) >= self._settings.half_open

    def _refuse(self, initial: Initial, code: int, address: Address, now: float) -> None:
        if self._stateless_rate.take(now):
            self.counts.refused += 1
            self._answer(refusal(initial, code), address)
        else:
            self.counts.ignored += 1

    def _reset(self, data: bytes, connection_id: bytes, address: Address, now: float) -> None:
        packet = None
        if len(connection_id) == CONNECTION_ID_BYTES:
            packet = reset_packet(self._tokens.token(connection_id), len(data))
        if packet is None or not self._stateless_rate.take(now):
            self.counts.ignored += 1
            return
        self.counts.resets += 1
        self._answer(packet, address)

    def _answer(self, data: bytes, address: Address) -> None:
        if len(self._answers) < QUIC_ANSWERS_WAITING_MAX:
            self._answers.append((data, address))
        else:
            self.counts.dropped += 1

    def _make(
        self, destination: bytes, original: bytes, is_retry: bool, address: Address, now: float
    ) -> AcceptedEngine:
        """An engine for who sent an Initial to `destination`, before a Retry to `original`."""
        raise NotImplementedError


class AioquicAcceptor(BoundedAcceptor):
    """... over aioquic."""

    def __init__(self, settings: QuicSettings, datagram_bytes_to: Callable[[Address], int] | None = None) -> None:
        """Read the certificates; `datagram_bytes_to` says how large packets to a client may be, else `settings` do.

        Raises:
            LocalProtocolError: there is none, or it cannot be used.
        """
        super().__init__(settings)
        self._configuration, self._check = configure_server(settings, read_credentials(settings))
        self._datagram_bytes_to: Final = datagram_bytes_to

    def _make(
        self, destination: bytes, original: bytes, is_retry: bool, address: Address, now: float
    ) -> AcceptedEngine:
        configuration = self._configuration
        if self._datagram_bytes_to is not None:
            size = min(self._datagram_bytes_to(address), PACKET_BYTES_MAX)
            configuration = replace(configuration, max_datagram_size=size)
        connection = BoundedConnection(
            configuration,
            self._settings,
            self._check,
            tokens=self._tokens,
            original_connection_id=original,
            retry_connection_id=destination if is_retry else None,
        )
        return AioquicEngine(connection, address, now, handshake_seconds=self._settings.handshake_ns / 1e9)
