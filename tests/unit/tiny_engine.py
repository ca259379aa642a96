"""A connection of few words behind the seam of engines: hello and welcome, data, ping, close. Nothing is sent again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flowbridge.transports.quic.engine import (
    Address,
    Closed,
    Connected,
    DatagramReceived,
    Engine,
    EngineCaps,
    EngineEvent,
    EngineStats,
    StreamData,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.contracts import BytesLike

HELLO_S = 0.2  # between two hellos of a client
IDLE_S = 5.0


class TinyEngine:
    """One connection. `H` asks for one, `W` grants it, `D` is data of stream 0, `P` a ping, `C` the end."""

    def __init__(self, address: Address, now: float, *, is_client: bool = True) -> None:
        self._address = address
        self._is_client = is_client
        self._out: list[bytes] = []
        self.happened: list[EngineEvent] = []
        """What `events` returns next."""
        self._hello_at = now if is_client else None
        self._heard_at = now
        self.heard_at = -math.inf
        self.is_connected = False
        self.is_closed = False
        self.transmits = 0
        """How often `transmit` was called."""
        self.timers = 0
        """How often the timer came."""
        self.times: list[float] = [now]
        """Every time it was told."""
        self.on_left: Callable[[int], None] | None = None
        self.raises: Exception | None = None
        """Raised by the next `receive`."""

    @property
    def caps(self) -> EngineCaps:
        return EngineCaps("tiny", False, False, False, 1_000, ())

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def peer_address(self) -> Address:
        return self._address

    def receive(self, data: bytes, address: Address, now: float) -> None:
        self.times.append(now)
        if self.raises is not None:
            raise self.raises
        if self.is_closed:
            return
        self._heard_at = self.heard_at = now
        self._address = address
        match data[:1]:
            case b"H":
                self._out.append(b"W")
                self._connected()
            case b"W":
                self._hello_at = None
                self._connected()
            case b"D":
                self.happened.append(StreamData(0, data[1:], fin=False))
            case b"P":
                self.happened.append(DatagramReceived(data[1:]))
            case b"C":
                self._end(Closed(int(data[1:].split(b" ")[0]), "told", by_application=True, is_remote=True))
            case _:
                pass

    def _connected(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            self.happened.append(Connected(None))

    def _end(self, event: Closed) -> None:
        self.is_closed = True
        self.happened.append(event)

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        self.transmits += 1
        self.times.append(now)
        if self._hello_at is not None and now >= self._hello_at and not self.is_closed:
            self._out.append(b"H")
            self._hello_at = now + HELLO_S
        out, self._out = self._out, []
        return [(data, self._address) for data in out]

    def timer(self) -> float | None:
        if self.is_closed:
            return None
        idle_at = self._heard_at + IDLE_S
        return idle_at if self._hello_at is None else min(idle_at, self._hello_at)

    def on_timer(self, now: float) -> None:
        self.timers += 1
        self.times.append(now)
        if now >= self._heard_at + IDLE_S and not self.is_closed:
            self._end(Closed(0, "idle", by_application=False, is_remote=False, is_timeout=True))

    def events(self) -> list[EngineEvent]:
        events, self.happened = self.happened, []
        return events

    def open(self, *, unidirectional: bool = False, urgency: int = 2) -> int | None:
        del unidirectional, urgency
        return 0

    def prioritize(self, stream: int, urgency: int, deadline: float | None = None) -> None:
        del stream, urgency, deadline

    def write(self, stream: int, data: BytesLike, fin: bool = False) -> int:
        del stream, fin
        if not self.is_closed:
            self._out.append(b"D" + bytes(data))
        return 0

    def backlog(self, stream: int) -> int:
        del stream
        return 0

    def reset(self, stream: int, code: int) -> None:
        del stream, code

    def stop(self, stream: int, code: int) -> None:
        del stream, code

    def consume(self, stream: int, size_bytes: int) -> None:
        del stream, size_bytes

    def send_datagram(self, data: bytes) -> bool:
        self._out.append(b"P" + data)
        return True

    def ping(self) -> None:
        self._out.append(b"P")

    def close(self, code: int = 0, reason: str = "") -> None:
        if not self.is_closed:
            self._out.append(b"C%d %s" % (code, reason.encode()))
            self._end(Closed(code, reason, by_application=True, is_remote=False))

    def stats(self) -> EngineStats:
        return EngineStats(0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0)


class TinyAcceptor:
    """Tells connections apart by where they come from; what is for none is answered by `?`."""

    def __init__(self) -> None:
        self.engines: dict[Address, TinyEngine] = {}
        self._out: list[tuple[bytes, Address]] = []

    def receive(self, data: bytes, address: Address, now: float) -> TinyEngine | None:
        engine = self.engines.get(address)
        if engine is None:
            if data[:1] not in {b"H", b"h"}:
                self._out.append((b"?", address))
                return None
            engine = self.engines[address] = TinyEngine(address, now, is_client=False)
        engine.receive(data, address, now)
        return engine

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        del now
        out, self._out = self._out, []
        return out

    def forget(self, engine: Engine) -> None:
        self.engines = {address: known for address, known in self.engines.items() if known is not engine}

    @property
    def connections(self) -> int:
        return len(self.engines)
