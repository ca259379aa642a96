"""The order in which streams are served: urgency, then the earliest deadline, then in turn.

aioquic walks its list of streams once per packet and moves those that it served to the end. The list below keeps the
order instead, whatever is appended, and remembers when the least urgent streams had their last packet.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

from bisect import insort
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias

from flowbridge.transports.quic.engine import URGENCIES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aioquic.quic.stream import QuicStream

Rank: TypeAlias = "tuple[int, float, int]"
"""Urgency, deadline in seconds, and the number of its turn."""

URGENCY_DEFAULT: Final = 2
LEAST_URGENT: Final = URGENCIES - 1
PACKETS_PER_FLOOR: Final = 20
"""One packet of so many goes to the least urgent streams when they have something: the floor of 5 %."""

_FIRST: Final[Rank] = (-1, -inf, 0)


class Schedule:
    """The ranks of the streams of one connection."""

    __slots__ = ("_passed_over", "_promoted", "_ranks", "_turn")

    def __init__(self) -> None:
        """Begin without streams."""
        self._ranks: Final[dict[int | None, Rank]] = {}
        self._turn = 0
        self._passed_over = 0
        self._promoted: int | None = None

    def rank(self, stream: QuicStream) -> Rank:
        """By what the list is sorted."""
        stream_id = stream.stream_id
        return _FIRST if stream_id == self._promoted else self._ranks[stream_id]

    def admit(self, stream_id: int | None) -> None:
        """Give a new stream a rank, unless it has one."""
        if stream_id not in self._ranks:
            self._turn += 1
            self._ranks[stream_id] = (URGENCY_DEFAULT, inf, self._turn)

    def prioritize(self, stream_id: int, urgency: int, deadline: float | None) -> None:
        """Change a rank; the list has to be sorted anew."""
        self._turn += 1
        self._ranks[stream_id] = (urgency, inf if deadline is None else deadline, self._turn)
        if stream_id == self._promoted:
            self._promoted = None

    def forget(self, stream_id: int) -> None:
        """A stream is gone."""
        self._ranks.pop(stream_id, None)
        if stream_id == self._promoted:
            self._promoted = None

    def served(self, stream: QuicStream) -> None:
        """A stream had a packet: give it its next turn."""
        stream_id, ranks = stream.stream_id, self._ranks
        urgency, deadline, _ = ranks[stream_id]
        self._turn = turn = self._turn + 1
        ranks[stream_id] = (urgency, deadline, turn)
        if urgency == LEAST_URGENT:
            self._passed_over = 0
            self._promoted = None

    def count_packet(self) -> None:
        """A packet is full; what `served` says after that counts for it."""
        self._passed_over += 1

    @property
    def is_floor_due(self) -> bool:
        """Whether the least urgent streams had no packet for long."""
        return self._passed_over >= PACKETS_PER_FLOOR

    def promote(self, order: StreamOrder) -> None:
        """Let a least urgent stream that can send go first once."""
        self._passed_over = 0
        if self._promoted is not None:  # it could not send: another one may
            self._promoted = None
            order.sort(key=self.rank)
        for stream in reversed(order):
            if self._ranks[stream.stream_id][0] != LEAST_URGENT:
                return
            sender = stream.sender
            can_send = sender.highest_offset < min(sender._buffer_stop, stream.max_stream_data_remote)
            if can_send and not stream.is_blocked and not sender.buffer_is_empty:
                order.remove(stream)
                self._promoted = stream.stream_id
                order.insert(0, stream)
                return


class StreamOrder(list["QuicStream"]):
    """aioquic's list of streams, which stays sorted whatever is put at its end."""

    def __init__(self, schedule: Schedule) -> None:
        """Begin without streams."""
        super().__init__()
        self._schedule: Final = schedule
        self.on_sent: Callable[[int], None] | None = None  # told of each stream that had something new in a packet

    def append(self, stream: QuicStream) -> None:
        """Put a new stream in its place."""
        self._schedule.admit(stream.stream_id)
        insort(self, stream, key=self._schedule.rank)

    def extend(self, streams: Collection[QuicStream]) -> None:  # type: ignore[override]
        """Put the streams of one packet in their next places."""
        if not streams:
            return
        if self.on_sent is not None:
            for stream in streams:
                assert stream.stream_id is not None, "only that of the handshake has no number, and is not in the list"
                self.on_sent(stream.stream_id)
        if not self and len(streams) == 1:
            list.extend(self, streams)  # the only stream: there is no order, and nobody was passed over
            return
        schedule = self._schedule
        schedule.count_packet()
        for stream in streams if len(streams) == 1 else sorted(streams, key=schedule.rank):
            schedule.served(stream)
            insort(self, stream, key=schedule.rank)
        if schedule.is_floor_due:
            schedule.promote(self)

    def rearrange(self) -> None:
        """Sort after a rank changed."""
        self.sort(key=self._schedule.rank)
