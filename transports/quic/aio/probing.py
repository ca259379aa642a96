"""Probes of a peer that answers nothing, often enough that a link that is back is noticed at once."""

# aioquic keeps private what is needed here; tests/unit/test_quic_engine_contract.py holds each name to its meaning.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Final

from aioquic.quic.recovery import QuicPacketRecovery

from flowbridge.limits import QUIC_PROBE_NS

_PROBE_S: Final = QUIC_PROBE_NS / 1e9


class SteadyRecovery(QuicPacketRecovery):
    """aioquic's loss recovery, whose probe timeout stops to double at `QUIC_PROBE_NS`.

    RFC 9002, section 6.2.1, doubles it with every probe that nothing answers, so that after a cut of twelve seconds the
    next one may be five seconds away, and while the window is full of what was lost nothing else is sent. Who doubles
    it spares a path that may be congested. The cap is harmless to such a path: a probe is one packet, and four of them
    a second are 40 kbit/s of 1,232 bytes each; it applies only where the timeout itself is shorter, so that never more
    than one goes for a round trip; and it ends with the idle timeout. Before the handshake is confirmed the RFC's
    back-off stays: an address may be dead or somebody else's.
    """

    @staticmethod
    def take_over(recovery: QuicPacketRecovery) -> None:
        """Turn a new one into this."""
        recovery.__class__ = SteadyRecovery

    def get_loss_detection_time(self, *, amplification_limited: bool) -> float | None:
        """When a loss is due or the next probe; None for neither."""
        due = super().get_loss_detection_time(amplification_limited=amplification_limited)
        if due is None or not self._pto_count or not self.handshake_confirmed or self._get_loss_space() is not None:
            return due
        return min(due, self._time_of_last_sent_ack_eliciting_packet + max(_PROBE_S, self.get_probe_timeout()))
