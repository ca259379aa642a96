"""A session over wires that only record, and who keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quic_recorder import EDGE, RecordingWire

from flowbridge.codec.session_frames import whole
from flowbridge.codec.session_words import Open, SessionLimits, StreamKind
from flowbridge.testing.virtual_clock import VirtualClock
from flowbridge.testing.virtual_loop import run_simulated
from flowbridge.transports.quic.connection import Connection
from flowbridge.transports.quic.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowbridge.transports.quic.stream import SessionStream

LIMITS = SessionLimits(1 << 20, 1 << 20, 8, 5_000, 250)


class Owner:
    """A server's session, who keeps it, and the wire that it is on."""

    def __init__(self, *, limits: SessionLimits = LIMITS) -> None:
        self.told: list[str] = []
        self.why: Exception | None = None
        self.streams: list[SessionStream] = []
        self.session = Session(bytes(16), self, VirtualClock(), peer="edge", is_client=False, limits=limits)
        self.session.identity = EDGE
        self.session.on_stream = self.streams.append
        self.lost: list[Exception | None] = []

    def apart(self, session: Session, why: Exception) -> None:
        self.told.append("apart")

    def suspicious(self, session: Session) -> None:
        self.told.append("suspicious")

    def ended(self, session: Session, why: Exception) -> None:
        self.told.append("ended")
        self.why = why

    def meet(self, epoch: int = 1, counts: dict[int, int] | None = None) -> RecordingWire:
        wire = RecordingWire()
        connection = Connection(wire, self.session)
        wire.connected()
        self.session.adopt(connection, epoch, counts or {})
        return wire

    def take(self, stream: SessionStream) -> bytearray:
        brought = bytearray()
        stream.connect(on_data=lambda data, _: brought.extend(data), on_lost=self.lost.append)
        return brought


def opened(number: int, from_bytes: int = 0) -> bytes:
    return whole(Open(number, StreamKind.ROUTE, "x", b"", from_bytes))


def simulated(scenario: Callable[[Owner], Coroutine[Any, Any, None]]) -> None:
    async def run(_: int) -> None:
        owner = Owner()
        await scenario(owner)
        owner.session.close()

    run_simulated(run, seed=1, until_s=1000)


def of(kind: type, wire: RecordingWire) -> list[Any]:
    return [frame for frame in wire.frames() if isinstance(frame, kind)]
