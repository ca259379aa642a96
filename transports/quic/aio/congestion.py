"""Congestion control "fb-bdp": a window of a little more than the path was seen to carry, for links that lose packets.

Reno and CUBIC take every loss for a full queue. This one, after BBR (Cardwell and others, ACM Queue 14(5), 2016),
measures instead: the window follows the highest delivery rate of the last rounds times the shortest round trip. It is
not known to share a bottleneck fairly with others and is meant for networks under one administration.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioquic.quic.packet_builder import QuicSentPacket

NAME: Final = "fb-bdp"
WINDOW_GAIN: Final = 1.2
"""Above 1 by more than the losses take away: a rate that is measured with lost packets would sink round by round."""
PROBE_GAIN: Final = 1.5
PROBE_ROUNDS: Final = 8
"""One round of so many looks for a higher rate."""
ACK_SECONDS: Final = 0.002
"""Acknowledgements wait for so long, which on a short path is longer than the round trip."""
STARTUP_GAIN: Final = 2.885
"""2 / ln 2: the least with which a rate that is measured over one round can double in the next."""
RATE_ROUNDS: Final = 10
RTT_SECONDS: Final = 10.0
STARTUP_GROWTH: Final = 1.25
STARTUP_ROUNDS: Final = 3
PACKETS_MIN: Final = 4


class _Sent(NamedTuple):
    """How far delivery was when a packet was sent."""

    delivered: int
    delivered_at: float
    is_full: bool


class BdpCongestionControl(QuicCongestionControl):
    """The window is a gain times the bandwidth-delay product; loss alone does not shrink it."""

    def __init__(self, *, max_datagram_size: int) -> None:
        """Start like everybody with ten packets."""
        super().__init__(max_datagram_size=max_datagram_size)
        self._packet_bytes: Final = max_datagram_size
        self._sent: Final[dict[int, _Sent]] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._rates: Final[deque[tuple[int, float]]] = deque()
        self._rtts: Final[deque[tuple[float, float]]] = deque()
        self._round = 0
        self._round_ends_at = 0
        self._full_rate = 0.0
        self._rounds_without_growth = 0
        self._was_full = False

    @property
    def rate(self) -> float:
        """The highest delivery rate of the last rounds, in bytes a second; 0 before the first."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def rtt_min(self) -> float:
        """The shortest round trip of the last seconds; infinite before the first."""
        return self._rtts[0][1] if self._rtts else inf

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """Remember how far delivery is, and whether the window keeps more from being sent."""
        if not self.bytes_in_flight or not self._delivered_at:
            # After a pause the time until the next acknowledgement is not that of delivery.
            self._delivered_at = packet.sent_time or 0.0
        self.bytes_in_flight += packet.sent_bytes
        is_full = 4 * self.bytes_in_flight > 3 * self.congestion_window
        self._was_full = self._was_full or is_full
        self._sent[packet.packet_number] = _Sent(self._delivered, self._delivered_at, is_full)

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Take a sample of the delivery rate."""
        self.bytes_in_flight -= packet.sent_bytes
        self._delivered += packet.sent_bytes
        self._delivered_at = now
        sent = self._sent.pop(packet.packet_number, None)
        if sent is None:
            return
        if sent.delivered >= self._round_ends_at:
            self._round += 1
            self._round_ends_at = self._delivered
            self._check_startup()
        # Between two acknowledgements that come together the rate has no meaning: it takes a round trip at least.
        elapsed = now - min(sent.delivered_at, packet.sent_time or now)
        if elapsed > 0 and elapsed >= 0.9 * self.rtt_min:
            rate = (self._delivered - sent.delivered) / elapsed
            if sent.is_full or rate > self.rate:
                self._note_rate(rate)
        self._resize()

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Packets that are no longer waited for."""
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self._sent.pop(packet.packet_number, None)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Loss leaves the window as it is: what was not delivered shows in the rate."""
        self.on_packets_expired(packets=packets)

    def on_persistent_congestion(self) -> None:
        """Nothing came through for long: begin anew (RFC 9002, section 7.6)."""
        self._rates.clear()
        self._full_rate = 0.0
        self._rounds_without_growth = 0
        self.ssthresh = None
        self.congestion_window = PACKETS_MIN * self._packet_bytes

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Keep the shortest of the last seconds in front."""
        while self._rtts and self._rtts[-1][1] >= rtt:
            self._rtts.pop()
        self._rtts.append((now, rtt))
        while now - self._rtts[0][0] > RTT_SECONDS:
            self._rtts.popleft()

    def _note_rate(self, rate: float) -> None:
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))
        while self._round - self._rates[0][0] > RATE_ROUNDS:
            self._rates.popleft()

    def _check_startup(self) -> None:
        """Leave the start when the rate has not grown by a quarter for three rounds that filled the window."""
        was_full, self._was_full = self._was_full, False
        if self.ssthresh is not None or not was_full:
            return
        if self.rate >= self._full_rate * STARTUP_GROWTH:
            self._full_rate = self.rate
            self._rounds_without_growth = 0
            return
        self._rounds_without_growth += 1
        if self._rounds_without_growth >= STARTUP_ROUNDS:
            self.ssthresh = self.congestion_window

    def _resize(self) -> None:
        if not self._rates or not self._rtts:
            return
        gain = WINDOW_GAIN if self._round % PROBE_ROUNDS else PROBE_GAIN
        if self.ssthresh is None:
            gain = STARTUP_GAIN
        window = int(gain * self.rate * (self.rtt_min + ACK_SECONDS)) + 2 * self._packet_bytes
        window = max(window, PACKETS_MIN * self._packet_bytes)
        self.congestion_window = max(window, self.congestion_window) if self.ssthresh is None else window


register_congestion_control(NAME, BdpCongestionControl)
