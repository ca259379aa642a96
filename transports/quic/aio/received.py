"""Which packets came already: aioquic's window of numbers, as bits."""

from __future__ import annotations

from typing import Final

from aioquic.quic.recovery import MAX_ACK_RANGES

NUMBERS: Final = 2 * MAX_ACK_RANGES
"""How far back is remembered, as aioquic does; older ones count as received (RFC 9000, section 12.3)."""
_ALL: Final = (1 << NUMBERS) - 1


class ReceivedNumbers:
    """Answers as `aioquic.quic.recovery.QuicPacketNumberWindow`, whose set holds 16 KiB after 250 packets."""

    __slots__ = ("_bits", "_next")

    def __init__(self) -> None:
        self._bits = 0  # the lowest is that of the highest number
        self._next = 0

    def add(self, packet_number: int) -> None:
        """It came."""
        behind = self._next - 1 - packet_number
        if behind < 0:
            self._bits = self._bits << min(-behind, NUMBERS) & _ALL | 1  # a peer may skip any number of numbers
            self._next = packet_number + 1
        elif behind < NUMBERS:
            self._bits |= 1 << behind

    def __contains__(self, packet_number: int) -> bool:
        behind = self._next - 1 - packet_number
        return behind >= NUMBERS or (behind >= 0 and bool(self._bits >> behind & 1))
