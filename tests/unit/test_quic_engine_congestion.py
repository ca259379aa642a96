"""The window of "fb-bdp" follows what the path carries, and loss alone does not shrink it."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import pytest
from aioquic.quic.congestion.base import create_congestion_control
from quic_link import Link, Weather, settings_of

from flowbridge.transports.quic.aio.congestion import PACKETS_MIN, BdpCongestionControl
from flowbridge.transports.quic.engine import StreamData

RATE = 500_000.0
DELAY = 0.02


def _transfer(congestion: str, *, loss: float, seconds: float = 4.0) -> tuple[float, Link]:
    """The part of the link's rate that was delivered after the first second."""
    wide = {"stream_window_bytes": 2**24, "connection_window_bytes": 2**24, "congestion": congestion}
    link = Link(
        settings_of("client", **wide),
        settings_of("server", **wide),
        weather=Weather(delay=DELAY, loss=loss, rate=RATE, queue_bytes=32 * 1024),
        seed=7,
    ).connect()
    stream = link.client.open()
    assert stream is not None
    assert link.server is not None
    begin, got = link.now + 1, 0
    while link.now < begin + seconds:
        while link.client.backlog(stream) < 64 * 1024:
            link.client.write(stream, bytes(32 * 1024))
        link.step()
        for event in link.server_events:
            if isinstance(event, StreamData):
                got += len(event.data) if link.now >= begin else 0
                link.server.consume(stream, len(event.data))
        link.server_events.clear()
    return got / seconds / RATE, link


def test_it_is_chosen_by_its_name() -> None:
    control = create_congestion_control("fb-bdp", max_datagram_size=1_200)
    assert isinstance(control, BdpCongestionControl)
    assert control.congestion_window == 12_000
    link = Link(settings_of("client", congestion="fb-bdp"))
    assert isinstance(link.client.connection._loss._cc, BdpCongestionControl)


def test_a_link_that_loses_a_twentieth_is_used_where_cubic_starves() -> None:
    ours, link = _transfer("fb-bdp", loss=0.05)
    cubic, _ = _transfer("cubic", loss=0.05)
    assert ours > 0.75
    assert ours > 1.5 * cubic
    control = link.client.connection._loss._cc
    assert isinstance(control, BdpCongestionControl)
    assert 0.7 * RATE < control.rate < 1.2 * RATE


def test_a_link_without_loss_is_full_and_its_queue_is_not() -> None:
    part, link = _transfer("fb-bdp", loss=0.0)
    assert part > 0.85
    assert link.client.stats().packets_lost < 200
    assert link.client.stats().rtt < 2 * DELAY + 32 * 1024 / RATE


def test_nothing_stays_of_packets_that_are_over() -> None:
    _, link = _transfer("fb-bdp", loss=0.1, seconds=1.0)
    link.run(seconds=20)
    control = link.client.connection._loss._cc
    assert isinstance(control, BdpCongestionControl)
    assert link.client.backlog(0) == 0
    assert control.bytes_in_flight == 0
    assert control._sent == {}


def test_after_a_long_silence_it_begins_anew() -> None:
    _, link = _transfer("fb-bdp", loss=0.0, seconds=1.0)
    control = link.client.connection._loss._cc
    assert isinstance(control, BdpCongestionControl)
    control.on_persistent_congestion()
    assert control.congestion_window == PACKETS_MIN * 1_232
    assert control.rate == 0
    assert control.ssthresh is None


@pytest.mark.parametrize("congestion", ["reno", "cubic"])
def test_the_others_are_those_of_aioquic(congestion: str) -> None:
    link = Link(settings_of("client", congestion=congestion)).connect()
    assert type(link.client.connection._loss._cc).__module__ == f"aioquic.quic.congestion.{congestion}"
